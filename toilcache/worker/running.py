"""What a host knows of an attempt that is running."""

from __future__ import annotations

from toilcache.batch import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from toilcache.job.description import JobDescription
    from toilcache.worker.runners import Runner

    Shape: TypeAlias = Any  # only compared


class Running:
    """An attempt and the process that was given it, as long as the host waits for the end of either."""

    __slots__ = ("bare", "callers", "cancelled", "ended", "job_id", "runner", "shape", "version")

    def __init__(
        self, job_id: str, version: int, shape: Shape, runner: Runner, desc: JobDescription | None
    ) -> None:
        self.job_id = job_id
        self.version = version
        self.shape = shape
        self.runner = runner
        self.bare = desc
        """What its job is, if that is a bare function and this process hands over what it returns."""
        self.cancelled = False
        self.ended: tuple[int, int] | None = None
        """Status and memory of the job's process, when another one is calling what that has deferred."""
        self.callers = 0

    @property
    def attempt(self) -> tuple[str, int]:
        return self.job_id, self.version

    @property
    def marker(self) -> str:
        return protocol.job_marker(self.job_id, self.version)
