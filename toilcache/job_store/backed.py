"""A complete job store over any backend.

Puts the parts together; knows nothing itself.
"""

from __future__ import annotations

from contextlib import suppress

from toilcache.errors import JobStoreUnavailableError
from toilcache.job_store import layout
from toilcache.job_store.files import Files
from toilcache.job_store.job_records import JobRecords
from toilcache.job_store.leader_state import LeaderState
from toilcache.job_store.recovery import Recovery
from toilcache.job_store.work import Work


class BackedJobStore(Recovery, JobRecords, Files, LeaderState):
    """All verbs save for those that make, find and remove the storage itself."""

    def sync(self) -> None:
        """Make everything written so far survive a power cut."""
        try:
            self._backend.sync()
        except OSError as error:
            with suppress(OSError):
                self._backend.put(layout.DOUBT, b"")
            raise JobStoreUnavailableError(
                f"cannot sync job store {self.locator}: {error.strerror or error}; "
                "look after its disk or server"
            ) from error

    def is_in_doubt(self) -> bool:
        """Say whether a sync has failed since the last `clean`."""
        return self._backend.has(layout.DOUBT)

    def work(self, run: int) -> Work:
        """Return the work of a run of the leader, for hosts that cannot be reached by a socket."""
        return Work(self._backend, run, self._unavailable)
