"""A worker that comes when its workflow is over leaves the node as if it had never come; one that comes in
time removes what dead workflows have left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.adapter_bench import LocalBench
from toilcache.job.exit_reason import BatchJobExitReason as Reason
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.job_store.liveness import note_of
from toilcache.node.coordination import node_dirs


class LateBench(LocalBench):
    """An adapter whose hosts come when the workflow's directories have been removed."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.store.claim_run()
        self.remove_node()

    def remove_node(self) -> None:
        for base in (self.home / "work", self.home / "coordination"):
            shutil.rmtree(base)
            base.mkdir()

    def start_late(self) -> Reason:
        """Have a host started; it needs its notes directory, since its log is there."""
        self.dirs.make()
        request = self.quick()
        self.adapter.submit([request])
        (end,) = self.end_of(request)
        return end.reason

    def left(self) -> list[str]:
        return sorted(path.name for name in ("work", "coordination") for path in (self.home / name).iterdir())


@pytest.fixture
def late(tmp_path: Path) -> Iterator[LateBench]:
    bench = LateBench(tmp_path)
    yield bench
    bench.adapter.shutdown()
    assert bench.processes() == []


def test_a_worker_in_time_works(late: LateBench) -> None:
    assert late.start_late() == Reason.FINISHED
    assert late.left() != []


def test_after_the_end_mark_a_worker_cleans_and_ends(late: LateBench) -> None:
    late.store.close_run(1, clean=True)
    assert late.start_late() == Reason.LOST
    assert late.left() == []


def test_what_is_to_be_kept_a_late_worker_keeps(late: LateBench) -> None:
    late.store.close_run(1, clean=False)
    assert late.start_late() == Reason.LOST
    assert os.path.isdir(late.dirs.jobs)


def test_without_a_store_a_worker_says_so_and_cleans(late: LateBench) -> None:
    request = late.quick()
    late.dirs.make()
    late.store.destroy()
    late.adapter.submit([request])
    (end,) = late.end_of(request)
    assert end.reason == Reason.ERROR
    assert late.left() == []


def test_a_worker_of_an_earlier_run_leaves_a_restarted_workflow_alone(late: LateBench) -> None:
    assert late.store.claim_run() == 2
    late.dirs.hold(run=2).close()
    before = late.left()
    assert late.start_late() == Reason.LOST
    assert late.left() == before


def test_a_late_worker_leaves_the_node_to_who_uses_it(late: LateBench) -> None:
    late.store.close_run(1, clean=True)
    with late.dirs.hold(run=1):
        assert late.start_late() == Reason.LOST
        assert os.path.isdir(late.dirs.jobs)


def test_a_host_whose_run_was_closed_cleans_on_its_way_out(late: LateBench) -> None:
    late.dirs.make()
    late.adapter.submit([late.waiting()])
    late.await_running(1)
    dead = late.next_leader()
    late.store.close_run(1, clean=True)
    late.open_gate()
    for host in dead._hosts.values():
        host.close()
    assert late.left() == []


def test_a_host_that_was_left_alone_keeps_the_node_for_a_restart(late: LateBench) -> None:
    late.dirs.make()
    late.adapter.submit([late.waiting()])
    late.await_running(1)
    dead = late.next_leader()
    late.open_gate()
    for host in dead._hosts.values():
        host.close()
    assert os.path.isdir(late.dirs.jobs)


def test_a_worker_removes_what_a_dead_workflow_has_left(late: LateBench) -> None:
    bases = str(late.home / "work"), str(late.home / "coordination")
    for name, store in (("dead", late.home / "gone"), ("idle", Path(late.store.path))):
        dirs = node_dirs(name, *bases, create=False)
        dirs.hold(1, note_of(FileJobStore(str(store)).locator)).close()
    late.adapter = late.new_adapter()
    assert late.start_late() == Reason.FINISHED
    late.hear(lambda: not any("-dead-" in name for name in late.left()))
    assert [name for name in late.left() if "-idle-" in name and name.endswith(".work")] != []
