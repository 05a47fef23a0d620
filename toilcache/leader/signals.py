"""SIGINT and SIGTERM while a workflow is open. Knows the signal module and how a stop is called."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from toilcache.errors import WorkflowStopped


class Signals:
    """Turns SIGINT and SIGTERM into a request to stop, for one block, in the main thread."""

    def __init__(self, handler: Callable[[int, FrameType | None], None]) -> None:
        self._handler = handler
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handler)
            except ValueError:
                return  # not the main thread: whoever runs us there handles signals

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


class StopOnce:
    """A handler that raises WorkflowStopped at the first signal, and not while something is being ended.

    So with-blocks on the way out end what they began, and a second signal does not keep them from it.
    """

    def __init__(self) -> None:
        self.ignoring = False
        self.stopped = False
        self.why = ""

    def listen(self) -> None:
        """Raise at the next signal again, unless one has stopped the workflow already."""
        self.ignoring = self.stopped

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.ignoring:
            return
        self.ignoring = self.stopped = True
        self.why = f"stopped by {signal.Signals(number).name}"
        raise WorkflowStopped(self.why, 128 + number)
