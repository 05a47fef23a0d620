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
    from types import TracebackType

# What flock answers where a file system has no locks to give.
NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL})

_guard = _thread.RLock()
_open: dict[int, LockFile] = {}


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
            found = os.fstat(self.fd)
            self.inode = (found.st_dev, found.st_ino)
            _open[self.fd] = self

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
        if _open.get(self.fd) is not self:
            return False
        try:
            found = os.fstat(self.fd)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.inode

    def is_at(self, path: str | None = None) -> bool:
        """Tell whether `path` (default: the path it was opened by) still names this very file."""
        try:
            found = os.lstat(self.path if path is None else path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.inode

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
            if _open.get(self.fd) is self:
                del _open[self.fd]

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


def _before_fork() -> None:
    # Nobody may fork between an open and its entry in the table: the child would keep a lock it cannot know.
    _guard.acquire()


def _after_fork_in_parent() -> None:
    _guard.release()


def _after_fork_in_child() -> None:
    # Every forked process pays for this: few names, since what they name is written to and so copied.
    _guard._at_fork_reinit()  # type: ignore[attr-defined]
    for file in _open.values():
        if file.is_ours():
            os.close(file.fd)
    _open.clear()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
