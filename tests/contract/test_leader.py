"""The leader over every kind of job store, driven by an adapter without workers, with failures injected."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.job_stores import KINDS, Bench
from tests.fakes.null_adapter import Committer, NullAdapter, ended
from toilcache.batch.model import JobRequest, Record, Update
from toilcache.config import Config
from toilcache.errors import (
    ConcurrentFileModificationException,
    FailedJobsException,
    LeaderFencedError,
    NoSuchJobException,
    WorkflowStopped,
)
from toilcache.job.description import JobDescription
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job.job import Job
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.leader import leader as module
from toilcache.leader.attempts import FREE_LOSSES
from toilcache.leader.journal import Status, replay
from toilcache.leader.leader import Leader
from toilcache.leader.report import Reporter

FINISHED, FAILED, LOST = BatchJobExitReason.FINISHED, BatchJobExitReason.FAILED, BatchJobExitReason.LOST
KILLED = BatchJobExitReason.KILLED


class Killed(BaseException):
    """The leader is killed: nothing of it runs any more."""


class Stage:
    """A workflow in a store, and leaders for it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.store = bench.store
        self.config: Config = bench.store.config
        self.config.retryCount = 1
        self.config.retryBackoff = 0.0001
        self.store.write_config()
        self.leader: Leader | None = None

    def worker(self, change: Callable[[AbstractJobStore, JobDescription], object] | None = None) -> Committer:
        """A worker with its own connection for each attempt."""
        connect = lambda: self.bench.another(resume=True)  # noqa: E731
        return Committer(connect) if change is None else Committer(connect, change)

    def save(self, root: Job) -> JobDescription:
        root.assignConfig(self.config)
        return root.saveAsRootJob(self.store)

    def lead(
        self,
        adapter: NullAdapter,
        root: JobDescription,
        resume: bool = False,
        adopted: Sequence[tuple[str, int]] = (),
    ) -> Leader:
        """Lead to the end."""
        run = self.store.claim_run()
        self.leader = Leader(self.store, self.config, adapter, run, Reporter(self.config))
        self.leader.run(root, resume=resume, adopted=adopted)
        return self.leader

    def lead_again(self, adapter: NullAdapter) -> Leader:
        """Lead what an earlier leader left, as a restart does."""
        return self.lead(adapter, self.store.clean(), resume=True)

    def status(self) -> Status:
        events = []
        for open_journal in self.store.journals():
            with open_journal() as lines:
                events += list(replay(lines))
        return Status(events)

    def jobs(self) -> list[str]:
        """The names of all jobs that the store holds."""
        return sorted(desc.jobName for desc in self.store.jobs())


@pytest.fixture(params=KINDS)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    return Stage(Bench(request.param, tmp_path))


def job(name: str, **attributes: Any) -> Job:
    """A job that the adapter runs, so that its body does not matter."""
    return Job(memory=1000, cores=1, disk=1000, displayName=name, unitName=name, **attributes)


def named(adapter: NullAdapter) -> list[tuple[str, int]]:
    """What was submitted: names and versions."""
    return [(request.name, request.version) for request in adapter.submitted]


def diamond() -> Job:
    """A root with two children that share one, and a follow-on."""
    root, left, right, shared = job("root"), job("left"), job("right"), job("shared")
    root.addChild(left)
    root.addChild(right)
    left.addChild(shared)
    right.addChild(shared)
    root.addFollowOn(job("last"))
    return root


# The way through


def test_each_job_is_issued_once_in_order(stage: Stage) -> None:
    adapter = NullAdapter(stage.worker())
    leader = stage.lead(adapter, stage.save(diamond()))
    names = [name for name, version in named(adapter)]
    assert all(version == 1 for _, version in named(adapter))
    assert sorted(names) == ["last", "left", "right", "root", "shared"]
    assert (names[0], names[3], names[4]) == ("root", "shared", "last")
    assert leader.counts.as_dict() == {
        "known": 5,
        "ran": 5,
        "done": 5,
        "running": 0,
        "failed": 0,
        "retried": 0,
    }
    assert stage.jobs() == ["Job"]  # the root keeps its value
    assert stage.status().counts["done"] == 5
    assert stage.status().ended


def test_successors_made_by_a_job(stage: Stage) -> None:
    def change(store: AbstractJobStore, desc: JobDescription) -> None:
        if desc.displayName == "root":
            for number in range(250):  # more than two groups of deletions
                child = JobDescription({"memory": 1, "cores": 1, "disk": 1}, "child")
                child.predecessorNumber = 1
                store.assign_job_id(child)
                child.attach_inline_body(b"", None)
                store.create_job(child)
                desc.addChild(str(child.jobStoreID)) if number else desc.addFollowOn(str(child.jobStoreID))

    adapter = NullAdapter(stage.worker(change))
    leader = stage.lead(adapter, stage.save(job("root")))
    assert leader.counts.done == 251
    assert len(adapter.submitted) == 251
    assert len(stage.jobs()) == 1


def test_a_job_that_fits_nowhere_is_given_up_and_the_others_run(stage: Stage) -> None:
    root = job("root")
    root.addChild(job("small"))
    root.addChild(Job(memory=1, cores=9, disk=1, displayName="large"))
    adapter = NullAdapter(stage.worker(), max_cores=4)
    with pytest.raises(FailedJobsException) as failure:
        stage.lead(adapter, stage.save(root))
    assert failure.value.numberOfFailedJobs == 1
    assert [name for name, _ in named(adapter)] == ["root", "small"]


# Evidence (I1)


def test_an_end_without_a_record_is_no_success(stage: Stage) -> None:
    """Whatever a worker's status says: without a record the attempt has failed, and costs a try."""
    adapter = NullAdapter(lambda request: [ended(request, FINISHED)])
    root = stage.save(job("root"))
    with pytest.raises(FailedJobsException):
        stage.lead(adapter, root)
    assert named(adapter) == [("root", 1), ("root", 2)]
    found = stage.store.load_job(str(root.jobStoreID))
    assert (found.version, found.remainingTryCount, found.has_body()) == (3, 0, True)


def test_a_hint_without_a_record_is_no_success(stage: Stage) -> None:
    adapter = NullAdapter(lambda request: [Record(request.job_id, request.version + 1), ended(request, FAILED)])
    with pytest.raises(FailedJobsException):
        stage.lead(adapter, stage.save(job("root")))
    assert len(adapter.submitted) == 2


@pytest.mark.parametrize("reason", [LOST, FAILED, KILLED])
def test_a_record_is_a_success_whatever_the_end_says(stage: Stage, reason: BatchJobExitReason) -> None:
    worker = stage.worker()

    def commit_silently(request: JobRequest) -> list[Update]:
        worker.commit(request)
        return [ended(request, reason)]

    adapter = NullAdapter(commit_silently)
    leader = stage.lead(adapter, stage.save(diamond()))
    assert leader.counts.done == 5
    assert len(adapter.submitted) == 5


def test_a_hint_that_comes_after_the_end_changes_nothing(stage: Stage) -> None:
    worker = stage.worker()

    def late(request: JobRequest) -> list[Update]:
        record = worker.commit(request)
        return [ended(request, FINISHED), record, record]

    leader = stage.lead(NullAdapter(late), stage.save(diamond()))
    assert (leader.counts.ran, leader.counts.done, leader.counts.running) == (5, 5, 0)


def test_hints_about_jobs_that_are_not_known_or_gone(stage: Stage) -> None:
    worker = stage.worker()
    gone: list[Record] = []

    def confused(request: JobRequest) -> list[Update]:
        gone.append(worker.commit(request))
        return [Record("0123456789abcdef", 2), *gone, ended(request, FINISHED), ended(request, LOST)]

    assert stage.lead(NullAdapter(confused), stage.save(diamond())).counts.done == 5


# Attempts, retries, back-off


def test_lost_attempts_are_fenced_and_free_at_first(stage: Stage) -> None:
    """Each new attempt builds on a slot that the leader took; tries are charged from the fourth loss on."""
    adapter = NullAdapter(lambda request: [ended(request, LOST)])
    root = stage.save(job("root"))
    with pytest.raises(FailedJobsException) as failure:
        stage.lead(adapter, root)
    attempts = FREE_LOSSES + stage.config.retryCount + 1
    assert [version for _, version in named(adapter)] == list(range(1, attempts + 1))
    assert failure.value.exit_code == 1
    assert stage.leader is not None
    assert stage.leader.counts.as_dict() == {
        "known": 1,
        "ran": 0,
        "done": 0,
        "running": 0,
        "failed": 1,
        "retried": attempts - 1,
    }


def test_the_worker_of_a_lost_attempt_is_refused_when_it_comes_back(stage: Stage) -> None:
    worker = stage.worker()
    refused: list[str] = []

    def partition(request: JobRequest) -> list[Update]:
        if request.version == 1:
            return [ended(request, LOST)]
        store = stage.bench.another(resume=True)
        store.begin_attempt(request.job_id, 1)
        desc = store.load_version(request.job_id, 1)
        desc.detach_body()
        with pytest.raises(ConcurrentFileModificationException):
            store.update_job(desc)
        refused.append(request.name)
        return worker(request)

    leader = stage.lead(NullAdapter(partition), stage.save(diamond()))
    assert len(refused) == leader.counts.done == leader.counts.ran == 5


def test_a_worker_that_commits_while_its_attempt_is_given_up_wins(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is not there when the leader looks, and there when it takes the slot."""
    worker = stage.worker()
    requests: dict[str, JobRequest] = {}

    def lose(request: JobRequest) -> list[Update]:
        requests[request.job_id] = request
        return [ended(request, LOST, log=b"what it printed")]

    save_log = Reporter.save_log

    def commit_just_then(self: Reporter, store: AbstractJobStore, job_id: str, text: bytes) -> str | None:
        worker.commit(requests[job_id])
        return save_log(self, store, job_id, text)

    monkeypatch.setattr(Reporter, "save_log", commit_just_then)
    adapter = NullAdapter(lose)
    assert stage.lead(adapter, stage.save(diamond())).counts.done == 5
    assert len(adapter.submitted) == 5


def test_a_failure_is_retried_as_often_as_configured(stage: Stage) -> None:
    stage.config.retryCount = 2
    stage.store.write_config()
    worker = stage.worker()
    adapter = NullAdapter(lambda request: [worker.fail(request), ended(request, FAILED)])
    root = job("root")
    root.addFollowOn(job("never"))
    with pytest.raises(FailedJobsException) as failure:
        stage.lead(adapter, stage.save(root))
    assert named(adapter) == [("root", 1), ("root", 2), ("root", 3)]
    assert failure.value.numberOfFailedJobs == 1
    assert list(stage.status().failed.values()) == ["ValueError: no"]


def test_a_job_given_up_does_not_stop_the_others_and_runs_after_a_restart(stage: Stage) -> None:
    root = job("root")
    for name in ("bad", "good"):
        root.addChild(job(name)).addChild(job(f"below {name}"))
    root.addFollowOn(job("last"))
    worker = stage.worker()

    def bad_fails(request: JobRequest) -> list[Update]:
        if request.name == "bad":
            return [worker.fail(request), ended(request, FAILED)]
        return worker(request)

    adapter = NullAdapter(bad_fails)
    with pytest.raises(FailedJobsException):
        stage.lead(adapter, stage.save(root))
    assert Counter(name for name, _ in named(adapter)) == {"root": 1, "bad": 2, "good": 1, "below good": 1}
    again = NullAdapter(worker)
    leader = stage.lead_again(again)
    assert [name for name, _ in named(again)] == ["bad", "below bad", "last"]
    assert leader.counts.failed == 0


def test_a_failed_job_is_not_issued_while_its_process_is_there(stage: Stage) -> None:
    """The failure is read at once; the next attempt waits for the end of the process."""
    worker = stage.worker()
    adapter: NullAdapter

    def fail_slowly(request: JobRequest) -> list[Update] | None:
        if request.version > 1:
            return worker(request)

        def end() -> None:
            assert len(adapter.submitted) == 1
            adapter.report(ended(request, FAILED))
            adapter.wake()

        timer = threading.Timer(0.05, end)  # many times the back-off
        timer.start()
        return [worker.fail(request)]

    adapter = NullAdapter(fail_slowly)
    leader = stage.lead(adapter, stage.save(job("root")))
    assert named(adapter) == [("root", 1), ("root", 2)]
    assert leader.counts.retried == 1


def test_a_job_over_its_time_is_cancelled_and_charged(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DURATION_LOOK_SECONDS", 0.001)
    stage.config.maxJobDuration = 0.002
    worker = stage.worker()
    adapter = NullAdapter(lambda request: None if request.version == 1 else worker(request))
    root = stage.save(job("root"))
    stage.lead(adapter, root)
    assert named(adapter) == [("root", 1), ("root", 2)]
    assert set(adapter.cancelled) == {str(root.jobStoreID)}


# Chains


class Chainer:
    """A worker that goes on with the only successor; ``die_at`` names the job in which it dies."""

    def __init__(self, stage: Stage, die_at: str = "", hints: bool = True) -> None:
        self._stage = stage
        self._die_at = die_at
        self._hints = hints

    def __call__(self, request: JobRequest) -> list[Update]:
        updates: list[Update] = []
        store = self._stage.bench.another(resume=True)
        job_id: str | None = request.job_id
        version = request.version
        while job_id is not None:
            desc = store.load_version(job_id, version)
            if desc.displayName == self._die_at:
                self._die_at = ""
                return [*updates, ended(request, KILLED)] if self._hints else [ended(request, KILLED)]
            store.begin_attempt(job_id, version)
            desc.detach_body()
            desc.has_result, desc.result = True, b"N."
            successors = desc.nextSuccessors() or set()
            desc.chained_to = next(iter(successors)) if len(successors) == 1 else None
            store.update_job(desc)
            updates.append(Record(job_id, desc.version))
            job_id, version = desc.chained_to, 1
        return [*updates, ended(request, FINISHED)] if self._hints else [ended(request, FINISHED)]


def chain(*names: str) -> Job:
    root = last = job(names[0])
    for name in names[1:]:
        last = last.addChild(job(name))
    return root


@pytest.mark.parametrize("hints", [True, False])
def test_a_chain_is_issued_once(stage: Stage, hints: bool) -> None:
    adapter = NullAdapter(Chainer(stage, hints=hints))
    leader = stage.lead(adapter, stage.save(chain("a", "b", "c", "d")))
    assert named(adapter) == [("a", 1)]
    assert (leader.counts.ran, leader.counts.done, leader.counts.running) == (4, 4, 0)


@pytest.mark.parametrize("hints", [True, False])
@pytest.mark.parametrize("die_at", ["a", "b", "c", "d"])
def test_a_chain_that_dies_goes_on_where_it_died(stage: Stage, die_at: str, hints: bool) -> None:
    adapter = NullAdapter(Chainer(stage, die_at, hints))
    leader = stage.lead(adapter, stage.save(chain("a", "b", "c", "d")))
    assert named(adapter) == [("a", 1), (die_at, 2)]
    assert (leader.counts.ran, leader.counts.done, leader.counts.running) == (4, 4, 0)
    assert leader.counts.retried == 1


# Fencing


def test_a_fenced_leader_issues_and_deletes_nothing_more(stage: Stage) -> None:
    """A newer run is claimed in the middle: this leader stops at its next step that would change things."""
    worker = stage.worker()
    root = job("root")
    child = root.addChild(job("child"))
    child.addChild(job("grandchild"))

    def claimed_in_between(request: JobRequest) -> list[Update]:
        updates = worker(request)
        if request.name == "child":
            stage.bench.another(resume=True).claim_run()
        return updates

    adapter = NullAdapter(claimed_in_between)
    with pytest.raises(LeaderFencedError):
        stage.lead(adapter, stage.save(root))
    assert [name for name, _ in named(adapter)] == ["root", "child"]
    assert len(stage.jobs()) == 3
    other = NullAdapter(worker)
    stage.lead_again(other)
    assert [name for name, _ in named(other)] == ["grandchild"]


def test_a_fenced_leader_cancels_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DURATION_LOOK_SECONDS", 0.001)
    stage.config.maxJobDuration = 0.002

    def claimed(request: JobRequest) -> None:
        stage.bench.another(resume=True).claim_run()

    adapter = NullAdapter(claimed)
    with pytest.raises(LeaderFencedError):
        stage.lead(adapter, stage.save(job("root")))
    assert adapter.cancelled == []


def test_an_idle_leader_learns_by_its_heartbeat_that_it_is_fenced(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.001)

    def claimed(request: JobRequest) -> None:
        stage.bench.another(resume=True).claim_run()

    with pytest.raises(LeaderFencedError):
        stage.lead(NullAdapter(claimed), stage.save(job("root")))


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
    monkeypatch.setattr(stage.store, "delete_job", lambda job_id: (deleted.append(job_id), delete_job(job_id)))

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


def test_a_sync_that_fails_ends_the_leader_and_deletes_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync() -> None:
        raise OSError(5, "the disk is broken")

    delete = Deleter(stage)
    root = stage.save(diamond())
    monkeypatch.setattr(stage.store, "sync", sync)
    with pytest.raises(OSError, match="the disk is broken"):
        stage.lead(NullAdapter(stage.worker(delete)), root)
    assert len(stage.jobs()) == 5
    assert stage.store.file_exists(delete.file_id)
    monkeypatch.undo()
    stage.lead_again(NullAdapter(stage.worker()))
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
        for name in backend.names(scope):
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
