"""Running a job that does nothing in the host itself, before the first fork.

Python looks up names and types at their first use, and rewrites the code of a function while it runs for the
first times; all that is written to memory. What a host has done before it forks no child does again, and
pages that a child does not write to are not copied: of a small job's, one in ten. Knows how a job is run;
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
from toilcache.worker.chain import run_chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from toilcache.worker.context import WorkerContext

_TIMES = 12
"""After eight calls Python 3.11 and 3.12 begin to write better code for a function, 3.13 a little later."""

_SMALL = {"cores": 1, "memory": 1, "disk": 1}


def rehearse(context: WorkerContext) -> None:
    """Run a job that does nothing, a few times; leaves nothing behind."""
    path = f"{context.jobs_dir}/rehearsal-{random_name()}"
    jobs_dir = f"{path}/jobs"  # the cache of a node is beside the jobs: here there is none
    try:
        vfs.makedirs(jobs_dir, 0o700)
        stage = FileJobStore(f"{path}/store")
        stage.make_stage(context.store.config)
        for _ in range(_TIMES):
            job = Job.wrapFn(os.getpid, **_SMALL)
            stage.assign_job_id(job.description)
            save_body(job, stage)
            stage.create_job(job.description)
            run_chain(context.on(stage, jobs_dir), str(job.jobStoreID), 1)
    except (OSError, JobStoreUnavailableError):
        return  # on a full disk jobs begin a little slower
    finally:
        robust_rmtree(path)
