"""A file that was handed to a job, made safe to be in its hands.

Knows inodes and permissions. Must not know whose inode a link leads to: every link counts as somebody else's.
"""

from __future__ import annotations

import os
import stat

from toilcache import vfs
from toilcache.io import link_or_copy, random_name

_WRITE = 0o222
_READ_TO_EXECUTE = 2


def make_private(path: str, mode: int) -> None:
    """Give the file at `path` these permissions, and to execute where it could be read and executed before.

    A link stays one only where `mode` lets nobody write and this process neither can write through it nor, as
    the owner, could permit that first; else a copy takes its place, so that whatever the job does to the path
    reaches nobody else's file.
    """
    found = os.lstat(path)
    linked = stat.S_ISLNK(found.st_mode) or found.st_nlink > 1
    if linked:
        found = os.stat(path)
        owned = found.st_uid == os.geteuid()
        if not (mode & _WRITE or owned or os.access(path, os.W_OK, effective_ids=True)):
            return
    if found.st_mode & stat.S_IXUSR:
        mode |= (mode & 0o444) >> _READ_TO_EXECUTE
    if not linked:
        vfs.chmod(path, mode)
        return
    copy = os.path.join(os.path.dirname(path), f".copy-{random_name(16)}")
    link_or_copy(path, copy, mode=mode)
    vfs.rename(copy, path)
