"""When a worker is gone, and how many more to ask for: looks, silence and time, without any clock."""

from __future__ import annotations

import pytest

from toilcache.batch.slurm.evidence import (
    ABSENCE_GRACE,
    END_GRACE,
    LOOK_SECONDS,
    SILENCE,
    Look,
    Sighting,
    look_of,
    look_of_accounts,
)
from toilcache.batch.slurm.fleet import FIRST_ARRAY, Fleet
from toilcache.batch.slurm.parse import AccountLine, QueueLine, TaskIds
from toilcache.job.exit_reason import BatchJobExitReason

TASK = (7, 3)


def look(at: float, state: str | None = None, job: int = 7) -> Look:
    lines = [] if state is None else [QueueLine(job, TaskIds(((3, 3, 1),)), state, "None", "n1", "")]
    return look_of(lines, at)


def sighting(began: float = 0.0) -> Sighting:
    return Sighting(TASK, began)


def test_one_absence_proves_nothing() -> None:
    worker = sighting()
    worker.see(look(10.0))
    assert worker.end(10.0) is None
    assert worker.end(10.0 + SILENCE - 11) is None


def test_a_second_absence_a_while_later_does() -> None:
    worker = sighting()
    worker.see(look(10.0))
    worker.see(look(10.0 + ABSENCE_GRACE))
    end = worker.end(10.0 + ABSENCE_GRACE)
    assert end is not None
    assert (end.reason, end.is_charged) == (BatchJobExitReason.LOST, False)
    assert "without a trace" in end.words


def test_two_absences_too_close_together_do_not() -> None:
    worker = sighting()
    worker.see(look(10.0))
    worker.see(look(9.9 + ABSENCE_GRACE))
    assert worker.end(10.0 + ABSENCE_GRACE) is None


def test_two_looks_a_minute_apart_are_enough() -> None:
    assert LOOK_SECONDS < ABSENCE_GRACE <= 2 * LOOK_SECONDS


def test_who_says_something_between_two_absences_is_there() -> None:
    worker = sighting()
    worker.see(look(10.0))
    worker.hear(30.0)
    worker.see(look(10.0 + ABSENCE_GRACE))
    assert worker.end(10.0 + ABSENCE_GRACE) is None


def test_who_is_found_again_was_not_absent() -> None:
    worker = sighting()
    worker.see(look(10.0))
    worker.see(look(40.0, "RUNNING"))
    worker.see(look(70.0))
    assert worker.end(71.0) is None


def test_a_look_from_before_its_time_tells_nothing() -> None:
    worker = sighting(began=100.0)
    worker.see(look(99.9, "PENDING"))
    worker.see(look(99.0, "FAILED"))
    assert worker.end(130.0) is None


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        ("OUT_OF_MEMORY", BatchJobExitReason.MEMLIMIT, "memory ran out"),
        ("TIMEOUT", BatchJobExitReason.MAXJOBDURATION, "time limit"),
        ("NODE_FAIL", BatchJobExitReason.LOST, "node failed"),
        ("COMPLETED", BatchJobExitReason.LOST, "without a record"),
        ("PREEMPTED", BatchJobExitReason.LOST, "preempted"),
        ("PENDING", BatchJobExitReason.LOST, "taken its allocation back"),
        ("REQUEUED", BatchJobExitReason.LOST, "taken its allocation back"),
    ],
)
def test_an_end_counts_once_its_last_words_may_have_come(
    state: str, reason: BatchJobExitReason, words: str
) -> None:
    worker = sighting()
    worker.see(look(10.0, state))
    assert worker.end(10.0 + END_GRACE - 0.1) is None
    end = worker.end(10.0 + END_GRACE)
    assert end is not None
    assert end.reason == reason
    assert words in end.words


@pytest.mark.parametrize(
    "state", ["RUNNING", "COMPLETING", "HIBERNATING", "SUSPENDED", "STOPPED", "SIGNALING"]
)
def test_what_goes_on_has_no_end(state: str) -> None:
    worker = sighting()
    worker.see(look(10.0, state))
    assert worker.end(SILENCE - 1) is None


def test_who_is_silent_for_long_is_given_up_unless_stopped() -> None:
    running, stopped = sighting(), sighting()
    running.see(look(10.0, "RUNNING"))
    stopped.see(look(10.0, "SUSPENDED"))
    assert running.end(SILENCE) is not None
    assert stopped.end(SILENCE) is None
    stopped.see(look(SILENCE + 1, "RUNNING"))
    assert stopped.end(SILENCE + 1) is not None


def test_a_task_that_lives_again_has_lost_its_first_worker() -> None:
    worker = sighting()
    worker.superseded = True
    end = worker.end(1.0)
    assert end is not None
    assert "REQUEUED" in end.words


def test_accounting_is_a_look_too() -> None:
    worker = sighting()
    worker.see(look_of_accounts([AccountLine(7, TaskIds(((3, 3, 1),)), "CANCELLED by 0", "0:0", "n1")], 10.0))
    end = worker.end(10.0 + END_GRACE)
    assert end is not None
    assert "cancelled" in end.words


# A state that nobody has heard of


def test_an_unknown_state_is_said_once_in_each_run(caplog: pytest.LogCaptureFixture) -> None:
    for fleet in (Fleet(1001, 5000, None, reuse=True), Fleet(1001, 5000, None, reuse=True)):
        caplog.clear()
        for at in (10.0, 40.0):
            fleet.see(look(at, "DREAMING"), set(), at)
            fleet.see(look(at, "RUNNING"), set(), at)
        assert [record.args for record in caplog.records if record.levelname == "WARNING"] == [("DREAMING",)]


# How many workers


def test_few_jobs_get_as_many_workers_and_many_a_first_array() -> None:
    fleet = Fleet(1001, 5000, None, reuse=True)
    assert fleet.wanted("q", 10, idle=1, hosts=1, heard=set()) == 9
    assert fleet.wanted("q", 10_000, idle=0, hosts=0, heard=set()) == FIRST_ARRAY
    assert fleet.wanted("q", 3, idle=4, hosts=4, heard=set()) == 0


def test_no_more_are_asked_for_while_some_have_yet_to_begin() -> None:
    fleet = Fleet(1001, 5000, None, reuse=True)
    fleet.made(5, FIRST_ARRAY, "q", 0.0)
    heard = {(5, index) for index in range(FIRST_ARRAY - 1)}
    assert fleet.wanted("q", 9000, 0, FIRST_ARRAY - 1, heard) == 0
    heard.add((5, FIRST_ARRAY - 1))
    assert fleet.wanted("q", 9000, 0, FIRST_ARRAY, heard) == 2 * FIRST_ARRAY
    assert fleet.wanted("other", 5, 0, FIRST_ARRAY, heard) == 5


def test_ten_thousand_long_jobs_take_few_arrays() -> None:
    fleet = Fleet(1001, 100_000, None, reuse=True)
    heard: set[tuple[int, int]] = set()
    calls, left = 0, 10_000
    while size := fleet.wanted("q", left, 0, 10_000 - left, heard):
        calls += 1
        fleet.made(calls, size, "q", 0.0)
        heard |= {(calls, index) for index in range(size)}
        left -= size
    assert left == 0
    assert calls <= 11


def test_without_reuse_every_job_has_a_worker() -> None:
    fleet = Fleet(1001, 100_000, None, reuse=False)
    calls = 0
    while size := fleet.wanted("q", 10_000, 0, 0, set()):
        calls += 1
        fleet.made(calls, size, "q", 0.0)
    assert calls == 10


def test_limits_are_kept() -> None:
    assert Fleet(1001, 50, None, reuse=True).wanted("q", 10_000, 0, 20, set()) == 30
    assert Fleet(1001, 5000, 8, reuse=True).wanted("q", 10_000, 0, 3, set()) == 5
    assert Fleet(10, 5000, None, reuse=False).wanted("q", 10_000, 0, 0, set()) == 10
    refused = Fleet(1001, 5000, None, reuse=True)
    refused.too_many(100)
    assert refused.wanted("q", 10_000, 0, 0, set()) == 50


def test_an_array_that_is_gone_has_no_more_to_begin() -> None:
    fleet = Fleet(1001, 5000, None, reuse=True)
    fleet.made(5, 4, "q", 0.0)
    fleet.see(look(10.0), set(), 10.0)
    assert fleet.waiting(set()) == 4
    fleet.see(look(10.0 + ABSENCE_GRACE), set(), 10.0)
    assert fleet.waiting(set()) == 0


def test_workers_that_end_before_they_begin_are_told_once() -> None:
    fleet = Fleet(1001, 5000, None, reuse=True)
    fleet.made(7, 4, "q", 0.0)
    for at in (10.0, 40.0):
        fleet.see(look(at, "FAILED"), set(), at)
    assert fleet.take_failures("q", set(), 1000.0) == [], "three more may still begin"
    assert fleet.waiting(set()) == 3
    heard = {(7, 0)}
    assert [state.state for state in fleet.take_failures("q", heard, 1000.0)] == ["FAILED"]
    assert fleet.take_failures("q", heard, 1000.0) == []


def test_a_worker_that_was_heard_of_after_the_look_has_begun() -> None:
    """It began and ended between our reading the logs and our asking Slurm."""
    fleet = Fleet(1001, 5000, None, reuse=True)
    fleet.made(7, 4, "q", 0.0)
    lines = [QueueLine(7, TaskIds(((0, 3, 1),)), "COMPLETED", "None", "n1", "")]
    fleet.see(look_of(lines, 10.0), set(), 10.0)
    assert fleet.take_failures("q", set(), 10.0 + END_GRACE - 0.1) == []
    assert len(fleet.take_failures("q", {(7, 1), (7, 2)}, 10.0 + END_GRACE)) == 2
    assert fleet.is_hopeless("q", set())
    assert not fleet.is_hopeless("q", {(7, 1)})


def test_an_array_that_slurm_has_under_our_name_is_ours() -> None:
    fleet = Fleet(1001, 5000, None, reuse=True)
    fleet.see(look(10.0, "RUNNING", job=99), set(), 10.0)
    fleet.see(look(10.0, "FAILED", job=98), set(), 10.0)
    assert set(fleet.arrays) == {99}
