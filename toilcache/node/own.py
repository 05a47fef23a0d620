"""Directories and small notes on a node that are ours: made, checked, held, read.

Knows owners, permissions and locks. Must not know where on the node they are, nor what they are for. In a
place that many people can write to, what has the right name may still be somebody else's.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from toilcache import vfs
from toilcache.errors import CoordinationDirError
from toilcache.io import write_durable
from toilcache.node.locks import NO_LOCKS, LockFile, acquire
from toilcache.node.mounts import file_system_type, is_network_type
from toilcache.node.places import COORDINATION_HINT

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
STRANGERS = stat.S_IWGRP | stat.S_IWOTH
_LONGEST_NOTE = 65536


def make_own_directory(path: str) -> None:
    """Make a directory that others may pass through but not list; take one that stands only if it is ours."""
    with suppress(FileExistsError):
        vfs.mkdir(path, 0o711)
    if check_own_directory(path) & 0o111 != 0o111:  # made under a strict umask, which containers cannot pass
        vfs.chmod(path, 0o711)


def check_own_directory(path: str) -> int:
    """Return the mode of a directory that is ours alone to write; CoordinationDirError for anything else."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise CoordinationDirError(f"cannot use {path!r}: it is not a directory; remove it")
    if found.st_uid != os.geteuid():
        raise CoordinationDirError(
            f"cannot use {path!r}: it belongs to user {found.st_uid}, not to you; {COORDINATION_HINT}"
        )
    if found.st_mode & STRANGERS:
        raise CoordinationDirError(f"cannot use {path!r}: other people may write to it; run chmod go-w on it")
    return found.st_mode


def lock_shared(path: str) -> LockFile:
    """Lock a file shared, making it if needed; CoordinationDirError if it is not ours or has no locks."""
    try:
        lock = acquire(path, shared=True)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise CoordinationDirError(
            f"cannot lock {path!r}: its file system has no kernel locks; {COORDINATION_HINT}"
        ) from error
    assert lock is not None  # it waited
    if os.fstat(lock.fd).st_uid != os.geteuid():
        lock.close()
        raise CoordinationDirError(f"cannot use {path!r}: it belongs to another user; {COORDINATION_HINT}")
    return lock


def hold_directory(path: str) -> LockFile:
    """Hold a directory itself shared, where its file system has locks worth the name."""
    directory = LockFile(path, DIRECTORY)
    try:
        if not is_network_type(file_system_type(path)):
            directory.lock(shared=True, wait=True)
    except OSError as error:
        if error.errno not in NO_LOCKS and error.errno != errno.ENOENT:
            directory.close()
            raise
    return directory


def is_own(path: str) -> bool:
    """Tell whether something stands at a path that this process may remove."""
    try:
        return os.lstat(path).st_uid == os.geteuid() or os.geteuid() == 0
    except OSError:
        return False


def owner_of(path: str) -> int:
    """Return the user to whom something belongs; -1 where nothing stands."""
    try:
        return os.lstat(path).st_uid
    except OSError:
        return -1


def listed(directory: str) -> list[str]:
    """Return the names in a directory; none where it is missing or may not be listed."""
    with suppress(OSError):
        return os.listdir(directory)
    return []


def write_note(path: str, *words: str) -> None:
    """Leave a few words in a file, replacing those that stood there."""
    write_durable(path, b"\0".join(map(os.fsencode, words)), sync=False)


def read_note(path: str) -> list[str]:
    """Return the words that `write_note` left; empty if there are none, or no file that may be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        text = os.read(fd, _LONGEST_NOTE)
    except OSError:
        return []
    finally:
        os.close(fd)
    return [os.fsdecode(part) for part in text.split(b"\0")] if text else []


def touch(path: str) -> None:
    """Make an empty file unless there is one."""
    os.close(vfs.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
