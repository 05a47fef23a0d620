"""Files in which attempts leave on the node what is to be called when they are over.

Knows bytes, their states, and who may have them. Must not know what a call is, how it is pickled or made.

A file belongs to one process, which holds its lock from before the file has its name until the calls are
made. Whoever else gets the lock knows that this process is gone, and the file is his. It begins with a line
that names the format; then come entries: state (1 byte), checksum (4), length (8), bytes. The first entry is
the head, text that says where the calls can be made; the others are calls. A state is the number of times
that somebody has begun the call, or `CALLED`. An entry that a crash has torn was never promised to anybody.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from contextlib import suppress

from toilcache import vfs
from toilcache.errors import CoordinationDirError
from toilcache.io import random_name
from toilcache.links import write_all
from toilcache.node.locks import LockFile
from toilcache.node.own import STRANGERS, check_own_directory

CALLED = 255
_MAGIC = b"toilcache deferred 1\n"
_ENTRY = struct.Struct(">BIQ")
_UNBORN = ".unborn-"


class CallFile:
    """An open file of calls. `calls` are their bytes, `states` their states, both in the order of promise."""

    def __init__(self, file: LockFile) -> None:
        """Read what stands in the file; CoordinationDirError if it is not one of ours."""
        self._file = file
        self.path = file.path
        found = os.fstat(file.fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & STRANGERS:
            raise CoordinationDirError(
                f"cannot call what {file.path!r} says: it is not a file that only you can write; remove it"
            )
        self.refresh()

    def refresh(self) -> None:
        """Read the file again: another process may have written states."""
        self._places: list[int] = []
        self.states: list[int] = []
        self.calls: list[bytes] = []
        self.head = b""
        self._end = len(_MAGIC)
        self._parse(os.pread(self._file.fd, os.fstat(self._file.fd).st_size, 0))

    @classmethod
    def create(cls, path: str, head: bytes) -> CallFile:
        """Make a file that is locked before anybody can see it; FileExistsError if the name is taken."""
        directory, _ = os.path.split(path)
        with suppress(FileExistsError):
            vfs.mkdir(directory, 0o700)
        check_own_directory(directory)
        file = LockFile(os.path.join(directory, _UNBORN + random_name()), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            file.lock(shared=False, wait=False)
            write_all(file.fd, _MAGIC + _entry(head))
            vfs.link(file.path, path, follow_symlinks=False)
        except BaseException:
            file.unlink()
            file.close()
            raise
        file.unlink()
        file.path = path
        return cls(file)

    @classmethod
    def take_over(cls, path: str) -> CallFile | None:
        """Open a file whose process is gone and make it ours; None if somebody has it, or it is gone too."""
        with suppress(FileNotFoundError):
            file = _opened(path)
            try:
                if file.lock(shared=False, wait=False) and file.is_at():
                    return cls(file)
            except BaseException:
                file.close()
                raise
            file.close()
        return None

    @classmethod
    def read(cls, path: str) -> CallFile:
        """Open a file without its lock, for a child of the process that holds it."""
        file = _opened(path)
        try:
            return cls(file)
        except BaseException:
            file.close()
            raise

    def append(self, call: bytes) -> int:
        """Add a call and return its number; a process that ends after that leaves it behind."""
        place = self._end
        os.lseek(self._file.fd, place, os.SEEK_SET)
        try:
            write_all(self._file.fd, _entry(call))
        except BaseException:
            vfs.ftruncate(self._file.fd, place)
            raise
        self._add(place, 0, call)
        return len(self.calls) - 1

    def set_state(self, number: int, state: int) -> None:
        """Write down how far a call is."""
        os.lseek(self._file.fd, self._places[number], os.SEEK_SET)
        vfs.write(self._file.fd, bytes([state]))
        self.states[number] = state

    def waiting(self) -> list[int]:
        """Return the numbers of the calls that are not made, the last promise first."""
        return [number for number in reversed(range(len(self.calls))) if self.states[number] != CALLED]

    def is_ours(self) -> bool:
        """Tell whether this process opened the file, and not one that it was forked from."""
        return self._file.is_ours()

    def remove(self) -> None:
        """Remove the file, when all calls are made."""
        self._file.unlink()
        self._file.close()

    def close(self) -> None:
        """Leave the file to whoever comes next."""
        self._file.close()

    def _parse(self, data: bytes) -> None:
        if not data.startswith(_MAGIC):
            return
        place = len(_MAGIC)
        while place + _ENTRY.size <= len(data):
            state, checksum, length = _ENTRY.unpack_from(data, place)
            content = data[place + _ENTRY.size : place + _ENTRY.size + length]
            if len(content) < length or zlib.crc32(content) != checksum:
                return
            if place == len(_MAGIC):
                self.head = content
                self._end = place + _ENTRY.size + length
            else:
                self._add(place, state, content)
            place = self._end

    def _add(self, place: int, state: int, call: bytes) -> None:
        self._places.append(place)
        self.states.append(state)
        self.calls.append(call)
        self._end = place + _ENTRY.size + len(call)


def files_in(directory: str) -> list[str]:
    """Return the paths of all files of calls in a directory, none if it is missing.

    CoordinationDirError if anybody else could have put them there.
    """
    try:
        check_own_directory(directory)
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return [os.path.join(directory, name) for name in sorted(names) if not name.startswith(_UNBORN)]


def _opened(path: str) -> LockFile:
    try:
        return LockFile(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM):
            raise CoordinationDirError(
                f"cannot call what {path!r} says: it is not a file that only you can write; remove it"
            ) from None
        raise


def _entry(content: bytes) -> bytes:
    return _ENTRY.pack(0, zlib.crc32(content), len(content)) + content
