"""What the leader does while the job store is full or its disk fails: it waits, and nothing is lost.

Knows timers, and that such errors pass. Must not know what is written. Each action that met one is tried
again until it is done, one after the other and with growing pauses; the event loop never sleeps. The leader
issues nothing meanwhile, and a person is told once when it begins and once when it is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

from toilcache.errors import JobStoreUnavailableError
from toilcache.job_store.core import is_full
from toilcache.leader.timers import Timers

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


class Patience:
    """The actions that wait for the store to take writes again, each under a key."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._waiting: dict[Hashable, Callable[[], None]] = {}
        self._held: set[Hashable] = set()
        self._began: float | None = None
        self._over = -float("inf")
        self._pause = FIRST_PAUSE
        self._scheduled = False

    @property
    def is_needed(self) -> bool:
        """True while something waits."""
        return self._began is not None

    def is_calm(self, seconds: float) -> bool:
        """True if nothing waits, nor has for so long."""
        return not self.is_needed and time.monotonic() - self._over >= seconds

    def attempt(self, key: Hashable, action: Callable[[], None]) -> None:
        """Do it; if the store is full, again later. Nothing is done while an action of this key waits.

        An action that fails in this way must have left everything so that it can be repeated.
        """
        if key in self._waiting:
            return
        try:
            action()
        except (OSError, JobStoreUnavailableError) as error:
            if not is_full(error):
                raise
            self._waiting[key] = action
            self._begin(error)
            self._schedule()

    def hold(self, key: Hashable, error: BaseException | None) -> None:
        """Wait for what is tried again elsewhere: for as long as it brings an error."""
        if error is not None:
            self._held.add(key)
            self._begin(error)
        elif key in self._held:
            self._held.discard(key)
            self._look_whether_over()

    def _begin(self, error: BaseException) -> None:
        if self._began is None:
            self._began = time.monotonic()
            logger.warning(
                "%s; waiting for it since %s: nothing is issued meanwhile, and nothing is lost",
                error,
                time.strftime("%H:%M:%S"),
            )

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._timers.after(self._pause, self._again)

    def _again(self) -> None:
        """Try what waits; the first that fails once more goes to the end, so that it is in nobody's way."""
        self._scheduled = False
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        for key in list(self._waiting):
            self.attempt(key, self._waiting.pop(key))
            if key in self._waiting:
                return
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        if self._began is None or self._waiting or self._held:
            return
        now = time.monotonic()
        logger.warning("the job store takes writes again, after %.0f s: going on", now - self._began)
        self._began, self._over, self._pause = None, now, FIRST_PAUSE
