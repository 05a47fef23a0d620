"""Removing directory trees, however deep, wide, odd or busy.

Knows directory descriptors only. Never follows a symbolic link, not even one that is put in place of a
directory while the removal runs.
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

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_DEPTH = 50
_PASSES = 5


def robust_rmtree(path: AnyPath) -> None:
    """Remove a file, a symbolic link or a whole tree; what is already gone is fine (specification line 1091).

    Directories of ours that lack permissions are opened up first. OSError where something cannot be removed.
    """
    path = os.fspath(path)
    if not path.strip("/"):
        raise ValueError(f"cannot remove {path!r}; give the path of one file or directory")
    path = path.rstrip("/")
    with suppress(FileNotFoundError):
        try:
            vfs.unlink(path)
        except (IsADirectoryError, PermissionError):
            # POSIX lets unlink answer EPERM for a directory; if it is none, opening it says so.
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise
            _remove_tree(path)


def _remove_tree(path: str) -> None:
    """Empty the directory and remove it; again if others still put files there, a few times."""
    top = _open_dir(path, None)
    try:
        passes_left = _PASSES
        while True:
            deeper = _empty(top, top, 1)
            try:
                vfs.rmdir(path)
                return
            except OSError as error:
                passes_left -= not deeper
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not passes_left:
                    raise
    finally:
        os.close(top)


def _empty(directory: int, top: int, depth: int) -> bool:
    """Remove all entries of an open directory; True if some were too deep and now stand in `top`."""
    deeper = False
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_dir in found:
        with suppress(FileNotFoundError):
            if not is_dir:
                vfs.unlink(name, dir_fd=directory)
            else:
                deeper |= _remove_subdirectory(name, directory, top, depth)
    return deeper


def _remove_subdirectory(name: str, parent: int, top: int, depth: int) -> bool:
    child = _open_dir(name, parent)
    try:
        if depth >= _DEPTH:
            # Bounds recursion and open descriptors; the next pass over `top` goes on from here.
            vfs.rename(name, f".deeper-{os.urandom(8).hex()}", src_dir_fd=parent, dst_dir_fd=top)
            return True
        deeper = _empty(child, top, depth + 1)
    finally:
        os.close(child)
    vfs.rmdir(name, dir_fd=parent)
    return deeper


def _open_dir(name: str, parent: int | None) -> int:
    """Open a directory for reading, with permissions to list and change it if we own it."""
    try:
        descriptor = os.open(name, _OPEN, dir_fd=parent)
    except PermissionError:
        _unlock(name, parent)
        descriptor = os.open(name, _OPEN, dir_fd=parent)
    status = os.fstat(descriptor)
    if status.st_mode & 0o700 != 0o700 and status.st_uid == os.geteuid():
        vfs.fchmod(descriptor, 0o700)
    return descriptor


def _unlock(name: str, parent: int | None) -> None:
    # An O_PATH descriptor needs no permission on the directory and cannot be swapped for a link meanwhile.
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        vfs.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)
