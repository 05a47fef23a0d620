"""A SQLite database that many processes and threads of one node write to, without ever finding it locked.

Knows connections, transactions and their errors. Must not know tables. Before a transaction begins, its
process holds a kernel lock. A transaction takes a fraction of a millisecond, so who finds the lock taken
looks again after one; who has done so a hundred times waits in the kernel, which forgets nobody. Not sooner:
what waits there, so that waiting has an end, is a thread, and a lock that a thread gets is held and not used
until the one who asked runs again. A process that was stopped inside of a transaction keeps the others out no
longer than half of SQLITE_TIMEOUT_SECS each: with a download that it was in the middle of they wait a minute
at most. They then do without the cache until it goes on.

A connection is of one thread, and of one process. SQLite remembers in memory which files a process has open
and locked, and a fork copies that memory but not the locks. So a child forked by a process with connections
neither uses nor closes them, nor makes any of its own: CacheUnavailableError.
"""

from __future__ import annotations

import _thread
import errno
import os
import time
from contextlib import suppress
from fcntl import LOCK_UN

from toilcache import vfs
from toilcache.errors import CacheDamagedError, CacheUnavailableError
from toilcache.node.locks import LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from types import TracebackType

SQLITE_TIMEOUT_SECS = 60.0

_FIRST_PAUSES = (0.0, 0.0001, 0.0002, 0.0003, 0.0005, *[0.001] * 100)
_CHECKPOINT_PAGES = 200
_LITTLE_PATIENCE = 0.5
_IMPATIENT_SECS = 600.0
_LOOK_SECS = 0.005

_inherited: list[object] = []


class Database:
    """One database; `lock_path` names the file whose lock orders the transactions."""

    def __init__(self, path: str, lock_path: str) -> None:
        """Name the files; both must exist."""
        self.path = path
        self._lock_path = lock_path
        self.mutex = _thread.RLock()
        self._file = LockFile(lock_path, os.O_RDWR)
        self._connections: dict[int, sqlite3.Connection] = {}
        self._impatient_until = 0.0
        self._inside: object = None

    @property
    def con(self) -> sqlite3.Connection:
        """This thread's connection. A later thread that the system gives the same number takes it over."""
        thread = _thread.get_ident()
        found = self._connections.get(thread)
        if found is None:
            found = self._connections[thread] = self._connect()
        return found

    def _connect(self) -> sqlite3.Connection:
        import sqlite3

        if _inherited:
            raise CacheUnavailableError("cannot use the cache in a process that a job has forked")
        if not os.path.exists(self.path):
            raise CacheDamagedError(f"cannot find the cache's database {self.path!r}; it was removed")
        try:
            con = vfs.connect(self.path, SQLITE_TIMEOUT_SECS)
            try:
                con.text_factory = os.fsdecode  # paths need not be UTF-8
                con.execute("PRAGMA synchronous = OFF")  # a power cut ends the boot, and the cache with it
                con.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            except BaseException:
                con.close()
                raise
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        return con

    def transaction(self) -> Transaction:
        """Return a block in which this process alone writes; it commits at its end, or rolls back if it
        raises.

        CacheUnavailableError where the others do not let go in time, CacheDamagedError where the database
        cannot be read; OSError (ENOSPC and its like) where the disk does not take the change.
        """
        return Transaction(self)

    def enter(self, token: object) -> None:
        """Keep out the other threads of this process, then the other processes; `leave` also after an error.

        What a signal's handler has broken off before, in this thread, is ended first.
        """
        patience = _LITTLE_PATIENCE if time.monotonic() < self._impatient_until else SQLITE_TIMEOUT_SECS / 2
        deadline = time.monotonic() + patience
        self._enter_mutex(token, patience)
        for pause in _FIRST_PAUSES:
            if pause:
                time.sleep(pause)
            if self._file.lock(shared=False, wait=False):
                return
        self._file = self._replaced(deadline)

    def _enter_mutex(self, token: object, patience: float) -> None:
        was_in = self._is_mine()
        try:
            if not self.mutex.acquire(timeout=patience):
                raise self._busy()
            if self._inside is not None:
                _roll_back(self.con)
                self.leave(self._inside)
            self._inside = token
        except BaseException:
            if self._inside is not token and self._is_mine() and not was_in:
                self.mutex.release()
            raise

    def _replaced(self, deadline: float) -> LockFile:
        """Wait for the lock on a descriptor of its own: who gives up must not get it later unawares."""
        file = locked_in_time(self._lock_path, shared=False, seconds=deadline - time.monotonic())
        if file is None:
            raise self._busy()
        self._file.close()
        return file

    def _busy(self) -> CacheUnavailableError:
        # Who holds it is stopped, and may stay so: the next calls look, and hardly wait.
        self._impatient_until = time.monotonic() + _IMPATIENT_SECS
        return CacheUnavailableError(
            f"cannot use the cache's database {self.path!r}: another process has held it for "
            f"{SQLITE_TIMEOUT_SECS / 2:.0f} s; look for a stopped process of this workflow"
        )

    def leave(self, token: object) -> None:
        """Let the others in again, if it is with this token that they were kept out."""
        if not self.is_inside(token):
            return
        try:
            vfs.flock(self._file.fd, LOCK_UN)
        except BaseException:
            vfs.flock(self._file.fd, LOCK_UN)  # what a signal's handler raised may have come before it
            raise
        finally:
            self._inside = None
            self.mutex.release()

    def is_inside(self, token: object) -> bool:
        """Tell whether it is this token with which this thread keeps out the others."""
        return self._inside is token and self._is_mine()

    def _is_mine(self) -> bool:
        """Tell whether this thread holds the mutex."""
        return bool(self.mutex._is_owned())  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close all connections; no thread may be using one."""
        for con in self._connections.values():
            con.close()
        self._connections.clear()
        self._file.close()

    def forget(self) -> None:
        """In a forked child: let go of what is the parent's, without closing it."""
        _inherited.extend(self._connections.values())
        self._connections = {}
        self.mutex = _thread.RLock()
        self._inside = None


class Transaction:
    """The block that `Database.transaction` returns; yields the connection.

    A job's signal handler may raise anywhere, even before the block could be left: it then ends with this
    object, or when the thread begins the next one. So no frame here may hold on to an error that it raises.
    """

    __slots__ = ("_con", "_database", "_token")

    def __init__(self, database: Database) -> None:
        """Begin nothing yet."""
        self._token = object()
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        database = self._database
        try:
            database.enter(self._token)
            self._con = database.con
            self._con.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            self._undo()
            if passed_on(error, database.path) is error:
                raise
            raise passed_on(error, database.path) from error
        return self._con

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._con.execute("COMMIT")
        except BaseException as failure:
            self._undo()
            if passed_on(failure, self._database.path) is failure:
                raise
            raise passed_on(failure, self._database.path) from failure
        self._undo()
        if error is not None and passed_on(error, self._database.path) is not error:
            raise passed_on(error, self._database.path) from error

    def _undo(self) -> None:
        """Roll back what was not committed, and let the others in."""
        if self._database.is_inside(self._token):
            try:
                if hasattr(self, "_con"):
                    _roll_back(self._con)
            finally:
                self._database.leave(self._token)
        self.__class__ = _Ended  # type: ignore[assignment]

    def __del__(self) -> None:
        if hasattr(self, "_database"):
            self._undo()


class _Ended:
    """What a transaction becomes when it has ended.

    It has no `__del__`: what a job's signal handler raises in such a method is lost, and with it the time
    limit that the job has set itself.
    """

    __slots__ = ("_con", "_database", "_token")


def _roll_back(con: sqlite3.Connection) -> None:
    import sqlite3

    with suppress(sqlite3.Error):  # the error that led here counts; a broken database rolls back by itself
        if con.in_transaction:
            con.execute("ROLLBACK")


def passed_on(error: BaseException, path: str) -> BaseException:
    """Return an error as it is, one of SQLite's in the engine's words."""
    import sqlite3

    return translated(error, path) if isinstance(error, sqlite3.Error) else error


def translated(error: sqlite3.Error, path: str) -> Exception:
    """Say in the engine's words what SQLite reports; its text is the same in all versions."""
    import sqlite3

    text = str(error)
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(
        error, sqlite3.IntegrityError | sqlite3.ProgrammingError
    ):
        return error
    if isinstance(error, sqlite3.OperationalError):
        if "full" in text:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if "disk I/O error" in text:
            return OSError(errno.EIO, os.strerror(errno.EIO), path)
        if "no such table" not in text and "malformed" not in text:
            return CacheUnavailableError(f"cannot use the cache's database {path!r}: {text}")
    return CacheDamagedError(
        f"cannot read the cache's database {path!r}: {text}; it is replaced by a new one"
    )


def locked_in_time(path: str, *, shared: bool, seconds: float) -> LockFile | None:
    """Wait for the lock of an existing file, at most so long; None if that was not enough."""
    waiting = Waiting(path, shared=shared)
    return waiting.file if waiting.wait(seconds) or not waiting.give_up() else None


class Waiting:
    """Waiting for the lock of an existing file, with an end.

    The kernel's waiting knows no time limit, so a thread waits there and this one waits for the thread. If
    the lock comes after this one gave up, the thread closes the file again. Where the system has no thread to
    give, this one looks again and again.
    """

    def __init__(self, path: str, *, shared: bool) -> None:
        """Begin to wait; OSError (ENOENT) if there is no such file."""
        self.file = LockFile(path, os.O_RDWR)
        self._shared = shared
        self._guard = _thread.allocate_lock()
        self._done = _thread.allocate_lock()
        self._done.acquire()
        self._locked = self._given_up = False
        self._error: OSError | None = None
        self._alone = False
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            self._alone = True

    def _run(self) -> None:
        try:
            self.file.lock(shared=self._shared, wait=True)
        except OSError as error:
            self._error = error
        with self._guard:
            self._locked = self._error is None
            if self._given_up:
                self.file.close()
        self._done.release()

    def wait(self, seconds: float) -> bool:
        """Wait; True when the file is locked, False if it is not yet, OSError if there are no locks."""
        if self._alone:
            self._look_for(seconds)
            return self._locked
        try:
            if not self._done.acquire(timeout=max(0.0, seconds)):
                return False
        except BaseException:
            if not self.give_up():  # whatever a job's signal handler raised: nobody will let go later
                self.file.close()
            raise
        if self._error is not None:
            self.file.close()
            raise self._error
        return True

    def _look_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not (self._locked or self.file.lock(shared=self._shared, wait=False)):
            if time.monotonic() >= end:
                return
            time.sleep(_LOOK_SECS)
        self._locked = True

    def give_up(self) -> bool:
        """Stop waiting; False if the lock came just now, and is held."""
        with self._guard:
            self._given_up = not self._locked
        if self._given_up and self._alone:
            self.file.close()
        return self._given_up
