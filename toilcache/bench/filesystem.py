"""A fresh file system for a benchmark: an ext4 image, loop-mounted, where that is possible.

A file system that has just seen thousands of deletions is slower for minutes, so that whoever runs first
would win. Knows mount and mkfs. Must not know what is measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from toilcache.errors import ProcessError
from toilcache.io import mkdtemp, robust_rmtree
from toilcache.process import run

IMAGE_BYTES = 8 << 30


@contextmanager
def fresh_directory(parent: str | None) -> Iterator[tuple[str, str]]:
    """Yield a directory that nobody has used, and what it stands on: "fresh ext4" or why it does not."""
    base = mkdtemp(prefix="toilcache-bench-", dir=parent)
    try:
        try:
            mounted = _mount_image(base)
        except ProcessError as error:
            yield base, f"the file system of {os.path.dirname(base)} ({error})"
            return
        try:
            yield mounted, "fresh ext4, loop-mounted"
        finally:
            # Lazily: hosts of a leader that was ended are on their way out, and keep it until they are gone.
            run(["umount", "--lazy", mounted])
    finally:
        robust_rmtree(base)


@contextmanager
def beside(directory: str) -> Iterator[str]:
    """Yield a second such directory, on a file system of its own where the first one is."""
    base = os.path.dirname(directory) if os.path.ismount(directory) else directory
    with fresh_directory(os.path.dirname(base)) as (other, _):
        yield other


def _mount_image(base: str) -> str:
    image, mounted = os.path.join(base, "disk.img"), os.path.join(base, "disk")
    with open(image, "wb") as disk:
        disk.truncate(IMAGE_BYTES)
    run(["mkfs.ext4", "-q", "-i", "8192", "-E", "lazy_itable_init=0,lazy_journal_init=0", image])
    os.mkdir(mounted)
    run(["mount", "-o", "loop", image, mounted])
    return mounted
