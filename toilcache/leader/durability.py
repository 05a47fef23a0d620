"""What may only happen after a sync: deletions, and the word "done".

Knows an ordered queue of consequences and a thread that syncs the job store. Must not know what the
consequences do. A commit is visible at once and survives any kill; a power cut it survives only after the
sync. So whatever destroys what an earlier state needs waits here, in the order in which the leader decided
it: a consequence is let go when a sync that began after it was queued has ended. No commit pays for a sync of
its own: one serves all that came in 50 ms, or 100 of them.

A disk that fails says so once: the kernel drops what it could not write, and the next sync succeeds although
that is lost. So after the first failure a sync proves nothing about what was written before it. From then on
every record that consequences rest on is written again, as it is, before the sync that is to let them go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from toilcache.errors import JobStoreUnavailableError
from toilcache.job_store.core import is_full
from toilcache.leader.patience import FIRST_PAUSE, LONGEST_PAUSE

GROUP_SECONDS = 0.05
GROUP_SIZE = 100


class SyncGate:
    """Holds consequences back until they are safe.

    :param sync: makes everything written so far durable; may block, and raise.
    :param wake: called from the sync thread when a sync has ended or failed.
    :param renew: writes a version of a job again, so that the next sync speaks for it; called from that
        thread.
    :param doubts: a sync has failed before, so that nothing is taken for safe without being written again.
    """

    def __init__(
        self,
        sync: Callable[[], None],
        wake: Callable[[], None],
        renew: Callable[[str, int], None],
        doubts: bool = False,
    ) -> None:
        self._sync = sync
        self._wake = wake
        self._renew = renew
        self.trouble: BaseException | None = None
        """Why the sync under way has failed so far, if the store is full or its disk fails."""
        self._queued: list[Any] = []
        self._syncing: list[Any] = []
        self._records: list[tuple[str, int]] = []
        self._in_doubt: list[tuple[str, int]] = []
        self._doubts = doubts
        self._oldest: float | None = None
        self._ended = threading.Event()
        self._begin = threading.Semaphore(0)
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def rests_on(self, job_id: str, version: int) -> None:
        """What is queued next, or later, needs this record to last."""
        self._records.append((job_id, version))

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

        What the sync raised is raised, again and again, and nothing queued is let go; but for a full store or
        a failing disk, with which the sync is tried again by itself (see `trouble`).
        """
        safe: list[Any] = []
        if self._syncing and self._ended.is_set():
            if self._error is not None:
                raise self._error
            safe, self._syncing, self._in_doubt = self._syncing, [], []
        due = self.due_in()
        if due is not None and (now or due <= 0):
            self._start()
        return safe

    @property
    def empty(self) -> bool:
        """True when no consequence is held back."""
        return not self._queued and not self._syncing

    def close(self) -> None:
        """End the thread; what is still held back is dropped."""
        self._closed.set()
        self._begin.release()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        self._syncing, self._queued = self._queued, []
        self._in_doubt, self._records = self._records, []
        self._oldest = None
        self._ended.clear()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sync", daemon=True)
            self._thread.start()
        self._begin.release()

    def _work(self) -> None:
        while True:
            self._begin.acquire()
            if self._closed.is_set():
                return
            try:
                self._sync_patiently()
            except BaseException as error:
                # Whatever it is belongs to the leader, who would otherwise wait for this sync for ever.
                self._error = error
            self._ended.set()
            self._wake()

    def _sync_patiently(self) -> None:
        """Sync, after a failure as often as it takes."""
        pause = FIRST_PAUSE
        while not self._is_synced():
            self._wake()
            if self._closed.wait(pause):
                assert self.trouble is not None
                raise self.trouble
            pause = min(2 * pause, LONGEST_PAUSE)

    def _is_synced(self) -> bool:
        try:
            if self._doubts:
                for job_id, version in self._in_doubt:
                    self._renew(job_id, version)
            self._sync()
        except (OSError, JobStoreUnavailableError) as error:
            if not is_full(error):
                raise
            self._doubts = True
            self.trouble = error
            return False
        self.trouble = None
        return True
