"""What a process sees of its node, and what it does for another process to see.

Knows files, locks, SQLite and the clock. Must not know who asks, nor what an answer means. The same program
answers on the host and in a container. Questions and answers are builtin values, since they cross a socket
between two versions of Python; what the system refuses is an answer too: ``{"error": "no such file ..."}``.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from typing import Any

from toilcache import vfs
from toilcache.io import default_temp_dir, getFileSystemSize, random_name
from toilcache.node.coordination import boot_id
from toilcache.node.locks import LockFile
from toilcache.node.mounts import file_system_type

try:
    from sqlite3 import Error

    _REFUSALS: tuple[type[Exception], ...] = (OSError, ImportError, Error)
except ImportError:  # an image whose Python was built without it; who asks for a database is told
    _REFUSALS = (OSError, ImportError)

SQLITE_SECONDS = 20.0
_CHUNK = bytes(1 << 16)

Answer = dict[str, Any]


class Probes:
    """Answers one question after the other; locks and databases stay open from one to the next."""

    def __init__(self) -> None:
        self._held: dict[str, LockFile] = {}
        self._databases: dict[str, Any] = {}

    def answer(self, question: str, *arguments: Any) -> Answer:
        """Call the verb of this name; ``{"error": ...}`` if the system refuses."""
        try:
            found: Answer = getattr(self, question)(*arguments)
        except _REFUSALS as error:
            return {"error": str(getattr(error, "strerror", None) or error).lower()}
        return found

    def look(self) -> Answer:
        """Say who this process is, and what it has."""
        return {
            "uid": os.geteuid(),
            "gid": os.getegid(),
            "groups": sorted(os.getgroups()),
            "boot": boot_id(),
            "clock": time.time(),
            "python": platform.python_version(),
            "temporary": default_temp_dir(),
        }

    def place(self, directory: str) -> Answer:
        """Say on what a directory lies, and how many bytes are free for us."""
        return {"type": file_system_type(directory), "free": getFileSystemSize(directory)[0]}

    def fill(self, directory: str, size: int) -> Answer:
        """Write a file of this size to the disk and remove it; ``skew`` is how far its time is from ours."""
        path = os.path.join(directory, random_name())
        before = time.time()
        descriptor = vfs.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(0, size, len(_CHUNK)):
                vfs.write(descriptor, _CHUNK)
            vfs.fsync(descriptor)
            written = os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            vfs.unlink(path)
        return {"skew": distance(written, before, time.time())}

    def make(self, path: str) -> Answer:
        """Make a file that only its owner may read."""
        os.close(vfs.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return {}

    def read(self, path: str) -> Answer:
        """Open a file for reading; say whose it is."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return {"uid": os.fstat(descriptor).st_uid}
        finally:
            os.close(descriptor)

    def hold(self, path: str) -> Answer:
        """Lock a file until it is let go."""
        file = LockFile(path)
        self._held[path] = file
        return {"locked": file.lock(shared=False, wait=False)}

    def let_go(self, path: str) -> Answer:
        """Give the lock back."""
        self._held.pop(path).close()
        return {}

    def is_free(self, path: str) -> Answer:
        """Say whether a file could be locked."""
        with LockFile(path, os.O_RDWR) as file:
            return {"free": file.lock(shared=False, wait=False)}

    def open_database(self, path: str) -> Answer:
        """Open a database, or make it, with a write-ahead log, and keep it open."""
        database = self._databases[path] = vfs.connect(path, SQLITE_SECONDS)
        mode = database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        database.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER PRIMARY KEY)")
        return {"mode": mode}

    def add_rows(self, path: str, first: int, last: int) -> Answer:
        """Add the numbers from ``first`` to before ``last``, each in a transaction of its own."""
        database = self._databases[path]
        for number in range(first, last):
            database.execute("INSERT INTO numbers VALUES (?)", (number,))
        return self.count_rows(path)

    def count_rows(self, path: str) -> Answer:
        """Say how many rows there are, and whether SQLite finds the database sound."""
        database = self._databases[path]
        (count,) = database.execute("SELECT count(*) FROM numbers").fetchone()
        (sound,) = database.execute("PRAGMA quick_check").fetchone()
        return {"rows": count, "sound": sound == "ok"}

    def close(self) -> None:
        """Let go of everything."""
        for file in self._held.values():
            file.close()
        for database in self._databases.values():
            with suppress(Exception):  # SQLite may want to write where that fails
                database.close()


def distance(moment: float, before: float, after: float) -> float:
    """Return by how many seconds a clock's answer lies outside of the time in which it was asked."""
    return max(0.0, before - moment, moment - after)
