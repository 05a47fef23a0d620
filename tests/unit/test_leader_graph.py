"""Which job waits for what, without a store: a dictionary stands for it."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import pytest

from toilcache.errors import JobException
from toilcache.job.description import JobDescription
from toilcache.job.module import ModuleDescriptor
from toilcache.leader.graph import Changes, Graph, Node, State

SMALL = {"memory": 1, "cores": 1, "disk": 1}


class World:
    """Descriptions by id, a graph over them, and the log of what became ready, done and unneeded."""

    def __init__(self) -> None:
        self.descs: dict[str, JobDescription] = {}
        self.graph = Graph(self.descs.get)
        self.ready: list[str] = []
        self.done: list[str] = []
        self.unneeded: list[str] = []

    def job(
        self,
        name: str,
        children: Iterable[str] = (),
        follow_ons: Iterable[str] = (),
        promised: Iterable[str] = (),
        ran: bool = False,
        refs: Iterable[str] = (),
    ) -> JobDescription:
        """Write a job down; successors count one predecessor more."""
        desc = JobDescription(SMALL, name)
        desc.jobStoreID = name
        desc.version = 2 if ran else 1
        if not ran:
            desc.attach_inline_body(b"", ModuleDescriptor("/", "m"))
        desc.promised = list(promised)
        desc.result_refs = list(refs)
        for add, names in ((desc.addChild, children), (desc.addFollowOn, follow_ons)):
            for successor in names:
                add(successor)
                if successor in self.descs:
                    self.descs[successor].addPredecessor()
        self.descs[name] = desc
        return desc

    def start(self, name: str = "root") -> None:
        self.take(self.graph.start(self.descs[name]))

    def take(self, changes: Changes) -> None:
        self.ready += [node.id for node in changes.ready]
        self.done += [node.id for node in changes.done]
        self.unneeded += [node.id for node in changes.unneeded]

    def node(self, name: str) -> Node:
        return self.graph.nodes[name]

    def commit(self, name: str, **more: Iterable[str]) -> None:
        """Let a job's body run; ``more`` are successors and references that it made while running."""
        desc = self.descs[name]
        promised = list(desc.promised)
        desc.detach_body()
        for successor in more.get("children", ()):
            desc.addChild(successor)
        for successor in more.get("follow_ons", ()):
            desc.addFollowOn(successor)
        desc.result_refs = list(more.get("refs", ()))
        desc.version += 1
        self.take(self.graph.committed(self.node(name), desc))
        self.take(self.graph.released(promised))

    def forget_all(self) -> None:
        """Delete what nobody needs, until nothing of that kind is left."""
        for name in self.unneeded:
            if name in self.graph.nodes and name != "root":
                self.take(self.graph.forget(self.node(name)))


@pytest.fixture
def world() -> World:
    return World()


def test_a_single_job(world: World) -> None:
    world.job("root")
    world.start()
    assert (world.ready, world.done) == (["root"], [])
    world.commit("root")
    assert (world.done, world.unneeded) == (["root"], [])  # somebody waits for the root's value
    assert world.graph.require_root().state == State.DONE


def test_a_graph_that_was_not_started_has_no_root(world: World) -> None:
    with pytest.raises(JobException, match="cannot look at a workflow"):
        world.graph.require_root()


def test_children_run_before_follow_ons(world: World) -> None:
    world.job("a")
    world.job("b")
    world.job("f")
    world.job("root", children=["a", "b"], follow_ons=["f"])
    world.start()
    world.commit("root")
    assert world.ready == ["root", "a", "b"]
    world.commit("b")
    assert world.ready[3:] == []
    assert world.node("f").state == State.NEW
    world.commit("a")
    assert world.ready[3:] == ["f"]
    assert world.done == ["b", "a"]
    world.commit("f")
    assert world.done == ["b", "a", "f", "root"]


def test_a_follow_on_waits_for_all_below_a_child(world: World) -> None:
    world.job("grandchild")
    world.job("late")
    world.job("a", children=["grandchild"], follow_ons=["late"])
    world.job("f")
    world.job("root", children=["a"], follow_ons=["f"])
    world.start()
    for name in ("root", "a", "grandchild"):
        world.commit(name)
    assert world.ready == ["root", "a", "grandchild", "late"]
    world.commit("late")
    assert world.ready[-1] == "f"
    assert world.done == ["grandchild", "late", "a"]


def test_a_diamond_starts_its_last_job_once_when_all_predecessors_ran(world: World) -> None:
    world.job("last")
    world.job("a", children=["last"])
    world.job("b", children=["last"])
    world.job("c", follow_ons=["last"])
    world.job("root", children=["a", "b", "c"])
    world.start()
    for name in ("root", "a", "b"):
        world.commit(name)
    assert "last" not in world.ready
    assert world.node("last").entered == 2
    world.commit("c")
    assert world.ready.count("last") == 1
    assert world.done == []
    world.commit("last")
    assert sorted(world.done[1:4]) == ["a", "b", "c"]
    assert world.done[-1] == "root"
    assert len(set(world.done)) == len(world.done)


def test_successors_made_while_running(world: World) -> None:
    world.job("root")
    world.start()
    child, follow_on = world.job("child"), world.job("follow-on")
    child.predecessorNumber = follow_on.predecessorNumber = 1
    world.commit("root", children=["child"], follow_ons=["follow-on"])
    assert world.ready == ["root", "child"]
    world.commit("child")
    assert world.ready == ["root", "child", "follow-on"]


def test_a_value_is_kept_until_its_last_consumer_ran(world: World) -> None:
    world.job("a")
    world.job("x", promised=["a"])
    world.job("y", promised=["a"])
    world.job("root", children=["a"], follow_ons=["x", "y"])
    world.start()
    for name in ("root", "a", "x"):
        world.commit(name)
    assert world.unneeded == ["x"]
    world.commit("y")
    assert sorted(world.unneeded) == ["a", "x", "y"]


def test_a_consumer_in_a_later_phase_counts_from_the_start(world: World) -> None:
    """The consumer is a follow-on of the root, not started and not near the job that it needs."""
    world.job("deep")
    world.job("mid", children=["deep"])
    world.job("consumer", promised=["deep"])
    world.job("between", follow_ons=["consumer"])
    world.job("root", children=["mid"], follow_ons=["between"])
    world.start()
    assert world.graph.consumers["deep"] == 1
    for name in ("root", "mid", "deep", "between"):
        world.commit(name)
    assert "deep" in world.done
    assert "deep" not in world.unneeded
    world.commit("consumer")
    assert "deep" in world.unneeded


def test_a_consumer_made_by_the_commit_that_let_the_value_go(world: World) -> None:
    """The giver of a promise counts it no more, its new child does: the value stays."""
    world.job("a")
    world.job("giver", promised=["a"])
    world.job("root", children=["a"], follow_ons=["giver"])
    world.start()
    world.commit("root")
    world.commit("a")
    taker = world.job("taker", promised=["a"])
    taker.predecessorNumber = 1
    world.commit("giver", children=["taker"])
    assert "a" not in world.unneeded
    world.commit("taker")
    assert "a" in world.unneeded


def test_a_value_in_a_kept_value_is_kept(world: World) -> None:
    world.job("a")
    world.job("root")
    world.start()
    child = world.job("child")
    child.predecessorNumber = 1
    world.commit("root", children=["child"], refs=["child"])
    leaf = world.job("leaf")
    leaf.predecessorNumber = 1
    world.commit("child", children=["leaf"], refs=["leaf"])
    world.commit("leaf")
    assert world.done == ["leaf", "child", "root"]
    assert world.unneeded == []


def test_forgetting_a_job_frees_the_values_in_its_value(world: World) -> None:
    world.job("leaf")
    world.job("a", children=["leaf"])
    world.job("x", promised=["a"])
    world.job("root", children=["a"], follow_ons=["x"])
    world.start()
    world.commit("root")
    world.commit("a", refs=["leaf"])
    world.commit("leaf")
    assert world.unneeded == []
    world.commit("x")
    assert sorted(world.unneeded) == ["a", "x"]
    world.forget_all()
    assert world.unneeded[2:] == ["leaf"]
    assert list(world.graph.nodes) == ["root"]


def test_resume_takes_missing_jobs_as_done(world: World) -> None:
    """The earlier leader deleted one child and its subtree; the other has yet to run."""
    world.job("b")
    world.job("f")
    world.job("root", children=["gone", "b"], follow_ons=["f", "also gone"], ran=True)
    world.start()
    assert world.ready == ["b"]
    world.commit("b")
    assert world.ready == ["b", "f"]
    world.commit("f")
    assert world.done == ["b", "f", "root"]


def test_resume_where_all_of_a_phase_is_gone(world: World) -> None:
    world.job("f")
    world.job("root", children=["gone"], follow_ons=["f"], ran=True)
    world.start()
    assert world.ready == ["f"]


def test_resume_of_a_finished_workflow(world: World) -> None:
    world.job("root", children=["gone"], ran=True)
    world.start()
    assert world.ready == []
    assert world.done == ["root"]


def test_resume_of_a_diamond_with_one_predecessor_through(world: World) -> None:
    world.job("last")
    world.job("a", children=["last"], ran=True)
    world.job("b", children=["last"])
    world.job("root", children=["a", "b"], ran=True)
    world.start()
    assert world.ready == ["b"]
    world.commit("b")
    assert world.ready == ["b", "last"]


def test_resume_finds_values_that_were_kept(world: World) -> None:
    """Jobs that nothing but a promise leads to: done, kept for their values, deleted after the last use."""
    world.job("value", ran=True, refs=["inner"])
    world.job("inner", ran=True)
    world.job("x", promised=["value"])
    world.job("root", children=["gone"], follow_ons=["x"], ran=True)
    world.start()
    assert world.ready == ["x"]
    assert world.node("value").state == State.DONE
    world.commit("x")
    assert "value" in world.unneeded
    world.forget_all()
    assert "inner" in world.unneeded


def test_a_promise_of_a_job_that_has_yet_to_run_and_is_not_reached(world: World) -> None:
    """Its record is not a kept value: it must not be taken as done."""
    world.job("stray")
    world.job("root", promised=["stray"])
    world.start()
    assert "stray" not in world.graph.nodes


def test_a_hundred_thousand_children_and_a_deep_chain_without_recursion(world: World) -> None:
    """The work per event does not grow: each job is touched as often as it has edges."""
    count = 100_000
    touched = 0
    fetch = world.descs.get

    def load(job_id: str) -> JobDescription | None:
        nonlocal touched
        touched += 1
        return fetch(job_id)

    world.graph = Graph(load)
    names = [f"c{i}" for i in range(count)]
    for name in names:
        world.job(name)
    world.job("root", children=names)
    world.start()
    world.commit("root")
    assert len(world.ready) == count + 1
    for name in names:
        world.commit(name)
    assert touched == count
    assert world.done[-1] == "root"
    assert len(world.done) == count + 1
    world.forget_all()
    assert list(world.graph.nodes) == ["root"]


def test_a_chain_deeper_than_the_recursion_limit(world: World) -> None:
    depth = 5 * sys.getrecursionlimit()
    world.job(f"j{depth}")
    for i in range(depth - 1, 0, -1):
        world.job(f"j{i}", children=[f"j{i + 1}"])
    world.job("root", children=["j1"])
    world.start()
    world.commit("root")
    for i in range(1, depth + 1):
        world.commit(f"j{i}")
    assert len(world.done) == depth + 1


def test_a_finished_job_goes_on_although_one_of_its_predecessors_is_gone(world: World) -> None:
    """It was kept for its value; the predecessor that an earlier leader deleted cannot let it go again."""
    world.job("X", ran=True)
    world.job("C2", children=["X"], ran=True)
    world.job("F", promised=["C2", "X"])
    world.job("root", children=["C1", "C2"], follow_ons=["F"], ran=True)
    world.descs["X"].addPredecessor()  # C1, done and deleted
    world.start()
    assert world.ready == ["F"]
