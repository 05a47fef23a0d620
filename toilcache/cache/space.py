"""How much space the cache has, who holds it, and what must go when more is needed.

Knows the formulas of the specification (lines 1169 to 1189) and the disk. Must not remove anything. With L
the limit, U the sizes of all files (0 where caching is free), J the disk that jobs asked for and R the sizes
that their links dedicate of it to the cache:

    extra job space = J - R      available = L - U - (J - R), or L where caching is free
    usable for jobs = L - J

A limit that was set is exact. The automatic one is what the disk has for us: what is free and what we have
taken. How much of the reserved space jobs have really taken nobody measures; so the limit stays as it was
while it can be explained, falls only by what neither files nor reservations explain, and rises when more is
free than it says. Before a file is fetched into the cache some headroom must be left too.
"""

from __future__ import annotations

import os
from collections import namedtuple

from toilcache.cache import rows
from toilcache.errors import CacheError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any, NamedTuple

    class Space(NamedTuple):
        """Bytes: the limit, sizes of files, disk of jobs, sizes of links; whether caching is free."""

        limit: int
        files: int
        jobs: int
        links: int
        free: bool
        automatic: bool
else:
    Space = namedtuple("Space", "limit files jobs links free automatic")

# In one row: a transaction in which others wait has no time for more.
_SUMS = "SELECT {} FROM properties".format(
    ", ".join(
        f"MAX(CASE name WHEN '{name}' THEN value END)"
        for name in ("used", "reserved", "dedicated", "free", "capacity", "limit")
    )
)
_HEADROOM_PART, _MOST_HEADROOM = 20, 1 << 30
_MARGIN_PART = 20


def free_bytes(directory: str) -> int:
    """Return the bytes that a common user may still fill."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def first_properties(payloads: str, free: bool, reflinks: bool, limit: int | None) -> dict[str, Any]:
    """Return what a new database says of its space; `limit` is one that was set for an earlier database."""
    return {"capacity": free_bytes(payloads), "limit": limit, "free": int(free), "reflinks": int(reflinks)}


def measure(con: sqlite3.Connection, payloads: str) -> Space:
    """Read the sums, and follow the disk where no limit was set."""
    files, jobs, links, free, capacity, limit = con.execute(_SUMS).fetchone()
    if None in (files, jobs, links, free, capacity):
        raise CacheError("cannot tell how much space the cache has: its database does not say")
    automatic = limit is None
    if automatic:
        taken = free_bytes(payloads) + (0 if free else files)
        limit = min(max(capacity, taken), taken + max(0, jobs))
        if limit != capacity and con.in_transaction:
            rows.set_property(con, "capacity", limit)
    return Space(int(limit), files, jobs, links, bool(free), automatic)


def used(space: Space) -> int:
    """Bytes that cached files take (line 1172)."""
    return 0 if space.free else space.files


def extra_job_space(space: Space) -> int:
    """Bytes that jobs asked for and have not dedicated to files of the cache (line 1175)."""
    return space.jobs - space.links


def available(space: Space) -> int:
    """Bytes free for caching; negative: what must be evicted (line 1180)."""
    return space.limit if space.free else space.limit - space.files - extra_job_space(space)


def usable_for_jobs(space: Space) -> int:
    """Bytes that no job asked for (line 1182)."""
    return space.limit - space.jobs


def unused_requirement(con: sqlite3.Connection, holder: rows.Holder) -> int:
    """Bytes that a job asked for and does not use through its links (line 1185)."""
    held = con.execute(
        "SELECT TOTAL(size) FROM refs WHERE job_id = ? AND attempt = ? AND state != 'mutable'",
        (holder.id, holder.attempt),
    ).fetchone()[0]
    return holder.disk - int(held)


def shortage_for_file(
    con: sqlite3.Connection, space: Space, holder: rows.Holder, size: int, link: bool
) -> int:
    """Return the bytes that lack for one more file in the cache, at most 0 if none do.

    A link to it uses what its job asked for as far as that reaches.
    """
    if space.free:
        return 0
    covered = max(0, min(size, unused_requirement(con, holder))) if link else 0
    if covered == size:
        return 0
    lacking = size - covered + headroom(space) - available(space)
    # At most all links are beyond what their jobs asked for; only if that matters it is counted.
    return lacking if lacking + space.links <= 0 else lacking - _overdrawn(con)


def _overdrawn(con: sqlite3.Connection) -> int:
    """Return by how much jobs dedicate more than they asked for, as a negative number.

    The formulas count that as space gained, where in truth nobody has reserved it.
    """
    found = con.execute(
        "SELECT TOTAL(MIN(0, jobs.disk - (SELECT TOTAL(size) FROM refs"
        " WHERE job_id = jobs.id AND attempt = jobs.attempt AND state = 'immutable'))) FROM jobs"
    ).fetchone()
    return int(found[0])


def headroom(space: Space) -> int:
    """Return the bytes that the cache does not fill by itself; none where a limit was set."""
    return min(_MOST_HEADROOM, max(0, space.limit) // _HEADROOM_PART) if space.automatic else 0


def margin(space: Space) -> int:
    """Return what to evict beyond a need, so that the next one does not evict again."""
    return max(0, space.limit) // _MARGIN_PART


def table(con: sqlite3.Connection, space: Space) -> str:
    """Say who holds the space: a line for each job with what it asked for and holds, and one for the rest."""
    found = con.execute(
        "SELECT jobs.name, jobs.disk, (SELECT TOTAL(size) FROM refs WHERE job_id = jobs.id"
        " AND attempt = jobs.attempt AND state != 'mutable') FROM jobs ORDER BY jobs.disk DESC, jobs.name"
    ).fetchall()
    pinned = con.execute("SELECT TOTAL(size) FROM files WHERE pins > 0 OR state != 'cached'").fetchone()[0]
    lines = ["job, requested (bytes), used (bytes)"]
    lines += [f"{name}, {disk}, {int(held)}" for name, disk, held in found]
    lines.append(
        f"limit {space.limit}, requested {space.jobs}, files {space.files}, of these in use {int(pinned)}"
    )
    return "\n".join(lines)
