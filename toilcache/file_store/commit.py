"""One commit on its way: a function run beside the job's own thread, and what became of it.

Knows threads only. Must not know what is committed, nor where to.
"""

from __future__ import annotations

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Commit:
    """A function that runs from the moment this is made, in a thread of its own."""

    def __init__(self, function: Callable[[], None]) -> None:
        """Start the function; where no thread can be had, it has run when this returns."""
        self._function = function
        self._error: BaseException | None = None
        self._running = _thread.allocate_lock()
        self._running.acquire()
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            # The job's processes used up what the system allows: its result must be committed all the same.
            self._run()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            # Whatever it is belongs to the one who waits: raised here it would only be printed.
            self._error = error
        finally:
            self._running.release()

    def wait(self) -> None:
        """Block until the function has ended, and raise what it raised, at each call."""
        with self._running:
            pass
        if self._error is not None:
            raise self._error
