"""What the parts of a job store share: the backend, the configuration, and who may still write.

Knows the backend's errors and the rule that a writer refused once writes nothing more. Must not know records,
files or logs.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EDQUOT, EIO, ENOENT, ENOSPC, ENOTDIR, ENOTEMPTY, EPERM, EROFS, ESTALE

from toilcache.errors import ConcurrentFileModificationException, JobStoreUnavailableError
from toilcache.job_store.abstract import AbstractJobStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from toilcache.job_store.backend import Backend

DISK_ERRORS = (ENOSPC, EDQUOT, EIO)
"""What writing to a store can meet that passes: somebody makes room, or mends the disk or its server."""

_UNAVAILABLE = {
    ENOSPC: "free some space there",
    EDQUOT: "free some space there or ask for a larger quota",
    EIO: "look after its disk or server",
    EROFS: "mount it writable",
    EACCES: "run as its owner, or choose another directory",
    EPERM: "run as its owner, or choose another directory",
    ENOENT: "it was removed or is not mounted here",
    ENOTDIR: "it was removed or is not mounted here",
    ENOTEMPTY: "a program still has a file in it open; end that and try again",
    EBUSY: "a program still has a file in it open; end that and try again",
    ESTALE: "its server has forgotten it; mount it anew",
}


def is_full(error: BaseException) -> bool:
    """Tell whether an error, or what caused it, says that the file system is full or fails."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in DISK_ERRORS


class StoreCore(AbstractJobStore):
    """An `AbstractJobStore` over a backend.

    A process that does the work of an attempt says so with `begin_attempt`. Once such a process is refused,
    this instance refuses every further write, whatever it is for (invariant I2). Any other process, such as
    the leader, is refused for that job only, until it has loaded the job's newest state.
    """

    def __init__(self, locator: str, backend: Backend) -> None:
        """Serve the store that the backend keeps."""
        super().__init__(locator)
        self._backend = backend
        self._attempts: dict[str, int] = {}
        self._refused: set[str] = set()
        self._fenced: str | None = None

    def begin_attempt(self, job_id: str, attempt: int) -> None:
        """Let files written for this job belong to this attempt, which is the version it builds on."""
        self._attempts[job_id] = attempt

    def _may_write(self, job_id: str | None = None) -> None:
        """Raise ConcurrentFileModificationException where an earlier refusal forbids this write."""
        if self._fenced is not None:
            raise ConcurrentFileModificationException(self._fenced)
        if job_id in self._refused:
            raise ConcurrentFileModificationException(job_id)

    def _refuse(self, job_id: str) -> None:
        """Remember that this process was refused for a job."""
        self._refused.add(job_id)
        self._end_attempt(job_id)

    def _end_attempt(self, job_id: str) -> None:
        """Write nothing more if this process works on an attempt of that job."""
        if job_id in self._attempts:
            self._fenced = job_id

    def _unavailable(self, error: OSError) -> Exception:
        """Turn the error of a full, failing or unwritable store into one for a person.

        Give any other as it is.
        """
        advice = _UNAVAILABLE.get(error.errno or 0)
        if advice is None:
            return error
        return JobStoreUnavailableError(f"cannot use job store {self.locator}: {error.strerror}; {advice}")
