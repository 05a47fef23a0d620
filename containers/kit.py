"""The engine in a directory of its own, to be mounted into images that know nothing of it.

Knows which packages a worker may need and how they are laid out. Must not know who mounts it. The engine
comes first on the worker's import path, what it needs comes last: a package that the image has itself wins.
The leader's own site-packages are never mounted, since they would shadow the image's.
"""

from __future__ import annotations

import os
import stat
from importlib.machinery import PathFinder

import toilcache
from toilcache import vfs
from toilcache.io import copy_bytes, robust_rmtree
from toilcache.node.locks import acquire

FIRST, LAST = "first", "last"
NEEDS = ("cloudpickle", "fsspec", "sh")
"""Pure Python that a job may have to import; what the leader does not have is left out."""


def make_kit(directory: str) -> None:
    """Make the directory, unless somebody has; OSError if there is no room."""
    lock = acquire(f"{directory}.lock", shared=False)
    assert lock is not None  # it waited
    with lock:
        if not os.path.isdir(directory):
            _make(directory)


def _make(directory: str) -> None:
    part = f"{directory}.part"
    robust_rmtree(part)  # left by one who died
    for path in (part, os.path.join(part, FIRST), os.path.join(part, LAST)):
        vfs.mkdir(path, 0o711)
    _copy(os.path.dirname(os.path.abspath(toilcache.__file__)), os.path.join(part, FIRST, "toilcache"))
    for name in NEEDS:
        spec = PathFinder.find_spec(name)  # as an import would: `sh` puts something else in its place
        if spec is not None and spec.origin is not None:
            source = os.path.dirname(spec.origin) if spec.submodule_search_locations else spec.origin
            _copy(source, os.path.join(part, LAST, os.path.basename(source)))
    vfs.rename(part, directory)


def _copy(source: str, target: str) -> None:
    """Copy modules and what Python has compiled of them; links are followed, as imports do."""
    status = os.stat(source)
    if stat.S_ISDIR(status.st_mode):
        vfs.mkdir(target, 0o755)
        for name in os.listdir(source):
            _copy(os.path.join(source, name), os.path.join(target, name))
    elif source.endswith((".py", ".pyc")):
        _copy_file(source, target, status)


def _copy_file(source: str, target: str, status: os.stat_result) -> None:
    """Copy with the time of the last change, by which Python knows what a compiled module was made of."""
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    writing = vfs.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        copy_bytes(reading, writing)
        vfs.utime(writing, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(reading)
        os.close(writing)
