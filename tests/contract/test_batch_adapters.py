"""What every batch adapter promises the leader (``toilcache.batch.model.BatchAdapter``).

One suite over the adapter for this machine, with real hosts, processes and a real job store, over the one for
Docker with a fake daemon and a real one, over the one for Slurm with a fake cluster, and over the one without
workers that other tests drive the leader with.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.contract import adapter_jobs
from tests.contract.adapter_bench import MIB, SLOTS, Bench, LocalBench, NullBench, SharingBench, alive_with
from tests.contract.docker_bench import DockerBench, RealDockerBench
from tests.contract.slurm_bench import SlurmBench
from tests.testbed.fixtures import Engines
from toilcache.errors import InsufficientSystemResources
from toilcache.job.exit_reason import BatchJobExitReason as Reason


def real_docker(request: pytest.FixtureRequest, home: Path) -> Bench:
    engines: Engines = request.getfixturevalue("engines")
    return RealDockerBench(home, engines.docker_host, engines.image("docker"))


@pytest.fixture(
    params=[
        LocalBench,
        SharingBench,
        NullBench,
        SlurmBench,
        DockerBench,
        pytest.param(real_docker, marks=pytest.mark.real),
    ]
)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    given = (request, tmp_path) if request.param is real_docker else (tmp_path,)
    bench: Bench = request.param(*given)
    yield bench
    bench.close()


@pytest.fixture(params=[LocalBench, SharingBench])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalBench]:
    bench: LocalBench = request.param(tmp_path)
    yield bench
    bench.adapter.shutdown()
    assert bench.processes() == []


# Every adapter


def test_each_attempt_has_its_record_and_one_end(bench: Bench) -> None:
    requests = [bench.quick() for _ in range(bench.many)]
    bench.adapter.submit(requests[: bench.many // 2])
    bench.adapter.submit(requests[bench.many // 2 :])
    bench.adapter.submit([])
    ends = bench.end_of(*requests)
    assert {end.reason for end in ends} == {Reason.FINISHED}
    assert bench.records() == {request.job_id for request in requests}
    assert all(bench.has_run(request) for request in requests)
    assert bench.adapter.running() == {}
    assert bench.adapter.updates(0.05) == []


def test_a_request_that_can_never_run_is_refused(bench: Bench) -> None:
    with pytest.raises(InsufficientSystemResources, match="cores"):
        bench.adapter.check(bench.quick(cores=SLOTS + 1))
    bench.adapter.check(bench.quick(cores=SLOTS))


def test_what_runs_and_for_how_long(bench: Bench) -> None:
    waiting = bench.waiting()
    bench.adapter.submit([waiting])
    bench.await_running(1)
    assert set(bench.adapter.running()) == {waiting.job_id}
    before = bench.adapter.running()[waiting.job_id]
    assert bench.adapter.running()[waiting.job_id] >= before >= 0
    bench.open_gate()
    bench.end_of(waiting)
    assert bench.adapter.running() == {}


def test_no_more_run_than_there_is_room_for(bench: Bench) -> None:
    requests = [bench.waiting() for _ in range(SLOTS + 3)]
    bench.adapter.submit(requests)
    bench.await_running(SLOTS)
    bench.updates += bench.adapter.updates(0.05)
    assert len(bench.adapter.running()) == bench.at_work() == SLOTS
    bench.open_gate()
    assert {end.reason for end in bench.end_of(*requests)} == {Reason.FINISHED}


def test_cancelling_what_runs_and_what_waits(bench: Bench) -> None:
    requests = [bench.waiting() for _ in range(SLOTS + 4)]
    bench.adapter.submit(requests)
    bench.await_running(SLOTS)
    at_work = bench.adapter.running()
    running = next(request for request in requests if request.job_id in at_work)
    waiting = [request for request in requests if request.job_id not in at_work]
    victims = [running, waiting[0], waiting[-1]]
    bench.adapter.cancel([*(request.job_id for request in victims), "0123456789abcdef"])
    assert {end.reason for end in bench.end_of(*victims)} == {Reason.KILLED}
    assert not any(bench.has_run(request) for request in victims)
    bench.open_gate()
    rest = [request for request in requests if request not in victims]
    assert {end.reason for end in bench.end_of(*rest)} == {Reason.FINISHED}


def test_cancelling_twice_or_what_has_ended(bench: Bench) -> None:
    quick, waiting = bench.quick(), bench.waiting()
    bench.adapter.submit([quick])
    bench.end_of(quick)
    bench.adapter.submit([waiting])
    bench.await_running(1)
    bench.adapter.cancel([quick.job_id, waiting.job_id])
    bench.adapter.cancel([waiting.job_id])
    bench.end_of(waiting)
    last = bench.quick()
    bench.adapter.submit([last])
    bench.end_of(last)
    bench.ends()


def test_an_attempt_may_follow_another_at_the_same_job(bench: Bench) -> None:
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    bench.adapter.cancel([request.job_id])
    bench.end_of(request)
    bench.updates.clear()
    bench.open_gate()
    bench.adapter.submit([request])
    assert [end.reason for end in bench.end_of(request)] == [Reason.FINISHED]


def test_wake_ends_a_wait_without_limit(bench: Bench) -> None:
    timer = threading.Timer(0.05, bench.adapter.wake)
    timer.start()
    assert bench.adapter.updates(None) == []
    timer.join()


def test_wake_before_a_wait_counts_and_many_do_not_block(bench: Bench) -> None:
    for _ in range(100_000):
        bench.adapter.wake()
    assert bench.adapter.updates(None) == []


def test_wake_from_a_signal_handler(bench: Bench) -> None:
    before = signal.signal(signal.SIGUSR1, lambda number, frame: bench.adapter.wake())
    try:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        assert bench.adapter.updates(None) == []
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_wait_with_a_limit_returns(bench: Bench) -> None:
    assert bench.adapter.updates(0) == []
    assert bench.adapter.updates(0.01) == []


def test_nothing_of_an_earlier_leader_is_there(bench: Bench) -> None:
    assert bench.adapter.adopt() == []


def test_shutdown_at_work_and_again(bench: Bench) -> None:
    bench.adapter.submit([bench.waiting() for _ in range(SLOTS + 3)])
    bench.await_running(SLOTS)
    bench.adapter.shutdown()
    bench.adapter.shutdown()
    if isinstance(bench, LocalBench):
        assert bench.processes() == []
        assert bench.cleaned == 1


# Real processes


def test_shutdown_before_anything_was_started(local: LocalBench) -> None:
    local.adapter.shutdown()
    assert local.cleaned == 1


def test_a_host_serves_many_and_is_not_started_before_it_is_needed(local: LocalBench) -> None:
    assert local.hosts() == []
    requests = [local.quick() for _ in range(5)]
    local.adapter.submit(requests)
    local.end_of(*requests)
    assert len(local.hosts()) == 1
    more = [local.quick(), local.quick(cores=2)]
    local.adapter.submit(more)
    local.end_of(*more)
    assert len(local.hosts()) == 2  # two threads for each library in the other one


def test_a_killed_host_loses_what_ran_and_nothing_else(local: LocalBench) -> None:
    requests = [local.waiting() for _ in range(SLOTS + 3)]
    local.adapter.submit(requests)
    local.await_running(SLOTS)
    running = [request for request in requests if request.job_id in local.adapter.running()]
    waiting = [request for request in requests if request not in running]
    (host,) = local.hosts()
    os.kill(host, signal.SIGKILL)
    ends = local.end_of(*running)
    assert {end.reason for end in ends} == {Reason.LOST}
    assert "host was killed" in ends[0].detail
    local.open_gate()
    assert {end.reason for end in local.end_of(*waiting)} == {Reason.FINISHED}
    assert local.hosts() != [host]


def test_a_killed_host_is_seen_although_something_holds_its_socket(local: LocalBench) -> None:
    request = local.request(adapter_jobs.fork_and_wait_for, local.gate)
    local.adapter.submit([request])
    local.await_running(1)
    (forked,) = local.marks("forked")
    stray = psutil.Process(int(forked.suffixes[-2][1:]))
    try:
        (host,) = local.hosts()
        os.kill(host, signal.SIGKILL)
        assert [end.reason for end in local.end_of(request)] == [Reason.LOST]
        with suppress(psutil.NoSuchProcess):
            assert stray.status() == psutil.STATUS_ZOMBIE  # nor does it go on beside another attempt
    finally:
        with suppress(psutil.NoSuchProcess):
            stray.kill()


def test_programs_of_a_killed_host_s_jobs_are_gone_before_the_loss_is_told(local: LocalBench) -> None:
    marker = f"program-{os.urandom(6).hex()}"
    request = local.request(adapter_jobs.run_program, marker, local.gate)
    local.adapter.submit([request])
    local.await_running(1)
    local.hear(lambda: len(alive_with(marker)) == 1)
    (host,) = local.hosts()
    os.kill(host, signal.SIGKILL)
    assert [end.reason for end in local.end_of(request)] == [Reason.LOST]
    assert alive_with(marker) == []


def test_a_host_that_cannot_work_says_why(local: LocalBench) -> None:
    local.adapter = local.new_adapter({"locator": "file:" + str(local.home / "no store")})
    request = local.quick()
    local.adapter.submit([request])
    (end,) = local.end_of(request)
    assert end.reason == Reason.ERROR
    assert "no%20store: it does not exist" in end.detail


@pytest.mark.parametrize(
    ("function", "args", "reason", "words"),
    [
        (adapter_jobs.exit_at_once, (3,), Reason.FAILED, "status 3"),
        (adapter_jobs.exit_at_once, (0,), Reason.FINISHED, "ended"),
        (adapter_jobs.crash, (), Reason.FAILED, "SIGSEGV"),
        (adapter_jobs.call_exit, (), Reason.FAILED, "status 1"),
        (adapter_jobs.fail, (), Reason.FAILED, "status 1"),
    ],
)
def test_how_jobs_end(
    local: LocalBench, function: Callable[..., Any], args: tuple[Any, ...], reason: Reason, words: str
) -> None:
    """None of these has run: without the record of a commit there is no success, whatever the status."""
    request = local.request(function, *args)
    local.adapter.submit([request])
    (end,) = local.end_of(request)
    assert end.reason == reason
    assert words in end.detail
    assert not local.has_run(request)
    written = local.store.load_job(request.job_id)
    told = function in (adapter_jobs.call_exit, adapter_jobs.fail)
    assert (written.version, bool(written.failure)) == ((2, True) if told else (1, False))
    quick = local.quick()
    local.adapter.submit([quick])
    assert [end.reason for end in local.end_of(quick)] == [Reason.FINISHED]


def test_a_job_that_prints_much(local: LocalBench) -> None:
    """What it printed hinders nobody; if it breaks, the last of it is told."""
    fine, breaks = local.request(adapter_jobs.print_much, None), local.request(adapter_jobs.print_much, 7)
    local.adapter.submit([fine, breaks])
    good, bad = local.end_of(fine, breaks)
    assert (good.reason, good.log_tail) == (Reason.FINISHED, b"")
    assert "status 7" in bad.detail
    assert bad.log_tail.endswith(b"\n")
    assert b"line 39999 " in bad.log_tail
    assert b"the very last words" in bad.log_tail
    assert len(bad.log_tail) <= 16 * 1024
    assert bad.max_rss > MIB
    assert (good.max_rss == 0) is isinstance(local, SharingBench)  # of one job among many it is not known


def test_the_next_job_s_log_begins_anew(local: LocalBench) -> None:
    first = local.request(adapter_jobs.print_much, 7)
    local.adapter.submit([first])
    local.end_of(first)
    second = local.request(adapter_jobs.exit_at_once, 7)
    local.adapter.submit([second])
    (end,) = local.end_of(second)
    assert end.log_tail == b""


def test_what_a_job_left_running_is_killed_before_its_end_is_told(local: LocalBench) -> None:
    """A daemon: forked twice, in a session of its own, another program, adopted by the host.

    It has had its SIGKILL by then; the kernel may take a moment."""
    marker = f"left-behind-{os.urandom(6).hex()}"
    other = local.waiting()
    request = local.request(adapter_jobs.daemonise, marker)
    local.adapter.submit([other])
    local.await_running(1)
    local.adapter.submit([request])
    local.end_of(request)
    assert local.has_run(request)
    local.hear(lambda: alive_with(marker) == [])
    local.open_gate()
    assert [end.reason for end in local.end_of(other)] == [Reason.FINISHED]  # it was not taken for a stray


def test_children_of_what_a_job_left_running_are_killed_too(local: LocalBench) -> None:
    """Each has a session of its own, and comes to the host only when its parent has ended."""
    marker = f"left-behind-{os.urandom(6).hex()}"
    request = local.request(adapter_jobs.leave_sessions, marker, str(local.home / "ready"))
    local.adapter.submit([request])
    local.end_of(request)
    assert local.has_run(request)
    assert alive_with(marker) == []


def test_a_job_that_closes_its_streams_ends_as_it_should(local: LocalBench) -> None:
    """It has no way back into the host, which goes on."""
    request, other = local.request(adapter_jobs.close_streams), local.waiting()
    local.adapter.submit([other])
    local.await_running(1)
    hosts = local.hosts()
    local.adapter.submit([request])
    (end,) = local.end_of(request)
    assert (end.reason, local.has_run(request)) == (Reason.FINISHED, True)
    local.open_gate()
    local.end_of(other)
    assert local.hosts() == hosts


def test_a_chain_ends_once_under_the_id_it_was_issued_as(local: LocalBench) -> None:
    request = local.request(adapter_jobs.parent)
    local.adapter.submit([request])
    local.end_of(request)
    parent = local.store.load_job(request.job_id)
    assert parent.chained_to is not None
    assert local.records() == {request.job_id, parent.chained_to}
    assert not local.store.load_job(parent.chained_to).has_body()
    assert set(local.ends()) == {request.job_id}


def test_a_stale_attempt_is_refused_and_ends(local: LocalBench) -> None:
    request = local.quick()
    desc = local.store.load_job(request.job_id)
    local.store.update_job(desc)
    local.adapter.submit([request])
    (end,) = local.end_of(request)
    assert end.reason == Reason.FAILED
    assert local.records() == set()
    assert local.store.load_job(request.job_id).version == 2


def test_a_worker_killed_from_outside(local: LocalBench) -> None:
    request = local.waiting()
    local.adapter.submit([request])
    local.await_running(1)
    (mark,) = local.marks("running")
    os.kill(int(mark.name.split(".")[-2]), signal.SIGKILL)
    (end,) = local.end_of(request)
    # The latter if the kernel has killed something else for memory meanwhile.
    assert end.reason in (Reason.KILLED, Reason.MEMLIMIT)


def test_more_messages_than_the_sockets_hold(local: LocalBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many jobs start and end at once: adapter and host must not wait for each other to read."""
    make_pair = socket.socketpair

    def small_pair(*arguments: Any) -> tuple[socket.socket, socket.socket]:
        pair = make_pair(*arguments)
        for end in pair:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel makes it a few messages
        return pair

    monkeypatch.setattr(socket, "socketpair", small_pair)
    requests = [local.tiny() for _ in range(60)]
    local.adapter.submit(requests)
    assert {end.reason for end in local.end_of(*requests)} == {Reason.FINISHED}
