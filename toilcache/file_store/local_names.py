"""Names for files in a job's temporary directory.

Knows what a file name may look like. Must not know stores or jobs. Nothing that comes from outside, whether a
file ID, a suffix or a prefix, can name a place in another directory.
"""

from __future__ import annotations

import errno
import os
import re

from toilcache.io import random_name

MAX_NAME_BYTES = 255
_KEPT_BYTES = 100
_UNSAFE = re.compile(r"[^A-Za-z0-9._+%=@,-]+")


def encoded_name(file_id: str) -> str:
    """Return a fresh name for a local copy; it ends like the ID, so that a suffix still tells the type."""
    tail = _UNSAFE.sub("_", file_id.rpartition("/")[2])[-_KEPT_BYTES:]
    return f"{random_name(8)}-{tail}"


def fresh_path(directory: str, suffix: str | None, prefix: str | None) -> str:
    """Return a path in the directory at which nothing stands.

    ValueError where suffix or prefix holds a slash or a NUL; OSError (ENAMETOOLONG) where the name passes 255
    bytes.
    """
    before, after = prefix or "tmp", suffix or ""
    for part in (before, after):
        if "/" in part or "\0" in part:
            raise ValueError(f"cannot name a temporary file: {part!r}; leave slashes and NUL characters out")
    while True:
        name = f"{before}{random_name(12)}{after}"
        if len(os.fsencode(name)) > MAX_NAME_BYTES:
            raise OSError(errno.ENAMETOOLONG, "cannot name a temporary file; shorten prefix and suffix", name)
        path = os.path.join(directory, name)
        if not os.path.lexists(path):
            return path


def is_inside(directory: str, path: str) -> bool:
    """Say whether a path's last component really stands in the directory or below, symlinks followed."""
    parent = os.path.dirname(path)
    if parent == directory:  # the usual case, and no look at each part of the path
        return True
    parent = os.path.realpath(parent)
    return parent == directory or parent.startswith(directory.rstrip("/") + "/")
