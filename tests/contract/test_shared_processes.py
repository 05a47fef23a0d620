"""What jobs that run one after the other in a process are owed: no more may come of it than speed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract import adapter_jobs
from tests.contract.adapter_bench import SLOTS, SharingBench, bury
from tests.runs import DEADLINE
from toilcache.batch.model import JobRequest
from toilcache.job.exit_reason import BatchJobExitReason as Reason


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[SharingBench]:
    bench = SharingBench(tmp_path)
    yield bench
    bench.close()
    assert bench.processes() == []


def _run(bench: SharingBench, request: JobRequest) -> None:
    bench.adapter.submit([request])
    assert [end.reason for end in bench.end_of(request)] == [Reason.FINISHED]


def test_jobs_have_one_process_and_one_directory_in_turn(bench: SharingBench, tmp_path: Path) -> None:
    paths = [tmp_path / "first", tmp_path / "second"]
    for path in paths:
        _run(bench, bench.request(adapter_jobs.look_around, str(path)))
    first, second = (path.read_text() for path in paths)
    assert first == second


def test_what_a_job_has_deferred_does_not_reach_the_next(bench: SharingBench, tmp_path: Path) -> None:
    _run(bench, bench.request(adapter_jobs.defer_a_trace))
    _run(bench, bench.request(adapter_jobs.look_around, str(tmp_path / "seen")))
    assert (tmp_path / "seen").read_text().splitlines()[2] == "[]"


@pytest.mark.parametrize("kind", ["thread", "child", "daemon", "fork"])
def test_what_a_job_leaves_running_does_not_reach_the_next(
    bench: SharingBench, tmp_path: Path, kind: str
) -> None:
    haunted, seen = tmp_path / "haunted", tmp_path / "seen"
    _run(bench, bench.request(adapter_jobs.haunt, kind, str(haunted)))
    _run(bench, bench.request(adapter_jobs.look_around, str(seen)))
    pid, _, what = seen.read_text().splitlines()
    assert what == "[]"
    assert pid != haunted.read_text()


def test_an_abandoned_host_tells_of_each_job_that_is_over(bench: SharingBench) -> None:
    """Else what follows on a short job would wait until the longest beside it ends."""
    short, long = bench.waiting(), bench.request(adapter_jobs.wait_for, f"{bench.gate}.long")
    bench.adapter.submit([short, long])
    bench.hear(lambda: len(list(Path(bench.gate).parent.glob("*.running"))) == SLOTS)
    dead = bench.next_leader()
    assert len(bench.adapter.adopt()) == SLOTS
    bench.open_gate()
    bench.end_of(short)
    assert set(bench.ends()) == {short.job_id}
    Path(f"{bench.gate}.long").touch()
    bench.end_of(long)
    bury(dead)


def test_to_cancel_what_is_just_over_harms_nobody_else(bench: SharingBench) -> None:
    """The host hears of both at once, and its process is as good as dead: the next job must not get it."""
    over = bench.waiting(cores=SLOTS)
    after = [bench.quick(cores=SLOTS) for _ in range(3)]
    bench.adapter.submit([over])
    bench.await_running(1)
    bench.adapter.submit(after)
    bench.adapter.updates(0.05)
    (host,) = bench.hosts()
    os.kill(host, signal.SIGSTOP)
    bench.open_gate()
    deadline = time.monotonic() + DEADLINE
    while not bench.has_run(over):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    bench.adapter.cancel([over.job_id])
    os.kill(host, signal.SIGCONT)
    assert {end.reason for end in bench.end_of(*after)} == {Reason.FINISHED}
    assert [end.reason for end in bench.end_of(over)] == [Reason.KILLED]
