"""How a worker commits when the job store has no room: it waits.

Knows which errors mean a full or failing file system. Must not know what is committed. A result that took
hours to compute must not be lost because somebody filled the disk: the worker keeps it and tries again, with
growing pauses, until its time ends."""

from __future__ import annotations

import errno
import time

from toilcache.errors import JobStoreUnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from toilcache.file_store.abstract import AbstractFileStore

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


def commit_patiently(file_store: AbstractFileStore) -> None:
    """Commit the job's state, again and again while the store is full.

    :raises ConcurrentFileModificationException: a newer attempt exists.
    :raises OSError: for any other reason than a full or failing file system.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            file_store.startCommit(jobState=True)
            file_store.waitForCommit()
            return
        except (OSError, JobStoreUnavailableError) as error:
            if not is_full(error):
                raise
            print(f"{error}; trying again in {pause:g} s", flush=True)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def is_full(error: BaseException) -> bool:
    """Tell whether an error, or what caused it, says that the file system is full or fails."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in FULL
