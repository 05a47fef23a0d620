"""A complete job store over any backend.

Puts the parts together; knows nothing itself.
"""

from __future__ import annotations

from toilcache.job_store.files import Files
from toilcache.job_store.job_records import JobRecords
from toilcache.job_store.leader_state import LeaderState
from toilcache.job_store.recovery import Recovery


class BackedJobStore(Recovery, JobRecords, Files, LeaderState):
    """All verbs save for those that make, find and remove the storage itself."""

    def sync(self) -> None:
        """Make everything written so far survive a power cut; OSError if the storage could not take it."""
        self._backend.sync()
