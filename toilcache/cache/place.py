"""Where the cache of a workflow is on this node, in which generation, and who may use that.

Knows directories and their locks. Must not know rows. A generation is a directory of the database with the
locks that go with it, and one of payloads; both bear its number. It is made aside and renamed, so that nobody
sees half of one. Whoever uses it holds its lock shared. The newest is the one to use; a database that is
damaged is followed by a new generation, while those who work with the old one keep their files. Who gets the
lock of an old generation exclusively removes it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from toilcache import vfs
from toilcache.cache import schema
from toilcache.cache.database import Database
from toilcache.errors import CacheDamagedError, CoordinationDirError
from toilcache.io import random_name
from toilcache.node.coordination import boot_id
from toilcache.node.locks import LockFile, acquire
from toilcache.removal import robust_rmtree

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from toilcache.node.coordination import NodeDirs

_CHECK_SECS = 300


class Generation:
    """One generation that this process uses."""

    def __init__(self, number: int, root: str, payloads: str, lock: LockFile) -> None:
        """Take what `open_generation` found; the lock is held shared."""
        self.number = number
        self.root = root
        self.payloads = payloads
        self.lock = lock
        self.database = Database(_database_path(root), os.path.join(root, "write"))

    def new_lock(self, owner: str) -> str:
        """Return a name for the lock of one download of a process, never used before."""
        return f"download-{owner}-{random_name(16)}"

    def lock_names(self) -> list[str]:
        """Name the locks of downloads that stand."""
        return [name for name in os.listdir(self.root) if name.startswith("download-")]

    def remove_locks(self, owner: str) -> None:
        """Remove the locks of a dead process's downloads."""
        for name in self.lock_names():
            if name.startswith(f"download-{owner}-"):
                self.remove_lock(name)

    def remove_lock(self, name: str) -> None:
        """Remove a lock that nobody holds; absent is fine."""
        with suppress(FileNotFoundError):
            vfs.unlink(self.lock_path(name))

    def lock_path(self, name: str) -> str:
        """Return the path of a lock that a row names."""
        return os.path.join(self.root, name)

    def close(self) -> None:
        """Stop using it."""
        self.database.close()
        self.lock.close()


def open_generation(
    dirs: NodeDirs, properties: Callable[[str], Mapping[str, object]], after: int = 0
) -> Generation:
    """Open the newest generation above `after`, and make it where there is none.

    `properties` gives what a new database says about its payload directory. CoordinationDirError where no
    database can work.
    """
    while True:
        numbers = [number for number in _numbers(dirs) if number > after]
        number = max(numbers) if numbers else _make(dirs, after, properties)
        generation = _entered(dirs, number)
        if generation is None:
            continue
        try:
            _check_usable(generation)
        except CacheDamagedError:
            generation.close()
            after = number
            continue
        remove_unused(dirs, below=number)
        return generation


def remove_unused(dirs: NodeDirs, below: int) -> None:
    """Remove the generations below a number that nobody uses."""
    for number in _numbers(dirs):
        if number < below:
            _remove_if_unused(dirs, number)
    _remove_half_removed(dirs, below)


def remove_all_unused(dirs: NodeDirs) -> bool:
    """Remove every generation that nobody uses; True if none is left."""
    removed = [_remove_if_unused(dirs, number) for number in _numbers(dirs)]  # each, even if one is in use
    return all(removed)


def generation_numbers(dirs: NodeDirs) -> list[int]:
    """Give the numbers of all generations that stand, in order."""
    return sorted(_numbers(dirs))


def database_path(dirs: NodeDirs, number: int) -> str:
    """Return where the database of a generation is."""
    return _database_path(_root(dirs, number))


def _numbers(dirs: NodeDirs) -> list[int]:
    try:
        return [int(name) for name in os.listdir(dirs.cache) if name.isdecimal() and name.isascii()]
    except FileNotFoundError:
        return []


def _database_path(root: str) -> str:
    return os.path.join(root, "cache.db")


def _root(dirs: NodeDirs, number: int) -> str:
    return os.path.join(dirs.cache, str(number))


def _payloads(dirs: NodeDirs, number: int) -> str:
    return os.path.join(dirs.payloads, str(number))


def _entered(dirs: NodeDirs, number: int) -> Generation | None:
    """Hold a generation shared; None if it went away meanwhile. Who finds it unused looks at it first."""
    root = _root(dirs, number)
    try:
        lock = LockFile(os.path.join(root, "lock"), os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if lock.lock(shared=False, wait=False) and lock.is_at():
            _check_integrity(root, lock)
        lock.lock(shared=True, wait=True)
        if not lock.is_at():
            lock.close()
            return None
        return Generation(number, root, _payloads(dirs, number), lock)
    except FileNotFoundError:
        lock.close()
        return None
    except BaseException:
        lock.close()
        raise


def _check_integrity(root: str, lock: LockFile) -> None:
    """Look through a database that nobody uses, once in a while; a damaged one is set aside by its name."""
    import sqlite3

    if time.time() - os.fstat(lock.fd).st_mtime < _CHECK_SECS:
        return
    try:
        con = vfs.connect(_database_path(root), 10)
        try:
            sound = con.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
        finally:
            con.close()
    except sqlite3.Error:
        sound = False
    if sound:
        vfs.utime(lock.path)
    else:
        with suppress(FileNotFoundError):
            vfs.rename(_database_path(root), _database_path(root) + ".damaged")


def _check_usable(generation: Generation) -> None:
    """Raise CacheDamagedError unless the database is one of ours, of this format and boot."""
    import sqlite3

    try:
        rows = generation.database.con.execute(
            "SELECT name, value FROM properties WHERE name IN ('format', 'boot')"
        ).fetchall()
    except sqlite3.Error as error:
        raise CacheDamagedError(str(error)) from error
    if dict(rows) != {"format": schema.FORMAT, "boot": boot_id()}:
        raise CacheDamagedError(
            f"cannot use the cache in {generation.root!r}: it is of another boot or version"
        )


def _make(dirs: NodeDirs, after: int, properties: Callable[[str], Mapping[str, object]]) -> int:
    """Make the next generation, unless somebody else is faster; return its number."""
    for path in (dirs.cache, dirs.payloads):
        with suppress(FileExistsError):
            vfs.mkdir(path, 0o700)
            vfs.chmod(path, 0o711)
    gate = acquire(os.path.join(dirs.cache, "gate"), shared=False)
    assert gate is not None  # it waited
    with gate:
        numbers = _numbers(dirs)
        if any(number > after for number in numbers):
            return max(numbers)
        number = max([after, *numbers]) + 1
        root, payloads = _root(dirs, number), _payloads(dirs, number)
        making = root + ".making"
        robust_rmtree(making)
        robust_rmtree(payloads)
        for path in (making, payloads):
            vfs.mkdir(path, 0o700)
            vfs.chmod(path, 0o711)
        for name in ("lock", "write"):
            LockFile(os.path.join(making, name), os.O_RDWR | os.O_CREAT | os.O_EXCL).close()
        _make_database(_database_path(making), {**properties(payloads), "number": number})
        vfs.rename(making, root)
        return number


def _make_database(path: str, properties: Mapping[str, object]) -> None:
    for mode in ("WAL", "TRUNCATE"):
        with _OtherProcess(path) as other:
            con = vfs.connect(path, 10)
            try:
                con.execute(f"PRAGMA journal_mode = {mode}").fetchall()
                if not _works_between_processes(con, other):
                    continue
                con.execute("PRAGMA synchronous = OFF")
                con.execute("BEGIN IMMEDIATE")
                for statement in schema.statements():
                    con.execute(statement)
                values = {"format": schema.FORMAT, "boot": boot_id(), "journal": mode, **properties}
                con.executemany("INSERT INTO properties VALUES (?, ?)", values.items())
                con.execute("COMMIT")
                return
            finally:
                con.close()
    raise CoordinationDirError(
        f"cannot keep the cache's database in {path!r}: two processes do not see each other's changes there; "
        "choose a --coordinationDir on a local file system"
    )


def _works_between_processes(con: sqlite3.Connection, other: _OtherProcess) -> bool:
    """Look whether another process sees what this one writes, and this one what the other one adds."""
    import sqlite3

    try:
        con.execute("CREATE TABLE IF NOT EXISTS probe (n)")
        con.execute("DELETE FROM probe")
        con.execute("INSERT INTO probe VALUES (1)")
        works = other.adds_a_row() and con.execute("SELECT n FROM probe").fetchall() == [(1,), (2,)]
        con.execute("DROP TABLE probe")
    except sqlite3.Error:
        return False
    return works


class _OtherProcess:
    """A process that adds a row to the probe when told to, forked before this one opens the database."""

    def __init__(self, path: str) -> None:
        self._told, self._tell = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                os.close(self._tell)
                if os.read(self._told, 1):
                    con = vfs.connect(path, 10)
                    con.execute("INSERT INTO probe SELECT n + 1 FROM probe")
                    status = 0
            finally:
                os._exit(status)

    def adds_a_row(self) -> bool:
        """Have it do so, and wait for its end."""
        vfs.write(self._tell, b"!")
        return self._end() == 0

    def _end(self) -> int:
        if not self._pid:
            return 0
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return status

    def __enter__(self) -> _OtherProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in (self._told, self._tell):
            os.close(descriptor)
        self._end()


def _remove_if_unused(dirs: NodeDirs, number: int) -> bool:
    """Remove a generation if nobody holds its lock; the lock goes with the directory, moved away first."""
    root = _root(dirs, number)
    try:
        lock = LockFile(os.path.join(root, "lock"), os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return True
    with lock:
        if not (lock.lock(shared=False, wait=False) and lock.is_at()):
            return False
        gone = os.path.join(dirs.cache, f"gone-{number}-{random_name()}")
        with suppress(FileNotFoundError):
            vfs.rename(root, gone)
        robust_rmtree(_payloads(dirs, number))
        robust_rmtree(gone)
        return True


def _remove_half_removed(dirs: NodeDirs, below: int) -> None:
    """Finish what somebody was killed in: a directory of locks that was moved away, payloads of no
    generation.
    """
    for name in os.listdir(dirs.cache):
        if name.startswith("gone-"):
            robust_rmtree(os.path.join(dirs.cache, name))
    known = _numbers(dirs)
    for name in os.listdir(dirs.payloads):
        if name.isdecimal() and int(name) < below and int(name) not in known:
            robust_rmtree(os.path.join(dirs.payloads, name))
