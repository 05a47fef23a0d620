"""How a job that is run for a closer look ends early.

Knows the error only; must not know jobs.
"""

from __future__ import annotations

from toilcache.errors import JobException


class FilesDownloadedStoppingPointReached(JobException):
    """A job that was only to fetch its input files has them."""

    def __init__(self, host_and_job_paths: list[tuple[str, str]] | None = None) -> None:
        """Keep the pairs of paths outside and inside the job's container."""
        super().__init__("cannot go on: the job was asked to fetch its input files only, and has")
        self.host_and_job_paths = host_and_job_paths
