"""Checks of job graphs: one root, no cycle (implied edges included), checkpoints as leaves, and orders."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.unit.job_fakes import DictStore, add
from toilcache.errors import JobGraphDeadlockException
from toilcache.job import Job


def make(count):
    return [Job(displayName=f"j{number}") for number in range(count)]


def test_the_root_is_found_from_anywhere():
    a, b, c, d = make(4)
    a.addChild(b)
    b.addFollowOn(c)
    d.addChild(c)
    assert all(job.getRootJobs() == {a, d} for job in (a, b, c, d))
    assert Job().getRootJobs() != set()


def test_several_roots_are_named():
    a, b, c = make(3)
    a.addChild(c)
    b.addChild(c)
    with pytest.raises(JobGraphDeadlockException, match=r"2 roots \(job 'j0'.*job 'j1'"):
        a.checkJobGraphForDeadlocks()
    with pytest.raises(JobGraphDeadlockException, match="2 roots"):
        c.checkJobGraphConnected()


def test_a_graph_that_is_all_cycle_has_no_root():
    a, b = make(2)
    a.addChild(b)
    b.addChild(a)
    with pytest.raises(JobGraphDeadlockException, match="no root"):
        a.checkJobGraphForDeadlocks()


def test_a_cycle_is_named():
    root, a, b, c = make(4)
    root.addChild(a).addChild(b).addChild(c).addChild(a)
    with pytest.raises(JobGraphDeadlockException, match="cycle") as caught:
        root.checkJobGraphAcylic()
    assert all(f"'j{number}'" in str(caught.value) for number in (1, 2, 3))
    assert "'j0' " not in str(caught.value).partition("(")[2]
    assert "children of" not in str(caught.value)


@pytest.mark.parametrize(
    "build", ["child and follow-on", "child of a child", "needed far below", "own follow-on"]
)
def test_a_follow_on_that_its_own_children_need_is_a_cycle(build):
    a, b, c, d = make(4)
    a.addFollowOn(b)
    if build == "child and follow-on":
        a.addChild(b)
    elif build == "child of a child":
        a.addChild(c).addChild(b)
    elif build == "needed far below":
        a.addChild(c).addFollowOn(d)
        d.addChild(b)
    else:
        b.addFollowOn(b)
    with pytest.raises(JobGraphDeadlockException, match=r"a cycle \(job 'j1'.* -> job 'j1'"):
        a.checkJobGraphForDeadlocks()


def test_the_children_that_need_a_follow_on_are_named():
    a, b, c, d = make(4)
    a.addFollowOn(b)
    c.addFollowOn(b)
    a.addChild(c).addChild(d).addFollowOn(b)
    with pytest.raises(JobGraphDeadlockException, match=r"job 'j1'.* -> children of job 'j0'.* -> job 'j1'"):
        a.checkJobGraphAcylic()


def test_a_long_cycle_is_cut():
    root = job = first = Job()
    for number in range(20):
        job = job.addChild(Job(displayName=f"j{number}"))
        first = job if number == 0 else first
    job.addChild(first)
    with pytest.raises(JobGraphDeadlockException, match=r"-> \.\.\. -> job") as caught:
        root.checkJobGraphForDeadlocks()
    assert str(caught.value).count("->") == 7


def test_links_that_only_look_like_cycles_pass():
    a, b, c, d = make(4)
    a.addChild(b)
    a.addChild(c)
    b.addChild(d)
    c.addChild(d)
    e = a.addFollowOn(Job())
    b.addFollowOn(Job()).addChild(Job())
    e.addFollowOn(Job())
    a.checkJobGraphForDeadlocks()


def reference_is_acyclic(jobs, children, follow_ons):
    """The specification's definition, followed slowly: add the implied edges, then look for cycles."""

    def reachable(edges, start):
        seen, stack = set(), [start]
        while stack:
            for other in edges[stack.pop()]:
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return seen

    plain = {job: children[job] | follow_ons[job] for job in jobs}
    augmented = {job: set(plain[job]) for job in jobs}
    for job in jobs:
        for child in children[job]:
            for before in {child} | reachable(plain, child):
                augmented[before] |= follow_ons[job]
    return all(job not in reachable(augmented, job) for job in jobs)


def test_small_random_graphs_agree_with_the_definition():
    seed = 20260
    rng = random.Random(seed)
    verdicts = {True: 0, False: 0}
    for _ in range(1500):
        count = rng.randint(2, 6)
        jobs = make(count)
        children = {job: set() for job in jobs}
        follow_ons = {job: set() for job in jobs}
        pairs = list(itertools.permutations(range(count), 2))
        # Mostly forward links, else nearly every graph has a plain cycle.
        for one, other in rng.sample(pairs, min(len(pairs), rng.randint(1, 2 * count))):
            if one > other and rng.random() < 0.9:
                continue
            if rng.random() < 0.6:
                children[jobs[one]].add(jobs[one].addChild(jobs[other]))
            else:
                follow_ons[jobs[one]].add(jobs[one].addFollowOn(jobs[other]))
        component = jobs[0].getRootJobs() and {jobs[0]}
        frontier = [jobs[0]]
        while frontier:
            job = frontier.pop()
            linked = children[job] | follow_ons[job] | set(job._predecessors or ())
            frontier += linked - component
            component |= linked
        expected = reference_is_acyclic(component, children, follow_ons)
        verdicts[expected] += 1
        if expected:
            jobs[0].checkJobGraphAcylic()
        else:
            with pytest.raises(JobGraphDeadlockException):
                jobs[0].checkJobGraphAcylic()
    assert min(verdicts.values()) > 100, f"seed {seed}: {verdicts}"


def test_new_checkpoints_are_leaves():
    root = Job()
    checkpoint = root.addChild(Job(checkpoint=True, displayName="save point"))
    assert checkpoint.checkpoint is True
    root.checkJobGraphForDeadlocks()
    checkpoint.addFollowOn(Job())
    with pytest.raises(JobGraphDeadlockException, match=r"'save point'.*inside its run"):
        root.checkJobGraphForDeadlocks()
    with pytest.raises(JobGraphDeadlockException):
        root.checkNewCheckpointsAreLeafVertices()


def test_a_running_checkpoint_may_have_successors():
    store = DictStore()
    Job(checkpoint=True).saveAsRootJob(store)
    job = Job.loadJob(store, store.load_job(store.root))
    job.addChild(Job())
    job.checkJobGraphForDeadlocks()


def test_an_order_respects_children_and_follow_ons():
    a, b, c, d, e, f = make(6)
    a.addFollowOn(f)
    a.addChild(b).addChild(c)
    b.addFollowOn(d)
    a.addChild(e)
    order = a.getTopologicalOrderingOfJobs()
    assert len(order) == 6
    place = {job: index for index, job in enumerate(order)}
    for earlier, later in [(a, b), (b, c), (c, d), (d, f), (a, e), (e, f)]:
        assert place[earlier] < place[later]


def test_an_order_starts_at_the_job_asked_and_leaves_out_services_and_saved_jobs():
    class Server(Job.Service):
        def start(self, job):
            return 1

        def stop(self, job):
            pass

    store = DictStore()
    Job().saveAsRootJob(store)
    loaded = Job.loadJob(store, store.load_job(store.root))
    old = loaded.addChild(Job())
    loaded.save_new_successors(store)
    new = loaded.addChild(Job())
    below = new.addChild(Job())
    new.addService(Server())
    assert loaded.getTopologicalOrderingOfJobs() == [loaded, new, below]
    assert new.getTopologicalOrderingOfJobs() == [new, below]
    assert old not in loaded.getTopologicalOrderingOfJobs()


def test_a_hundred_thousand_children_and_a_deep_chain_do_not_recurse():
    root = Job()
    for _ in range(100_000):
        root.addChild(Job())
    job = root.addFollowOn(Job())
    for _ in range(5_000):
        job = job.addChild(Job())
    for _ in range(5_000):
        job = job.addFollowOn(Job())
    root.checkJobGraphForDeadlocks()
    assert len(root.getTopologicalOrderingOfJobs()) == 110_002


def test_a_deep_chain_is_saved_children_first():
    root = job = Job()
    for _ in range(5_000):
        job = job.addChildFn(add, 1)
    store = DictStore()
    root.saveAsRootJob(store)
    assert len(store.records) == 5_001
    assert store.created[-1] == store.root == root.jobStoreID
    assert store.created[0] == job.jobStoreID
    assert store.batches == 1
