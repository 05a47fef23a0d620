"""Giving a file's content a second place: by reflink, else by hard link, else by copying its bytes.

Knows what the kernel and the file system can share. Must not know who may change which file: whether a hard
link is safe is the caller's decision.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from toilcache import vfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    AnyPath: TypeAlias = str | os.PathLike[str]

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_CHUNK = 1 << 24

# A file system that has no reflinks answers so for every file; other errors may be true of one file only.
_NEVER = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS)
_NOT_THIS_TIME = (*_NEVER, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.EACCES, errno.ETXTBSY)
_NO_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS)
_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSOCK, errno.EBADF)

_without_reflinks: set[int] = set()


def reflink(src_fd: int, dst_fd: int) -> None:
    """Let an open file share the blocks of another (ioctl_ficlone(2)); OSError where that cannot be."""
    vfs.ioctl(dst_fd, _FICLONE, src_fd)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[vfs.write(descriptor, view) :]


def copy_bytes(src_fd: int, dst_fd: int) -> None:
    """Copy from one open file's position to its end, inside the kernel where it can."""
    try:
        while vfs.sendfile(dst_fd, src_fd, None, _CHUNK):
            pass
    except OSError as error:
        if error.errno not in _NO_SENDFILE:
            raise
    # Files whose size the kernel does not know, as in /proc, give sendfile nothing or an error.
    while chunk := os.read(src_fd, 1 << 20):
        write_all(dst_fd, chunk)


def link_or_copy(
    src: AnyPath, dst: AnyPath, *, reflink: bool = True, hardlink: bool = False, mode: int | None = None
) -> str:
    """Give the content of `src` to the new file `dst` and say how: "reflink", "hardlink" or "copy".

    `mode` is the exact permissions of `dst`, None those of `src`; a hard link is not made where they differ,
    since that would change the original. FileExistsError if `dst` exists. While a copy is under way a part of
    it can be seen, so `dst` belongs in a directory that nobody else reads. After an error there is no `dst`.
    """
    source = os.open(src, os.O_RDONLY)
    try:
        status = os.fstat(source)
        wanted = stat.S_IMODE(status.st_mode) if mode is None else mode
        hardlink = hardlink and wanted == stat.S_IMODE(status.st_mode)
        if reflink and status.st_dev not in _without_reflinks and _try_reflink(source, dst, wanted):
            return "reflink"
        if hardlink and _try_hardlink(src, dst):
            return "hardlink"
        _copy(source, dst, wanted)
        return "copy"
    finally:
        os.close(source)


def _try_reflink(source: int, dst: AnyPath, mode: int) -> bool:
    target = vfs.open(dst, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        reflink(source, target)
        vfs.fchmod(target, mode)
    except OSError as error:
        with suppress(FileNotFoundError):
            vfs.unlink(dst)
        if error.errno not in _NOT_THIS_TIME:
            raise
        if error.errno in _NEVER:
            _without_reflinks.add(os.fstat(target).st_dev)
        return False
    finally:
        os.close(target)
    return True


def _try_hardlink(src: AnyPath, dst: AnyPath) -> bool:
    try:
        vfs.link(os.path.realpath(src) if os.path.islink(src) else src, dst)
    except FileExistsError:
        # An NFS server that has lost its first answer says so of a link that it made.
        if not os.path.samestat(os.stat(src), os.lstat(dst)):
            raise
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True


def _copy(source: int, dst: AnyPath, mode: int) -> None:
    target = vfs.open(dst, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            copy_bytes(source, target)
            vfs.fchmod(target, mode)
        finally:
            # On NFS it is often only here that a full disk shows.
            os.close(target)
    except BaseException:
        # Also on KeyboardInterrupt: half a copy must not pass for the file.
        with suppress(OSError):
            vfs.unlink(dst)
        raise
