"""Promises: where they may stand, what they select, and how their values are found."""

from __future__ import annotations

import operator
import os
import pickle

import pytest

from tests.unit.job_fakes import DictStore, add, identity, run_all, run_one
from toilcache.errors import JobException, JobPromiseConstraintError, NoSuchJobException
from toilcache.job import Job, Promise, PromisedRequirement, resolve_values


def chain(job, depth):
    """Return the promise of a child that does the same, down to a value."""
    return job.addChildJobFn(chain, depth - 1).rv() if depth else "bottom"


def child_result(job, value):
    return {"inner": job.addChildFn(identity, value).rv(), "list": [1, job.addChildFn(add, 5).rv()]}


def report_memory(job):
    return job.memory, job.cores


def passed_memory(job, memory="1 GiB"):
    return memory


def root_value(store):
    return resolve_values(store, [store.root])[store.root]


def test_a_promise_becomes_the_value_wherever_it_stands():
    store = DictStore()
    root = Job.wrapFn(identity, 20)
    value = root.rv()
    last = root.addChildFn(add, {"a": [value, (value, {value: 1})]}["a"][0], b=value)
    holder = last.addChildFn(identity, {"a": [value, (value,)], "k": last.rv()})
    root.saveAsRootJob(store)
    assert store.load_job(last.jobStoreID).promised == [root.jobStoreID]
    assert store.load_job(holder.jobStoreID).promised == [root.jobStoreID, last.jobStoreID]
    run_all(store)
    assert resolve_values(store, [holder.jobStoreID]) == {holder.jobStoreID: {"a": [20, (20,)], "k": 40}}


@pytest.mark.parametrize(
    ("path", "selected"),
    [
        ((), [6, {"a": 42}, 8]),
        ((0,), 6),
        ((1,), {"a": 42}),
        ((1, "a"), 42),
        ((slice(1, 3),), [{"a": 42}, 8]),
        ((slice(1, 3), 1), 8),
        ((-1,), 8),
    ],
)
def test_paths_select_parts(path, selected):
    store = DictStore()
    root = Job.wrapFn(identity, [6, {"a": 42}, 8])
    child = root.addChildFn(identity, root.rv(*path))
    root.saveAsRootJob(store)
    run_all(store)
    assert resolve_values(store, [child.jobStoreID])[child.jobStoreID] == selected


@pytest.mark.parametrize("path", [(5,), ("a",), (1, "b"), (0, 0)])
def test_a_path_that_does_not_fit_is_named(path):
    store = DictStore()
    root = Job.wrapFn(identity, [6, {"a": 42}])
    child = root.addChildFn(identity, root.rv(*path))
    root.saveAsRootJob(store)
    run_one(store, store.root)
    with pytest.raises(JobException, match=f"cannot take {path[-1]!r} from what job {store.root} returned"):
        run_one(store, child.jobStoreID)


def test_promises_in_return_values_are_followed():
    store = DictStore()
    Job.wrapJobFn(child_result, "deep").saveAsRootJob(store)
    run_all(store)
    assert root_value(store) == {"inner": "deep", "list": [1, 6]}
    refs = store.load_job(store.root).result_refs
    assert (
        refs == list(store.load_job(store.root).childIDs) or set(refs) == store.load_job(store.root).childIDs
    )


def test_a_chain_of_a_thousand_promises_resolves_without_recursion():
    store = DictStore()
    Job.wrapJobFn(chain, 3_000).saveAsRootJob(store)
    run_all(store)
    assert root_value(store) == "bottom"


def test_a_result_that_contains_itself_is_refused():
    store = DictStore()
    for one, other in (("a" * 16, "b" * 16), ("b" * 16, "a" * 16)):
        description = Job().description
        description.jobStoreID = one
        description.has_result, description.result_refs = True, [other]
        description.result = pickle.dumps(Promise(other))
        store.create_job(description)
    with pytest.raises(JobException, match="contains itself"):
        resolve_values(store, ["a" * 16])


def test_values_shared_by_several_results_are_loaded_once():
    store = DictStore()
    loads = []
    store_load = store.load_job
    store.load_job = lambda job_id: loads.append(job_id) or store_load(job_id)
    root = Job.wrapFn(identity, [1])
    one, two = root.addChildFn(identity, root.rv()), root.addChildFn(identity, root.rv())
    root.saveAsRootJob(store)
    for job_id, ref in ((one.jobStoreID, root.jobStoreID), (two.jobStoreID, root.jobStoreID)):
        description = store_load(job_id)
        description.has_result, description.result_refs = True, [ref]
        description.result = pickle.dumps([Promise(ref), job_id])
        store.update_job(description)
    run_one(store, store.root)
    loads.clear()
    values = resolve_values(store, [one.jobStoreID, two.jobStoreID, one.jobStoreID])
    assert values[one.jobStoreID] == [[1], one.jobStoreID]
    assert values[two.jobStoreID] == [[1], two.jobStoreID]
    assert sorted(loads) == sorted([root.jobStoreID, one.jobStoreID, two.jobStoreID])


def test_large_results_are_read_from_their_file():
    store = DictStore()
    root = Job()
    root.saveAsRootJob(store)
    description = store.load_job(store.root)
    description.has_result, description.result_file = True, "file-9"
    store.files["file-9"] = pickle.dumps("large")
    store.update_job(description)
    assert root_value(store) == "large"


def test_a_job_cannot_be_loaded_before_what_it_needs_has_run():
    store = DictStore()
    root = Job()
    first = root.addChildFn(add, 1)
    second = root.addChildFn(add, first.rv())
    root.saveAsRootJob(store)
    with pytest.raises(JobPromiseConstraintError, match=f"{first.jobStoreID}"):
        run_one(store, second.jobStoreID)
    del store.records[first.jobStoreID]
    with pytest.raises(NoSuchJobException):
        run_one(store, second.jobStoreID)


def test_promising_what_is_not_in_the_workflow_is_refused_with_both_named():
    stray = Job(displayName="stray")
    root = Job.wrapFn(identity, [1, {"x": stray.rv()}])
    with pytest.raises(
        JobException, match=r"cannot save job 'identity'.*argument 1 'value' item 1 \['x'\].*addChild"
    ):
        root.saveAsRootJob(DictStore())
    with pytest.raises(JobException, match=r"'stray'.*never added to the workflow"):
        pickle.dumps(stray.rv())


@pytest.mark.parametrize(
    "use",
    [
        lambda promise: promise + 1,
        lambda promise: 1 + promise,
        lambda promise: promise["key"],
        len,
        list,
        int,
        float,
        bytes,
        os.fspath,
        lambda promise: 1 in promise,
        lambda promise: promise < 3,
        lambda promise: -promise,
        lambda promise: operator.truediv(1, promise),
    ],
)
def test_a_promise_used_as_a_value_says_why_it_is_none(use):
    with pytest.raises(JobException, match=r"cannot use the promise of job 'fold'.* before it ran"):
        use(Job(displayName="fold").rv())


def test_a_promise_can_be_asked_for_its_truth_compared_and_shown():
    job = Job(displayName="fold")
    promise = job.rv(1, "a")
    assert promise
    assert promise != job.rv(1, "a")
    assert promise.path == (1, "a")
    assert not callable(promise)
    assert repr(promise).startswith("Promise(job 'fold'")
    assert repr(promise).endswith(", 1, 'a')")


def test_registration_gives_the_promisor_a_real_id_once():
    store = DictStore()
    job = Job()
    job.prepareForPromiseRegistration(store)
    assert job.jobStoreID == "0" * 15 + "1"
    job.prepareForPromiseRegistration(store)
    assert job.jobStoreID == "0" * 15 + "1"
    assert pickle.loads(pickle.dumps(job.rv())).job_id == job.jobStoreID
    encapsulated = Job().encapsulate()
    encapsulated.prepareForPromiseRegistration(store)
    assert isinstance(encapsulated.rv().job_id, str)


def test_a_saved_graph_keeps_the_ids_that_promises_were_given():
    store = DictStore()
    job = Job.wrapFn(identity, 1)
    job.prepareForPromiseRegistration(store)
    parent = Job()
    parent.addChild(job)
    parent.saveAsRootJob(store)
    assert job.jobStoreID in store.records
    assert store.load_job(store.root).childIDs == {job.jobStoreID}


def test_promised_requirements_are_computed_when_the_promises_are_kept():
    store = DictStore()
    root = Job.wrapFn(identity, {"bytes": 2**20})
    child = root.addChildJobFn(
        report_memory,
        memory=PromisedRequirement(lambda found: found["bytes"] * 2, root.rv()),
        cores=root.rv("bytes"),
    )
    after = child.addChildFn(identity, child.rv(0))
    root.saveAsRootJob(store)
    run_all(store)
    values = resolve_values(store, [after.jobStoreID])
    assert values[after.jobStoreID] == 2**21


def test_a_function_that_declares_a_requirement_is_passed_the_promised_one():
    store = DictStore()
    root = Job.wrapFn(identity, 4096)
    child = root.addFollowOnJobFn(passed_memory, memory=root.rv())
    root.addFollowOnFn(identity, 1, disk=root.rv())
    after = child.addFollowOnFn(identity, child.rv())
    root.saveAsRootJob(store)
    run_all(store)
    assert resolve_values(store, [after.jobStoreID])[after.jobStoreID] == 4096


def test_promised_requirements_without_a_function_take_one_value():
    assert PromisedRequirement(5).getValue() == 5
    assert PromisedRequirement(max, 3, 4).getValue() == 4
    with pytest.raises(JobException, match="no function"):
        PromisedRequirement(5, 6)
    kwargs = {"memory": Job().rv(), "cores": 1, "x": Job().rv()}
    assert PromisedRequirement.convertPromises(kwargs)
    assert isinstance(kwargs["memory"], PromisedRequirement)
    assert isinstance(kwargs["x"], Promise)
    assert not PromisedRequirement.convertPromises({"memory": 1, "x": Job().rv()})
