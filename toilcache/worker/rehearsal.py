"""Running jobs that do nothing in the host itself, before the first fork.

Python looks up names and types at their first use, and rewrites the code of a function while it runs for the
first times; all that is written to memory. What a host has done before it forks no child does again, and
pages that a child does not write to are not copied: of a small job's, one in ten. Knows how a job is made;
must not touch the workflow's job store, nor the node's cache: what a host has open of that no child may use.
"""

from __future__ import annotations

import os

from toilcache import vfs
from toilcache.errors import JobStoreUnavailableError
from toilcache.io import random_name
from toilcache.job.job import Job
from toilcache.job.saving import save_body
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.removal import robust_rmtree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from toilcache.worker.context import WorkerContext

_TIMES = 12
"""After eight calls Python 3.11 and 3.12 begin to write better code for a function, 3.13 a little later."""

_SMALL = {"cores": 1, "memory": 1, "disk": 1}


def _bare() -> Job:
    job: Job = Job.wrapFn(os.getpid, **_SMALL)
    return job


def _other() -> Job:
    job: Job = Job.wrapJobFn(id, **_SMALL)
    return job


def rehearse(context: WorkerContext, run: Callable[[WorkerContext, str, int], object]) -> None:
    """Run jobs that do nothing, a few times each kind; leaves nothing behind.

    :param run: called with surroundings to run in, job id and version.
    """
    path = f"{context.jobs_dir}/rehearsal-{random_name()}"
    jobs_dir = f"{path}/jobs"  # the cache of a node is beside the jobs: here there is none
    try:
        vfs.makedirs(jobs_dir, 0o700)
        stage = FileJobStore(f"{path}/store")
        stage.make_stage(context.store.config)
        for job in [make() for _ in range(_TIMES) for make in (_bare, _other)]:
            stage.assign_job_id(job.description)
            save_body(job, stage)
            stage.create_job(job.description)
            run(context.on(stage, jobs_dir), str(job.jobStoreID), 1)
    except (OSError, JobStoreUnavailableError):
        return  # on a full disk jobs begin a little slower
    finally:
        robust_rmtree(path)
