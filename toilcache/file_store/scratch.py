"""The temporary directory of one job: made and measured.

Knows directories only. Must not know jobs or stores.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress

from toilcache import vfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 512


def make_scratch(parent: str) -> str:
    """Make a fresh directory (0711) for a job, and its parent where that is missing; return its path."""
    path = fresh_scratch(parent)
    _make(path)
    return path


def fresh_scratch(parent: str) -> str:
    """Return a path for a job's directory that nobody else has."""
    return f"{parent}/job-{os.urandom(8).hex()}"


def _make(path: str) -> None:
    try:
        vfs.mkdir(path, 0o700)
    except FileNotFoundError:
        vfs.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
        vfs.mkdir(path, 0o700)
    vfs.chmod(path, 0o711)  # whatever the umask


class Spare:
    """A directory that jobs of one process have one after the other, as long as none leaves a trace in it.

    To make a directory and remove it costs as much as all else that a job which does nothing has on disk.
    """

    def __init__(self, path: str) -> None:
        """Name it; the first job that takes it makes it."""
        self._path = path
        self._mark: tuple[int, ...] = ()
        self._is_given_up = False

    def enter(self) -> None:
        """Make an empty directory (0711) the current one: this, unless something was kept under its name."""
        if self._mark and self.is_untouched(self._path):  # also by what was done after the last job
            os.chdir(self._path)
            return
        if not self._is_given_up:
            with suppress(FileExistsError):
                _make(self._path)
                self._mark = _mark(self._path)
                os.chdir(self._path)
                return
        os.chdir(make_scratch(os.path.dirname(self._path)))

    def is_untouched(self, path: str) -> bool:
        """Tell whether a job that had this directory has left it as it was; else it is to be removed.

        A job that leaves something running might write here later: then no other job has it. A file that is
        made within a few milliseconds of the directory, on older kernels, leaves its times as they were.
        """
        if not is_alone():
            self._is_given_up = True
        with suppress(FileNotFoundError):
            if not self._is_given_up and _mark(path) == self._mark and not os.listdir(path):
                return True
        self._mark = ()
        return False

    def remove(self) -> None:
        """Remove it; what is not empty stays."""
        with suppress(OSError):
            vfs.rmdir(self._path)


def _mark(path: str) -> tuple[int, ...]:
    """What changes when a directory gets another name, mode or access list, or one of its entries does."""
    status = os.lstat(path)
    return status.st_ino, status.st_mode, status.st_ctime_ns


def is_alone() -> bool:
    """Tell whether this process has no child, not even an ended one, and no other thread of Python's."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        threading = sys.modules.get("threading")
        return threading is None or threading.active_count() == 1
    return False


def remove_if_empty(path: str) -> bool:
    """Remove a directory in which nothing was left; say whether it is gone."""
    try:
        vfs.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def used_bytes(path: str) -> int:
    """Return the bytes of disk that all below a directory takes; an inode with several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for entry in _entries(path):
        if entry.st_nlink > 1 and not stat.S_ISDIR(entry.st_mode):
            key = (entry.st_dev, entry.st_ino)
            if key in seen:
                continue
            seen.add(key)
        total += entry.st_blocks * _BLOCK
    return total


def _entries(path: str) -> Iterator[os.stat_result]:
    waiting = [path]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as directory:
                for entry in directory:
                    found = _look(entry)
                    if found is None:
                        continue
                    yield found
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
        except OSError:
            # Gone, or closed to us, while the job's last processes still work there: measured without it.
            continue


def _look(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:
        return None
