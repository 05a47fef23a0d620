"""Things to do later, on a clock that the test moves."""

from __future__ import annotations

import pytest

from toilcache.leader import timers
from toilcache.leader.timers import Timers


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timers.time, "monotonic", clock.monotonic)
    return clock


def test_nothing_is_due(clock: Clock) -> None:
    empty = Timers()
    assert empty.due_in() is None
    empty.run_due()


def test_calls_are_made_in_the_order_of_their_moments(clock: Clock) -> None:
    calls: list[str] = []
    times = Timers()
    for name, seconds in (("late", 3.0), ("early", 1.0), ("also early", 1.0)):
        times.after(seconds, lambda name=name: calls.append(name))  # type: ignore[misc]
    assert times.due_in() == 1.0
    times.run_due()
    assert calls == []
    clock.now += 1
    assert times.due_in() == 0
    times.run_due()
    assert calls == ["early", "also early"]
    clock.now += 10
    assert times.due_in() == 0
    times.run_due()
    assert calls[2:] == ["late"]
    assert times.due_in() is None


def test_every_keeps_its_distance(clock: Clock) -> None:
    calls: list[float] = []
    times = Timers()
    times.every(2.0, lambda: calls.append(clock.now))
    for _ in range(3):
        clock.now += 5  # the loop was busy: missed calls are not made up for
        times.run_due()
    assert calls == [55, 60, 65]
    assert times.due_in() == 2.0


def test_a_call_may_ask_for_another_at_once(clock: Clock) -> None:
    times = Timers()
    calls: list[int] = []

    def again() -> None:
        calls.append(1)
        if len(calls) < 4:
            times.after(0, again)

    times.after(0, again)
    times.run_due()
    assert len(calls) == 4


def test_an_error_goes_to_whoever_runs_the_loop(clock: Clock) -> None:
    times = Timers()
    times.after(0, lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(ZeroDivisionError):
        times.run_due()
    assert times.due_in() is None
