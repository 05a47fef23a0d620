"""The leader over every kind of job store, driven by an adapter without workers, with failures injected."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.fakes.job_stores import KINDS, Bench
from tests.fakes.leader_stage import Stage, chain, diamond, job, named
from tests.fakes.null_adapter import NullAdapter, ended
from toilcache.batch.model import JobRequest, Record, Update
from toilcache.errors import (
    ConcurrentFileModificationException,
    FailedJobsException,
    LeaderFencedError,
)
from toilcache.job.description import JobDescription
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job.job import Job
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.leader import leader as module
from toilcache.leader.attempts import FREE_LOSSES
from toilcache.leader.report import Reporter

FINISHED, FAILED, LOST = BatchJobExitReason.FINISHED, BatchJobExitReason.FAILED, BatchJobExitReason.LOST
KILLED = BatchJobExitReason.KILLED


@pytest.fixture(params=KINDS)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    return Stage(Bench(request.param, tmp_path))


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
    adapter = NullAdapter(
        lambda request: [Record(request.job_id, request.version + 1), ended(request, FAILED)]
    )
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


def test_the_late_end_of_an_earlier_attempt_is_not_that_of_the_later_one(stage: Stage) -> None:
    """An attempt that was given up may live on for a while, and end while the next one runs."""
    worker = stage.worker()
    tries: list[int] = []
    slow: list[JobRequest] = []

    class Adapter(NullAdapter):
        def updates(self, timeout: float | None) -> list[Update]:
            return worker(slow.pop()) if slow and not self._ready else super().updates(timeout)

    def linger(request: JobRequest) -> list[Update]:
        tries.append(request.version)
        if len(tries) == 1:
            return [ended(request, LOST)]
        slow.append(request)
        return [ended(request._replace(version=request.version - 1), LOST)]

    leader = stage.lead(Adapter(linger), stage.save(diamond()))
    assert leader.counts.done == 5
    assert len(tries) == 6, "the end of an attempt that was given up has ended another one"


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
