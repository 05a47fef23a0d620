"""Function jobs: reserved keywords, defaults as requirements, names; and encapsulation."""

from __future__ import annotations

import functools

import pytest

from tests.unit.job_fakes import DictStore, FakeFileStore, add, identity, run_all
from toilcache.errors import JobException, UnitError
from toilcache.job import (
    EncapsulatedJob,
    FunctionWrappingJob,
    Job,
    JobFunctionWrappingJob,
    resolve_values,
    run_job,
)

ORDER = []


def note(name):
    ORDER.append(name)
    return name


def with_defaults(job, x, memory="2 GiB", *, cores=3):
    return x, memory, cores


def greet(name, local="here"):
    return name, local


def grow(job, name):
    job.addChildFn(note, f"{name} grown")
    return note(name)


@pytest.mark.parametrize("add_to", ["addChildFn", "addFollowOnFn", "addChildJobFn", "addFollowOnJobFn"])
def test_functions_become_successors(add_to):
    root = Job()
    job = getattr(root, add_to)(
        identity, 1, memory="1 GiB", cores=2, disk=5, preemptible=True, accelerators="gpu"
    )
    assert isinstance(job, JobFunctionWrappingJob) == ("Job" in add_to)
    assert isinstance(job, FunctionWrappingJob)
    assert root.hasChild(job) == ("Child" in add_to)
    assert root.hasFollowOn(job) == ("FollowOn" in add_to)
    assert (job.memory, job.cores, job.disk, job.preemptible) == (2**30, 2.0, 5, True)
    assert job.accelerators == [{"count": 1, "kind": "gpu"}]
    assert job.description.jobName == "identity"


def test_names_and_options_are_reserved_keywords():
    job = Job.wrapFn(identity, 1, name="chr1", displayName="Identity", checkpoint=True, local=True)
    assert (job.description.unitName, job.description.displayName) == ("chr1", "Identity")
    assert job.checkpoint
    assert job.description.local
    assert job._kwargs == {}


def test_keywords_that_the_function_declares_are_its_own():
    job = Job.wrapFn(greet, name="Ada", local="there", displayName="greeting", memory="1 MiB")
    assert job.run(None) == ("Ada", "there")
    assert (job.description.unitName, job.description.local) == ("", False)
    assert (job.description.displayName, job.memory) == ("greeting", 2**20)


def test_defaults_named_like_requirements_are_the_requirements():
    job = Job.wrapJobFn(with_defaults, 1)
    assert (job.memory, job.cores) == (2**31, 3.0)
    assert run_job(job, FakeFileStore(DictStore())) == (1, "2 GiB", 3)
    job = Job.wrapJobFn(with_defaults, 1, memory="1 GiB", cores=8)
    assert (job.memory, job.cores) == (2**30, 8.0)
    assert run_job(job, FakeFileStore(DictStore())) == (1, "1 GiB", 8)


def test_preemptable_is_taken_as_preemptible():
    assert Job.wrapFn(identity, 1, preemptable=True).preemptible is True


def test_a_bad_requirement_is_refused_at_once():
    with pytest.raises(UnitError, match="2 Gigs"):
        Job().addChildFn(identity, 1, memory="2 Gigs")


@pytest.mark.parametrize(
    ("function", "name"),
    [(functools.partial(add, 1), "add"), (len, "len"), (str, "str"), (lambda: 1, "<lambda>")],
)
def test_whatever_can_be_called_has_a_name(function, name):
    assert Job.wrapFn(function, memory=1).description.jobName == name


def test_callable_objects_are_named_by_their_class():
    class Mapper:
        def __call__(self, x):
            return x

    job = Job.wrapFn(Mapper(), 3)
    assert job.description.jobName == "Mapper"
    assert job.run(None) == 3


def test_partials_and_builtins_run_elsewhere():
    store = DictStore()
    root = Job.wrapFn(functools.partial(add, b=4), 1)
    child = root.addChildFn(max, 3, root.rv())
    root.saveAsRootJob(store)
    assert store.load_job(child.jobStoreID).get_body()[1] is None
    run_all(store)
    assert resolve_values(store, [child.jobStoreID])[child.jobStoreID] == 5


def test_what_cannot_be_called_is_refused():
    with pytest.raises(JobException, match="cannot make a job of 'text'"):
        Job.wrapFn("text")


def test_a_job_function_gets_its_job():
    seen = []
    job = Job.wrapJobFn(lambda job, x: seen.append((job, x, job.fileStore)), 7)
    files = FakeFileStore(DictStore())
    run_job(job, files)
    assert seen == [(job, 7, files)]


def test_an_encapsulated_job_waits_for_all_that_it_encloses():
    ORDER.clear()
    store = DictStore()
    inner = Job.wrapJobFn(grow, "inner")
    inner.addChildFn(note, "child").addFollowOnFn(note, "child's follow-on")
    inner.addFollowOnFn(note, "follow-on")
    outside = inner.encapsulate("boxed")
    after = outside.addChildFn(note, "after")
    last = outside.addFollowOnFn(note, "last")
    user = outside.addFollowOnFn(identity, outside.rv())
    outside.saveAsRootJob(store)
    assert outside.hasChild(after)
    assert outside.hasChild(inner)
    assert not outside.hasChild(last)
    assert outside.hasFollowOn(last)
    assert not outside.hasFollowOn(after)
    assert outside.description.unitName == "boxed"
    run_all(store)
    assert ORDER[0] == "inner"
    assert set(ORDER[1:4]) == {"inner grown", "child", "child's follow-on"}
    assert ORDER[4:] == ["follow-on", "after", "last"]
    assert resolve_values(store, [user.jobStoreID])[user.jobStoreID] == "inner"


def test_boxes_in_boxes_promise_the_innermost_value():
    store = DictStore()
    job = Job.wrapFn(identity, {"a": 1})
    for _ in range(1_000):
        job = EncapsulatedJob(job)
    user = job.addChildFn(identity, job.rv("a"))
    job.saveAsRootJob(store)
    run_all(store)
    assert resolve_values(store, [user.jobStoreID])[user.jobStoreID] == 1
    assert resolve_values(store, [store.root])[store.root] == {"a": 1}


def test_an_encapsulated_job_holds_nothing_in_its_body():
    store = DictStore()
    Job.wrapFn(identity, b"x" * 10_000).encapsulate().saveAsRootJob(store)
    assert len(store.load_job(store.root).inline_body) < 200
