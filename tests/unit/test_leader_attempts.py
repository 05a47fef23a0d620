"""Chains in flight, slots taken, and what a lost attempt costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.job_stores import Bench
from toilcache.errors import ConcurrentFileModificationException, JobStoreUnavailableError
from toilcache.job.description import JobDescription
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.leader import attempts as module
from toilcache.leader.attempts import FREE_LOSSES, LONGEST_PAUSE, Attempts
from toilcache.leader.graph import Node, State


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench("memory", tmp_path)


@pytest.fixture
def attempts(bench: Bench) -> Attempts:
    return Attempts(bench.store)


def new_node(bench: Bench, name: str = "a job", state: State = State.READY) -> Node:
    node = Node(bench.job(name))
    node.state = state
    return node


def test_a_chain_moves_on_and_ends_under_the_id_it_was_issued_as(bench: Bench, attempts: Attempts) -> None:
    a, b, c = (new_node(bench) for _ in range(3))
    attempts.issue(a)
    assert attempts.chain(a, b)
    assert attempts.chain(b, c)
    assert attempts.current(a.id) is c
    assert [attempts.is_running(node) for node in (a, b, c)] == [False, False, True]
    assert len(attempts) == 1
    attempts.ended(b.id)  # no chain was issued as b
    assert len(attempts) == 1
    attempts.ended(a.id)
    assert len(attempts) == 0
    assert not attempts.is_running(c)
    attempts.ended(a.id)


def test_a_chain_nobody_knows_of_does_not_move(bench: Bench, attempts: Attempts) -> None:
    a, b = new_node(bench), new_node(bench)
    assert not attempts.chain(a, b)
    attempts.issue(a)
    b.state = State.ISSUED
    assert not attempts.chain(a, b)
    assert attempts.current(a.id) is a


def test_taking_a_slot(bench: Bench, attempts: Attempts) -> None:
    node = new_node(bench)
    assert attempts.take_slot(node, lambda desc: setattr(desc, "failure", "lost")) is None
    assert node.desc.version == 2
    assert bench.store.load_job(node.id).failure == "lost"
    assert attempts.newest(node) is None


def test_taking_a_slot_that_is_taken_gives_what_won(bench: Bench, attempts: Attempts) -> None:
    node = new_node(bench)
    bench.commit(node.id, failure="the worker's")
    won = attempts.take_slot(node, lambda desc: setattr(desc, "failure", "the leader's"))
    assert won is not None
    assert (won.version, won.failure) == (2, "the worker's")
    assert node.desc.version == 1
    newest = attempts.newest(node)
    assert newest is not None
    assert newest.failure == "the worker's"


def test_the_worker_of_a_given_up_attempt_is_refused(bench: Bench, attempts: Attempts) -> None:
    node = new_node(bench)
    worker = bench.another(resume=True)
    worker.begin_attempt(node.id, 1)
    desc = worker.load_version(node.id, 1)
    attempts.take_slot(node, JobDescription.clearRemainingTryCount)
    with pytest.raises(ConcurrentFileModificationException):
        worker.update_job(desc)


def test_losses_are_free_at_first_and_failures_never(bench: Bench, attempts: Attempts) -> None:
    node, other = new_node(bench), new_node(bench)
    tries = bench.store.config.retryCount + 1

    def give_up(node: Node, reason: BatchJobExitReason) -> int:
        assert attempts.give_up(node, reason, "why", None) is None
        return node.desc.remainingTryCount

    assert give_up(node, BatchJobExitReason.KILLED) == tries - 1
    left = [give_up(node, BatchJobExitReason.LOST) for _ in range(FREE_LOSSES + 2)]
    assert left == [*[tries - 1] * FREE_LOSSES, tries - 2, tries - 3]
    assert give_up(other, BatchJobExitReason.LOST) == tries
    assert (other.desc.failure, other.desc.version) == ("why", 2)


def test_pauses_double_up_to_a_minute(
    bench: Bench, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = new_node(bench)
    monkeypatch.setattr(module, "uniform", lambda low, high: high)
    assert [attempts.pause(node, 2.0) for _ in range(7)] == [2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE]
    assert attempts.pause(new_node(bench), 2.0) == 2
    monkeypatch.setattr(module, "uniform", lambda low, high: low)
    assert attempts.pause(new_node(bench), 2.0) == 1


def test_pauses_stay_finite_after_very_many_failures(bench: Bench, attempts: Attempts) -> None:
    node = new_node(bench)
    assert max(attempts.pause(node, 1.0) for _ in range(3000)) <= LONGEST_PAUSE


def test_adopting_chains_of_an_earlier_leader(bench: Bench, attempts: Attempts) -> None:
    """One runs its first job, one has gone on to a successor, one was given up, one is not known any more."""
    first, begun, successor, given_up = (new_node(bench) for _ in range(4))
    begun.desc = bench.commit(begun.id, chained_to=successor.id)
    attempts.take_slot(given_up, JobDescription.clearRemainingTryCount)
    nodes = {node.id: node for node in (first, begun, successor, given_up)}
    for node in nodes.values():
        node.inherited = True
    adopted = attempts.adopt([(first.id, 1), (begun.id, 1), (given_up.id, 1), ("unknown", 1)], nodes)
    assert adopted == [first, successor]
    assert attempts.current(begun.id) is successor
    assert attempts.is_running(successor)
    assert [node.inherited for node in (first, successor, given_up)] == [False, False, True]
    assert len(attempts) == 2


def test_a_finished_chain_is_not_adopted(bench: Bench, attempts: Attempts) -> None:
    done = new_node(bench)
    done.desc = bench.commit(done.id)
    assert attempts.adopt([(done.id, 1)], {done.id: done}) == []
    gone = new_node(bench)
    gone.desc = bench.commit(gone.id, chained_to="deleted since")
    assert attempts.adopt([(gone.id, 1)], {gone.id: gone}) == []
    assert len(attempts) == 0


def test_a_job_of_a_chain_has_the_time_of_one_job(
    bench: Bench, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    first, second = new_node(bench), new_node(bench)
    attempts.issue(first)
    assert attempts.overdue({first.id: 9.0}, limit=10.0) == {}
    assert attempts.overdue({first.id: 11.0}, limit=10.0) == {first.id: first}
    attempts.chain(first, second)
    clock[0] += 5
    assert attempts.overdue({first.id: 16.0}, limit=10.0) == {}
    clock[0] += 6
    assert attempts.overdue({first.id: 22.0}, limit=10.0) == {first.id: second}
    assert attempts.overdue({"unknown": 99.0}, limit=10.0) == {}


def test_a_loss_that_cannot_be_written_down_is_not_counted(
    bench: Bench, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = new_node(bench)
    tries = bench.store.config.retryCount + 1

    def full(desc: JobDescription) -> None:
        raise JobStoreUnavailableError("cannot write: no space")

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "update_job", full)
        for _ in range(2 * FREE_LOSSES):
            with pytest.raises(JobStoreUnavailableError):
                attempts.give_up(node, BatchJobExitReason.LOST, "why", None)
    assert node.desc.version == 1
    assert attempts.give_up(node, BatchJobExitReason.LOST, "why", None) is None
    assert (node.desc.version, node.desc.remainingTryCount) == (2, tries)
