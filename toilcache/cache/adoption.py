"""Taking over what dead processes left: their files, their jobs, their payloads.

Knows who is dead and what the states of the specification become then (lines 1141 to 1155). Must not end any
process. What is unfinished when the adopter itself dies is found again, under the adopter's name.
"""

from __future__ import annotations

import os

from toilcache.cache import payloads, rows
from toilcache.cache.schema import CACHED, DELETING, DOWNLOADING, UPLOADABLE, UPLOADING
from toilcache.io import robust_rmtree
from toilcache.node.identity import process_name_exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

    from toilcache.cache.node_cache import NodeCache
    from toilcache.cache.place import Generation

_kept: list[Generation] = []


def keep(generation: Generation) -> None:
    """Hold an old generation for as long as this process lives."""
    _kept.append(generation)


def adopt_dead(cache: NodeCache) -> bool:
    """Adopt everything of every dead process; True if there was anything."""
    names, owner = cache.dirs.names_base, cache.owner
    known = rows.known_processes(cache.generation.database.con) - {owner}
    dead = [name for name in known if not process_name_exists(names, name)]
    for name in dead:
        _remove_orphans(cache, name)
        with cache.transaction() as con:
            written = _take_over(con, name, owner)
        for row in written:
            _look_at(cache, row)
    _finish_deletions(cache)
    while rows.has_orphans(cache.generation.database.con) and _clean_up_a_job(cache):
        continue
    return bool(dead)


def _remove_orphans(cache: NodeCache, name: str) -> None:
    """Remove what a dead process made and no row speaks of; it cannot add rows any more.

    Locks of its downloads go as well: who waits for one, and finds it gone, looks at the row again.
    """
    cache.generation.remove_locks(name)
    directory = cache.payload_directory(name)
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        return
    known = rows.all_paths(cache.generation.database.con)
    for entry in entries:
        path = os.path.join(directory, entry)
        if path not in known:
            payloads.remove(path)
    payloads.remove_directory_if_empty(directory)


def _take_over(con: sqlite3.Connection, dead: str, owner: str) -> list[rows.FileRow]:
    """Turn a dead process's files into what the specification says, and leave its jobs without a worker.

    Returns the rows of files that it was to upload: nobody will now, but jobs may hold them.
    """
    written = [row for state in (UPLOADABLE, UPLOADING) for row in rows.files_owned_by(con, dead, state)]
    con.execute(
        f"UPDATE files SET state = '{DELETING}', owner = ?, lock = NULL"
        f" WHERE owner = ? AND state IN ('{DOWNLOADING}', '{DELETING}')",
        (owner, dead),
    )
    con.execute(
        f"UPDATE files SET state = '{CACHED}', owner = NULL, used = 0"
        f" WHERE owner = ? AND state IN ('{UPLOADABLE}', '{UPLOADING}')",
        (dead,),
    )
    con.execute("UPDATE jobs SET worker = NULL WHERE worker = ?", (dead,))
    return [row._replace(state=CACHED, owner=None) for row in written]


def _look_at(cache: NodeCache, row: rows.FileRow) -> None:
    """Drop a file that was changed before its writer died."""
    try:
        payloads.check(row)
    except payloads.PayloadChanged as changed:
        cache.drop_changed(changed)


def _finish_deletions(cache: NodeCache) -> None:
    con = cache.generation.database.con
    doomed = rows.files_owned_by(con, cache.owner, DELETING)
    if doomed:
        cache.remove(doomed)


def _clean_up_a_job(cache: NodeCache) -> bool:
    """Take one job that has no worker, remove its directory, then its references; False if there is none."""
    with cache.transaction() as con:
        found = con.execute("SELECT id, attempt, tempdir FROM jobs WHERE worker IS NULL LIMIT 1").fetchone()
        if found is None:
            return False
        job_id, attempt, tempdir = found
        con.execute("UPDATE jobs SET worker = ? WHERE id = ? AND attempt = ?", (cache.owner, job_id, attempt))
    # Only what stands among the directories of jobs was made by us.
    if not cache.keeps_dirs and os.path.dirname(tempdir) == os.path.realpath(cache.dirs.jobs):
        robust_rmtree(tempdir)
    with cache.transaction() as con:
        rows.drop_job(con, job_id, attempt)
    return True
