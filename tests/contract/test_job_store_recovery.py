"""What every job store promises after a crash or a power cut: `clean` and `roll_back`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.job_stores import KINDS, Bench
from toilcache.errors import (
    ConcurrentFileModificationException,
    CorruptRecordError,
    JobException,
    NoSuchJobException,
)
from toilcache.job.description import JobDescription
from toilcache.job_store import layout

# What file systems leave of a file whose blocks a power cut lost.
TORN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "short": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "zeros at the end": lambda data: data[:100] + bytes(len(data) - 100),
}


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(request.param, tmp_path)


@pytest.fixture
def root(bench: Bench) -> str:
    job_id = str(bench.job("root").jobStoreID)
    bench.store.set_root_job(job_id)
    return job_id


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def ids(*jobs: JobDescription) -> list[str]:
    return [str(job.jobStoreID) for job in jobs]


def exist(bench: Bench, *jobs: JobDescription) -> list[bool]:
    return [bench.store.job_exists(job_id) for job_id in ids(*jobs)]


def test_without_a_root_there_is_nothing_to_clean(bench: Bench) -> None:
    bench.job()
    with pytest.raises(JobException, match="none was ever set"):
        bench.store.clean()


def test_a_clean_store_stays_as_it_is(bench: Bench, root: str) -> None:
    child = bench.job()
    bench.commit(root, child)
    description = bench.store.clean()
    assert (description.jobStoreID, description.version) == (root, 2)
    assert bench.store.load_job(ids(child)[0]).version == 1


def test_tries_are_reset(bench: Bench, root: str) -> None:
    child = bench.job()
    bench.commit(root, child)
    for job_id in (root, *ids(child)):
        description = bench.store.load_job(job_id)
        description.remainingTryCount = 1
        bench.store.update_job(description)
    # The root has run, so that it needs no tries and its record stays the one of its commit.
    assert bench.store.clean().version == 3
    assert bench.store.load_job(ids(child)[0]).remainingTryCount == 4


def test_jobs_that_the_root_does_not_lead_to_are_removed(bench: Bench, root: str) -> None:
    child, grandchild, follow_on, service, promisor, needed, lost, half = (bench.job() for _ in range(8))
    assigned = JobDescription({}, "never created")
    bench.store.assign_job_id(assigned)
    for job, change in (
        (child, lambda job: job.addChild(*ids(grandchild))),
        (follow_on, lambda job: job.addServiceHostJob(*ids(service))),
        (grandchild, lambda job: job.promised.extend(ids(promisor))),
        (promisor, lambda job: job.result_refs.extend(ids(needed))),
        (lost, lambda job: job.addChild(*ids(half))),
    ):
        change(job)
        bench.store.update_job(job)
    description = bench.store.load_job(root)
    description.addFollowOn(*ids(follow_on))
    description.addChild(*ids(child))
    description.addChild("00000000ffffffff")
    bench.store.update_job(description)
    assert bench.store.clean().jobStoreID == root
    assert exist(bench, child, grandchild, follow_on, service, promisor, needed) == [True] * 6
    assert exist(bench, lost, half) == [False] * 2
    assert not bench.store._backend.has(layout.job_scope(*ids(assigned)))


def test_a_cache_spares_loading(bench: Bench, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    child = bench.job()
    bench.commit(root, child)
    cache = {job_id: bench.store.load_job(job_id) for job_id in (root, *ids(child))}
    monkeypatch.setattr(bench.store, "load_job", lambda job_id: pytest.fail("loaded"))
    assert bench.store.clean(cache) is cache[root]


def test_an_outdated_cache_does_no_harm(bench: Bench, root: str) -> None:
    cache = {root: bench.store.load_job(root)}
    cache[root].remainingTryCount = 1
    child = bench.job()
    bench.commit(root, child)
    assert bench.store.clean(cache).hasChild(*ids(child))
    assert exist(bench, child) == [True]


# Torn records


@pytest.mark.parametrize("how", TORN)
def test_a_torn_record_gives_way_to_the_state_before(bench: Bench, root: str, how: str) -> None:
    bench.commit(root)
    bench.damage(root, 2, TORN[how])
    with pytest.raises(CorruptRecordError):
        bench.store.load_job(root)
    description = bench.store.clean()
    assert description.has_body()
    # Numbers never go back: the torn one stays taken.
    assert description.version == bench.store.load_job(root).version == 3
    with pytest.raises(CorruptRecordError):
        bench.store.load_version(root, 2)
    bench.commit(root)


@pytest.mark.parametrize("how", TORN)
def test_a_torn_birth_takes_the_commit_back_that_made_the_job(bench: Bench, root: str, how: str) -> None:
    child, torn = bench.job(), bench.job()
    bench.commit(root, child)
    grandchild = bench.job()
    bench.commit(ids(child)[0], grandchild, torn)
    bench.damage(ids(torn)[0], 1, TORN[how])
    assert bench.store.clean().jobStoreID == root
    description = bench.store.load_job(ids(child)[0])
    assert description.has_body()
    assert list(description.allSuccessors()) == []
    assert exist(bench, grandchild, torn) == [False, False]


def test_a_birth_that_left_an_empty_directory_is_no_finished_job(bench: Bench, root: str) -> None:
    child = JobDescription({}, "never arrived")
    bench.store.assign_job_id(child)
    bench.commit(root, child)
    assert bench.store.clean().has_body()


def test_several_torn_records_in_a_row(bench: Bench, root: str) -> None:
    description = bench.store.load_job(root)
    for _ in range(3):
        bench.store.update_job(description)
    for version in (3, 4):
        bench.damage(root, version, TORN["empty"])
    assert bench.store.clean().version == 5


def test_a_root_that_never_arrived_is_named(bench: Bench, root: str) -> None:
    bench.damage(root, 1, TORN["empty"])
    with pytest.raises(CorruptRecordError, match="no earlier state is left") as error:
        bench.store.clean()
    assert error.value.path == bench.store._backend.where(layout.slot(root, 1))


def test_a_first_state_that_refers_to_a_torn_job_cannot_be_taken_back(bench: Bench) -> None:
    child = bench.job()
    parent = JobDescription({}, "parent")
    bench.store.assign_job_id(parent)
    parent.addChild(*ids(child))
    bench.store.create_root_job(parent)
    bench.damage(ids(child)[0], 1, TORN["empty"])
    with pytest.raises(CorruptRecordError, match="no earlier state is left"):
        bench.store.clean()


def test_other_damage_is_not_taken_back_but_named(bench: Bench, root: str) -> None:
    bench.commit(root)
    bench.damage(root, 2, flip)
    with pytest.raises(CorruptRecordError, match="checksum") as error:
        bench.store.clean()
    assert error.value.path.endswith(f"{root}/2")
    with pytest.raises(CorruptRecordError):
        bench.store.load_job(root)


def test_other_damage_below_a_torn_record_is_named(bench: Bench, root: str) -> None:
    child = bench.job()
    bench.commit(root, child)
    bench.store.update_job(child)
    bench.damage(ids(child)[0], 1, flip)
    bench.damage(ids(child)[0], 2, TORN["empty"])
    with pytest.raises(CorruptRecordError, match="checksum"):
        bench.store.clean()
    assert bench.store.load_job(root).hasChild(*ids(child))


def test_rolling_back_what_is_not_there(bench: Bench) -> None:
    for job_id in ("0123456789abcdef", "../x"):
        with pytest.raises(NoSuchJobException):
            bench.store.roll_back(job_id, ())


def test_rolling_back_to_the_newest_state_changes_nothing(bench: Bench, root: str) -> None:
    assert bench.store.roll_back(root, {"0123456789abcdef"}).version == 1
    assert bench.store.load_job(root).version == 1


# Attempts that still run


def test_an_attempt_that_still_runs_cannot_commit_successors_that_were_removed(
    bench: Bench, root: str
) -> None:
    worker = bench.another(resume=True)
    description = worker.load_job(root)
    worker.begin_attempt(root, description.version)
    child = bench.job()
    bench.store.clean()
    assert exist(bench, child) == [False]
    description.detach_body()
    description.addChild(*ids(child))
    with pytest.raises(ConcurrentFileModificationException):
        worker.update_job(description)
    assert bench.store.load_job(root).has_body()


def test_an_attempt_that_still_runs_is_not_disturbed_without_need(bench: Bench, root: str) -> None:
    worker = bench.another(resume=True)
    description = worker.load_job(root)
    worker.begin_attempt(root, description.version)
    file_id = worker.write_file(bench.local(), root)
    bench.store.clean()
    description.detach_body()
    worker.update_job(description)
    assert bench.read(file_id) == b"content"


def test_a_commit_during_clean_is_kept(bench: Bench, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    child, orphan = bench.job(), bench.job()
    job_ids = bench.store.job_ids

    def commit_meanwhile() -> list[str]:
        monkeypatch.setattr(bench.store, "job_ids", job_ids)
        found = list(job_ids())
        bench.commit(root, child)
        return found

    monkeypatch.setattr(bench.store, "job_ids", commit_meanwhile)
    assert bench.store.clean().hasChild(*ids(child))
    assert exist(bench, child, orphan) == [True, False]


def test_who_was_refused_as_an_attempt_cannot_clean(bench: Bench, root: str) -> None:
    worker = bench.another(resume=True)
    stale = worker.load_job(root)
    worker.begin_attempt(root, 1)
    bench.store.update_job(bench.store.load_job(root))
    bench.job()
    with pytest.raises(ConcurrentFileModificationException):
        worker.update_job(stale)
    with pytest.raises(ConcurrentFileModificationException):
        worker.clean()


# Files


def test_what_commits_wanted_deleted_is_deleted(bench: Bench, root: str) -> None:
    deleted, kept = (bench.store.write_file(bench.local()) for _ in range(2))
    child = bench.job(filesToDelete=[str(kept)])
    bench.commit(root, child, filesToDelete=[str(deleted)])
    bench.store.clean()
    assert [bench.store.file_exists(file_id) for file_id in (deleted, kept)] == [False, True]


def test_what_given_up_attempts_uploaded_is_removed(bench: Bench, root: str) -> None:
    def attempt(job_id: str) -> str:
        worker = bench.another(resume=True)
        version = worker.load_job(job_id).version
        worker.begin_attempt(job_id, version)
        return worker.write_file(bench.local(), job_id)

    lost = attempt(root)
    bench.store.update_job(bench.store.load_job(root))
    won = attempt(root)
    child = bench.job()
    bench.commit(root, child)
    bench.store.update_job(bench.store.load_job(root))
    given_up = attempt(ids(child)[0])
    bench.store.update_job(bench.store.load_job(ids(child)[0]))
    running = attempt(ids(child)[0])
    failed = bench.job()
    worker = bench.another(resume=True)
    worker.begin_attempt(*ids(failed), 1)
    description = worker.load_job(*ids(failed))
    description.logJobStoreFileID = log = str(worker.write_file(bench.local(), *ids(failed), cleanup=True))
    worker.update_job(description)
    bench.store.update_job(bench.store.load_job(root))
    description = bench.store.load_job(root)
    description.addFollowOn(*ids(failed))
    bench.store.update_job(description)
    orphan = bench.job()
    orphaned = attempt(ids(orphan)[0])
    finished = bench.job()
    from_finished = attempt(ids(finished)[0])
    bench.commit(ids(finished)[0])
    bench.store.clean()
    assert exist(bench, orphan, finished) == [False, False]
    found = {
        name
        for name, file_id in locals().items()
        if isinstance(file_id, str) and "/" in file_id and bench.store.file_exists(file_id)
    }
    # Removing orphans gave the running attempt up too; what a finished job wrote to outlive it stays.
    assert found == {"won", "from_finished", "log"}
    assert log != running != given_up != lost != orphaned
