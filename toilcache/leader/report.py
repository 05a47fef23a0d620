"""What a person sees of a running workflow: a progress line, messages of jobs, the ends of failed jobs' logs.

Knows counts, descriptions and where logs stand. Must not decide anything.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

from toilcache import vfs
from toilcache.config import Config
from toilcache.errors import JobStoreUnavailableError, NoSuchFileException
from toilcache.io import write_durable
from toilcache.job.description import JobDescription
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.job_store.core import is_full
from toilcache.leader.journal import Counts

logger = logging.getLogger(__name__)

LAST_LINES = 20
_REFRESH_SECONDS = 0.1


class Reporter:
    """Tells a person. The progress line is drawn on standard error, and only if that is a terminal."""

    def __init__(self, config: Config) -> None:
        self._write_logs: str | None = config.writeLogs
        self._wants_all_logs = config.writeLogsFromAllJobs
        wanted = not config.disableProgress and sys.stderr.isatty()
        self._line: _ProgressLine | None = _ProgressLine() if wanted else None

    def progress(self, counts: Counts) -> None:
        """Show how far the workflow is."""
        if self._line is not None:
            self._line.show(counts)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._line is not None:
            self._line.close()

    def messages(self, desc: JobDescription) -> None:
        """Pass on what a job said to the leader: its messages and named streams, now that its attempt has
        won.
        """
        for level, text in desc.messages:
            logger.log(level, "%s: %s", desc.displayName, text)
        for name, text in desc.user_streams:
            logger.info("%s, stream %s:\n%s", desc.displayName, name, text)
            self._export(desc, text.encode(), f"-{name}")

    def success_log(self, store: AbstractJobStore, desc: JobDescription) -> None:
        """Copy the log of a job that succeeded, where all logs are wanted."""
        text = _read_log(store, desc) if self._wants_all_logs else None
        if text is not None:
            self._export(desc, text)

    def save_log(self, store: AbstractJobStore, job_id: str, text: bytes) -> str | None:
        """Put what a crashed job had printed into the store; returns the file's id, None if it printed
        nothing, or if the store refuses it for good: then a person sees it here and now.

        :raises JobStoreUnavailableError, OSError: the store is full or fails; try again.
        """
        if not text:
            return None
        try:
            with store.write_file_stream(job_id=job_id, cleanup=True, basename="log") as (stream, file_id):
                stream.write(text)
        except (JobStoreUnavailableError, OSError) as error:
            if is_full(error):
                raise
            logger.warning("cannot keep the log of job %s: %s", job_id, error)
            _show_last(text.decode(errors="replace").splitlines())
            return None
        return str(file_id)

    def failure(self, store: AbstractJobStore, desc: JobDescription, left: int) -> None:
        """Show that an attempt failed, why, and the last lines it printed."""
        if left:
            tries = "try" if left == 1 else "tries"
            logger.warning("job %s failed: %s (%d %s left)", desc, desc.failure, left, tries)
        else:
            logger.error("job %s failed for good: %s", desc, desc.failure)
        for level, text in desc.messages:
            logger.log(level, "%s: %s", desc.displayName, text)
        log = _read_log(store, desc)
        if not log:
            return
        self._export(desc, log, f"-v{desc.version - 1}")
        lines = log.decode(errors="replace").splitlines()
        if len(lines) == 1 and (desc.failure or "").strip() in lines[0]:
            return  # it says nothing more than the line above
        _show_last(lines)

    def _export(self, desc: JobDescription, content: bytes, suffix: str = "") -> None:
        if self._write_logs is None:
            return
        name = f"{str(desc.displayName)[:100]}-{desc.jobStoreID}{suffix[:80]}"
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name).lstrip(".")
        try:
            vfs.makedirs(self._write_logs, exist_ok=True)
            write_durable(os.path.join(self._write_logs, safe + ".log"), content, 0o666, sync=False)
        except OSError as error:
            logger.warning("cannot write a log: %s", error)  # the workflow is worth more than its logs


def _show_last(lines: list[str]) -> None:
    shown = "\n".join("    | " + line for line in lines[-LAST_LINES:])
    logger.warning("last lines of its log (%d in all):\n%s", len(lines), shown)


def _read_log(store: AbstractJobStore, desc: JobDescription) -> bytes | None:
    if desc.logJobStoreFileID is None:
        return None
    try:
        with desc.getLogFileHandle(store) as stream:
            content: bytes = stream.read()
    except (OSError, NoSuchFileException):
        return None
    return content


class _ProgressLine:
    """A bar on the terminal, drawn by the leader's own loop: no thread."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar: Any = Progress(
            TextColumn("jobs"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[running]} running"),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("jobs", total=None, running=0, failed="")
        self._bar.start()
        self._next = 0.0

    def show(self, counts: Counts) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _REFRESH_SECONDS
        failed = f"{counts.failed} failed" if counts.failed else ""
        self._bar.update(
            self._task,
            total=counts.known,
            completed=counts.done,
            running=counts.running,
            failed=failed,
            refresh=True,
        )

    def close(self) -> None:
        self._bar.stop()
