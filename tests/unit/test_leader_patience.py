"""What waits for a full store: order, pauses, what is said. The clock is the test's."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from toilcache.errors import JobStoreUnavailableError
from toilcache.leader import patience as module
from toilcache.leader import timers
from toilcache.leader.patience import FIRST_PAUSE, LONGEST_PAUSE, Patience
from toilcache.leader.timers import Timers


class Waiting:
    """Patience with a clock that moves when the test says so, and actions that fail when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for each in (module, timers):
            monkeypatch.setattr(each.time, "monotonic", lambda: self.now)
        self.timers = Timers()
        self.patience = Patience(self.timers)
        self.failing: set[str] = set()
        self.code = errno.ENOSPC
        self.tried: list[str] = []

    def attempt(self, name: str) -> None:
        self.patience.attempt(name, self.action(name))

    def action(self, name: str) -> Callable[[], None]:
        def act() -> None:
            self.tried.append(name)
            if name in self.failing:
                raise OSError(self.code, "refused")

        return act

    def wait(self) -> float:
        """Go on to the next try; returns how long that took."""
        pause = self.timers.due_in()
        assert pause is not None
        self.now += pause
        self.tried.clear()
        self.timers.run_due()
        return pause


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    return Waiting(monkeypatch)


def test_what_is_not_refused_is_done_at_once(waiting: Waiting) -> None:
    waiting.attempt("a")
    assert waiting.tried == ["a"]
    assert not waiting.patience.is_needed
    assert waiting.patience.is_calm(1e9)
    assert waiting.timers.due_in() is None


def test_what_is_refused_is_tried_again_with_growing_pauses_and_said_once(
    waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    waiting.failing = {"a"}
    for _ in range(3):
        waiting.attempt("a")
    assert waiting.tried == ["a"], "while it waits it is nobody else's to try"
    pauses = [waiting.wait() for _ in range(9)]
    assert pauses == [FIRST_PAUSE * 2**n for n in range(6)] + [LONGEST_PAUSE] * 3
    assert len(caplog.messages) == 1
    assert "refused; waiting for it since" in caplog.messages[0]
    waiting.failing.clear()
    waiting.wait()
    assert not waiting.patience.is_needed
    assert "going on" in caplog.messages[1]
    assert not waiting.patience.is_calm(10)
    waiting.now += 10
    assert waiting.patience.is_calm(10)
    waiting.failing = {"a"}
    waiting.attempt("a")
    assert waiting.wait() == FIRST_PAUSE
    assert len(caplog.messages) == 3


def test_one_that_goes_on_failing_is_in_nobodys_way(waiting: Waiting) -> None:
    """A bad sector, say: one record cannot be written, all others can."""
    waiting.failing = {"a", "b", "c"}
    for name in "abc":
        waiting.attempt(name)
    waiting.failing = {"a"}
    waiting.wait()
    assert waiting.tried == ["a"]
    waiting.wait()
    assert waiting.tried == ["b", "c", "a"]
    assert waiting.patience.is_needed
    waiting.failing.clear()
    waiting.wait()
    assert not waiting.patience.is_needed


def test_others_are_tried_while_something_waits(waiting: Waiting) -> None:
    """What they do may make the room that is waited for."""
    waiting.failing = {"a"}
    waiting.attempt("a")
    waiting.attempt("b")
    assert waiting.tried == ["a", "b"]


def test_what_is_tried_elsewhere_holds_the_leader_up_as_well(
    waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    waiting.patience.hold("sync", None)
    assert not waiting.patience.is_needed
    waiting.patience.hold("sync", OSError(errno.EIO, "broken"))
    waiting.failing = {"a"}
    waiting.attempt("a")
    waiting.failing.clear()
    waiting.wait()
    assert waiting.patience.is_needed
    waiting.patience.hold("sync", None)
    assert not waiting.patience.is_needed
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_errors_that_pass(waiting: Waiting, code: int) -> None:
    waiting.code, waiting.failing = code, {"a"}
    waiting.attempt("a")
    assert waiting.patience.is_needed


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "gone"), OSError(errno.EROFS, "x"), JobStoreUnavailableError("not ours")]
)
def test_errors_that_do_not_pass_are_raised(waiting: Waiting, error: Exception) -> None:
    def act() -> None:
        raise error

    with pytest.raises(type(error)):
        waiting.patience.attempt("a", act)
    assert not waiting.patience.is_needed
