"""Payloads: the bytes of cached files on the disk, how they come in and how jobs get them.

Knows files, links and modes. Must not know rows' states or jobs. The rules are those of invariant I6: nothing
that we did not make is renamed, changed or removed; whoever gets a link could at most change the payload,
which size and modification time tell.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress

from toilcache import vfs
from toilcache.cache.rows import FileRow, Payload
from toilcache.io import create_exclusive, link_or_copy, random_name

SMALL = 64 * 1024
_STALE_NS = 1_000_000_000
_TICK_NS = 50_000_000
_NO_LINK = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS})


class PayloadChanged(Exception):
    """A payload is not as its row says; `gone` if there is none at all."""

    def __init__(self, row: FileRow, gone: bool) -> None:
        """Keep the row that was held against it."""
        super().__init__(row.path)
        self.row = row
        self.gone = gone


def new_path(directory: str) -> str:
    """Make the directory of this process's payloads if need be; return a path in it, never used before."""
    if not os.path.isdir(directory):
        with suppress(FileExistsError):
            vfs.mkdir(directory, 0o700)
            vfs.chmod(directory, 0o711)
    return f"{directory}/{random_name(16)}"


def remove(path: str) -> None:
    """Remove a payload, and with the last one the directory; absent is fine."""
    with suppress(FileNotFoundError):
        vfs.unlink(path)


def remove_directory_if_empty(directory: str) -> None:
    """Remove a directory of payloads when nothing is left in it."""
    with suppress(OSError):
        vfs.rmdir(directory)


def take_in(source: str, path: str, executable: bool, reflinks: bool) -> tuple[Payload, bool]:
    """Make a payload of a file that a job wrote; return it, and whether that takes space of its own.

    Small files are copied. Others share their blocks or, where the file system cannot, their inode: that
    keeps its mode. FileNotFoundError if there is no such file.
    """
    status = os.stat(source)
    executable = executable or bool(status.st_mode & stat.S_IXUSR)
    mode = _mode(executable)
    if status.st_size < SMALL and (size := _copy_small(source, path, mode)) is not None:
        return Payload(path, size, _age(path), executable), True
    if reflinks:
        copied = link_or_copy(source, path, mode=mode) == "copy"
        return _settled(path), copied
    if bool(status.st_mode & stat.S_IXUSR) == executable and _linked(source, path):
        _make_old(path)
        return look(path), False
    link_or_copy(source, path, reflink=False, mode=mode)
    return _settled(path), True


def _copy_small(source: str, path: str, mode: int) -> int | None:
    """Copy a file in one go and return its size; None, and there is no copy, if it has grown meanwhile."""
    descriptor = os.open(source, os.O_RDONLY)
    try:
        data = os.read(descriptor, SMALL)
    finally:
        os.close(descriptor)
    if len(data) == SMALL:
        return None
    create_exclusive(path, data, mode)
    if os.stat(path).st_mode & 0o777 != mode:  # whatever the umask
        vfs.chmod(path, mode)
    return len(data)


def settle(path: str) -> Payload:
    """Make a payload of what was fetched: read-only, unless it is a link to the job store's file."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "cannot keep what is not a regular file", path)
    if status.st_nlink > 1:
        return look(path)
    vfs.chmod(path, _mode(bool(status.st_mode & stat.S_IXUSR)))
    return _settled(path)


def _settled(path: str) -> Payload:
    _age(path)
    return look(path)


def _age(path: str) -> int:
    """Give the file a time that no later change can give it again, however coarse the clock is; return it."""
    before = (time.time_ns() - _STALE_NS) // 1000 * 1000  # as fine as every file system keeps it
    vfs.utime(path, ns=(before, before))
    return before


def _make_old(path: str) -> None:
    """Do the same to a file of a job, if it is so young that a change might not show; by as little as will
    do.
    """
    status = os.stat(path)
    limit = time.time_ns() - _TICK_NS
    if status.st_mtime_ns > limit:
        vfs.utime(path, ns=(status.st_atime_ns, limit))


def look(path: str) -> Payload:
    """Take note of a file as it is."""
    status = os.stat(path, follow_symlinks=False)
    return Payload(path, status.st_size, status.st_mtime_ns, bool(status.st_mode & stat.S_IXUSR))


def is_as(row: FileRow | Payload, status: os.stat_result) -> bool:
    """Tell whether a file is still as it was."""
    return bool(row.size == status.st_size and row.mtime_ns == status.st_mtime_ns)


def check(row: FileRow) -> os.stat_result:
    """Raise PayloadChanged unless the payload is as its row says; return its status."""
    try:
        status = os.stat(row.path, follow_symlinks=False)
    except FileNotFoundError:
        raise PayloadChanged(row, gone=True) from None
    if not is_as(row, status):
        raise PayloadChanged(row, gone=False)
    return status


def make_readable(row: FileRow) -> bool:
    """Check a payload that is to be read, and mend what a job did to the permissions of its link to it.

    False if it may not be handed out by link, since it is executable where it should not be, or the other way
    round: some job wants its own so.
    """
    mode = check(row).st_mode
    if not mode & stat.S_IRUSR:
        vfs.chmod(row.path, _mode(row.executable))
        return True
    return bool(mode & stat.S_IXUSR) == bool(row.executable)


def hand_out_link(row: FileRow, path: str, executable: bool, symlink: bool, reflinks: bool) -> bool:
    """Let a job have a file that it must not change; False if it must be copied for that.

    PayloadChanged, with nothing left at the path, where the payload is not what it was.
    """
    if executable and not row.executable:
        return False
    alike = make_readable(row)
    if reflinks:
        if link_or_copy_exactly(row, path) != "copy":
            return True
        vfs.unlink(path)
    if not alike:
        return False
    if _linked(row.path, path):
        return True
    if not symlink:
        return False
    vfs.symlink(row.path, path)
    return True


def link_or_copy_exactly(row: FileRow, path: str) -> str:
    """Give the payload's content to a new path, by reflink or copy."""
    return link_or_copy(row.path, path, mode=_mode(row.executable))


def hand_out_copy(row: FileRow, path: str, mode: int) -> None:
    """Let a job have a copy; PayloadChanged, with nothing left, if the payload is not what it was."""
    make_readable(row)
    try:
        link_or_copy(row.path, path, reflink=False, mode=mode)
    except FileNotFoundError:
        if os.path.lexists(row.path):
            raise
        raise PayloadChanged(row, gone=True) from None
    try:
        check(row)
    except PayloadChanged:
        vfs.unlink(path)
        raise


def _linked(source: str, path: str) -> bool:
    try:
        vfs.link(source, path)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True


def _mode(executable: bool) -> int:
    return 0o555 if executable else 0o444


def has_reflinks(directory: str) -> bool:
    """Try whether files in a directory can share their blocks."""
    first, second = (os.path.join(directory, f".trial-{random_name()}") for _ in range(2))
    try:
        os.close(vfs.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return link_or_copy(first, second) == "reflink"
    finally:
        for path in (first, second):
            remove(path)
