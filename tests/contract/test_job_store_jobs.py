"""What every job store promises about jobs: one winner for each version, nothing lost (I2, I3)."""

from __future__ import annotations

import pickle
import threading
from errno import EIO, ENOSPC
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.job_stores import KINDS, NEVER_GIVEN_OUT, Bench, state
from toilcache.config import Config
from toilcache.errors import (
    ConcurrentFileModificationException,
    CorruptRecordError,
    JobException,
    JobStoreExistsException,
    JobStoreUnavailableError,
    NoSuchJobException,
    NoSuchJobStoreException,
    ToilcacheError,
)
from toilcache.job.description import JobDescription
from toilcache.job_store import layout
from toilcache.job_store.backed import BackedJobStore

REFUSED = (ConcurrentFileModificationException,)


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(request.param, tmp_path)


# The store as a whole


def test_initialize_draws_a_workflow_id_and_resume_finds_the_configuration(bench: Bench) -> None:
    config = bench.store.config
    assert config.workflowID
    assert len(config.workflowID) == 32
    other = bench.another(resume=True)
    assert other.config.workflowID == config.workflowID
    assert other.config.retryCount == 3
    assert other.config.workflowAttemptNumber == 0
    assert other.locator == bench.store.locator == config.jobStore


def test_the_configuration_can_be_written_again(bench: Bench) -> None:
    bench.store.config.retryCount = 17
    bench.store.write_config()
    assert bench.another(resume=True).config.retryCount == 17


def test_the_configuration_of_a_store_that_is_not_open(bench: Bench) -> None:
    with pytest.raises(ToilcacheError, match=r"cannot give the configuration .* resume\(\) first"):
        _ = bench.another().config


def test_a_store_with_a_root_exists(bench: Bench) -> None:
    bench.store.create_root_job(_with_id(bench.store))
    with pytest.raises(JobStoreExistsException, match="cannot create job store"):
        bench.another().initialize(Config())
    bench.store.load_root_job()


def test_a_store_whose_root_was_never_set_is_taken_over(bench: Bench) -> None:
    orphan = str(bench.job().jobStoreID)
    other = bench.another()
    other.initialize(Config())
    assert not other.job_exists(orphan)
    other.create_root_job(_with_id(other))
    assert str(bench.another(resume=True).config.workflowID) == str(other.config.workflowID)


def test_destroy_twice(bench: Bench) -> None:
    bench.job()
    bench.store.destroy()
    bench.store.destroy()
    with pytest.raises(NoSuchJobStoreException):
        bench.another(resume=True)
    assert list(bench.home.iterdir()) == []


def test_no_environment_is_needed_and_caching_is_welcome(bench: Bench) -> None:
    assert bench.store.get_env() == {}
    assert bench.store.default_caching() is True


# The root job


def test_the_root_is_found_again(bench: Bench) -> None:
    root = bench.store.create_root_job(_with_id(bench.store))
    assert bench.another(resume=True).load_root_job().jobStoreID == root.jobStoreID
    other = bench.job()
    bench.store.set_root_job(str(other.jobStoreID))
    assert bench.store.load_root_job().jobStoreID == other.jobStoreID


def test_without_a_root(bench: Bench) -> None:
    with pytest.raises(JobException, match="none was ever set"):
        bench.store.load_root_job()
    root = bench.store.create_root_job(_with_id(bench.store))
    bench.store.delete_job(str(root.jobStoreID))
    with pytest.raises(JobException, match="is gone"):
        bench.store.load_root_job()


def test_the_return_value_of_the_root(bench: Bench) -> None:
    root = bench.store.create_root_job(_with_id(bench.store))
    with pytest.raises(JobException, match="has not returned yet"):
        bench.store.get_root_job_return_value()
    bench.commit(str(root.jobStoreID), has_result=True, result=pickle.dumps({"a": 1}))
    assert bench.store.get_root_job_return_value() == {"a": 1}


# Jobs


def test_a_description_is_the_same_after_a_round_trip(bench: Bench) -> None:
    job = bench.job(
        "näme\n",
        b"\0body",
        result_refs=["ab"],
        promised=["cd"],
        messages=[(20, "hello")],
        user_streams=[("name", "text")],
        filesToDelete=["x"],
        failure="why",
    )
    job.addChild("c")
    job.addFollowOn("f")
    bench.store.update_job(job)
    loaded = bench.another(resume=True).load_job(str(job.jobStoreID))
    assert state(loaded) == state(job)
    assert (loaded.version, loaded.token) == (job.version, job.token)
    assert loaded.version == 2
    assert loaded.memory == 1000


def test_a_loaded_job_has_the_configuration(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    assert bench.another(resume=True).load_job(job_id).remainingTryCount == 4


def test_hooks_run_before_each_writing(bench: Bench) -> None:
    calls = []

    class Hooked(JobDescription):
        def pre_update_hook(self) -> None:
            calls.append(self.version)

        def __reduce__(self) -> Any:
            return JobDescription, ({}, "plain")

    job = Hooked({}, "x")
    bench.store.assign_job_id(job)
    bench.store.create_job(job)
    bench.store.update_job(job)
    assert calls == [0, 1]


def test_an_assigned_id_is_known_but_is_no_job_yet(bench: Bench) -> None:
    job = _with_id(bench.store)
    job_id = str(job.jobStoreID)
    assert not bench.store.job_exists(job_id)
    with pytest.raises(NoSuchJobException):
        bench.store.load_job(job_id)
    file_id = bench.store.write_file(bench.local(), job_id)
    assert bench.read(file_id) == b"content"
    assert bench.store.create_job(job) is job
    assert bench.store.job_exists(job_id)


def test_ids_are_never_the_same(bench: Bench) -> None:
    assert len({_with_id(bench.store).jobStoreID for _ in range(100)}) == 100


def test_jobs_created_in_a_batch_are_there_after_it(bench: Bench) -> None:
    with bench.store.batch():
        jobs = [bench.job() for _ in range(3)]
    assert all(bench.store.job_exists(str(job.jobStoreID)) for job in jobs)


def test_a_job_is_created_once(bench: Bench) -> None:
    job = bench.job()
    with pytest.raises(REFUSED):
        bench.another(resume=True).create_job(job)


def test_an_id_that_was_never_assigned_cannot_be_created_or_updated(bench: Bench) -> None:
    job = JobDescription({}, "x")
    for job_id in (job.jobStoreID, "0123456789abcdef"):
        job.jobStoreID = job_id
        for write in (bench.store.create_job, bench.store.update_job):
            with pytest.raises(NoSuchJobException):
                write(job)


def test_each_version_can_be_loaded(bench: Bench) -> None:
    job = bench.job()
    job.failure = "second"
    bench.store.update_job(job)
    job_id = str(job.jobStoreID)
    assert [bench.store.load_version(job_id, n).failure for n in (1, 2)] == [None, "second"]
    assert bench.store.load_job(job_id).failure == "second"
    with pytest.raises(NoSuchJobException):
        bench.store.load_version(job_id, 3)


def test_jobs_gives_all_that_can_be_read(bench: Bench) -> None:
    jobs = [bench.job() for _ in range(5)]
    _with_id(bench.store)
    bench.damage(str(jobs[0].jobStoreID), 1, lambda data: data[:-1])
    found = [job.jobStoreID for job in bench.store.jobs()]
    assert sorted(map(str, found)) == sorted(str(job.jobStoreID) for job in jobs[1:])


@pytest.mark.parametrize("states", [1, 2, 3])
def test_a_job_goes_with_all_its_states(bench: Bench, states: int) -> None:
    job = bench.job()
    for _ in range(states - 1):
        bench.store.update_job(job)
    job_id = str(job.jobStoreID)
    bench.store.delete_job(job_id)
    assert not bench.store.job_exists(job_id)
    assert job_id not in bench.store.job_ids()
    with pytest.raises(NoSuchJobException):
        bench.store.update_job(job)


def test_deleting_twice(bench: Bench) -> None:
    job = bench.job()
    job_id = str(job.jobStoreID)
    file_id = bench.store.write_file(bench.local(), job_id, cleanup=True)
    for _ in range(2):
        bench.store.delete_job(job_id)
        assert not bench.store.job_exists(job_id)
        assert not bench.store.file_exists(file_id)
    with pytest.raises(NoSuchJobException):
        bench.store.load_job(job_id)
    with pytest.raises(NoSuchJobException):
        bench.store.update_job(job)


@pytest.mark.parametrize("job_id", NEVER_GIVEN_OUT)
def test_no_id_leads_out_of_the_store(bench: Bench, job_id: str) -> None:
    outside = bench.home / "outside"
    outside.mkdir()
    before = sorted(bench.home.rglob("*"))
    assert not bench.store.job_exists(job_id)
    bench.store.delete_job(job_id)
    bench.store.discard_attempts(job_id, None)
    for call in (
        lambda: bench.store.load_job(job_id),
        lambda: bench.store.load_version(job_id, 1),
        lambda: bench.store.write_file(str(bench.home / "outside"), job_id),
    ):
        with pytest.raises((NoSuchJobException, IsADirectoryError)):
            call()
    assert sorted(bench.home.rglob("*")) == before


# One winner


def test_a_stale_writer_is_refused(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    stale, fresh = bench.store.load_job(job_id), bench.store.load_job(job_id)
    fresh.failure = "first"
    bench.another(resume=True).update_job(fresh)
    stale.failure = "second"
    with pytest.raises(REFUSED, match=job_id):
        bench.store.update_job(stale)
    assert (stale.version, fresh.version) == (1, 2)
    assert bench.store.load_job(job_id).failure == "first"


def test_a_writer_several_versions_behind_is_refused(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    stale = bench.store.load_version(job_id, 1)
    current = bench.store.load_job(job_id)
    for _ in range(4):
        bench.store.update_job(current)
    other = bench.another(resume=True)
    with pytest.raises(REFUSED):
        other.update_job(stale)
    assert bench.store.load_job(job_id).version == 5


def test_a_writer_builds_on_the_very_record_that_it_loaded(bench: Bench) -> None:
    job = bench.job()
    job.token = "00" * 16
    with pytest.raises(REFUSED):
        bench.store.update_job(job)
    assert bench.store.load_job(str(job.jobStoreID)).version == 1


def test_eight_threads_race_for_one_version(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    ready, won, lost = threading.Barrier(8), [], []

    def race(number: int) -> None:
        store = bench.another(resume=True)
        description = store.load_version(job_id, 1)
        description.failure = f"winner {number}"
        ready.wait()
        try:
            store.update_job(description)
            won.append(number)
        except ConcurrentFileModificationException:
            lost.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert bench.store.load_job(job_id).failure == f"winner {won[0]}"


def test_a_late_record_does_not_revive_a_deleted_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.job()
    job_id = str(job.jobStoreID)
    put_if_absent = bench.store._backend.put_if_absent

    def delete_first(*arguments: Any) -> bool:
        bench.another(resume=True).delete_job(job_id)
        return put_if_absent(*arguments)

    monkeypatch.setattr(bench.store._backend, "put_if_absent", delete_first)
    with pytest.raises(NoSuchJobException):
        bench.store.update_job(job)
    assert not bench.store.job_exists(job_id)
    assert bench.store._backend.has(layout.job_scope(job_id)) is False


@pytest.mark.parametrize("answer", [False, EIO])
def test_a_record_that_arrived_counts_whatever_the_storage_answered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    job = bench.job()
    put_if_absent = bench.store._backend.put_if_absent

    def misleading(*arguments: Any) -> bool:
        put_if_absent(*arguments)
        if answer:
            raise OSError(answer, "lost")
        return False

    monkeypatch.setattr(bench.store._backend, "put_if_absent", misleading)
    bench.store.update_job(job)
    assert job.version == 2
    monkeypatch.undo()
    bench.store.update_job(job)
    assert job.version == 3


def test_repeating_an_update_that_had_arrived_unseen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.job()
    job.failure = "mine"
    backend = bench.store._backend
    put_if_absent, head = backend.put_if_absent, backend.head

    def arrives(*arguments: Any) -> bool:
        put_if_absent(*arguments)
        monkeypatch.setattr(backend, "head", fails)
        raise OSError(EIO, "timed out")

    def fails(*_: Any) -> bytes:
        raise OSError(EIO, "timed out")

    monkeypatch.setattr(backend, "put_if_absent", arrives)
    with pytest.raises(JobStoreUnavailableError, match="timed out; look after"):
        bench.store.update_job(job)
    assert job.version == 1
    monkeypatch.setattr(backend, "put_if_absent", put_if_absent)
    monkeypatch.setattr(backend, "head", head)
    bench.store.update_job(job)
    assert job.version == 2
    assert bench.store.load_job(str(job.jobStoreID)).failure == "mine"


def test_a_full_store_can_be_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.job()

    def full(*_: Any) -> bool:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(bench.store._backend, "put_if_absent", full)
    for _ in range(2):
        with pytest.raises(JobStoreUnavailableError, match=r"No space left on device; free some space"):
            bench.store.update_job(job)
    monkeypatch.undo()
    bench.store.update_job(job)
    assert job.version == 2


# Who was refused


def test_who_was_refused_writes_nothing_more_for_that_job(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    stale = bench.store.load_job(job_id)
    bench.commit(job_id)
    with pytest.raises(REFUSED):
        bench.store.update_job(stale)
    for write in (
        lambda: bench.store.update_job(stale),
        lambda: bench.store.write_file(bench.local(), job_id),
        lambda: bench.store.get_empty_file_store_id(job_id),
        lambda: bench.store.delete_job(job_id),
        lambda: bench.store.discard_attempts(job_id, None),
    ):
        with pytest.raises(REFUSED):
            write()
    bench.store.write_file(bench.local())
    bench.job()


def test_who_was_refused_may_write_after_loading_anew(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    stale = bench.store.load_job(job_id)
    bench.commit(job_id)
    with pytest.raises(REFUSED):
        bench.store.update_job(stale)
    bench.store.update_job(bench.store.load_job(job_id))
    assert bench.store.load_job(job_id).version == 3


def test_an_attempt_that_was_refused_writes_nothing_more_anywhere(bench: Bench) -> None:
    job_id, other = str(bench.job().jobStoreID), bench.job()
    with bench.store.write_shared_file_stream("shared") as stream:
        stream.write(b"before")
    file_id = bench.store.write_file(bench.local())
    worker = bench.another(resume=True)
    stale = worker.load_job(job_id)
    worker.begin_attempt(job_id, stale.version)
    bench.store.update_job(bench.store.load_job(job_id))
    with pytest.raises(REFUSED):
        worker.update_job(stale)
    for write in (
        lambda: worker.update_job(worker.load_job(job_id)),
        lambda: worker.update_job(other),
        lambda: worker.assign_job_id(stale),
        lambda: worker.create_job(stale),
        lambda: worker.delete_job(str(other.jobStoreID)),
        lambda: worker.write_file(bench.local()),
        lambda: worker.get_empty_file_store_id(),
        lambda: worker.update_file(file_id, bench.local(b"after")),
        lambda: worker.delete_file(file_id),
        lambda: worker.import_file(bench.local()),
        lambda: worker.import_file(bench.local(), "shared"),
        lambda: worker.set_root_job(job_id),
        lambda: worker.write_logs("late"),
        lambda: worker.register_node("node", {}),
        lambda: worker.mark_ended(),
        lambda: worker.claim_run(),
    ):
        with pytest.raises(REFUSED):
            write()
    with pytest.raises(REFUSED), worker.update_file_stream(file_id):
        pass
    assert bench.read(file_id) == b"content"
    assert bench.store.read_logs(lambda _: None) == 0
    assert worker.load_job(job_id).version == 2


def test_the_attempt_is_part_of_its_commit(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    bench.store.update_job(bench.store.load_job(job_id))
    bench.commit(job_id)
    assert bench.store.load_job(job_id).attempt == 2


# Damage


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: b"", "too short"),
        (lambda data: data[:-1], "bytes of state"),
        (lambda data: data + b"x", "bytes of state"),
        (lambda data: b"x" + data[1:], "does not begin"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "checksum"),
        (lambda data: data[:10] + b"x" + data[11:], "checksum"),
        (lambda data: data[:5] + b"\x07" + data[6:], "format is 7"),
    ],
)
def test_a_damaged_record_is_named(bench: Bench, change: Any, why: str) -> None:
    job_id = str(bench.job().jobStoreID)
    bench.damage(job_id, 1, change)
    with pytest.raises(CorruptRecordError, match=why) as error:
        bench.store.load_job(job_id)
    assert error.value.path == bench.store._backend.where(layout.slot(job_id, 1))
    assert "\n" not in str(error.value)


def test_a_record_of_a_class_that_is_not_there_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = str(bench.job().jobStoreID)

    def missing(_: object) -> None:
        raise AttributeError("no such class")

    monkeypatch.setattr("toilcache.job_store.job_records.pickle.loads", missing)
    with pytest.raises(CorruptRecordError, match="no such class"):
        bench.store.load_job(job_id)


def _with_id(store: BackedJobStore) -> JobDescription:
    description = JobDescription({}, "x")
    store.assign_job_id(description)
    return description
