"""The calls that change files and databases, all in one place.

The engine makes every such call through a name of this module, and nothing here does more than the call it is
named after. So whoever replaces these names sees each step by which a workflow changes the world. The tests
do: they count steps, kill at step n, and let disks be full or broken at that moment. Every other module is
held to it. The like of it in SQLite has the same name.
"""

from __future__ import annotations

import os
from fcntl import flock, ioctl
from os import (
    chmod,
    copy_file_range,
    fchmod,
    fsync,
    ftruncate,
    link,
    makedirs,
    mkdir,
    open,
    posix_fallocate,
    rename,
    rmdir,
    sendfile,
    symlink,
    sync,
    unlink,
    utime,
    write,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from io import FileIO

__all__ = [
    "chmod",
    "connect",
    "copy_file_range",
    "fchmod",
    "flock",
    "fsync",
    "ftruncate",
    "ioctl",
    "link",
    "makedirs",
    "mkdir",
    "open",
    "posix_fallocate",
    "rename",
    "rmdir",
    "sendfile",
    "stream",
    "symlink",
    "sync",
    "syncfs",
    "unlink",
    "utime",
    "write",
]


def stream(descriptor: int, *, closefd: bool = True) -> FileIO:
    """Make a stream without a buffer of a descriptor that is open for writing."""
    return os.fdopen(descriptor, "wb", buffering=0, closefd=closefd)


def syncfs(descriptor: int) -> None:
    """Write a whole file system to its disk, syncfs(2); OSError if the disk did not take it."""
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        sync()
    elif call(descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def connect(path: str, timeout: float) -> sqlite3.Connection:
    """Open a SQLite database in autocommit mode; its statements are steps as well."""
    import sqlite3

    return sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
