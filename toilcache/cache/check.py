"""Whether rows, files, locks and sums of a cache agree, looked at from both sides.

Knows everything that must hold whenever no process is in the middle of something. Must not mend anything:
what a dead process left is mended by adoption, and what this finds after that is a fault.
"""

from __future__ import annotations

import os

from toilcache.cache import payloads, rows
from toilcache.cache.schema import COPYING, DELETING, DOWNLOADING, IMMUTABLE
from toilcache.node.identity import process_name_exists
from toilcache.node.locks import LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from toilcache.cache.node_cache import NodeCache

_SUMS = {
    "used": "SELECT TOTAL(size) FROM files",
    "dedicated": f"SELECT TOTAL(size) FROM refs WHERE state = '{IMMUTABLE}'",
    "reserved": "SELECT TOTAL(disk) FROM jobs",
}


def check(cache: NodeCache) -> list[str]:
    """Return a sentence for each thing that is wrong; empty if the cache is sound.

    All in one transaction, so that what living processes do meanwhile waits. What they are in the middle of
    counts as right as long as they live.
    """
    with cache.transaction() as con:
        found = [f"the database is damaged: {text}" for text in _integrity(con)]
        found += _check_files(cache, con)
        found += _check_refs(con)
        found += _check_jobs(cache, con)
        found += _check_sums(con)
        found += _check_payloads(cache, con)
        found += _check_locks(cache, con)
    return found


def _integrity(con: sqlite3.Connection) -> list[str]:
    return [text for (text,) in con.execute("PRAGMA integrity_check") if text != "ok"]


def _all_files(con: sqlite3.Connection) -> list[rows.FileRow]:
    return [rows.FileRow(*row) for row in con.execute(rows.ALL_FILES)]


def _check_files(cache: NodeCache, con: sqlite3.Connection) -> Iterator[str]:
    for row in _all_files(con):
        if row.owner is not None and not process_name_exists(cache.dirs.names_base, row.owner):
            yield f"file {row.id}: its owner {row.owner} is dead, in state {row.state}"
        if row.state == DOWNLOADING:
            if row.lock not in cache.generation.lock_names():
                yield f"file {row.id}: the lock {row.lock} of its download is missing"
        elif row.state != DELETING:
            try:
                payloads.check(row)
            except payloads.PayloadChanged as changed:
                what = "missing" if changed.gone else "not what was put there"
                yield f"file {row.id}: its payload {row.path} is {what}"
    counted = con.execute(
        "SELECT id, pins, (SELECT COUNT(*) FROM refs WHERE file_id = id AND state != 'mutable') FROM files"
    )
    for file_id, pins, links in counted.fetchall():
        if pins != links:
            yield f"file {file_id}: {pins} pins for {links} references"


def _check_refs(con: sqlite3.Connection) -> Iterator[str]:
    found = con.execute(
        "SELECT refs.path, refs.file_id, refs.state, refs.size, files.size, files.state, jobs.id FROM refs"
        " LEFT JOIN files ON files.id = refs.file_id"
        " LEFT JOIN jobs ON jobs.id = refs.job_id AND jobs.attempt = refs.attempt"
    )
    for path, file_id, state, size, file_size, file_state, job in found.fetchall():
        if job is None:
            yield f"reference {path}: its job has no row"
        if state in (IMMUTABLE, COPYING):
            # Who adopts a dead download takes the file first, and the reference of the dead job after it.
            if file_state is None:
                yield f"reference {path}: file {file_id} has no row"
            elif size != file_size:
                yield f"reference {path}: {size} bytes for a file of {file_size}"


def _check_jobs(cache: NodeCache, con: sqlite3.Connection) -> Iterator[str]:
    for job_id, attempt, worker in con.execute("SELECT id, attempt, worker FROM jobs").fetchall():
        if worker is None or not process_name_exists(cache.dirs.names_base, worker):
            yield f"job {job_id} (attempt {attempt}): its worker is dead"


def _check_sums(con: sqlite3.Connection) -> Iterator[str]:
    for name, query in _SUMS.items():
        counted, summed = rows.get_property(con, name), con.execute(query).fetchone()[0]
        if counted != int(summed):
            yield f"property {name}: {counted}, where the rows sum up to {int(summed)}"


def _check_payloads(cache: NodeCache, con: sqlite3.Connection) -> Iterator[str]:
    """Look for files that no row speaks of; a living process may be about to add one."""
    known = {row.path for row in _all_files(con)}
    root = cache.generation.payloads
    for owner in os.listdir(root):
        if process_name_exists(cache.dirs.names_base, owner) and owner != cache.owner:
            continue
        directory = os.path.join(root, owner)
        for name in _entries(directory):
            path = os.path.join(directory, name)
            if path not in known:
                yield f"payload {path}: no row speaks of it"


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []  # whoever removed its last payload has removed it too


def _check_locks(cache: NodeCache, con: sqlite3.Connection) -> Iterator[str]:
    """Look for locks of downloads that are over, and for downloads whose lock nobody holds.

    A living process may have made a lock and be about to take it, or have let go and be about to remove it.
    """
    known = {row.lock: row.id for row in _all_files(con) if row.state == DOWNLOADING}
    for name in cache.generation.lock_names():
        try:
            with LockFile(cache.generation.lock_path(name), os.O_RDWR) as file:
                held = not file.lock(shared=True, wait=False)
        except FileNotFoundError:
            continue
        owner = name.split("-")[1]
        if not held and (name in known or not process_name_exists(cache.dirs.names_base, owner)):
            yield f"lock {name}: nobody holds it" + (f", for file {known[name]}" if name in known else "")
