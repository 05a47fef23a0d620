"""The command `toilcache cache`: what the cache of a workflow holds on this node, and whether it is sound.

Knows tables and how a person reads them. Must not change anything but what adoption changes.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from toilcache.cache import space as spaces
from toilcache.cache.check import check
from toilcache.cache.node_cache import NodeCache
from toilcache.cache.place import generation_numbers
from toilcache.config import wants_cleaning
from toilcache.errors import CacheError
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.node.coordination import node_dirs
from toilcache.node.identity import process_name_exists
from toilcache.units import format_size

_FILE = ("id", "size", "state", "owner", "hits", "pins", "path")
_JOB = ("name", "id", "attempt", "disk", "worker")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "jobStore", metavar="JOBSTORE", help="the directory of the job store, or file:DIRECTORY"
    )
    parser.add_argument("--workDir", help="where its jobs work, if not as in its configuration")
    parser.add_argument("--coordinationDir", help="where its workers meet, if not as in its configuration")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")


def show_cache(options: argparse.Namespace) -> int:
    """Print what the cache of this node holds; 1 if something is wrong with it."""
    store = FileJobStore(options.jobStore)
    store.resume()
    config = store.config
    dirs = node_dirs(
        str(config.workflowID),
        options.workDir or config.workDir,
        options.coordinationDir or config.coordinationDir,
        create=False,
    )
    if not generation_numbers(dirs):
        raise CacheError(
            f"cannot show the cache of {store.locator}: there is none on this node; no job has used it here"
        )
    cache = NodeCache(
        dirs, store.gives_freely, keeps_dirs=not wants_cleaning(config.cleanWorkDir, failed=True)
    )
    try:
        found = describe(cache)
    finally:
        cache.close()
    print(json.dumps(found) if options.json else as_text(found))
    return 1 if found["findings"] else 0


def describe(cache: NodeCache) -> dict[str, Any]:
    """Return all there is to say of a cache: sizes in bytes, files, jobs, and what `check` finds."""
    con = cache.generation.database.con
    now = cache.space()
    files = con.execute(f"SELECT {', '.join(_FILE)} FROM files ORDER BY used DESC, id").fetchall()
    jobs = con.execute(f"SELECT {', '.join(_JOB)} FROM jobs ORDER BY name, id, attempt").fetchall()
    counts = dict(con.execute("SELECT name, value FROM properties WHERE name IN ('misses', 'evictions')"))
    names = cache.dirs.names_base
    return {
        "directory": cache.generation.payloads,
        "database": cache.generation.database.path,
        "generation": cache.generation.number,
        "limit": now.limit,
        "used": spaces.used(now),
        "reserved": now.jobs,
        "available": spaces.available(now),
        "free": now.free,
        "hits": sum(row[4] for row in files),
        **counts,
        "files": [dict(zip(_FILE, row, strict=True)) for row in files],
        "jobs": [
            dict(zip(_JOB, row, strict=True)) | {"alive": bool(row[4]) and process_name_exists(names, row[4])}
            for row in jobs
        ],
        "findings": check(cache),
    }


def as_text(found: dict[str, Any]) -> str:
    """Put a description in words."""
    limit = "caching takes no space" if found["free"] else f"limit {format_size(found['limit'])}"
    lines = [
        f"{found['directory']}: {len(found['files'])} files, {format_size(found['used'])}, {limit}",
        f"{found['hits']} hits, {found['misses']} misses, {found['evictions']} evictions; "
        f"{len(found['jobs'])} jobs with {format_size(found['reserved'])} of disk",
    ]
    for row in found["files"]:
        owner = f", owned by {row['owner']}" if row["owner"] else ""
        held = f", held {row['pins']} times" if row["pins"] else ""
        lines.append(
            f"  {row['state']}: {format_size(row['size'])}, {row['hits']} hits{owner}{held}: {row['id']}"
        )
    for job in found["jobs"]:
        state = "runs" if job["alive"] else "is dead"
        lines.append(f"  job {job['name']} {state}: {format_size(job['disk'])} of disk")
    lines += [f"wrong: {text}" for text in found["findings"]] or ["rows, files, locks and sums agree"]
    return "\n".join(lines)
