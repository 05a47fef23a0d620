"""What may only happen after a sync: deletions, and the word "done".

Knows an ordered queue of consequences and a thread that syncs the job store. Must not know what the
consequences do. A commit is visible at once and survives any kill; a power cut it survives only after the
sync. So whatever destroys what an earlier state needs waits here, in the order in which the leader decided
it: a consequence is let go when a sync that began after it was queued has ended. No commit pays for a sync of
its own: one serves all that came in 50 ms, or 100 of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from toilcache.errors import JobStoreUnavailableError

GROUP_SECONDS = 0.05
GROUP_SIZE = 100


class SyncGate:
    """Holds consequences back until they are safe.

    :param sync: makes everything written so far durable; may block, and raise OSError.
    :param wake: called from the sync thread when a sync has ended.
    """

    def __init__(self, sync: Callable[[], None], wake: Callable[[], None]) -> None:
        self._sync = sync
        self._wake = wake
        self._queued: list[Any] = []
        self._syncing: list[Any] = []
        self._oldest: float | None = None
        self._ended = threading.Event()
        self._begin = threading.Semaphore(0)
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, consequence: Any) -> None:
        """Queue a consequence of what has been committed so far."""
        if self._oldest is None:
            self._oldest = time.monotonic()
        self._queued.append(consequence)

    def due_in(self) -> float | None:
        """Return the seconds until a sync should start, None while there is nothing to sync or one is under
        way.
        """
        if self._syncing or self._oldest is None:
            return None
        if len(self._queued) >= GROUP_SIZE:
            return 0.0
        return max(0.0, self._oldest + GROUP_SECONDS - time.monotonic())

    def poll(self, *, now: bool = False) -> list[Any]:
        """Return the consequences that have become safe, and start the next sync when it is due (or ``now``).

        :raises JobStoreUnavailableError: the sync failed; nothing queued was let go.
        """
        safe: list[Any] = []
        if self._syncing and self._ended.is_set():
            if self._error is not None:
                raise _for_a_person(self._error)
            safe, self._syncing = self._syncing, []
        due = self.due_in()
        if due is not None and (now or due <= 0):
            self._start()
        return safe

    def drain(self, timeout: float | None = None) -> list[Any]:
        """Sync until nothing is left that was queued before the call; returns all that became safe.

        :raises JobStoreUnavailableError: a sync failed. OSError: it took longer than ``timeout`` seconds.
        """
        safe = self.poll(now=True)
        while self._syncing:
            if not self._ended.wait(timeout):
                raise OSError("cannot sync the job store: it takes too long")
            safe += self.poll(now=True)
        return safe

    @property
    def empty(self) -> bool:
        """True when no consequence is held back."""
        return not self._queued and not self._syncing

    def close(self) -> None:
        """End the thread; what is still held back is dropped."""
        self._closed = True
        self._begin.release()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        self._syncing, self._queued = self._queued, []
        self._oldest = None
        self._ended.clear()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sync", daemon=True)
            self._thread.start()
        self._begin.release()

    def _work(self) -> None:
        while True:
            self._begin.acquire()
            if self._closed:
                return
            try:
                self._sync()
            except BaseException as error:
                # Whatever it is belongs to the leader, who would otherwise wait for this sync for ever.
                self._error = error
            self._ended.set()
            self._wake()


def _for_a_person(error: BaseException) -> BaseException:
    """Say what a failing disk means for the workflow; any other error is a fault of ours and stays."""
    if not isinstance(error, OSError):
        return error
    wrapped = JobStoreUnavailableError(
        f"cannot sync the job store: {error.strerror or error}; nothing was deleted; "
        "look after its disk or server, then continue with --restart"
    )
    wrapped.__cause__ = error
    return wrapped
