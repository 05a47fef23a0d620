"""What a leader does only after a sync, and how a later one goes on where it was stopped (I3, I8)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.job_stores import KINDS, Bench
from tests.fakes.leader_stage import Killed, Stage, chain, diamond, job, named
from tests.fakes.null_adapter import NullAdapter, ended
from toilcache.batch.model import JobRequest, Update
from toilcache.errors import (
    ConcurrentFileModificationException,
    FailedJobsException,
    JobException,
    NoSuchJobException,
    WorkflowStopped,
)
from toilcache.job.description import JobDescription
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job_store import layout
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.leader import durability
from toilcache.leader import leader as module
from toilcache.leader.attempts import Attempts
from toilcache.leader.graph import Node
from toilcache.leader.leader import Leader
from toilcache.leader.report import Reporter

FINISHED, FAILED, LOST = BatchJobExitReason.FINISHED, BatchJobExitReason.FAILED, BatchJobExitReason.LOST
KILLED = BatchJobExitReason.KILLED


@pytest.fixture(params=KINDS)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    return Stage(Bench(request.param, tmp_path))


# What waits for a sync (I3)


class Deleter:
    """A job whose commit wants a file deleted."""

    def __init__(self, stage: Stage) -> None:
        with stage.store.write_file_stream() as (stream, file_id):
            stream.write(b"content")
        self.file_id = file_id

    def __call__(self, store: AbstractJobStore, desc: JobDescription) -> None:
        desc.filesToDelete = [self.file_id]


def test_before_the_sync_nothing_is_deleted_and_nothing_said(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, returned = threading.Event(), threading.Event(), threading.Event()

    def sync() -> None:
        begun.set()
        assert go_on.wait(60)

    delete = Deleter(stage)
    root = stage.save(diamond())
    monkeypatch.setattr(stage.store, "sync", sync)
    deleted: list[str] = []
    delete_job = stage.store.delete_job
    monkeypatch.setattr(
        stage.store, "delete_job", lambda job_id: (deleted.append(job_id), delete_job(job_id))
    )

    def lead() -> None:
        stage.lead(NullAdapter(stage.worker(delete)), root)
        returned.set()

    thread = threading.Thread(target=lead)
    thread.start()
    assert begun.wait(60)
    other = stage.bench.another(resume=True)
    while sum(not desc.has_body() for desc in other.jobs()) < 5:
        assert thread.is_alive()
    assert not returned.wait(0.05)
    assert other.file_exists(delete.file_id)
    assert deleted == []
    go_on.set()
    thread.join(60)
    assert returned.is_set()
    assert not other.file_exists(delete.file_id)
    assert len(deleted) == len(set(deleted)) == 4


class BrokenDisk:
    """A sync that fails, tells so once, and has lost by then what was written and not synced."""

    def __init__(self, stage: Stage, failures: int) -> None:
        self._stage = stage
        self.failures = failures
        self.renewed: list[str] = []
        self.lost: set[str] = set()
        self.unsafe: list[str] = []

    def sync(self) -> None:
        if self.failures:
            self.failures -= 1
            self.lost = set(self.slots())
            raise OSError(5, "Input/output error")

    def renew(self, key: str, data: bytes) -> None:
        self.renewed.append(key)
        self.lost.discard(key)

    def drop_scope(self, scope: str) -> None:
        """A job goes for good: the records that say why must be safe."""
        if scope.startswith("jobs/") and not scope.endswith(".d"):
            self.unsafe += self.lost

    def slots(self) -> list[str]:
        return [layout.slot(str(desc.jobStoreID), desc.version) for desc in self._jobs()]

    def _jobs(self) -> list[JobDescription]:
        return list(self._stage.bench.another(resume=True).jobs())


def broken_disk(stage: Stage, monkeypatch: pytest.MonkeyPatch, failures: int) -> BrokenDisk:
    disk = BrokenDisk(stage, failures)
    backend = stage.store._backend
    drop = backend.drop_scope
    monkeypatch.setattr(backend, "sync", disk.sync)
    monkeypatch.setattr(backend, "renew", disk.renew)
    monkeypatch.setattr(backend, "drop_scope", lambda scope: (disk.drop_scope(scope), drop(scope)))
    return disk


def test_after_a_failed_sync_records_are_written_again_before_anything_is_deleted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk tells of an error once; that the next sync succeeds says nothing of what was lost before."""
    monkeypatch.setattr(durability, "FIRST_PAUSE", 0.001)
    delete = Deleter(stage)
    root = stage.save(diamond())
    disk = broken_disk(stage, monkeypatch, failures=3)
    leader = stage.lead(NullAdapter(stage.worker(delete)), root)
    assert (leader.counts.done, leader.counts.retried) == (5, 0)
    assert disk.failures == 0
    assert len(set(disk.renewed)) >= 5
    assert disk.unsafe == []
    assert len(stage.jobs()) == 1
    assert not stage.store.file_exists(delete.file_id)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "cannot sync job store" in told[0]
    assert "takes writes again" in told[1]


@pytest.mark.parametrize("adopts", [False, True])
def test_while_the_disk_fails_a_request_to_stop_is_heard(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, adopts: bool
) -> None:
    """Nothing is deleted, and a later leader goes on, which trusts no record before it is written again."""
    delete = Deleter(stage)
    root = stage.save(diamond())

    def sync() -> None:
        assert stage.leader is not None
        stage.leader._ask_to_stop(signal.SIGTERM, None)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(stage.store._backend, "sync", sync)
        with pytest.raises(WorkflowStopped):
            stage.lead(NullAdapter(stage.worker(delete)), root)
    disk = broken_disk(stage, monkeypatch, failures=0)
    disk.lost = set(disk.slots())
    assert len(stage.jobs()) == 5
    assert stage.store.file_exists(delete.file_id)
    assert stage.store.is_in_doubt()
    if adopts:  # then nothing is put in order
        stage.lead(NullAdapter(stage.worker()), stage.store.load_root_job(), resume=True)
    else:
        stage.lead_again(NullAdapter(stage.worker()))
        assert not stage.store.is_in_doubt()
    assert disk.unsafe == []
    assert len(set(disk.renewed)) >= 5
    assert len(stage.jobs()) == 1
    assert not stage.store.file_exists(delete.file_id)


# Stopping and going on


def test_the_kill_flag_stops_the_leader(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KILL_FLAG_SECONDS", 0.001)
    root = stage.save(job("root"))
    stage.store.write_kill_flag(True)
    with pytest.raises(WorkflowStopped) as stopped:
        stage.lead(NullAdapter(lambda request: None), root)
    assert "kill flag" in stopped.value.why
    assert stage.status().ended


def test_attempts_that_still_run_are_adopted_and_not_issued_again(stage: Stage) -> None:
    worker = stage.worker()
    requests: list[JobRequest] = []

    def die(request: JobRequest) -> None:
        requests.append(request)
        raise Killed

    root = stage.save(chain("a", "b"))
    with pytest.raises(Killed):
        stage.lead(NullAdapter(die), root)
    adapter = NullAdapter(worker)
    orphan = requests[0]
    worker.commit(orphan)
    adapter.report(ended(orphan, LOST, "ended under an earlier leader"))
    root = stage.store.load_root_job()
    stage.lead(adapter, stage.store.load_version(orphan.job_id, 1), True, [(orphan.job_id, orphan.version)])
    assert [name for name, _ in named(adapter)] == ["b"]


def test_an_adopted_attempt_that_ends_without_a_record_is_tried_again(stage: Stage) -> None:
    root = stage.save(job("root"))
    adapter = NullAdapter(stage.worker())
    request = JobRequest(str(root.jobStoreID), 1, "root", 1, 1, 1, 0, False)
    adapter.report(ended(request, LOST))
    stage.lead(adapter, root, True, [(request.job_id, 1)])
    assert named(adapter) == [("root", 2)]


def test_what_an_earlier_leader_issued_is_fenced_before_it_is_issued_again(stage: Stage) -> None:
    root = stage.save(job("root"))
    late = stage.bench.another(resume=True)
    late.begin_attempt(str(root.jobStoreID), 1)
    desc = late.load_version(str(root.jobStoreID), 1)
    adapter = NullAdapter(stage.worker())
    stage.lead(adapter, root, resume=True)
    assert named(adapter) == [("root", 2)]
    desc.detach_body()
    with pytest.raises((ConcurrentFileModificationException, NoSuchJobException)):
        late.update_job(desc)


class DyingAdapter(NullAdapter):
    """Dies with the leader at its n-th step; a step is a submit, a start of a job, or a look for updates."""

    def __init__(self, work: Callable[[JobRequest], list[Update]], steps: int) -> None:
        super().__init__(self._run, slots=1)
        self._really_work = work
        self._steps = steps

    def _step(self) -> None:
        if self._steps <= 0:
            raise Killed
        self._steps -= 1

    def submit(self, requests: Sequence[JobRequest]) -> None:
        self._step()
        super().submit(requests)

    def updates(self, timeout: float | None) -> list[Update]:
        self._step()
        return super().updates(timeout)

    def _run(self, request: JobRequest) -> list[Update]:
        self._step()
        return self._really_work(request)

    def cancel(self, job_ids: Collection[str]) -> None:
        raise AssertionError("nothing is cancelled here")


class Writers:
    """Workers whose jobs write one file each; every first attempt at a job fails after it wrote its file."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._failed: set[str] = set()
        self._worker = stage.worker(self._write)

    def _write(self, store: AbstractJobStore, desc: JobDescription) -> None:
        with store.write_file_stream(job_id=str(desc.jobStoreID), basename="out") as (stream, _):
            stream.write(desc.displayName.encode())

    def __call__(self, request: JobRequest) -> list[Update]:
        if request.name in self._failed:
            return self._worker(request)
        self._failed.add(request.name)
        return [self._worker.fail(request), ended(request, FAILED)]


def files_of(bench: Bench) -> list[str]:
    """What the files say that jobs wrote to outlive them."""
    backend = bench.store._backend
    found = []
    waiting = ["kept"]
    while waiting:
        scope = waiting.pop()
        try:
            names = backend.names(scope)
        except NotADirectoryError:
            continue  # the place of an attempt that was given up is closed by a file
        for name in names:
            key = f"{scope}/{name}"
            if scope.count("/") == 3:
                found.append(backend.get(key).decode())
            else:
                waiting.append(key)
    return sorted(found)


def test_a_leader_that_is_killed_again_and_again(stage: Stage) -> None:
    """Killed at its n-th step, continued, killed at its n-th step, ...: one file for each job at the end."""
    for steps in (3, 4, 5, 7, 11, 1000):
        stage = Stage(Bench(stage.bench.kind, _fresh(stage.bench.home, steps)))
        root = stage.save(diamond())
        writers = Writers(stage)
        for tries in range(200):
            adapter = DyingAdapter(writers, steps + tries // 20)
            try:
                stage.lead(adapter, root) if not tries else stage.lead_again(adapter)
                break
            except Killed:
                continue
        assert files_of(stage.bench) == ["last", "left", "right", "root", "shared"]
        assert len(stage.jobs()) == 1


def _fresh(home: Path, number: int) -> Path:
    directory = home / f"workflow {number}"
    directory.mkdir()
    return directory


def test_what_won_stays_when_the_sync_was_slow(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync begins before the attempt that will win is even issued, and ends after its commit."""
    go_on = threading.Event()
    root = stage.save(chain("first", "second"))
    writers = Writers(stage)

    def work(request: JobRequest) -> list[Update]:
        updates = writers(request)
        if (request.name, request.version) == ("second", 3):
            go_on.set()
        return updates

    monkeypatch.setattr(stage.store, "sync", lambda: go_on.wait(60))
    adapter = NullAdapter(work)
    stage.lead(adapter, root, resume=True)
    assert named(adapter) == [("first", 2), ("first", 3), ("second", 2), ("second", 3)]
    assert files_of(stage.bench) == ["first", "second"]


def test_the_log_of_the_last_failure_stays_until_the_job_succeeds(stage: Stage) -> None:
    adapter = NullAdapter(lambda request: [ended(request, FAILED, log=b"what it printed")])
    root = stage.save(job("root"))
    with pytest.raises(FailedJobsException):
        stage.lead(adapter, root, resume=True)
    desc = stage.store.load_job(str(root.jobStoreID))
    with desc.getLogFileHandle(stage.store) as log:
        assert log.read() == b"what it printed"


def chaining(store: AbstractJobStore, desc: JobDescription) -> None:
    """Commit, and go on with the only successor."""
    desc.detach_body()
    successors = desc.nextSuccessors()
    desc.chained_to = next(iter(successors)) if successors else None


def test_a_commit_that_lands_just_after_the_look_is_followed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last system call of a killed worker takes the slot that the leader was about to take."""
    worker = stage.worker(chaining)
    look = Attempts.newest
    late: list[JobRequest] = []

    def newest(self: Attempts, node: Node) -> JobDescription | None:
        found = look(self, node)
        if found is None and late:
            list(worker(late.pop()))
        return found

    def work(request: JobRequest) -> list[Update]:
        if request.name != "a":
            return list(worker(request))
        late.append(request)
        return [ended(request, BatchJobExitReason.LOST)]

    monkeypatch.setattr(Attempts, "newest", newest)
    leader = stage.lead(NullAdapter(work), stage.save(chain("a", "b", "c")))
    assert leader.counts.done == 3


def test_the_child_of_an_unknown_worker_is_fenced_before_it_is_issued(stage: Stage) -> None:
    """A worker of an earlier leader, not adopted, wins the slot and goes on with a child that it bore."""

    def bears(store: AbstractJobStore, desc: JobDescription) -> None:
        child = JobDescription({"memory": 1000, "cores": 1, "disk": 1000}, "born")
        store.assign_job_id(child)
        child.attach_inline_body(b"x", None)
        child.assignConfig(stage.config)
        store.create_job(child)
        desc.addChild(str(child.jobStoreID))
        desc.detach_body()
        desc.chained_to = str(child.jobStoreID)

    worker, adapter = stage.worker(bears), NullAdapter(stage.worker())
    root = stage.save(job("a"))
    run = stage.store.claim_run()
    leader = Leader(stage.store, stage.config, adapter, run, Reporter(stage.config))
    request, begin = JobRequest.of(root), leader._begin

    def win_meanwhile(*args: Any) -> None:
        begin(*args)
        list(worker(request))

    leader._begin = win_meanwhile  # type: ignore[method-assign]
    leader.run(stage.store.clean(), resume=True)
    assert [(name, version > 1) for name, version in named(adapter)] == [("born", True)]


def test_a_workflow_that_waits_for_nothing_is_no_success(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leader, "_take", lambda self, changes: None)
    with pytest.raises(JobException, match="nothing runs, but 2 jobs wait"):
        stage.lead(NullAdapter(stage.worker()), stage.save(chain("a", "b")))
