"""All that stands in a job store, so that a test can say that nothing of it has changed."""

from __future__ import annotations

import stat
from collections.abc import Collection
from pathlib import Path

from toilcache.job_store import layout
from toilcache.job_store.backed import BackedJobStore

Tree = dict[str, tuple[int, bytes]]


def reached(store: BackedJobStore) -> set[str]:
    """Return the scopes of the jobs that the root of a workflow leads to."""
    return {layout.job_scope(job_id) for job_id in store._walk(store.root_job_id(), {})}


def tree(store: Path, of_jobs: Collection[str] | None = None) -> Tree:
    """Return modes and contents by name.

    Left out are what the leader of a store writes all the time (journal, heartbeat), temporary files, and
    with ``of_jobs`` all other jobs: what nothing leads to, only an attempt that has not committed knows of.
    """
    found: Tree = {}
    for path in store.rglob("*"):
        name = str(path.relative_to(store))
        if (
            name.startswith("journal/")
            or name.endswith((".beat", ".standing"))
            or path.name.startswith(".tmp-")
        ):
            continue
        scope = "/".join(name.split("/")[:3])
        if of_jobs is not None and name.startswith("jobs/") and scope not in of_jobs:
            continue
        status = path.lstat()
        found[name] = (status.st_mode, path.read_bytes() if stat.S_ISREG(status.st_mode) else b"")
    return found
