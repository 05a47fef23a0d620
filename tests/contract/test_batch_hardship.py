"""What an adapter for this machine owes to jobs whose leader is gone, and to machines that lack something."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract import adapter_jobs
from tests.contract.adapter_bench import SLOTS, LocalBench, SharingBench, alive_with, bury
from tests.contract.docker_bench import DockerBench
from toilcache.batch import host_process
from toilcache.batch import local as local_module
from toilcache.errors import ProcessError
from toilcache.job.exit_reason import BatchJobExitReason as Reason


@pytest.fixture(params=[LocalBench, SharingBench])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalBench]:
    bench: LocalBench = request.param(tmp_path)
    yield bench
    bench.close()
    assert bench.processes() == []


@pytest.fixture(params=[LocalBench, SharingBench, DockerBench])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalBench]:
    bench: LocalBench = request.param(tmp_path)
    yield bench
    bench.close()
    assert bench.processes() == []


def test_an_abandoned_host_lets_its_jobs_finish_for_the_next_leader(machine: LocalBench) -> None:
    running = [machine.waiting() for _ in range(SLOTS)]
    queued = machine.waiting()
    machine.adapter.submit([*running, queued])
    machine.await_running(SLOTS)
    dead = machine.next_leader()
    assert sorted(machine.adapter.adopt()) == sorted((request.job_id, 1) for request in running)
    machine.open_gate()
    assert {end.reason for end in machine.end_of(*running)} == {Reason.LOST}
    assert all(machine.has_run(request) for request in running)
    assert not machine.has_run(queued)
    bury(dead)


def test_commands_that_come_with_the_loss_of_the_leader_start_nothing(machine: LocalBench) -> None:
    """The next leader may have looked already, and fenced what did not run."""
    request = machine.quick()
    machine.adapter.submit([request])
    bury(machine.next_leader())
    assert not machine.has_run(request)


def test_adopted_attempts_have_their_room(machine: LocalBench) -> None:
    running = [machine.waiting() for _ in range(SLOTS)]
    machine.adapter.submit(running)
    machine.await_running(SLOTS)
    dead = machine.next_leader()
    assert len(machine.adapter.adopt()) == SLOTS
    machine.adapter.adopted([*running, machine.quick()])
    assert set(machine.adapter.running()) == {request.job_id for request in running}
    assert all(seconds >= 0 for seconds in machine.adapter.running().values())
    following = machine.quick()
    machine.adapter.submit([following])
    assert machine.hosts() == []
    machine.open_gate()
    assert {end.reason for end in machine.end_of(*running, following)} == {Reason.LOST, Reason.FINISHED}
    assert machine.adapter.running() == {}
    last = machine.quick(cores=SLOTS)
    machine.adapter.submit([last])
    assert [end.reason for end in machine.end_of(last)] == [Reason.FINISHED]
    bury(dead)


def test_adopted_attempts_can_be_cancelled(machine: LocalBench) -> None:
    victim, other = machine.waiting(), machine.waiting()
    machine.adapter.submit([victim, other])
    machine.await_running(2)
    dead = machine.next_leader()
    machine.adapter.adopt()
    machine.adapter.adopted([victim, other])
    machine.adapter.cancel([victim.job_id])
    (end,) = machine.end_of(victim)
    assert (end.reason, end.detail) == (Reason.KILLED, "was cancelled")
    assert not machine.has_run(victim)
    assert set(machine.adapter.running()) == {other.job_id}
    machine.open_gate()
    machine.end_of(other)
    assert machine.has_run(other)
    bury(dead)


def test_a_stopped_host_is_killed_when_it_does_not_end_what_it_was_asked_to_end(
    local: LocalBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the leader would wait for ever for the end of an attempt that it wants to give up."""
    monkeypatch.setattr(local_module, "CANCEL_SECONDS", 0.2)
    victim, other = local.waiting(), local.waiting()
    local.adapter.submit([victim, other])
    local.await_running(2)
    (host,) = local.hosts()
    os.kill(host, signal.SIGSTOP)
    for _ in range(3):
        local.adapter.cancel([victim.job_id])
    ends = {end.job_id: end.reason for end in local.end_of(victim, other)}
    assert ends == {victim.job_id: Reason.KILLED, other.job_id: Reason.LOST}
    assert local.processes() == []
    following = local.quick(cores=SLOTS)
    local.adapter.submit([following])
    assert [end.reason for end in local.end_of(following)] == [Reason.FINISHED]


def test_programs_of_an_adopted_attempt_do_not_outlive_its_killed_host(machine: LocalBench) -> None:
    marker = f"program-{os.urandom(6).hex()}"
    request = machine.request(adapter_jobs.run_program, marker, machine.gate)
    machine.adapter.submit([request])
    machine.await_running(1)
    machine.hear(lambda: len(alive_with(marker)) == 1)
    dead = machine.next_leader()
    machine.adapter.adopt()
    machine.adapter.adopted([request])
    machine.kill_hosts(dead)
    bury(dead)
    machine.end_of(request)
    assert alive_with(marker) == []


def test_a_fenced_leader_leaves_what_others_adopted(machine: LocalBench) -> None:
    earlier, own = machine.waiting(), machine.waiting()
    machine.adapter.submit([earlier])
    machine.await_running(1)
    dead = machine.next_leader()
    machine.adapter.submit([own])
    machine.await_running(1)
    machine.adapter.shutdown(fenced=True)
    assert machine.processes(run=2) == []
    assert machine.processes() != []
    machine.open_gate()
    bury(dead)
    assert machine.has_run(earlier)
    assert not machine.has_run(own)


def test_devices_are_seen_by_one_job_at_a_time(local: LocalBench) -> None:
    """The count of free ones comes back when a job has ended; so must the devices themselves."""
    seen = local.home / "seen"
    local.adapter = local.new_adapter(devices=1)
    requests = [local.request(adapter_jobs.write_devices, str(seen)) for _ in range(4)]
    requests = [request._replace(accelerators=1) for request in requests]
    local.adapter.submit(requests)
    assert {end.reason for end in local.end_of(*requests)} == {Reason.FINISHED}
    assert seen.read_text().split() == ["0"] * 4


def test_devices_of_adopted_attempts_are_theirs(local: LocalBench) -> None:
    seen = local.home / "seen"
    local.adapter = local.new_adapter(devices=2)
    old = local.waiting()._replace(accelerators=1)
    local.adapter.submit([old])
    local.await_running(1)
    dead = local.next_leader(devices=2)
    local.adapter.adopt()
    local.adapter.adopted([old])
    for devices in ("1", "1,0"):
        new = local.request(adapter_jobs.write_devices, str(seen))._replace(accelerators=len(devices[::2]))
        local.adapter.submit([new])
        if devices == "1,0":
            local.open_gate()
            local.end_of(old)
        local.end_of(new)
        assert seen.read_text().splitlines()[-1] == devices
    bury(dead)


@pytest.mark.parametrize("devices", [0, 1])
def test_a_host_that_cannot_be_started_is_an_end_and_costs_nothing(
    local: LocalBench, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    local.adapter = local.new_adapter(devices=devices)
    requests = [local.quick()._replace(cores=SLOTS, accelerators=devices) for _ in range(3)]

    def refuse(*arguments: object, **options: object) -> int:
        raise ProcessError(["python"], 126, b"", b"cannot allocate memory")

    open_before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(host_process, "spawn", refuse)
    local.adapter.submit(requests[:2])
    ends = local.end_of(*requests[:2])
    assert {end.reason for end in ends} == {Reason.ERROR}
    assert "cannot allocate memory" in ends[0].detail
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert local.adapter.running() == {}
    monkeypatch.undo()
    local.adapter.submit(requests[2:])
    assert [end.reason for end in local.end_of(requests[2])] == [Reason.FINISHED]


def test_a_fork_that_fails_costs_one_attempt(local: LocalBench) -> None:
    """The host gets no more descriptors: none for the file that takes the output."""
    first, other, last = local.waiting(), local.quick(), local.quick()
    local.adapter.submit([first])
    local.await_running(1)
    (host,) = local.hosts()
    limits = resource.prlimit(host, resource.RLIMIT_NOFILE)
    resource.prlimit(host, resource.RLIMIT_NOFILE, (3, limits[1]))
    local.adapter.submit([other])
    (end,) = local.end_of(other)
    assert (end.reason, end.log_tail) == (Reason.LOST, b"")
    assert "could not be started: Too many open files" in end.detail
    resource.prlimit(host, resource.RLIMIT_NOFILE, limits)
    local.adapter.submit([last])
    assert [end.reason for end in local.end_of(last)] == [Reason.FINISHED]
    local.open_gate()
    assert [end.reason for end in local.end_of(first)] == [Reason.FINISHED]
    assert local.hosts() == [host]
