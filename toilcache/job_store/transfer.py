"""Files on their way between local paths and a job store's directory, without ever sharing a writable inode.

Knows paths, modes and links. Must not know keys or jobs.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from toilcache import vfs
from toilcache.io import link_or_copy, random_name

_WRITE_BITS = 0o222


def is_executable(status: os.stat_result) -> bool:
    """Say whether a file's owner may execute it."""
    return bool(status.st_mode & 0o100)


def take_in(source: str, target: str, sync: bool) -> os.stat_result:
    """Make `target`, mode 0400 or 0500, a reflink or copy of a regular file; return its status."""
    status = os.stat(source)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"cannot put {source!r} into a job store: it is a directory; give a file")
    link_or_copy(source, target, mode=0o500 if is_executable(status) else 0o400)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        if sync:
            vfs.fsync(descriptor)
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def hand_out(source: str, target: str, executable: bool, symlink: bool, share: bool = True) -> None:
    """Put a file's content at `target` in one step, replacing what stands there.

    `share` allows a hard link, and with `symlink` a symbolic one, to a file of another user that this process
    cannot write.
    Everything else is a file of its own, mode 0600 or 0700.
    """
    status = os.stat(source)
    share = share and not _is_writable(source, status)
    temporary = os.path.join(os.path.dirname(target), f".tmp-{random_name()}")
    try:
        if share and symlink and executable == is_executable(status):
            vfs.symlink(source, temporary)
        else:
            _give(source, temporary, executable, share and executable == is_executable(status))
        vfs.rename(temporary, target)
    finally:
        # Also after success: renaming one link of a file onto another link of it leaves both.
        with suppress(FileNotFoundError):
            vfs.unlink(temporary)


def _give(source: str, temporary: str, executable: bool, hardlink: bool) -> None:
    rung = link_or_copy(source, temporary, hardlink=hardlink)
    if rung != "hardlink":
        vfs.chmod(temporary, 0o700 if executable else 0o600)


def _is_writable(path: str, status: os.stat_result) -> bool:
    """Say whether this process could change the file through a link to it; an owner may permit that first."""
    return bool(status.st_mode & _WRITE_BITS) or status.st_uid == os.geteuid() or os.access(path, os.W_OK)
