"""A directory as the clients of an NFS server see it, each with caches of its own.

The directory is real and is the server. A `Client` stands between it and what runs in its `with` block: the
calls of `toilcache.vfs` and the reading calls of `os` go through it for every path of the mount. It has the
habits of the Linux client, without its mercy: what is cached stays until the mount's clock says otherwise.

* A name that was missing stays missing for 60 s, unless its directory is opened and read meanwhile.
* A directory that was found stays found for 60 s, by its handle, wherever it has been moved to.
* What `stat` said of a name it says again for 60 s. Opening a file asks the server.
* A file removed by another client is ESTALE under its reader; one removed by this client stays as `.nfs*`.
* The server does what it is asked, but an answer may be lost: asked again, it says EEXIST or ENOENT.
* A file that was written may say only when it is closed that there was no room.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from toilcache import vfs

CACHED_SECONDS = 60.0
LOST_ANSWERS = 0.25
READING = ("open", "fdopen", "stat", "lstat", "listdir", "scandir", "access", "read", "close")
CHANGING = ("open", "link", "rename", "unlink", "mkdir", "rmdir", "chmod", "fsync", "stream")


class Handle:
    """A directory of the server, however it is called now."""

    def __init__(self, path: str, above: Handle | None = None) -> None:
        flags = os.O_PATH | os.O_DIRECTORY
        self.fd = os.open(path, flags, dir_fd=None if above is None else above.fd)
        self.number = os.fstat(self.fd).st_ino

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self.fd)

    @property
    def is_gone(self) -> bool:
        return os.readlink(f"/proc/self/fd/{self.fd}").endswith(" (deleted)")

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Tell a name that is missing from a directory that is."""
        try:
            yield
        except FileNotFoundError:
            if self.is_gone:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None
            raise


class Place(NamedTuple):
    """A name in a directory."""

    above: Handle
    name: str

    @property
    def key(self) -> tuple[int, str]:
        return self.above.number, self.name


class Opened:
    """What a client knows about a file that it holds open."""

    def __init__(self, fd: int, writes: bool) -> None:
        self.status = os.fstat(fd)
        self.dirty = writes


class Mount:
    """A path that is on the server, with the clock and the dice of all its clients."""

    known: WeakValueDictionary[str, Mount] = WeakValueDictionary()  # noqa: RUF012

    def __init__(self, path: str, seed: int, lost: float = LOST_ANSWERS) -> None:
        self.path = path
        self.root = Handle(os.path.dirname(path))
        self.dice = random.Random(seed)
        self.now = 0.0
        self.lost = lost
        self.changes = 0
        self.lose_at: int | None = None
        self.closes = 0
        self.full_at: int | None = None
        self.full_with = errno.ENOSPC
        self.known[path] = self

    @classmethod
    def at(cls, path: str, seed: int) -> Mount:
        """The mount of a path; made when it is first asked for."""
        return cls.known.get(path) or cls(path, seed)

    def loses_an_answer(self) -> bool:
        """By the dice, or the n-th of all answers."""
        self.changes += 1
        return self.dice.random() < self.lost or self.changes == self.lose_at

    def was_full(self) -> bool:
        """Whether what a client sends now finds no room: the n-th time that any does."""
        self.closes += 1
        return self.closes == self.full_at


class Client:
    """One machine that has mounted the directory."""

    current = threading.local()

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.missing: dict[tuple[int, str], float] = {}
        self.directories: dict[tuple[int, str], tuple[float, Handle]] = {}
        self.attributes: dict[tuple[int, str], tuple[float, os.stat_result]] = {}
        self.files: dict[int, Opened] = {}
        self.left_over: dict[int, Place] = {}
        self.before: dict[str, Callable[[], object]] = {}
        self.read_directories: list[str] = []
        self.busy = False
        self._outer: list[Client | None] = []

    def __enter__(self) -> Client:
        self._outer.append(getattr(self.current, "client", None))
        self.current.client = self
        _patches.begin()
        return self

    def __exit__(self, *_: object) -> None:
        _patches.end()
        self.current.client = self._outer.pop()

    # Finding the way

    def place(self, path: Any, dir_fd: int | None = None) -> Place | None:
        """Find what a path means to this client; None if it is not on the mount."""
        if isinstance(path, int):
            return None
        if dir_fd is not None:
            return Place(Handle(f"/proc/self/fd/{dir_fd}"), path) if dir_fd in self.files else None
        path = os.fsdecode(path)
        if path != self.mount.path and not path.startswith(self.mount.path + "/"):
            return None
        parts = [os.path.basename(self.mount.path), *path[len(self.mount.path) :].split("/")]
        above = self.mount.root
        *directories, name = filter(None, parts)
        for part in directories:
            above = self.enter(Place(above, part))
        return Place(above, name)

    def enter(self, place: Place, ask: bool = False) -> Handle:
        """Give the handle of a directory, if need be by asking the server."""
        until, handle = self.directories.get(place.key, (0.0, None))
        if handle is not None and not ask and until > self.mount.now:
            return handle
        if not ask:
            self.check_missing(place)
        with self.asking(place):
            handle = Handle(place.name, place.above)
        self.directories[place.key] = self.mount.now + CACHED_SECONDS, handle
        return handle

    def check_missing(self, place: Place) -> None:
        if self.missing.get(place.key, 0.0) > self.mount.now:
            raise FileNotFoundError(errno.ENOENT, "remembered as missing", place.name)

    @contextmanager
    def asking(self, place: Place) -> Iterator[None]:
        """Ask the server for a name, and remember if it is missing."""
        try:
            with place.above.asked():
                yield
        except FileNotFoundError:
            self.forget(place)
            self.missing[place.key] = self.mount.now + CACHED_SECONDS
            raise
        self.missing.pop(place.key, None)

    def forget(self, place: Place) -> None:
        for known in (self.missing, self.directories, self.attributes):
            known.pop(place.key, None)

    def forget_all(self) -> None:
        for known in (self.missing, self.directories, self.attributes):
            known.clear()

    def has_read(self, number: int) -> None:
        """A directory was read, so that what its names were known to be is not believed any more."""
        for known in (self.missing, self.directories, self.attributes):
            for key in [key for key in known if key[0] == number]:
                del known[key]

    def run(self, name: str, call: Callable[[], Any]) -> Any:
        """Do a call by path; where that meets a handle that is gone, once more from the top, as Linux."""
        act = self.before.pop(name, None)
        if act is not None:
            act()
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            self.forget_all()
            if self.mount.dice.random() < self.mount.lost:
                raise
            return call()

    # Reading

    def stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> Any:
        def call() -> os.stat_result:
            place = self.place(path, dir_fd)
            if place is None:
                return _real.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
            until, status = self.attributes.get(place.key, (0.0, None))
            if status is not None and until > self.mount.now:
                return status
            self.check_missing(place)
            with self.asking(place):
                status = _real.stat(place.name, dir_fd=place.above.fd, follow_symlinks=follow_symlinks)
            self.attributes[place.key] = self.mount.now + CACHED_SECONDS, status
            return status

        return self.run("stat", call)

    def lstat(self, path: Any, *, dir_fd: int | None = None) -> Any:
        return self.stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def access(self, path: Any, mode: int, **options: Any) -> bool:
        place = self.place(path)
        if place is None:
            return _real.access(path, mode, **options)
        return _real.access(place.name, mode, dir_fd=place.above.fd, **options)

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        def call() -> int:
            place = self.place(path, dir_fd)
            if place is None:
                return _real.open(path, flags, mode, dir_fd=dir_fd)
            if not flags & os.O_CREAT:
                self.check_missing(place)
            with self.asking(place):
                fd = _real.open(place.name, flags, mode, dir_fd=place.above.fd)
            self.attributes.pop(place.key, None)
            self.directories.pop(place.key, None)
            self.files[fd] = Opened(fd, flags & (os.O_WRONLY | os.O_RDWR) != 0)
            return fd

        return int(self.run("open", call))

    def open_stream(self, path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if isinstance(path, int) or self.place(path) is None:
            return _real.open_stream(path, mode, *arguments, **options)
        assert "w" not in mode
        raw = io.BufferedReader(Stream(self, self.open(path, os.O_RDONLY), "rb"))
        return raw if "b" in mode else io.TextIOWrapper(raw, **options)

    def fdopen(self, fd: int, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if fd not in self.files:
            return _real.fdopen(fd, mode, *arguments, **options)
        assert mode == "rb"
        return io.BufferedReader(Stream(self, fd, mode))

    def read(self, fd: int, count: int) -> bytes:
        self.check_readable(fd)
        return _real.read(fd, count)

    def check_readable(self, fd: int) -> None:
        act = self.before.pop("read", None)
        if act is not None:
            act()
        if fd in self.files and os.fstat(fd).st_nlink == 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def listdir(self, path: Any = ".") -> list[str]:
        with self.scandir(path) as entries:
            return [entry.name for entry in entries]

    def scandir(self, path: Any = ".") -> Any:
        def call() -> Any:
            if isinstance(path, int):
                return Entries(self, path) if path in self.files else _real.scandir(path)
            place = self.place(path)
            if place is None:
                if os.fsdecode(path) == os.path.dirname(self.mount.path):
                    self.has_read(self.mount.root.number)
                return _real.scandir(path)
            self.check_missing(place)
            handle = self.enter(place, ask=True)
            self.read_directories.append(os.fsdecode(path))
            with handle.asked():
                return Entries(self, handle.fd)

        return self.run("scandir", call)

    def close(self, fd: int) -> None:
        """Close a file: only now may it be said that what was written did not arrive."""
        opened = self.files.pop(fd, None)
        lost = opened is not None and opened.dirty and self.mount.was_full()
        if lost:
            os.ftruncate(fd, os.fstat(fd).st_size // 2)
        _real.close(fd)
        if opened is not None:
            self._drop_left_over(opened.status.st_ino)
        if lost:
            raise OSError(self.mount.full_with, os.strerror(self.mount.full_with))

    def _drop_left_over(self, number: int) -> None:
        if all(opened.status.st_ino != number for opened in self.files.values()):
            place = self.left_over.pop(number, None)
            if place is not None:
                with suppress(FileNotFoundError):
                    os.unlink(place.name, dir_fd=place.above.fd)

    # Changing

    def fsync(self, fd: int) -> None:
        act = self.before.pop("fsync", None)
        if act is not None:
            act()
        if fd in self.files and self.files[fd].dirty:
            self.files[fd].dirty = False
            if self.mount.was_full():
                os.ftruncate(fd, os.fstat(fd).st_size // 2)
                raise OSError(self.mount.full_with, os.strerror(self.mount.full_with))
        _real.fsync(fd)

    def stream(self, descriptor: int, *, closefd: bool = True) -> Any:
        if descriptor in self.files:
            return Stream(self, descriptor, "wb", closefd)
        return _real.stream(descriptor, closefd=closefd)

    def chmod(self, path: Any, mode: int) -> None:
        place = self.place(path)
        if place is None:
            _real.chmod(path, mode)
        else:
            _real.chmod(place.name, mode, dir_fd=place.above.fd)
            self.attributes.pop(place.key, None)

    def change(self, name: str, lost_as: type[OSError], call: Callable[[], Any], *places: Any) -> None:
        """Change names on the server; the answer may be lost."""
        found: list[Place] = []

        def attempt() -> None:
            found[:] = [self.place(path, dir_fd) for path, dir_fd in places]  # type: ignore[misc]
            call(*found)

        self.run(name, attempt)
        if None not in found and self.mount.loses_an_answer():
            raise lost_as(errno.ENOENT if lost_as is FileNotFoundError else errno.EEXIST, "answer lost")

    def link(self, source: Any, target: Any, **options: Any) -> None:
        def call(old: Place | None, new: Place | None) -> None:
            if old is None or new is None:
                _real.link(source, target, **options)
                return
            with old.above.asked(), new.above.asked():
                _real.link(old.name, new.name, src_dir_fd=old.above.fd, dst_dir_fd=new.above.fd)
            self.forget(new)

        self.change("link", FileExistsError, call, (source, None), (target, None))

    def rename(
        self, source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        def call(old: Place | None, new: Place | None) -> None:
            if old is None or new is None:
                _real.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
                return
            self.keep_open_file(new)
            with old.above.asked(), new.above.asked():
                _real.rename(old.name, new.name, src_dir_fd=old.above.fd, dst_dir_fd=new.above.fd)
            self.forget(new)
            self.forget(old)
            self.missing[old.key] = self.mount.now + CACHED_SECONDS

        self.change("rename", FileNotFoundError, call, (source, src_dir_fd), (target, dst_dir_fd))

    def keep_open_file(self, place: Place) -> bool:
        """Give a file that is about to go, and that this client holds open, a name to live on under."""
        try:
            number = os.stat(place.name, dir_fd=place.above.fd, follow_symlinks=False).st_ino
        except FileNotFoundError:
            return False
        if all(opened.status.st_ino != number for opened in self.files.values()):
            return False
        if place.name.startswith(".nfs"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), place.name)
        name = f".nfs{number:016x}"
        _real.rename(place.name, name, src_dir_fd=place.above.fd, dst_dir_fd=place.above.fd)
        self.left_over[number] = Place(place.above, name)
        return True

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        def call(place: Place | None) -> None:
            if place is None:
                _real.unlink(path, dir_fd=dir_fd)
                return
            with self.asking(place):
                if not self.keep_open_file(place):
                    _real.unlink(place.name, dir_fd=place.above.fd)
            self.forget(place)
            self.missing[place.key] = self.mount.now + CACHED_SECONDS

        self.change("unlink", FileNotFoundError, call, (path, dir_fd))

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        def call(place: Place | None) -> None:
            if place is None:
                _real.mkdir(path, mode)
                return
            with place.above.asked():
                _real.mkdir(place.name, mode, dir_fd=place.above.fd)
            self.forget(place)

        self.change("mkdir", FileExistsError, call, (path, None))

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        def call(place: Place | None) -> None:
            if place is None:
                _real.rmdir(path, dir_fd=dir_fd)
                return
            with self.asking(place):
                _real.rmdir(place.name, dir_fd=place.above.fd)
            self.forget(place)
            self.missing[place.key] = self.mount.now + CACHED_SECONDS

        self.change("rmdir", FileNotFoundError, call, (path, dir_fd))


class Stream(io.FileIO):
    """An open file of a client, as a stream."""

    def __init__(self, client: Client, fd: int, mode: str, closefd: bool = True) -> None:
        super().__init__(fd, mode, closefd=False)
        self._client = client
        self._closes = closefd

    def readinto(self, buffer: Any) -> int:
        self._client.check_readable(self.fileno())
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._client.check_readable(self.fileno())
        return super().readall()

    def close(self) -> None:
        if self.closed:
            return
        fd = self.fileno()
        super().close()
        if self._closes:
            self._client.close(fd)


class Entries:
    """What `scandir` gives; the directory counts as read once its first entry was asked for."""

    def __init__(self, client: Client, fd: int) -> None:
        self._client = client
        self._number = os.fstat(fd).st_ino
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        try:
            with _real.scandir(own) as entries:
                self._left = iter(list(entries))
        finally:
            os.close(own)

    def __enter__(self) -> Entries:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Entries:
        return self

    def __next__(self) -> Any:
        self._client.has_read(self._number)
        return next(self._left)


class _Real:
    """The calls as they are without clients."""

    open, stat, lstat, access, read, close = os.open, os.stat, os.lstat, os.access, os.read, os.close
    scandir, open_stream, fdopen = os.scandir, builtins.open, os.fdopen
    link, rename, unlink, mkdir, rmdir = os.link, os.rename, os.unlink, os.mkdir, os.rmdir
    chmod, fsync = os.chmod, os.fsync
    stream = staticmethod(vfs.stream)


_real: Any = _Real()


class _Patches:
    """The calls by way of a client, while any thread is in the block of one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.saved: list[tuple[Any, str, Any]] = []
        self.new = [(os, name, _by_way_of_the_client(name, getattr(os, name))) for name in READING]
        self.new += [(vfs, name, _by_way_of_the_client(name, getattr(vfs, name))) for name in CHANGING]
        self.new.append((builtins, "open", _by_way_of_the_client("open_stream", builtins.open)))

    def begin(self) -> None:
        with self.lock:
            self.depth += 1
            if self.depth == 1:
                self.saved = [(module, name, getattr(module, name)) for module, name, _ in self.new]
                for module, name, call in self.new:
                    setattr(module, name, call)

    def end(self) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                for module, name, call in self.saved:
                    setattr(module, name, call)


def _by_way_of_the_client(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        client = getattr(Client.current, "client", None)
        if client is None or client.busy:
            return real(*arguments, **options)
        client.busy = True
        try:
            return getattr(client, name)(*arguments, **options)
        finally:
            client.busy = False

    return call


_patches = _Patches()
