"""Rows of the cache's tables: files, references and jobs, read and changed one statement at a time.

Knows SQL. Every function takes the connection of a transaction that its caller has open, so that a step of
several statements is one transaction. Must not touch a payload.
"""

from __future__ import annotations

import os
import time
from collections import namedtuple

from toilcache.cache.schema import CACHED, COPYING, DELETING, DOWNLOADING, IMMUTABLE, UPLOADABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import NamedTuple

    class FileRow(NamedTuple):
        """A file of the cache: size in bytes, time in nanoseconds."""

        id: str
        path: str
        size: int
        state: str
        owner: str | None
        mtime_ns: int
        executable: bool
        lock: str | None

    class Holder(NamedTuple):
        """An attempt at a job; `disk` is what it asked for, in bytes."""

        id: str
        attempt: int
        name: str
        tempdir: str
        disk: int

    class Payload(NamedTuple):
        """A file on the disk as it is when it is taken note of."""

        path: str
        size: int
        mtime_ns: int
        executable: bool
else:
    FileRow = namedtuple("FileRow", "id path size state owner mtime_ns executable lock")
    Holder = namedtuple("Holder", "id attempt name tempdir disk")
    Payload = namedtuple("Payload", "path size mtime_ns executable")

# A path is bytes, not all of them UTF-8; SQLite keeps text as it comes, and takes it from Python as bytes.
_PATH = "CAST(? AS TEXT)"
_path = os.fsencode

ALL_FILES = "SELECT id, path, size, state, owner, mtime_ns, executable, lock FROM files"
"""All rows; conditions may follow."""


def find(con: sqlite3.Connection, file_id: str) -> FileRow | None:
    """Return a file's row."""
    found = con.execute(f"{ALL_FILES} WHERE id = ?", (file_id,)).fetchone()
    return None if found is None else FileRow(*found)


def files_owned_by(con: sqlite3.Connection, owner: str, state: str) -> list[FileRow]:
    """Return the rows in one state that a process owns."""
    found = con.execute(f"{ALL_FILES} WHERE owner = ? AND state = ?", (owner, state)).fetchall()
    return [FileRow(*row) for row in found]


def all_paths(con: sqlite3.Connection) -> set[str]:
    """Return the paths of all payloads that rows speak of."""
    return {path for (path,) in con.execute("SELECT path FROM files")}


def is_pinned(con: sqlite3.Connection, file_id: str) -> bool:
    """Tell whether a job holds a link to a file or is copying it."""
    return bool(con.execute("SELECT pins FROM files WHERE id = ? AND pins > 0", (file_id,)).fetchone())


def add_download(
    con: sqlite3.Connection, file_id: str, path: str, size: int, executable: bool, owner: str, lock: str
) -> None:
    """Add a file that its owner is about to fetch."""
    con.execute(
        "INSERT INTO files (id, path, size, state, owner, mtime_ns, executable, lock, used)"
        f" VALUES (?, {_PATH}, ?, '{DOWNLOADING}', ?, 0, ?, ?, ?)",
        (file_id, _path(path), size, owner, executable, lock, time.time_ns()),
    )


def add_written(con: sqlite3.Connection, file_id: str, payload: Payload, owner: str) -> None:
    """Add a file that its owner is to upload."""
    con.execute(
        "INSERT INTO files (id, path, size, state, owner, mtime_ns, executable, used)"
        f" VALUES (?, {_PATH}, ?, '{UPLOADABLE}', ?, ?, ?, ?)",
        (file_id, _path(payload.path), payload.size, owner, *payload[2:], time.time_ns()),
    )


def publish(con: sqlite3.Connection, file_id: str, payload: Payload, owner: str, lock: str) -> bool:
    """Let everybody read a file that was fetched; False if the row is not this download's any more."""
    done = con.execute(
        f"UPDATE files SET state = '{CACHED}', owner = NULL, lock = NULL,"
        " size = ?, mtime_ns = ?, executable = ?"
        f" WHERE id = ? AND state = '{DOWNLOADING}' AND owner = ? AND lock = ?",
        (*payload[1:], file_id, owner, lock),
    )
    return done.rowcount == 1


def change_state(con: sqlite3.Connection, file_id: str, owner: str, before: str, after: str) -> bool:
    """Move a file of an owner from one state to another; cached files have no owner."""
    done = con.execute(
        "UPDATE files SET state = ?, owner = ? WHERE id = ? AND state = ? AND owner = ?",
        (after, None if after == CACHED else owner, file_id, before, owner),
    )
    return done.rowcount == 1


def begin_deleting(con: sqlite3.Connection, row: FileRow, owner: str) -> bool:
    """Take a file for deletion, as it was seen; False if it has changed since."""
    done = con.execute(
        f"UPDATE files SET state = '{DELETING}', owner = ?, lock = NULL"
        f" WHERE id = ? AND path = {_PATH} AND state = ? AND owner IS ? AND lock IS ?",
        (owner, row.id, _path(row.path), row.state, row.owner, row.lock),
    )
    return done.rowcount == 1


def end_deleting(con: sqlite3.Connection, file_id: str, path: str, owner: str) -> None:
    """Drop the row of a file whose payload is gone."""
    con.execute(
        f"DELETE FROM files WHERE id = ? AND path = {_PATH} AND state = '{DELETING}' AND owner = ?",
        (file_id, _path(path), owner),
    )


def drop_file(con: sqlite3.Connection, file_id: str, path: str) -> None:
    """Drop a row whose payload is gone, whatever its state."""
    con.execute(f"DELETE FROM files WHERE id = ? AND path = {_PATH}", (file_id, _path(path)))


def evictable(con: sqlite3.Connection, need: int) -> list[FileRow]:
    """Choose the files used least recently that nobody holds, until they sum up to the need."""
    chosen: list[FileRow] = []
    found = con.execute(f"{ALL_FILES} WHERE state = '{CACHED}' AND pins = 0 ORDER BY used")
    while need > 0 and (row := found.fetchone()) is not None:
        chosen.append(FileRow(*row))
        need -= chosen[-1].size
    found.close()
    return chosen


def touch(con: sqlite3.Connection, file_id: str) -> None:
    """Note that a file was used."""
    con.execute("UPDATE files SET used = ?, hits = hits + 1 WHERE id = ?", (time.time_ns(), file_id))


def add_ref(
    con: sqlite3.Connection,
    holder: Holder,
    file_id: str,
    path: str,
    state: str,
    size: int,
    source: bool = False,
) -> int:
    """Add a reference and return its number."""
    done = con.execute(
        "INSERT INTO refs (path, file_id, job_id, attempt, state, size, source)"
        f" VALUES ({_PATH}, ?, ?, ?, ?, ?, ?)",
        (_path(path), file_id, holder.id, holder.attempt, state, size, source),
    )
    return int(done.lastrowid or 0)


def change_ref(con: sqlite3.Connection, ref: int, state: str) -> None:
    """Change what kind of reference it is."""
    con.execute("UPDATE refs SET state = ? WHERE ref = ?", (state, ref))


def drop_ref(con: sqlite3.Connection, ref: int) -> None:
    """Remove one reference."""
    con.execute("DELETE FROM refs WHERE ref = ?", (ref,))


def refs_of(con: sqlite3.Connection, holder: Holder, file_id: str) -> list[tuple[int, str, str]]:
    """Return (number, path, state) of a job's references to a file."""
    return con.execute(
        "SELECT ref, path, state FROM refs WHERE job_id = ? AND attempt = ? AND file_id = ?",
        (holder.id, holder.attempt, file_id),
    ).fetchall()


def readers(con: sqlite3.Connection, file_id: str) -> int:
    """Count the references to a file, of every kind and job."""
    return int(con.execute("SELECT COUNT(*) FROM refs WHERE file_id = ?", (file_id,)).fetchone()[0])


def others_reading(con: sqlite3.Connection, file_id: str, holder: Holder) -> list[str]:
    """Name the other jobs that have references to a file."""
    found = con.execute(
        "SELECT DISTINCT jobs.name FROM refs JOIN jobs"
        " ON jobs.id = refs.job_id AND jobs.attempt = refs.attempt"
        " WHERE refs.file_id = ? AND (refs.job_id, refs.attempt) != (?, ?)",
        (file_id, holder.id, holder.attempt),
    )
    return [name for (name,) in found]


def held_files(con: sqlite3.Connection, holder: Holder) -> list[FileRow]:
    """Return the files of which a job has links."""
    found = con.execute(
        f"{ALL_FILES} WHERE id IN (SELECT file_id FROM refs WHERE job_id = ? AND attempt = ?"
        f" AND state = '{IMMUTABLE}')",
        (holder.id, holder.attempt),
    )
    return [FileRow(*row) for row in found]


def add_job(con: sqlite3.Connection, holder: Holder, worker: str) -> None:
    """Add a job, or take it over from whoever had it."""
    con.execute(
        f"INSERT INTO jobs (id, attempt, name, tempdir, disk, worker) VALUES (?, ?, ?, {_PATH}, ?, ?)"
        " ON CONFLICT (id, attempt) DO UPDATE SET"
        " tempdir = excluded.tempdir, disk = excluded.disk, worker = excluded.worker, harmed = NULL",
        (holder.id, holder.attempt, holder.name, _path(holder.tempdir), holder.disk, worker),
    )


def drop_job(con: sqlite3.Connection, job_id: str, attempt: int) -> None:
    """Remove a job with its references."""
    con.execute("DELETE FROM refs WHERE job_id = ? AND attempt = ?", (job_id, attempt))
    con.execute("DELETE FROM jobs WHERE id = ? AND attempt = ?", (job_id, attempt))


def has_jobs(con: sqlite3.Connection, worker: str) -> bool:
    """Tell whether a process runs jobs."""
    return con.execute("SELECT 1 FROM jobs WHERE worker = ? LIMIT 1", (worker,)).fetchone() is not None


def has_orphans(con: sqlite3.Connection) -> bool:
    """Tell whether there are jobs without a worker."""
    return con.execute("SELECT 1 FROM jobs WHERE worker IS NULL LIMIT 1").fetchone() is not None


def harm_of(con: sqlite3.Connection, holder: Holder) -> str | None:
    """Return what was changed under a job, None if nothing was."""
    found = con.execute(
        "SELECT harmed FROM jobs WHERE id = ? AND attempt = ?", (holder.id, holder.attempt)
    ).fetchone()
    return None if found is None else found[0]


def tell_holders(con: sqlite3.Connection, row: FileRow, why: str) -> None:
    """Note for every job that holds a link to a file, other than the one it wrote, that it was changed.

    Their references go: what they have is not the file any more.
    """
    con.execute(
        "UPDATE jobs SET harmed = ? WHERE (id, attempt) IN (SELECT job_id, attempt FROM refs"
        f" WHERE file_id = ? AND state IN ('{IMMUTABLE}', '{COPYING}') AND source = 0)",
        (why, row.id),
    )
    con.execute("DELETE FROM refs WHERE file_id = ? AND state != 'mutable'", (row.id,))


def unlink_holders(con: sqlite3.Connection, file_id: str) -> None:
    """Let references to a file that is gone stand for files of the jobs' own."""
    con.execute("UPDATE refs SET state = 'mutable' WHERE file_id = ? AND state != 'mutable'", (file_id,))


def known_processes(con: sqlite3.Connection) -> set[str]:
    """Name every process that owns a file or runs a job."""
    found = con.execute(
        "SELECT owner FROM files WHERE owner IS NOT NULL"
        " UNION SELECT worker FROM jobs WHERE worker IS NOT NULL"
    )
    return {name for (name,) in found}


def get_property(con: sqlite3.Connection, name: str) -> object:
    """Return a property's value, None if it has none."""
    found = con.execute("SELECT value FROM properties WHERE name = ?", (name,)).fetchone()
    return None if found is None else found[0]


def count(con: sqlite3.Connection, name: str, more: int = 1) -> None:
    """Add to a property that counts."""
    con.execute("UPDATE properties SET value = value + ? WHERE name = ?", (more, name))


def set_property(con: sqlite3.Connection, name: str, value: object) -> None:
    """Set a property."""
    con.execute("INSERT OR REPLACE INTO properties VALUES (?, ?)", (name, value))
