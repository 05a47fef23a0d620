"""Jobs as people use them: links, names, and what is only there while a job runs."""

from __future__ import annotations

import pytest

from tests.unit.job_fakes import DictStore, FakeFileStore, identity, run_one
from toilcache.config import Config
from toilcache.errors import JobException
from toilcache.job import FilesDownloadedStoppingPointReached, Job, JobDescription, TemporaryID, run_job


class Special(JobDescription):
    """A description of a person's own."""


def test_links_are_seen_from_both_sides():
    parent, child, follow_on = Job(), Job(), Job()
    assert parent.addChild(child) is child
    assert parent.addFollowOn(follow_on) is follow_on
    assert parent.hasChild(child)
    assert not parent.hasChild(follow_on)
    assert parent.hasFollowOn(follow_on)
    assert child.hasPredecessor(parent)
    assert not parent.hasPredecessor(child)
    assert child.description.predecessorNumber == 1
    assert parent.description.hasChild(child.jobStoreID)


def test_adding_twice_links_once_but_kinds_are_counted_apart():
    parent, child = Job(), Job()
    parent.addChild(child)
    parent.addChild(child)
    assert child.description.predecessorNumber == 1
    parent.addFollowOn(child)
    assert child.description.predecessorNumber == 2


@pytest.mark.parametrize("thing", [identity, Job, None, "job"])
def test_only_jobs_can_be_linked(thing):
    with pytest.raises(JobException, match="it is no job; wrap a function"):
        Job().addChild(thing)


def test_a_subclass_must_call_the_constructor():
    class Careless(Job):
        def __init__(self):
            pass

    careless = Careless()
    for use in (
        careless.check_initialized,
        lambda: Job().addChild(careless),
        lambda: careless.addChild(Job()),
    ):
        with pytest.raises(JobException, match=r"cannot use Careless: .*super\(\)\.__init__\(\)"):
            use()
    assert str(careless) == "job Careless"
    Job().check_initialized()


def test_nothing_can_be_added_to_or_taken_from_what_is_saved():
    store = DictStore()
    root = Job()
    child = root.addChild(Job())
    root.saveAsRootJob(store)
    with pytest.raises(JobException, match="is saved already"):
        child.addChild(Job())
    with pytest.raises(JobException, match="part of the saved workflow"):
        Job().addChild(child)
    loaded = Job.loadJob(store, store.load_job(store.root))
    with pytest.raises(JobException, match="part of the saved workflow"):
        Job().addFollowOn(loaded)
    assert loaded.addChild(Job())


def test_a_new_job_has_a_placeholder_and_names():
    job = Job(unitName="chr1", displayName="Align")
    assert isinstance(job.jobStoreID, TemporaryID)
    assert (job.description.jobName, job.description.displayName, job.description.unitName) == (
        "Job",
        "Align",
        "chr1",
    )
    assert str(job) == f"job {job.description}"
    assert repr(job) == f"<Job: {job}>"
    assert Job().description.displayName == "Job"


def test_a_description_class_of_ones_own_is_used():
    assert type(Job(descriptionClass=Special).description) is Special


def test_a_configuration_reaches_the_description():
    job = Job()
    job.assignConfig(Config(defaultCores=7))
    assert job.cores == 7
    assert not job.checkpoint


def test_what_a_run_provides_is_there_only_while_it_runs():
    store = DictStore()
    files = FakeFileStore(store)
    seen = []

    class Talker(Job):
        def run(self, fileStore):
            self.log("hello")
            self.log("worse", level=40)
            seen.extend([self.tempDir, self.tempDir, self.fileStore])
            self.defer(print, "x", end="")

    job = Talker()
    deferred = []
    job._defer = lambda function, *args, **kwargs: deferred.append((function, args, kwargs))
    run_job(job, files)
    assert files.messages == [("hello", 20), ("worse", 40)]
    assert seen == ["/tmp/dir 1", "/tmp/dir 1", files]
    assert deferred == [(print, ("x",), {"end": ""})]
    with pytest.raises(JobException, match="is not running"):
        _ = job.fileStore


def test_outside_of_a_run_the_same_is_refused():
    job = Job(displayName="idle")
    for use in (lambda: job.log("x"), lambda: job.tempDir, lambda: job.defer(print)):
        with pytest.raises(JobException, match=r"'idle'.* is not running"):
            use()


def test_a_run_that_raises_leaves_no_file_store_behind():
    def fail(job):
        raise ValueError("mine")

    job = Job.wrapJobFn(fail)
    with pytest.raises(ValueError, match="mine"):
        run_job(job, FakeFileStore(DictStore()))
    assert job._file_store is None


def test_a_plain_job_does_nothing():
    store = DictStore()
    Job().saveAsRootJob(store)
    assert run_one(store, store.root).result_refs == []


def test_debug_flags_stop_a_job_that_was_only_to_fetch():
    job = Job()
    job.files_downloaded_hook()
    job.set_debug_flag("other")
    job.files_downloaded_hook([("/a", "/b")])
    job.set_debug_flag("download_only")
    assert job.has_debug_flag("download_only")
    with pytest.raises(FilesDownloadedStoppingPointReached, match="input files only") as caught:
        job.files_downloaded_hook([("/a", "/b")])
    assert caught.value.host_and_job_paths == [("/a", "/b")]
