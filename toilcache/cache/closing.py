"""Removing a workflow's cache from a node.

Knows generations and what their databases say of jobs. Must not touch what somebody still uses.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress

from toilcache import vfs
from toilcache.cache import place
from toilcache.cache.node_cache import opened_cache
from toilcache.node.coordination import NodeDirs, dirs_of
from toilcache.removal import robust_rmtree


def remove_cache(coordination: str, work: str) -> bool:
    """Remove the cache whose directories these are, with the jobs' directories that it knows of.

    True if nothing is left, False if somebody uses it. Without a cache there is nothing to do. This process
    lets go of it first, if none of its own jobs runs.
    """
    dirs = dirs_of(os.path.join(work, "jobs"))
    if dirs is None or os.path.realpath(coordination) != os.path.realpath(dirs.coordination):
        return not os.path.lexists(os.path.join(work, "cache"))
    mine = opened_cache(dirs)
    if mine is not None and not mine.has_jobs():
        mine.close()
    tempdirs = [path for number in place.generation_numbers(dirs) for path in _tempdirs(dirs, number)]
    if not place.remove_all_unused(dirs):
        return False
    for path in tempdirs:
        robust_rmtree(path)
    for directory in (dirs.cache, dirs.payloads):
        robust_rmtree(directory)
    return True


def _tempdirs(dirs: NodeDirs, number: int) -> list[str]:
    """Name the directories of jobs in a database; none if it cannot be read."""
    path = place.database_path(dirs, number)
    if not os.path.exists(path):
        return []
    found: list[tuple[str]] = []
    with suppress(sqlite3.Error):
        con = vfs.connect(path, 10)
        con.text_factory = os.fsdecode
        try:
            found = con.execute("SELECT tempdir FROM jobs").fetchall()
        finally:
            con.close()
    jobs = os.path.realpath(dirs.jobs)
    return [tempdir for (tempdir,) in found if os.path.dirname(tempdir) == jobs]
