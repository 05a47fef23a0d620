"""Descriptions of jobs that need more: checkpoints and service hosts.

Knows the extra state and the flag files; must not know who watches them.
"""

from __future__ import annotations

from toilcache.job.description import JobDescription

TYPE_CHECKING = False
if TYPE_CHECKING:
    from toilcache.job.module import ModuleDescriptor
    from toilcache.job_store.abstract import AbstractJobStore


class CheckpointJobDescription(JobDescription):
    """A job that is run again when a successor fails for good (specification line 423); it keeps its body."""

    checkpoint = True
    _kept: tuple[bytes | None, str | None, ModuleDescriptor | None] | None = None

    def detach_body(self) -> None:
        """Put the body aside for a restart."""
        if self.has_body():
            self._kept = (self.inline_body, self._body_file, self._body_module)
        super().detach_body()

    def can_restart(self) -> bool:
        """Tell whether a body was put aside."""
        return self._kept is not None

    def restart(self) -> list[str]:
        """Make the job one that has yet to run, without successors; gives the ids it forgot."""
        forgotten = list(self.successorsAndServiceHosts())
        if self._kept is not None:
            self.inline_body, self._body_file, self._body_module = self._kept
            self._kept = None
        self.filterSuccessors(lambda _: False)
        self.filterServiceHosts(lambda _: False)
        self.has_result, self.result, self.result_file = False, None, None
        self.result_refs = []
        self.clearRemainingTryCount()
        return forgotten


class ServiceJobDescription(JobDescription):
    """The host of a service, with the files by which it and the leader signal to each other.

    Each flag file exists until its event: the service has started, shall end, has failed.
    """

    startJobStoreID: str | None = None
    terminateJobStoreID: str | None = None
    errorJobStoreID: str | None = None
    start_value_file: str | None = None
    """The file that holds the pickled value of `start`, complete once the start flag is gone."""

    def onRegistration(self, jobStore: AbstractJobStore) -> None:
        """Create the flag files, which go when the job goes."""
        job_id = str(self.jobStoreID)
        for name in ("startJobStoreID", "terminateJobStoreID", "errorJobStoreID", "start_value_file"):
            setattr(self, name, jobStore.get_empty_file_store_id(job_id, True, name))

    def published_value(self, store: AbstractJobStore) -> str | None:
        """The file with the start value, once the service has started."""
        if self.startJobStoreID is None or store.file_exists(self.startJobStoreID):
            return None
        return self.start_value_file
