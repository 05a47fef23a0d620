"""Functions that are not given their job: the process runs them, the host commits, and nobody can tell."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.contract import bare_functions
from tests.contract.adapter_bench import MIB, LocalBench, host_setup
from tests.processes import pid_runs
from tests.runs import DEADLINE
from toilcache import vfs
from toilcache.batch.model import JobRequest
from toilcache.job.body import loads
from toilcache.job.exit_reason import BatchJobExitReason as Reason
from toilcache.job.functions import FunctionWrappingJob
from toilcache.job.job import Job
from toilcache.worker import bare
from toilcache.worker.chain import ENDED, REFUSED
from toilcache.worker.context import WorkerContext


class BareBench(LocalBench):
    """Jobs that are bare functions."""

    def bare(self, function: Callable[..., Any], *args: Any) -> JobRequest:
        return self.born(Job.wrapFn(function, *args, cores=1, memory=10 * MIB, disk=MIB))

    def born(self, job: Job) -> JobRequest:
        job.assignConfig(self.config)
        return JobRequest.of(job.saveAsRootJob(self.store))

    def run(self, request: JobRequest) -> Reason | None:
        self.adapter.submit([request])
        return self.end_of(request)[0].reason

    def result(self, request: JobRequest) -> Any:
        """What the job has returned, read as those read it who need it."""
        desc = self.store.load_job(request.job_id)
        assert desc.has_result
        if desc.result is not None:
            return loads(desc.result)
        assert desc.result_file is not None
        with self.store.read_file_stream(desc.result_file) as stream:
            return loads(stream.read())

    def await_at_work(self) -> int:
        """Wait until a function waits at the gate; returns its process."""
        self.hear(lambda: self.at_work() == 1)
        (mark,) = self.marks("running")
        return int(mark.suffixes[-2][1:])

    def await_end_of_process(self, pid: int) -> None:
        end = time.monotonic() + DEADLINE
        while pid_runs(pid):
            assert time.monotonic() < end
            time.sleep(0.005)

    def finish_unheard(self, request: JobRequest) -> int:
        """Let the function end while its host is stopped; returns the host."""
        self.adapter.submit([request])
        pid = self.await_at_work()
        (host,) = self.hosts()
        os.kill(host, signal.SIGSTOP)
        self.open_gate()
        self.await_end_of_process(pid)
        return host

    def context(self) -> WorkerContext:
        """Surroundings as a host has them."""
        setup = host_setup(self.store, self.dirs) | {"main": None}
        os.makedirs(self.dirs.jobs, exist_ok=True)
        return WorkerContext(setup, lambda job_id, version: None)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[BareBench]:
    bench = BareBench(tmp_path)
    yield bench
    bench.close()
    assert bench.processes() == []


def test_a_host_is_where_it_was_started(bench: BareBench) -> None:
    """Also after the rehearsal: the person's script, and what its jobs have deferred, may look around."""
    bench.run(bench.bare(bare_functions.value))
    (host,) = bench.hosts()
    assert Path(f"/proc/{host}/cwd").readlink() == Path.cwd()


def test_it_has_a_process_and_a_directory_of_its_own(bench: BareBench, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    request = bench.bare(bare_functions.where, str(seen))
    assert bench.run(request) == Reason.FINISHED
    pid, parent = bench.result(request)
    assert [parent] == bench.hosts()
    assert not pid_runs(pid)
    assert not Path(seen.read_text()).exists()
    assert bench.records() == {request.job_id}
    assert bench.store.load_job(request.job_id).attempt == request.version


def test_the_host_commits_it(bench: BareBench) -> None:
    """The process is gone, and has written nothing to the store."""
    request = bench.bare(bare_functions.wait_for, bench.gate)
    host = bench.finish_unheard(request)
    assert not bench.has_run(request)
    os.kill(host, signal.SIGCONT)
    assert [end.reason for end in bench.end_of(request)] == [Reason.FINISHED]
    assert bench.result(request) == "has waited"


def test_without_a_commit_it_is_no_success(bench: BareBench) -> None:
    """The host is killed between the end of the process and the commit."""
    request = bench.bare(bare_functions.wait_for, bench.gate)
    os.kill(bench.finish_unheard(request), signal.SIGKILL)
    assert [end.reason for end in bench.end_of(request)] == [Reason.LOST]
    assert not bench.has_run(request)


def test_who_is_cancelled_before_the_commit_has_not_run(bench: BareBench) -> None:
    request = bench.bare(bare_functions.wait_for, bench.gate)
    host = bench.finish_unheard(request)
    bench.adapter.cancel([request.job_id])
    os.kill(host, signal.SIGCONT)
    assert [end.reason for end in bench.end_of(request)] == [Reason.KILLED]
    assert not bench.has_run(request)


def test_an_abandoned_host_commits_it_all_the_same(bench: BareBench) -> None:
    request = bench.bare(bare_functions.wait_for, bench.gate)
    bench.adapter.submit([request])
    bench.await_at_work()
    (host,) = bench.hosts()
    dead = bench.next_leader()
    assert bench.adapter.adopt() == [(request.job_id, request.version)]
    bench.open_gate()
    bench.end_of(request)
    assert bench.result(request) == "has waited"
    bench.await_end_of_process(host)
    for one in dead._hosts.values():
        one.close()


def test_a_later_attempt_refuses_it(bench: BareBench) -> None:
    request = bench.bare(bare_functions.wait_for, bench.gate)
    host = bench.finish_unheard(request)
    another = bench.store.load_job(request.job_id)
    another.failure = "the slot is taken"
    bench.store.update_job(another)
    os.kill(host, signal.SIGCONT)
    (end,) = bench.end_of(request)
    assert (end.reason, end.detail) == (Reason.FAILED, "exited with status 75 without a result")
    desc = bench.store.load_job(request.job_id)
    assert (desc.version, desc.failure, desc.has_result) == (another.version, "the slot is taken", False)


@pytest.mark.parametrize("size", [100, bare.MOST_BYTES, 10 * bare.MOST_BYTES, 200_000])
def test_it_may_return_as_much_as_any_job(bench: BareBench, size: int) -> None:
    request = bench.bare(bare_functions.large, size)
    assert bench.run(request) == Reason.FINISHED
    assert bench.result(request) == bytes(size)


def test_what_it_returns_is_pickled_once(bench: BareBench, tmp_path: Path) -> None:
    request = bench.bare(bare_functions.once, str(tmp_path / "times"))
    assert bench.run(request) == Reason.FINISHED
    assert (tmp_path / "times").read_text() == "."
    assert bench.result(request) == bytes(10_000)


def test_it_may_return_what_has_no_name(bench: BareBench) -> None:
    request = bench.bare(bare_functions.nameless)
    assert bench.run(request) == Reason.FINISHED
    assert bench.result(request)() == 42


def test_what_it_leaves_is_removed(bench: BareBench) -> None:
    request = bench.bare(bare_functions.leave_files)
    assert bench.run(request) == Reason.FINISHED
    assert bench.result(request) == "has left a file"
    assert os.listdir(bench.dirs.jobs) == []


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        (bare_functions.fail, "ValueError: no such luck"),
        (bare_functions.call_exit, "called sys.exit(4); a job must return"),
        (bare_functions.unpicklable, "cannot save the return value of job"),
    ],
)
def test_its_failure_is_that_of_any_job(bench: BareBench, function: Callable[..., Any], failure: str) -> None:
    request = bench.bare(function)
    assert bench.run(request) == Reason.FAILED
    desc = bench.store.load_job(request.job_id)
    assert failure in str(desc.failure)
    assert (desc.version, desc.remainingTryCount) == (request.version + 1, 0)
    assert os.listdir(bench.dirs.jobs) == []


def test_its_log_shows_the_frames_of_its_author_only(bench: BareBench) -> None:
    request = bench.bare(bare_functions.fail)
    bench.run(request)
    with bench.store.load_job(request.job_id).getLogFileHandle(bench.store) as stream:
        log = stream.read().decode()
    assert log.startswith("printed before\nTraceback")
    assert log.count("  File ") == 1
    assert "bare_functions.py" in log


def test_to_end_at_once_is_no_success(bench: BareBench) -> None:
    request = bench.bare(bare_functions.exit_at_once)
    bench.run(request)
    assert not bench.has_run(request)


@pytest.mark.parametrize("function", [bare_functions.fork_and_return, bare_functions.fork_and_fail])
def test_a_child_that_leaves_the_function_changes_nothing(
    bench: BareBench, function: Callable[..., Any]
) -> None:
    request = bench.bare(function)
    assert bench.run(request) == Reason.FINISHED
    assert bench.result(request) == "parent"


def test_what_it_is_called_with_is_unpickled_once(bench: BareBench, tmp_path: Path) -> None:
    """Also where it fails, which its process writes down by itself."""
    request = bench.bare(bare_functions.fail_with, bare_functions.Counted(str(tmp_path / "times")))
    assert bench.run(request) == Reason.FAILED
    assert (tmp_path / "times").read_text() == "."


def test_a_slow_store_is_left_to_the_jobs(bench: BareBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for it side by side; a host would keep all others waiting."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    context, host = bench.context(), bare.BareFunctions()
    request = bench.bare(bare_functions.value)
    load = context.store.load_version

    def slow(job_id: str, version: int) -> Any:
        now[0] += 0.1
        return load(job_id, version)

    monkeypatch.setattr(context.store, "load_version", slow)
    assert host.order(context, request.job_id, request.version, is_alone=False)[1] is not None
    monkeypatch.setattr(context.store, "load_version", load)
    assert (host.leaves_the_store(is_alone=False), host.leaves_the_store(is_alone=True)) == (True, False)
    now[0] += 0.99
    assert host.order(context, request.job_id, request.version, is_alone=False) == (b"", None)
    assert host.order(context, request.job_id, request.version, is_alone=True)[1] is not None
    now[0] += 0.02
    assert host.order(context, request.job_id, request.version, is_alone=False)[1] is not None


def test_many_are_committed_once_each(bench: BareBench) -> None:
    requests = [bench.bare(bare_functions.value, number) for number in range(60)]
    bench.adapter.submit(requests)
    assert {end.reason for end in bench.end_of(*requests)} == {Reason.FINISHED}
    assert [bench.result(request) for request in requests] == list(range(60))
    assert {bench.store.load_job(request.job_id).version for request in requests} == {2}


def test_a_full_store_is_waited_for_by_another_process(
    bench: BareBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the host gives on is committed as the function has returned it, with the attempt's number."""
    monkeypatch.chdir(
        bench.home
    )  # who obeys is mostly a process of its own, and stays where the function was
    context, host = bench.context(), bare.BareFunctions()
    request = bench.bare(bare_functions.value, [1, 2])
    order, desc = host.order(context, request.job_id, request.version, is_alone=False)
    assert desc is not None
    results: list[bytes] = []

    def hand_over(data: bytes) -> bool:
        results.append(data)
        return True

    assert bare.obey(context, request.job_id, request.version, order, hand_over) == ENDED

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vfs, "link", full)
    with pytest.raises(Exception, match="No space left"):
        host.commit(context, desc, results[0])
    monkeypatch.setattr(vfs, "link", os.link)
    monkeypatch.setattr(vfs, "mkdir", full)  # there is room for a record again, and for a directory not yet
    assert not bench.has_run(request)
    later = bare.order_to_commit(results[0])
    assert bare.obey(context, request.job_id, request.version, later, hand_over) == ENDED
    assert (len(results), bench.result(request)) == (1, [1, 2])
    assert bench.store.load_job(request.job_id).attempt == request.version
    assert host.commit(context, desc, results[0]) == REFUSED


class Own(FunctionWrappingJob):
    """A job of a class of its own, which may use its file store."""


def test_who_is_no_bare_function_is_left_to_its_process(bench: BareBench) -> None:
    """Whoever may ask something of the engine, is followed by somebody, or is too large for a pipe."""
    context, host = bench.context(), bare.BareFunctions()
    small = {"cores": 1, "memory": MIB, "disk": MIB}
    parent = Job.wrapFn(bare_functions.value, **small)
    parent.addChildFn(bare_functions.value, **small)
    promised = Job.wrapFn(bare_functions.value, **small)
    follower = promised.addFollowOnFn(bare_functions.value, promised.rv(), **small)
    others = [
        Job.wrapJobFn(bare_functions.value, **small),
        Own(bare_functions.value, **small),
        Job.wrapFn(bare_functions.value, bytes(bare.MOST_BYTES), **small),
        Job.wrapFn(bare_functions.value, bytes(100_000), **small),
        Job.wrapFn(bare_functions.value, checkpoint=True, **small),
        parent,
        promised,
    ]
    requests = [bench.born(job) for job in others]
    found = [host.order(context, request.job_id, request.version, is_alone=False) for request in requests]
    assert found == [(b"", None)] * len(others)
    assert host.order(context, str(follower.jobStoreID), 1, is_alone=True) == (b"", None)
    assert host.order(context, "0123456789abcdef", 1, is_alone=True) == (b"", None)
    plain = bench.bare(bare_functions.value)
    order, desc = host.order(context, plain.job_id, plain.version, is_alone=True)
    assert desc is not None
    assert pickle.loads(order)[0] == desc.inline_body
    context.store.config.writeLogsFromAllJobs = True
    assert host.order(context, plain.job_id, plain.version, is_alone=True) == (b"", None)
    context.store.config.writeLogsFromAllJobs = False
    Path(bench.dirs.jobs).parent.joinpath("cache").mkdir()  # there each job takes its place
    assert host.order(context, plain.job_id, plain.version, is_alone=True) == (b"", None)


@pytest.mark.parametrize("function", [bare_functions.close_all, bare_functions.close_all_and_open])
def test_it_may_close_descriptors_that_are_not_its_own(
    bench: BareBench, tmp_path: Path, function: Callable[..., Any]
) -> None:
    """Its process cannot hand anything over then, and must not write into what has the place of the pipe."""
    mine = tmp_path / "mine"
    mine.touch()
    request = bench.bare(function, str(mine))
    assert bench.run(request) == Reason.FINISHED
    assert bench.result(request) == "closed"
    assert mine.read_bytes() == b""


@pytest.mark.parametrize("function", [bare_functions.remove_directory, bare_functions.replace_directory])
@pytest.mark.parametrize("size", [1, 10 * bare.MOST_BYTES])
def test_it_may_do_with_its_directory_what_it_likes(
    bench: BareBench, function: Callable[..., Any], size: int
) -> None:
    request = bench.bare(function, size)
    assert bench.run(request) == Reason.FINISHED
    assert bench.result(request) == bytes(size)


def test_what_it_starts_ends_with_it(bench: BareBench, tmp_path: Path) -> None:
    request = bench.bare(bare_functions.leave_a_child, str(tmp_path / "pid"))
    assert bench.run(request) == Reason.FINISHED
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid)
    assert bench.result(request) == "left"
