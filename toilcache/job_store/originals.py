"""Imported files that stay where they are, and the look that they are unchanged.

Knows the small record that stands in the store instead of the content. Must not know keys or jobs. Nobody is
ever given the original's inode (invariant I6): a person's file stays the person's.
"""

from __future__ import annotations

import os
import stat
from collections import namedtuple
from contextlib import contextmanager
from errno import EISDIR

from toilcache.errors import CorruptRecordError, ToilcacheError, show
from toilcache.job_store.transfer import hand_out, is_executable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import BinaryIO, NamedTuple

    class Original(NamedTuple):
        """A file outside the store as it was when it was imported; size in bytes, time in nanoseconds."""

        path: str
        size: int
        mtime_ns: int
        executable: bool
else:
    Original = namedtuple("Original", "path size mtime_ns executable")

_MAGIC = b"toilcache link 1\n"


class ChangedOriginalError(ToilcacheError):
    """A file that was imported by link has changed or gone since."""

    def __init__(self, path: str, why: str) -> None:
        """Name the file and what happened to it."""
        super().__init__(
            f"cannot read imported file {show(path)}: it {why} since it was imported; "
            "restore it, or import it as a copy (symlink=False)"
        )
        self.path = path


def remember(path: str) -> Original:
    """Take note of a regular file, by its absolute path; OSError if there is none."""
    path = os.path.abspath(path)
    # Opened, so that a file which cannot be read is refused now; a pipe must not make that wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(EISDIR, "it is a directory; import the files in it", path)
    return Original(path, status.st_size, status.st_mtime_ns, is_executable(status))


def encode(original: Original) -> bytes:
    """Give the link record."""
    numbers = f"{original.size} {original.mtime_ns} {int(original.executable)}\n"
    return _MAGIC + numbers.encode() + os.fsencode(original.path)


def decode(data: bytes, place: str) -> Original:
    """Read a link record; CorruptRecordError naming `place` if it is none."""
    numbers, newline, path = data[len(_MAGIC) :].partition(b"\n")
    try:
        size, mtime_ns, executable = map(int, numbers.split())
    except ValueError:
        newline = b""
    if not data.startswith(_MAGIC) or not newline or not path:
        raise CorruptRecordError(place, "it is not the record of a link to an imported file")
    return Original(os.fsdecode(path), size, mtime_ns, bool(executable))


@contextmanager
def reading(original: Original) -> Generator[BinaryIO, None, None]:
    """Yield the original for reading.

    ChangedOriginalError if it is not as it was, before or after the block.
    """
    with _open(original.path) as stream:
        _check(original, os.fstat(stream.fileno()))
        yield stream
        _check(original, os.fstat(stream.fileno()))


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise ChangedOriginalError(path, "was removed") from None


def copy_out(original: Original, target: str, executable: bool) -> None:
    """Put a reflink or copy of the original at `target` in one step.

    ChangedOriginalError if it is not as it was.
    """
    with reading(original) as stream:
        hand_out(f"/proc/self/fd/{stream.fileno()}", target, executable, symlink=False, share=False)


def _check(original: Original, status: os.stat_result) -> None:
    if status.st_size != original.size:
        raise ChangedOriginalError(original.path, f"changed from {original.size} to {status.st_size} bytes")
    if status.st_mtime_ns != original.mtime_ns:
        raise ChangedOriginalError(original.path, "was modified")
