"""One download of a file per node, however many ask for it (invariant I5).

Knows the row in state downloading, its lock file, and waiting. Must not know where files come from. The lock
is held before the row can be seen and until it says cached, so whoever reads the row and then gets the lock,
shared, knows that the download has ended or its process died, and looks at the row again.
"""

from __future__ import annotations

import os
import time

from toilcache.cache import payloads, rows, space
from toilcache.cache.database import Waiting
from toilcache.cache.schema import DELETING, DOWNLOADING, IMMUTABLE
from toilcache.node.locks import LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from toilcache.cache.node_cache import NodeCache
    from toilcache.cache.rows import FileRow, Holder, Payload

STALL_SECS = 30.0
_LOOKS = 3


class Download:
    """A download that this process does: its row, its reference, its lock."""

    __slots__ = ("_cache", "_lock", "_lock_name", "file_id", "path", "ref")

    def __init__(self, cache: NodeCache, file_id: str) -> None:
        """Make and take the lock; nobody knows of it yet."""
        self._cache = cache
        self.file_id = file_id
        owner = cache.owner
        self.path = cache.new_payload(owner)
        self._lock_name = cache.generation.new_lock(owner)
        path = cache.generation.lock_path(self._lock_name)
        self._lock = LockFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._lock.lock(shared=False, wait=True)

    def announce(self, holder: Holder, size: int, executable: bool, path: str, ref_state: str) -> bool | None:
        """Add the row and the reference of the job that wants the file.

        False if somebody else was faster, None if there is no room for it.
        """
        cache, adopted = self._cache, False
        while True:
            with cache.transaction() as con:
                found = rows.find(con, self.file_id)
                if found is not None and found.state != DELETING:
                    return False
                now = cache.measure(con)
                link = ref_state == IMMUTABLE
                lacking = space.shortage_for_file(con, now, holder, size, link)
                if lacking <= 0:
                    if found is not None:
                        payloads.remove(found.path)
                        rows.drop_file(con, found.id, found.path)
                    rows.add_download(
                        con, self.file_id, self.path, size, executable, cache.owner, self._lock_name
                    )
                    self.ref = rows.add_ref(con, holder, self.file_id, path, ref_state, size)
                    return True
                victims = cache.choose(con, lacking, now)
            if victims:
                cache.remove(victims)
            elif adopted or not cache.adopt_dead():
                return None
            else:
                adopted = True

    def publish(self, payload: Payload) -> FileRow:
        """Let everybody read what has been fetched, and wake who waits."""
        cache = self._cache
        with cache.transaction() as con:
            if not rows.publish(con, self.file_id, payload, cache.owner, self._lock_name):
                raise payloads.PayloadChanged(_as_row(self.file_id, payload), gone=True)
            rows.count(con, "misses")
        self.release()
        return _as_row(self.file_id, payload)

    def abandon(self) -> None:
        """Take everything back; then somebody else may try."""
        try:
            payloads.remove(self.path)
            with self._cache.transaction() as con:
                rows.drop_ref(con, self.ref)
                rows.drop_file(con, self.file_id, self.path)
        finally:
            self.release()

    def release(self) -> None:
        """Wake who waits, and leave no lock behind."""
        self._lock.unlink()
        self._lock.close()


def _as_row(file_id: str, payload: Payload) -> FileRow:
    return rows.FileRow(file_id, payload.path, payload.size, "cached", None, *payload[2:], None)


def wait_for(cache: NodeCache, row: FileRow) -> bool:
    """Wait until somebody's download has ended, one way or the other; False if it makes no progress.

    A download whose process died is taken away, so that who asked first begins anew.
    """
    assert row.lock is not None
    path = cache.generation.lock_path(row.lock)
    try:
        over = _has_ended(path, os.path.dirname(row.path), STALL_SECS)
    except FileNotFoundError:
        over = True
    if over:
        _take_away_dead(cache, row)
    return over


def _has_ended(path: str, directory: str, stall_secs: float) -> bool:
    """Wait for the lock; give up when nothing has grown in the downloader's directory for so long.

    The kernel wakes us; looking at the sizes now and then is only for a process that was stopped.
    """
    with LockFile(path, os.O_RDWR) as file:
        if file.lock(shared=True, wait=False):
            return True
    waiting = Waiting(path, shared=True)
    seen, since = _sizes(directory), time.monotonic()
    while not waiting.wait(stall_secs / _LOOKS):
        now = _sizes(directory)
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since >= stall_secs and waiting.give_up():
            return False
    waiting.file.close()
    return True


def _sizes(directory: str) -> dict[str, int]:
    try:
        with os.scandir(directory) as entries:
            return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}
    except FileNotFoundError:
        return {}


def _take_away_dead(cache: NodeCache, row: FileRow) -> None:
    """Remove a download whose lock nobody holds any more, if its row still speaks of it."""
    if not _is_same(rows.find(cache.generation.database.con, row.id), row):
        return
    cache.adopt_dead()
    with cache.transaction() as con:
        found = rows.find(con, row.id)
        if found is None or not _is_same(found, row):
            return
        rows.begin_deleting(con, found, cache.owner)
    assert row.lock is not None
    cache.generation.remove_lock(row.lock)
    cache.remove([row])


def _is_same(found: FileRow | None, row: FileRow) -> bool:
    return found is not None and found.state == DOWNLOADING and found.lock == row.lock


def fetch_with(
    download: Download, fetch: Callable[[str], None], verify: Callable[[Payload], None]
) -> FileRow:
    """Do a download that was announced; it is taken back if it fails."""
    try:
        fetch(download.path)
        payload = payloads.settle(download.path)
        verify(payload)
        return download.publish(payload)
    except BaseException:
        download.abandon()  # also on KeyboardInterrupt: others wait for it
        raise
