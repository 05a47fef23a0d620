"""What hosts and their adapter do about deferred functions of the dead: who calls them, and who waits."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from tests.contract import adapter_jobs
from tests.contract.adapter_bench import LocalBench, bury
from tests.contract.test_container_hosts import fake_boxes
from tests.crash import deferred_workflow
from tests.fakes.apptainers import FakeApptainer
from tests.processes import runs
from toilcache.batch.model import JobRequest
from toilcache.job.exit_reason import BatchJobExitReason as Reason
from toilcache.worker import helpers
from toilcache.worker.deferred import Deferred, Surroundings


class DeferBench(LocalBench):
    """An adapter, and the words that deferred functions leave."""

    @property
    def place(self) -> str:
        return str(self.home / "notes")

    def deferring(self, *, slowly: bool = False, waits: bool = False) -> JobRequest:
        """A job that defers something and then dies, or waits at the gate."""
        return self.request(adapter_jobs.defer, self.place, slowly, self.gate if waits else None)

    def words(self) -> list[str]:
        notes = Path(self.place)
        return notes.read_text("ascii").split(";")[:-1] if notes.exists() else []

    def go(self) -> None:
        """Let slow functions end."""
        Path(f"{self.place}.go").touch()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[DeferBench]:
    bench = DeferBench(tmp_path)
    yield bench
    bench.go()
    bench.adapter.shutdown()
    assert bench.processes() == []


def test_an_attempt_has_ended_when_its_functions_were_called(bench: DeferBench) -> None:
    request = bench.deferring(slowly=True)
    bench.adapter.submit([request])
    bench.hear(lambda: bench.words() == ["begun"])
    assert request.job_id in bench.adapter.running()
    bench.go()
    (end,) = bench.end_of(request)
    assert (end.reason, end.detail) == (Reason.KILLED, "was killed (SIGKILL)")
    assert bench.words() == ["begun", "ended"]


def test_other_jobs_of_the_host_do_not_wait_for_that(bench: DeferBench) -> None:
    bench.adapter.submit([bench.deferring(slowly=True)])
    bench.hear(lambda: bench.words() == ["begun"])
    quick = bench.quick()
    bench.adapter.submit([quick])
    assert bench.end_of(quick)[0].reason == Reason.FINISHED
    assert bench.words() == ["begun"]


def test_who_cancels_does_not_wait_for_that(bench: DeferBench) -> None:
    request = bench.deferring(slowly=True, waits=True)
    bench.adapter.submit([request])
    bench.await_running(1)
    bench.adapter.cancel([request.job_id])
    assert bench.end_of(request)[0].detail == "was cancelled"
    bench.hear(lambda: bench.words() == ["begun"])
    bench.go()
    bench.hear(lambda: bench.words() == ["begun", "ended"])


def test_nor_does_who_cancels_while_they_are_called(bench: DeferBench) -> None:
    request = bench.deferring(slowly=True)
    bench.adapter.submit([request])
    bench.hear(lambda: bench.words() == ["begun"])
    bench.adapter.cancel([request.job_id])
    assert bench.end_of(request)[0].detail == "was cancelled"
    quick = bench.quick()
    bench.adapter.submit([quick])
    assert bench.end_of(quick)[0].reason == Reason.FINISHED
    bench.go()
    bench.hear(lambda: bench.words() == ["begun", "ended"])


def test_a_killed_host_is_followed_by_one_that_calls(bench: DeferBench) -> None:
    """Also where no other job waits for a host."""
    request = bench.deferring(waits=True)
    bench.adapter.submit([request])
    bench.await_running(1)
    (host,) = bench.hosts()
    os.kill(host, signal.SIGKILL)
    assert bench.end_of(request)[0].reason == Reason.LOST
    bench.hear(lambda: bench.words() == ["called"])
    assert len(bench.hosts()) == 1


def test_a_host_that_left_nothing_is_not_followed(bench: DeferBench) -> None:
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    (host,) = bench.hosts()
    os.kill(host, signal.SIGKILL)
    assert bench.end_of(request)[0].reason == Reason.LOST
    assert bench.hosts() == []


def test_a_host_does_not_wait_long_before_its_first_job(bench: DeferBench) -> None:
    request = bench.deferring(slowly=True, waits=True)
    bench.adapter.submit([request])
    bench.await_running(1)
    (host,) = bench.hosts()
    os.kill(host, signal.SIGKILL)
    bench.end_of(request)
    quick = bench.quick()
    bench.adapter.submit([quick])
    assert bench.end_of(quick)[0].reason == Reason.FINISHED
    assert helpers.FIRST_SECONDS < 10
    assert bench.words() == ["begun"]
    bench.go()
    bench.hear(lambda: bench.words() == ["begun", "ended"])


def test_a_host_ends_though_another_job_ended_with_the_caller(bench: DeferBench) -> None:
    """What another job may have left is looked for among the host's children; a caller is not that."""
    request, other = bench.deferring(slowly=True, waits=True), bench.waiting()
    bench.adapter.submit([request, other])
    bench.await_running(2)
    bench.adapter.cancel([request.job_id])
    bench.end_of(request)
    bench.hear(lambda: bench.words() == ["begun"])
    (host,) = bench.hosts()
    os.kill(host, signal.SIGSTOP)
    bench.go()
    bench.open_gate()
    bench.hear(lambda: bench.words() == ["begun", "ended"] and bench.has_run(other))
    dying = psutil.Process(host)
    bench.hear(lambda: [one.status() for one in dying.children()].count(psutil.STATUS_ZOMBIE) == 2)
    os.kill(host, signal.SIGCONT)
    bench.end_of(other)
    dead = bench.next_leader()
    bench.hear(lambda: not runs(dying))
    bury(dead)


def test_an_abandoned_host_stays_until_they_were_called(bench: DeferBench) -> None:
    request = bench.deferring(slowly=True, waits=True)
    bench.adapter.submit([request])
    bench.await_running(1)
    (job,) = [int(path.name.split(".")[-2]) for path in bench.marks("running")]
    dead = bench.next_leader()
    os.kill(job, signal.SIGKILL)
    bench.hear(lambda: bench.words() == ["begun"])
    bench.go()
    for host in dead._hosts.values():
        host.close()
    assert bench.words() == ["begun", "ended"]


class Left:
    """The surroundings of a process that is gone."""

    def __init__(self, bench: DeferBench, image: str | None, main: tuple[str, str, bool, str] | None) -> None:
        self.attempt = (f"{len(os.listdir(bench.dirs.coordination)):016x}", 1)
        self.path = bench.dirs.call_file(self.attempt)
        self.where = Surroundings(self.attempt, main, [], image)
        deferred = Deferred(cast(Any, self), cast(Any, "'a job'"), None)
        deferred.add(adapter_jobs.note, bench.place, "called")
        assert deferred._file
        deferred._file.close()

    def call_file(self) -> str:
        return self.path

    def surroundings(self) -> Surroundings:
        return self.where


@pytest.mark.parametrize(
    ("image", "main"), [("another image", None), (None, ("/elsewhere", "__toilcache_main__", False, "x.py"))]
)
def test_a_host_of_another_image_or_script_leaves_them_alone(
    image: str | None, main: tuple[str, str, bool, str] | None, bench: DeferBench
) -> None:
    left = Left(bench, image, main)
    quick = bench.quick()
    bench.adapter.submit([quick])
    bench.end_of(quick)
    assert bench.words() == []
    assert os.path.exists(left.path)


def test_a_host_of_the_same_calls_them_before_its_first_job(bench: DeferBench) -> None:
    left = Left(bench, None, None)
    quick = bench.quick()
    bench.adapter.submit([quick])
    bench.end_of(quick)
    assert bench.words() == ["called"]
    assert not os.path.exists(left.path)


@pytest.mark.parametrize("how", ["return", "signal9"])
def test_in_a_container_they_are_called_in_its_image(how: str, tmp_path: Path) -> None:
    boxes = fake_boxes(FakeApptainer(tmp_path / "fake"), tmp_path)
    boxes.script = shutil.copy(deferred_workflow.__file__, boxes.script)
    notes = boxes.work / "notes"  # of the directories of this test only those for jobs are seen inside
    done = boxes.run("--kind", "end", "--how", how, "--place", str(notes), "--clean", "always")
    assert done.status == (how != "return"), done.err
    assert notes.read_text("ascii") == "ran;first;second;"
    assert boxes.containers() == []
    boxes.engine.close()
