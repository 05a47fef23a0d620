"""The job store's file system is full, or its disk fails, when jobs end; later there is room again.

No result is lost and no try is charged; the leader waits, says so once, and goes on. A person may stop it
meanwhile and restart it later. Where a test can mount (root, TESTBED=1) the disk is really full; elsewhere
the seam of `toilcache.vfs` refuses what a full disk refuses.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.crash import full_store_workflow
from tests.crash.suspended import end_what_is_left
from tests.fakes.faults import EIO, ENOSPC, LEADER, Plan, injected
from tests.fakes.job_stores import Bench
from tests.fakes.leader_stage import Stage, chain
from tests.fakes.null_adapter import NullAdapter, ended
from tests.runs import Place
from toilcache.batch.model import JobRequest, Update
from toilcache.job.description import JobDescription
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.leader import durability, patience
from toilcache.leader.leader import Leader
from toilcache.leader.report import Reporter

pytestmark = pytest.mark.crash

WAITS, GOES_ON = "waiting for it since", "takes writes again"
COUNT = full_store_workflow.COUNT


class FullStore(Place):
    """A workflow whose store can be filled and freed."""

    def __init__(self, base: Path) -> None:
        super().__init__(base, full_store_workflow.__file__)
        self.flags = self.base / "flags"  # by which its processes are known
        self.flags.mkdir()
        self.said = base / "said"
        self.environment["FLAGS"] = str(self.flags)

    @property
    def log(self) -> str:
        return self.said.read_text(encoding="utf-8") if self.said.exists() else ""

    def begin_all(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the workflow and wait until all its jobs are about to end."""
        logs = ("--writeLogs", str(self.base / "logs"), "--writeLogsFromAllJobs")
        usual = ("--clean", "never", "--logFile", str(self.said), *logs)
        leader = self.begin(*usual, *arguments)
        self.wait_for(lambda: len(list(self.flags.glob("started-*"))) == COUNT, leader)
        return leader

    def end_all(self) -> None:
        (self.flags / "go").touch()

    def jobs(self) -> list[int]:
        """The processes of the jobs that have begun."""
        return [int(path.read_text(encoding="ascii")) for path in self.flags.glob("started-*")]

    def all_wait(self) -> bool:
        """The leader has said that it waits, and so has each job, in its own log."""
        logs = [Path(f"/proc/{pid}/fd/2").read_text() for pid in self.jobs()]
        return WAITS in self.log and all("waiting for room" in log for log in logs)

    def fill(self) -> None:
        """From now on nothing can be written."""
        raise NotImplementedError

    def free(self) -> None:
        """There is room again."""
        raise NotImplementedError

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What the leaders' journals say of a kind."""
        journals = [path.read_text(encoding="utf-8") for path in sorted(self.store.glob("journal/*"))]
        lines = "".join(journals).splitlines()
        return [event for event in map(json.loads, lines) if event["e"] == kind]

    def check_waited(self) -> None:
        """It was said once, when it began and when it was over; all jobs waited; none was charged.

        Each has run once, and its file is there once.
        """
        assert self.log.count(WAITS) == 1, self.log
        assert self.log.count(GOES_ON) == 1, self.log
        assert self.events("fail") == []
        assert self.events("retry") == []
        issued = Counter(event["job"] for event in self.events("issue"))
        assert (len(issued), set(issued.values())) == (2 * COUNT + 1, {1})
        kept = sorted(path.read_text() for path in self.store.glob("kept/*/*/*/*"))
        assert kept == [str(number) for number in range(COUNT)]
        waited = [
            path for path in (self.base / "logs").glob("waits-*") if "waiting for room" in path.read_text()
        ]
        assert len(waited) == COUNT
        self.check_clean()
        assert list(self.store.rglob(".tmp-*")) == []
        assert list(self.store.glob("free/*/*")) == []


class SmallDisk(FullStore):
    """A store on a real file system of 8 MB."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.disk = base / "disk"
        self.store = self.disk / "-the store"
        self.filler = self.disk / "filler"

    def fill(self) -> None:
        with suppress(OSError), self.filler.open("wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass

    def free(self) -> None:
        self.filler.unlink()


class Refusing(FullStore):
    """A store whose every write is refused while a file is there."""

    def __init__(self, base: Path, then: str) -> None:
        super().__init__(base)
        self.full = base / "full"
        plan = Plan(base / "trace", 0, then, flag=self.full, under=self.store)
        self.environment |= plan.environment()

    def fill(self) -> None:
        self.full.touch()

    def free(self) -> None:
        self.full.unlink()


@contextmanager
def mounted(path: Path) -> Iterator[None]:
    """Mount a small file system."""
    libc = ctypes.CDLL(None, use_errno=True)
    path.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, b"size=8m,mode=0755") != 0:
        pytest.skip(f"cannot mount a small tmpfs: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        assert libc.umount2(os.fsencode(path), 2) == 0


@pytest.fixture(params=[pytest.param("disk", marks=pytest.mark.real), ENOSPC, EIO])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FullStore]:
    if request.param == "disk":
        place = SmallDisk(tmp_path)
        with mounted(place.disk):
            yield place
            end_what_is_left(place)
    else:
        refusing = Refusing(tmp_path, request.param)
        yield refusing
        end_what_is_left(refusing)


def test_jobs_that_end_while_the_store_is_full_wait_for_room(place: FullStore) -> None:
    leader = place.begin_all()
    place.fill()
    place.end_all()
    place.wait_for(place.all_wait, leader)
    place.free()
    place.finish(leader).check_result(full_store_workflow.EXPECTED)
    place.check_waited()


def test_a_job_that_only_waits_for_room_is_not_over_its_time(place: FullStore) -> None:
    leader = place.begin_all("--maxJobDuration", "8s")
    place.fill()
    place.end_all()
    pids = place.jobs()
    began = max(psutil.Process(pid).create_time() for pid in pids)
    place.wait_for(lambda: place.all_wait() and time.time() - began > 10, leader)
    assert all(psutil.pid_exists(pid) for pid in pids)
    place.free()
    place.finish(leader).check_result(full_store_workflow.EXPECTED)
    place.check_waited()


def test_an_attempt_lost_while_the_store_is_full_is_written_down_when_there_is_room(
    place: FullStore,
) -> None:
    """Losing a host is no fault of its jobs and costs none of them a try, full store or not."""
    leader = place.begin_all()
    place.fill()
    for host in psutil.Process(leader.pid).children():
        host.kill()
    place.wait_for(lambda: WAITS in place.log, leader)
    place.end_all()
    place.free()
    place.finish(leader).check_result(full_store_workflow.EXPECTED)
    assert (place.log.count(WAITS), place.log.count(GOES_ON)) == (1, 1)
    lost = place.events("fail")
    assert [event["left"] for event in lost] == [1] * COUNT
    assert Counter(event["job"] for event in place.events("issue")).most_common(COUNT)[-1][1] == 2
    place.check_clean()


def test_a_leader_that_waits_can_be_stopped_and_the_workflow_restarted(place: FullStore) -> None:
    leader = place.begin_all()
    place.fill()
    place.end_all()
    place.wait_for(lambda: WAITS in place.log, leader)
    leader.send_signal(signal.SIGTERM)
    done = place.finish(leader)
    assert done.status == 128 + signal.SIGTERM, done.err
    assert "stopped by SIGTERM; continue with --restart" in done.err
    assert "Traceback" not in done.err
    place.check_clean()
    place.restart().check_refused("cannot use job store")
    place.check_clean()
    place.free()
    place.restart().check_result(full_store_workflow.EXPECTED)
    place.check_clean()


@pytest.mark.real
def test_a_leader_that_waits_can_be_stopped_from_another_machine(tmp_path: Path) -> None:
    """The kill flag is a file too: what is set aside gives it room."""
    place = SmallDisk(tmp_path)
    with mounted(place.disk):
        leader = place.begin_all()
        place.fill()
        place.wait_for(lambda: WAITS in place.log, leader)
        asked = place.finish(place.spawn([sys.executable, "-m", "toilcache", "kill", str(place.store)]))
        assert asked.status == 0, asked.err
        done = place.finish(leader)
        assert done.status == 1, done.err
        assert "stopped by the kill flag; continue with --restart" in done.err
        place.check_clean()
        place.end_all()
        place.free()
        place.restart().check_result(full_store_workflow.EXPECTED)


def test_a_store_that_is_gone_ends_the_leader(tmp_path: Path) -> None:
    place = Refusing(tmp_path, EIO)
    leader = place.begin_all()
    place.store.rename(place.store.with_name("moved away"))
    done = place.finish(leader)
    done.check_refused("cannot use job store", "it was removed or is not mounted here")
    place.check_clean()
    place.store.with_name("moved away").rename(place.store)
    place.end_all()
    place.restart().check_result(full_store_workflow.EXPECTED)


# Each step of the leader


class Losing:
    """Workers for which the disk is never full. Every first attempt is lost after it has printed a line."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self._plan = plan
        self._lost: set[str] = set()
        with stage.store.write_file_stream() as (stream, self.doomed):
            stream.write(b"an input that is not needed any more")
        self.tries: list[int] = []
        self._work = stage.worker(self._change)

    def _change(self, store: AbstractJobStore, desc: JobDescription) -> None:
        with store.write_file_stream(job_id=str(desc.jobStoreID), basename="out") as (stream, _):
            stream.write(b"output")
        desc.filesToDelete = [str(self.doomed)]
        self.tries.append(desc.remainingTryCount)

    def __call__(self, request: JobRequest) -> list[Update]:
        if request.name not in self._lost:
            self._lost.add(request.name)
            return [ended(request, BatchJobExitReason.LOST, log=b"a line\n")]
        with untouched(self._plan):
            return self._work(request)


@contextmanager
def untouched(plan: Plan) -> Iterator[None]:
    """Nothing of what is done here counts."""
    plan.under, under = "/nobody", plan.under
    try:
        yield
    finally:
        plan.under = under


class Freed(logging.Handler):
    """Makes room as soon as the leader has said that there is none."""

    def __init__(self, flag: Path) -> None:
        super().__init__()
        self.flag = flag
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        if WAITS in self.said[-1]:
            self.flag.unlink(missing_ok=True)


@pytest.mark.parametrize("how", ["once", "until it is freed"])
@pytest.mark.parametrize("then", [ENOSPC, EIO])
def test_each_write_of_a_leader_that_meets_a_full_store_is_done_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str, how: str
) -> None:
    """A restarted leader, so that it fences; attempts that are lost, so that it charges and keeps logs."""
    for module in (patience, durability):
        monkeypatch.setattr(module, "FIRST_PAUSE", 0.0005)
    waited = 0
    for step in itertools.count(1):
        home = tmp_path / str(step)
        home.mkdir()
        flag = home / "full"
        plan = Plan(home / "trace", step, then, LEADER, flag=flag if how != "once" else None)
        plan.under = str(home / "it's")
        said = lead_with(plan, Stage(Bench("file", home)), Freed(flag))
        waits, goes_on = (sum(word in line for line in said) for word in (WAITS, GOES_ON))
        assert waits == goes_on <= 1, said
        waited += waits
        if not plan.happened:
            break
    print(f"{step - 1} steps, {waited} of them made the leader wait")
    assert waited > 10


def lead_with(plan: Plan, stage: Stage, freed: Freed) -> list[str]:
    """Lead a workflow to its end, whatever the plan does; returns what was said."""
    root = stage.save(chain("first", "second"))
    work = Losing(stage, plan)
    log = logging.getLogger("toilcache.leader.patience")
    log.addHandler(freed)
    try:
        with injected(plan):
            with untouched(plan):
                run = stage.store.claim_run()
                leader = Leader(stage.store, stage.config, NullAdapter(work), run, Reporter(stage.config))
            leader.run(root, resume=True)
    finally:
        log.removeHandler(freed)
    assert (leader.counts.done, leader.counts.failed, leader.counts.retried) == (2, 0, 2)
    assert work.tries == [stage.config.retryCount + 1] * 2
    assert len(stage.jobs()) == 1
    assert not stage.store.file_exists(str(work.doomed))
    kept = [path for path in Path(stage.bench.where).glob("kept/*/*/*/*") if path.is_file()]
    assert len(kept) == 2
    kinds = Counter(event["e"] for event in events(stage))
    assert (kinds["commit"], kinds["done"], kinds["fail"]) == (2, 2, 2)
    assert kinds["end"] == 1 or freed.flag.exists(), "the last words were said"
    return freed.said


def events(stage: Stage) -> list[dict[str, Any]]:
    """What the leader's journal says."""
    journal = Path(stage.bench.where) / "journal" / "1.jsonl"
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
