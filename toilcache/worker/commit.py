"""How a worker writes to a job store that has no room: it waits.

Must not know what is written. A result that took hours to compute must not be lost because somebody filled
the disk: the worker keeps it and tries again, with growing pauses, until its time ends."""

from __future__ import annotations

import time

from toilcache.errors import JobStoreUnavailableError
from toilcache.job_store.core import is_full
from toilcache.worker.failures import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["is_full", "patiently"]

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


def patiently(write: Callable[[], T]) -> T:
    """Return what ``write`` returns, calling it again and again while the store is full; it is said once.

    What else it raises is raised, a refusal for one. Some of what it writes may be there when it is called
    again.
    """
    pause = FIRST_PAUSE
    said = False
    while True:
        try:
            return write()
        except (OSError, JobStoreUnavailableError) as error:
            if not is_full(error):
                raise
            if not said:
                say(f"{error}; waiting for room, nothing is lost")
                said = True
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
