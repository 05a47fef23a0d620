"""Things to do later: a heap of moments. Knows the monotonic clock and callables only."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from itertools import count


class Timers:
    """Calls due at moments of the monotonic clock, in order."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call ``action`` once, ``seconds`` from now, from :meth:`run_due`."""
        heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._order), action))

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Call ``action`` again and again, with ``seconds`` between the calls."""

        def repeat() -> None:
            action()
            self.after(seconds, repeat)

        self.after(seconds, repeat)

    def due_in(self) -> float | None:
        """Return the seconds until the next call is due, None if there is none."""
        return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None

    def run_due(self) -> None:
        """Make all calls whose moment has come."""
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
