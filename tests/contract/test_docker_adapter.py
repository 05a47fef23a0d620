"""The Docker batch system whose engine, containers or launchers fail: a fake daemon does so on demand."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract import adapter_jobs
from tests.contract.adapter_bench import MIB, LocalBench, bury
from tests.contract.docker_bench import DockerBench
from tests.contract.test_container_hosts import Boxes
from toilcache.batch import docker as docker_module
from toilcache.batch.container_plan import HOST_MEMORY, PIDS
from toilcache.batch.model import JobRequest
from toilcache.containers.docker_engine import DockerEngine
from toilcache.containers.model import ATTEMPT_LABEL
from toilcache.errors import ContainerError, EngineUnavailableError
from toilcache.job.exit_reason import BatchJobExitReason as Reason

# The SDK leaves a socket that found no daemon to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[DockerBench]:
    bench = DockerBench(tmp_path)
    yield bench
    bench.close()
    assert bench.processes() == []
    assert bench.processes(run=2) == []


def at_work(bench: DockerBench, count: int = 1, **more: Any) -> list[JobRequest]:
    """Have so many jobs wait at the gate."""
    requests = [bench.waiting(**more) for _ in range(count)]
    bench.adapter.submit(requests)
    bench.await_running(count)
    return requests


def job_pid(bench: DockerBench, request: JobRequest) -> int:
    """The process of a job at the gate."""
    (mark,) = [mark for mark in bench.marks("running") if f".{request.job_id}." in mark.name]
    return int(mark.name.split(".")[-2])


def asked(bench: DockerBench) -> list[dict[str, Any]]:
    """What the daemon was asked for, for each container that there is."""
    place = bench.docker.directory / "containers"
    return [json.loads((place / name / "asked").read_text()) for name in bench.docker.containers()]


def kill_launchers(bench: DockerBench) -> None:
    LocalBench.kill_hosts(bench, bench.adapter)


# Limits


def test_a_container_is_asked_for_with_what_its_job_has_asked_for(bench: DockerBench) -> None:
    bench.adapter = bench.new_adapter(devices=2)
    small, large = bench.waiting(cores=0.001), bench.waiting(cores=1.5)._replace(accelerators=2)
    bench.adapter.submit([small, large])
    bench.await_running(2)
    by_attempt = {box["Labels"][ATTEMPT_LABEL]: box["HostConfig"] for box in asked(bench)}
    assert by_attempt.keys() == {f"{small.job_id}:1", f"{large.job_id}:1"}
    limits = by_attempt[f"{large.job_id}:1"]
    memory = 10 * MIB + HOST_MEMORY
    assert (limits["NanoCpus"], limits["Memory"], limits["MemorySwap"]) == (1_500_000_000, memory, memory)
    assert limits["PidsLimit"] == PIDS
    assert limits["DeviceRequests"][0]["DeviceIDs"] == ["0", "1"]
    assert by_attempt[f"{small.job_id}:1"]["NanoCpus"] == 10_000_000  # Docker knows no less
    assert "DeviceRequests" not in by_attempt[f"{small.job_id}:1"]
    bench.open_gate()
    assert {end.reason for end in bench.end_of(small, large)} == {Reason.FINISHED}
    assert bench.containers() == []


def test_an_engine_that_enforces_no_limits_is_refused(bench: DockerBench) -> None:
    bench.docker.fail("no-limits")
    with pytest.raises(ContainerError, match="enforces no limit of cores and memory and pids on this node"):
        bench.new_adapter()


def test_an_engine_that_is_not_there_is_told_at_once(bench: DockerBench) -> None:
    bench.docker.kill(containers=False)
    with pytest.raises(EngineUnavailableError, match="cannot reach docker"):
        bench.new_adapter()
    bench.docker.start()


# Ends, and what the engine says of them


def test_who_was_killed_for_memory_is_told_by_the_engine(bench: DockerBench) -> None:
    victim, other = at_work(bench, 2)
    (box,) = [found for found in bench.containers() if victim.job_id in found.labels[ATTEMPT_LABEL]]
    bench.docker.run_out_of_memory(box.id, job_pid(bench, victim))
    os.kill(job_pid(bench, other), signal.SIGKILL)
    ends = {end.job_id: (end.reason, end.detail) for end in bench.end_of(victim, other)}
    assert ends[victim.job_id][0] == Reason.MEMLIMIT
    assert "memory ran out" in ends[victim.job_id][1]
    assert ends[other.job_id] == (Reason.KILLED, "was killed (SIGKILL)")


def test_a_worker_that_was_killed_for_memory_takes_its_job_along(bench: DockerBench) -> None:
    (request,) = at_work(bench)
    (box,) = bench.containers()
    bench.docker.run_out_of_memory(box.id, bench.docker.processes(box.id)[0])
    (end,) = bench.end_of(request)
    assert end.reason == Reason.MEMLIMIT
    assert "memory ran out in its container; raise its memory requirement" in end.detail


def test_a_killed_container_is_a_loss(bench: DockerBench) -> None:
    first, second = at_work(bench, 2)
    bench.kill_hosts(bench.adapter)
    ends = bench.end_of(first, second)
    assert {(end.reason, end.detail) for end in ends} == {
        (Reason.LOST, "was lost: its container was killed by signal 9")
    }
    assert not bench.has_run(first)
    bench.open_gate()
    following = bench.quick()
    bench.adapter.submit([following])
    assert [end.reason for end in bench.end_of(following)] == [Reason.FINISHED]


def test_a_killed_launcher_is_a_loss_and_nothing_goes_on(bench: DockerBench) -> None:
    (request,) = at_work(bench)
    (box,) = bench.containers()
    kill_launchers(bench)
    assert [end.reason for end in bench.end_of(request)] == [Reason.LOST]
    assert bench.docker.processes(box.id) == []


def test_what_a_killed_container_s_job_has_deferred_is_called(bench: DockerBench) -> None:
    place = Path(bench.dirs.work) / "called"
    request = bench.request(adapter_jobs.defer, str(place), False, bench.gate)
    bench.adapter.submit([request])
    bench.await_running(1)
    bench.kill_hosts(bench.adapter)
    bench.end_of(request)
    bench.hear(place.exists)
    bench.hear(lambda: bench.hosts() == [])
    assert place.read_text() == "called;"
    assert bench.containers() == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [("image", "cannot fetch image no-such:1"), ("full", "no space left on device")],
)
def test_what_cannot_be_started_is_told_in_one_line(bench: DockerBench, fault: str, words: str) -> None:
    request = bench.quick()
    if fault == "image":
        request = request._replace(image="no-such:1")
    else:
        bench.docker.fail(fault)
    bench.adapter.submit([request])
    (end,) = bench.end_of(request)
    assert end.reason == Reason.ERROR
    assert words in end.detail
    assert "\n" not in end.detail


# Engines that go away


def test_a_daemon_that_is_restarted_under_its_containers_is_not_noticed(bench: DockerBench) -> None:
    requests = at_work(bench, 2)
    bench.docker.restart(containers=False)
    bench.open_gate()
    assert {end.reason for end in bench.end_of(*requests)} == {Reason.FINISHED}
    assert all(bench.has_run(request) for request in requests)


def test_a_daemon_that_takes_its_containers_along_is_a_loss(bench: DockerBench) -> None:
    requests = at_work(bench, 2)
    bench.docker.restart(containers=True)
    assert {end.reason for end in bench.end_of(*requests)} == {Reason.LOST}
    assert not any(bench.has_run(request) for request in requests)


def test_a_daemon_that_is_away_when_a_job_is_to_begin_is_waited_for(bench: DockerBench) -> None:
    bench.docker.kill(containers=False)
    request = bench.quick()
    bench.adapter.submit([request])
    bench.adapter.updates(1.0)
    assert bench.ends() == {}
    bench.docker.start()
    assert [(end.reason, end.detail) for end in bench.end_of(request)] == [(Reason.FINISHED, "ended")]


def test_a_daemon_that_stays_away_is_a_loss_in_one_line(
    bench: DockerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_module, "PATIENCE", 0.0)
    bench.adapter = bench.new_adapter()
    bench.docker.kill(containers=False)
    request = bench.quick()
    bench.adapter.submit([request])
    (end,) = bench.end_of(request)
    assert end.reason == Reason.LOST
    assert end.detail.startswith("was lost: cannot reach docker at ")
    assert "\n" not in end.detail
    bench.docker.start()


# Leaders and launchers that are killed


def next_leader_alone(bench: DockerBench, devices: int = 0) -> None:
    """Have leader and launchers killed, so that only containers are left, and another leader come."""
    kill_launchers(bench)
    bury(bench.next_leader(devices=devices))


def test_containers_are_adopted_by_their_labels_without_any_launcher(bench: DockerBench) -> None:
    bench.adapter = bench.new_adapter(devices=2)
    plain = bench.waiting()
    able = bench.waiting()._replace(accelerators=1)
    bench.adapter.submit([plain, able])
    bench.await_running(2)
    for note in Path(bench.dirs.host_note("any")).parent.glob("*.note"):
        note.unlink()  # labels are enough
    next_leader_alone(bench, devices=2)
    assert sorted(bench.adapter.adopt()) == sorted([(plain.job_id, 1), (able.job_id, 1)])
    bench.adapter.adopted([plain, able])
    assert bench.adapter.running().keys() == {plain.job_id, able.job_id}
    assert all(seconds > 0 for seconds in bench.adapter.running().values())
    seen = Path(bench.dirs.work) / "seen"
    bench.open_gate()
    following = bench.request(adapter_jobs.write_devices, str(seen))._replace(accelerators=2)
    bench.adapter.submit([following])
    ends = {end.job_id: end.reason for end in bench.end_of(plain, able, following)}
    assert ends == {plain.job_id: Reason.LOST, able.job_id: Reason.LOST, following.job_id: Reason.FINISHED}
    assert bench.has_run(plain)
    assert bench.has_run(able)
    assert sorted(seen.read_text().strip().split(",")) == ["0", "1"]
    assert bench.containers() == []


def test_an_adopted_container_can_be_cancelled(bench: DockerBench) -> None:
    victim, other = at_work(bench, 2)
    next_leader_alone(bench)
    bench.adapter.adopt()
    bench.adapter.adopted([victim, other])
    bench.adapter.cancel([victim.job_id])
    assert [end.reason for end in bench.end_of(victim)] == [Reason.KILLED]
    assert bench.adapter.running().keys() == {other.job_id}
    bench.open_gate()
    bench.end_of(other)
    assert not bench.has_run(victim)


def test_an_adopted_container_that_runs_out_of_memory_is_told_so(bench: DockerBench) -> None:
    (request,) = at_work(bench)
    (box,) = bench.containers()
    next_leader_alone(bench)
    bench.adapter.adopt()
    bench.adapter.adopted([request])
    bench.docker.run_out_of_memory(box.id, job_pid(bench, request))
    (end,) = bench.end_of(request)
    assert end.reason == Reason.MEMLIMIT


def test_a_daemon_may_be_restarted_while_containers_are_adopted(bench: DockerBench) -> None:
    (request,) = at_work(bench)
    next_leader_alone(bench)
    assert bench.adapter.adopt() == [(request.job_id, 1)]
    bench.adapter.adopted([request])
    bench.docker.restart(containers=False)
    bench.open_gate()
    bench.end_of(request)
    assert bench.has_run(request)


def test_containers_of_other_workflows_and_of_this_run_are_nobody_s_to_adopt(bench: DockerBench) -> None:
    (request,) = at_work(bench)
    assert bench.adapter.adopt() == []
    left = docker_module.JobContainers(DockerEngine, "another", 2)
    assert left.find() == []
    bench.open_gate()
    bench.end_of(request)


def test_containers_whose_launcher_and_leader_are_gone_are_removed_at_the_end(bench: DockerBench) -> None:
    at_work(bench, 2)
    next_leader_alone(bench)
    bench.adapter.shutdown()
    assert bench.docker.containers() == []


# Whole workflows


@pytest.mark.parametrize("options", [("--batchSystem", "docker"), ("--containerLimits",)])
def test_a_workflow_whose_jobs_have_containers_of_their_own(
    tmp_path: Path, bench: DockerBench, options: tuple[str, ...]
) -> None:
    (tmp_path / "whole").mkdir()
    engine = bench.engine
    boxes = Boxes(tmp_path / "whole", "docker", engine, bench.image, {"DOCKER_HOST": bench.docker.host})
    assert boxes.result("--kind", "asks_for_nothing", *options) == "done"
