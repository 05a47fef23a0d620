"""The temporary directory of one job: made and measured.

Knows directories only. Must not know jobs or stores.
"""

from __future__ import annotations

import errno
import os
import stat

from toilcache import vfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 512


def make_scratch(parent: str) -> str:
    """Make a fresh directory (0711) for a job, and its parent where that is missing; return its path."""
    path = f"{parent}/job-{os.urandom(8).hex()}"
    try:
        vfs.mkdir(path, 0o700)
    except FileNotFoundError:
        vfs.makedirs(parent, mode=0o711, exist_ok=True)
        vfs.mkdir(path, 0o700)
    vfs.chmod(path, 0o711)  # whatever the umask
    return path


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
