"""Saving graphs and loading jobs: ids, order, what a running job adds, and errors on the way."""

from __future__ import annotations

import pytest

from tests.unit.job_fakes import DictStore, FakeFileStore, add, identity, run_all, run_one
from toilcache.errors import JobException, JobGraphDeadlockException
from toilcache.job import Job, dumps, resolve_values, run_job, save_job_graph


def fan_out(job, count):
    children = [job.addChildFn(identity, number) for number in range(count)]
    total = job.addFollowOnFn(sum, [child.rv() for child in children])
    total.addChildFn(add, total.rv(), 1)
    return total.rv()


def test_real_ids_replace_placeholders_everywhere():
    store = DictStore()
    root = Job()
    child, follow_on = root.addChild(Job()), root.addFollowOn(Job())
    last = child.addChild(Job())
    root.addChild(Job()).addChild(last)
    description = root.saveAsRootJob(store)
    assert description is root.description
    assert store.root == root.jobStoreID
    saved = store.load_job(store.root)
    assert (saved.childIDs, saved.followOnIDs) == (root.description.childIDs, {follow_on.jobStoreID})
    assert store.load_job(last.jobStoreID).predecessorNumber == 2
    assert len(store.records) == 5
    assert child.jobStoreID in saved.childIDs
    assert root.jobStoreID == store.created[-1]


def test_those_that_are_named_are_written_before_those_that_name_them():
    store = DictStore()
    root = Job()
    a, b = root.addChild(Job()), root.addChild(Job())
    c = a.addChild(Job())
    root.saveAsRootJob(store)
    place = {job_id: index for index, job_id in enumerate(store.created)}
    assert place[root.jobStoreID] == 3
    assert place[c.jobStoreID] < place[a.jobStoreID]
    assert place[b.jobStoreID] < place[root.jobStoreID]


def test_all_are_safe_from_a_power_cut_before_the_root_has_its_name():
    class Named(DictStore):
        def set_root_job(self, job_id):
            assert self.safe == {job_id, child.jobStoreID}
            super().set_root_job(job_id)

    root = Job()
    child = root.addChild(Job())
    store = Named()
    root.saveAsRootJob(store)
    assert store.root == root.jobStoreID


@pytest.mark.parametrize("fault", ["two roots", "cycle", "checkpoint"])
def test_a_bad_graph_leaves_nothing_in_the_store(fault):
    store = DictStore()
    root = Job()
    child = root.addChild(Job(checkpoint=fault == "checkpoint"))
    if fault == "two roots":
        Job().addChild(child)
    elif fault == "cycle":
        child.addFollowOn(child)
    else:
        child.addChild(Job())
    with pytest.raises(JobGraphDeadlockException):
        root.saveAsRootJob(store)
    assert (store.records, store.root) == ({}, None)


def test_what_a_running_job_adds_is_saved_with_real_ids():
    store = DictStore()
    Job.wrapJobFn(fan_out, 5).saveAsRootJob(store)
    description = store.load_job(store.root)
    job = Job.loadJob(store, description)
    assert job.description is description
    before = dict(store.records)
    value = run_job(job, FakeFileStore(store))
    job.save_new_successors(store)
    assert store.records[store.root] == before[store.root]
    assert len(description.childIDs) == 5
    assert len(description.followOnIDs) == 1
    assert description.childIDs | description.followOnIDs < set(store.records)
    assert dumps(value, "value")[1] == list(description.followOnIDs)
    for child in description.childIDs:
        assert store.load_job(child).version == 1
    store = DictStore()
    Job.wrapJobFn(fan_out, 5).saveAsRootJob(store)
    run_all(store)
    assert resolve_values(store, [store.root])[store.root] == 10


def test_a_running_job_that_adds_nothing_saves_nothing():
    store = DictStore()
    Job.wrapFn(identity, 1).saveAsRootJob(store)
    batches = store.batches
    run_one(store, store.root)
    assert len(store.records) == 1
    assert store.batches == batches


def test_a_running_job_cannot_add_a_cycle_or_a_second_root():
    store = DictStore()
    Job().saveAsRootJob(store)
    job = Job.loadJob(store, store.load_job(store.root))
    child = job.addChild(Job())
    Job().addChild(child)
    with pytest.raises(JobGraphDeadlockException, match="2 roots"):
        job.save_new_successors(store)
    job = Job.loadJob(store, store.load_job(store.root))
    child = job.addChild(Job())
    child.addChild(child)
    with pytest.raises(JobGraphDeadlockException, match="cycle"):
        job.save_new_successors(store)
    assert len(store.records) == 1


def test_successors_saved_in_two_steps_keep_their_first_ids():
    store = DictStore()
    Job().saveAsRootJob(store)
    job = Job.loadJob(store, store.load_job(store.root))
    first = job.addChild(Job())
    job.save_new_successors(store)
    second = job.addChild(Job())
    job.save_new_successors(store)
    assert job.description.childIDs == {first.jobStoreID, second.jobStoreID}
    assert len(store.records) == 3


def test_a_body_can_be_saved_alone():
    store = DictStore()
    job = Job.wrapFn(identity, 1)
    with pytest.raises(JobException, match="no id is assigned"):
        job.saveBody(store)
    store.assign_job_id(job.description)
    job.saveBody(store)
    assert job.description.has_body()
    assert store.records == {}
    assert Job.loadJob(store, job.description).run(None) == 1


def test_a_body_that_is_saved_again_holds_the_promises_it_has_then():
    store = DictStore()
    job, maker = Job.wrapFn(identity, 1), Job()
    for one in (job, maker):
        store.assign_job_id(one.description)
    job.saveBody(store)
    assert "promised" not in vars(job.description)
    job._args = (maker.rv(),)
    job.saveBody(store)
    assert job.description.promised == [maker.jobStoreID]
    job._args = (2,)
    job.saveBody(store)
    assert job.description.promised == []


def test_a_job_that_ran_has_nothing_to_load():
    store = DictStore()
    Job().saveAsRootJob(store)
    run_one(store, store.root)
    with pytest.raises(JobException, match="has run already"):
        Job.loadJob(store, store.load_job(store.root))


def test_a_graph_without_a_root_job_can_be_saved():
    store = DictStore()
    description = save_job_graph(Job.wrapFn(identity, 1), store)
    assert store.root is None
    assert description.version == 1


def test_a_subclass_that_forgot_the_constructor_is_named():
    class Careless(Job):
        def __init__(self):
            pass

    with pytest.raises(JobException, match="Careless"):
        save_job_graph(Careless(), DictStore())
