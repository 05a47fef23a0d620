"""Kernel locks whose life is exactly that of the process that took them.

This module knows flock and fork. It must not know what a lock means: names of processes and directories of
workflows are the business of its callers. Two facts shape it. A flock belongs to the open file description,
so a forked child that keeps the descriptor keeps a dead parent's lock alive, while a child that unlocks it
takes the lock from a living parent: the child therefore closes, and never unlocks. And a path may come to
name another file while one waits for its lock, so whoever has locked compares the inode with the path.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
from contextlib import suppress

from toilcache import vfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import TypeAlias

    _Inode: TypeAlias = tuple[int, ...]

# What flock answers where a file system has no locks to give.
NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL})

_guard = _thread.RLock()
_open: dict[int, tuple[_Inode, LockFile]] = {}
_open_in_parent = _open


class LockFile:
    """An open file that can carry a flock, known to the fork handlers from the moment it is open.

    Opening takes the flags of `os.open` (close-on-exec and no-follow are added) and raises what it raises.
    The descriptor is never one of the three standard ones, which programs close and replace without asking.
    """

    __slots__ = ("fd", "inode", "path")

    def __init__(self, path: str, flags: int = os.O_RDWR | os.O_CREAT, mode: int = 0o600) -> None:
        self.path = path
        with _guard:
            self.fd = _beyond_standard(vfs.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode))
            self.inode = _inode(os.fstat(self.fd))
            _open[self.fd] = self.inode, self

    def lock(self, *, shared: bool, wait: bool) -> bool:
        """Take the lock; False if `wait` is False and somebody else is in the way. May raise OSError."""
        try:
            vfs.flock(
                self.fd,
                (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB),
            )
        except BlockingIOError:
            return False
        return True

    def is_ours(self) -> bool:
        """Tell whether the descriptor is still open on the file it was opened on.

        False in a forked child, and where somebody closed descriptors that were not his.
        """
        if not self._is_known():
            return False
        try:
            return _inode(os.fstat(self.fd)) == self.inode
        except OSError:
            return False

    def is_at(self, path: str | None = None) -> bool:
        """Tell whether `path` (default: the path it was opened by) still names this very file."""
        try:
            return _inode(os.lstat(self.path if path is None else path)) == self.inode
        except OSError:
            return False

    def unlink(self) -> None:
        """Remove the path if it still names this file; only for the holder of the lock."""
        if self.is_at():
            with suppress(FileNotFoundError):
                vfs.unlink(self.path)

    def close(self) -> None:
        """Give the lock back by closing; does nothing in a forked child or the second time."""
        with _guard:
            if self.is_ours():
                os.close(self.fd)
            if self._is_known():
                del _open[self.fd]

    def _is_known(self) -> bool:
        entry = _open.get(self.fd)
        return entry is not None and entry[1] is self

    def __enter__(self) -> LockFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def acquire(path: str, *, shared: bool, wait: bool = True) -> LockFile | None:
    """Lock the file at `path`, making it if needed; None if `wait` is False and it is taken.

    What comes back is locked *and* still at its path: a file removed while we waited is dropped and the one
    that took its place is locked instead. Raises OSError where the file system has no locks.
    """
    while True:
        file = _existing_or_new(path)
        try:
            locked = file.lock(shared=shared, wait=wait)
        except BaseException:
            file.close()
            raise
        if locked and file.is_at():
            return file
        file.close()
        if not locked:
            return None


def _existing_or_new(path: str) -> LockFile:
    # Not both at once: in a sticky directory the kernel may forbid O_CREAT on another's file even to root.
    try:
        return LockFile(path, os.O_RDWR)
    except FileNotFoundError:
        return LockFile(path)


def _beyond_standard(fd: int) -> int:
    """Move a descriptor out of 0, 1 and 2, which are free in a process started with them closed."""
    if fd > 2:
        return fd
    moved = int(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
    os.close(fd)
    return moved


def _inode(status: os.stat_result) -> _Inode:
    """Return inode and device."""
    return status[1:3]


def _before_fork() -> None:
    # Nobody may fork between an open and its entry in the table: the child would keep a lock it cannot know.
    _guard.acquire()


def _after_fork_in_parent() -> None:
    _guard.release()


def _after_fork_in_child(
    fstat: Callable[[int], os.stat_result] = os.fstat, close: Callable[[int], None] = os.close
) -> None:
    # Every forked process pays for this: whatever is called, looked up or freed here is a page written to and
    # so copied. What the parent has is therefore kept, and names are looked up once, above.
    global _open, _open_in_parent
    _guard.release()  # the lock of the thread that forked, which is the one that is left
    for fd, (inode, _) in _open.items():
        try:
            if fstat(fd)[1:3] == inode:
                close(fd)
        except OSError:
            continue  # closed by somebody whose it was not
    _open_in_parent, _open = _open, {}


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
