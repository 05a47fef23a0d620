"""A worker without a leader: ``python -m toilcache.bench.worker_alone SIZE STORE``.

One job that adds SIZE children, in a real job store; the code that a host runs in a job's process runs it
here, and nobody runs the children. Prints one JSON object: the seconds from the job's begin until its commit,
which names all children, is in the store, its processor time, and the peak memory."""

from __future__ import annotations

import json
import os
import resource
import sys
import time

from toilcache.bench.workflows import SMALL, fan
from toilcache.config import Config
from toilcache.job.job import Job
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.worker.chain import run_chain
from toilcache.worker.context import WorkerContext


def measure(size: int, locator: str) -> dict[str, float]:
    """Run the job to its commit, in a job store that is made for it."""
    store = FileJobStore(locator)
    store.initialize(Config())
    root = Job.wrapJobFn(fan, size, **SMALL)
    root.assignConfig(store.config)
    job_id = str(root.saveAsRootJob(store).jobStoreID)
    jobs_dir = os.path.join(locator, "jobs of this node")
    os.mkdir(jobs_dir)
    node = {"jobs_dir": jobs_dir, "node": ("bench", locator, locator)}
    setup = {"locator": locator, **node, "sys_path": [], "main": None, "preload": False}
    committed: list[float] = []
    context = WorkerContext(setup, lambda job_id, version: committed.append(time.perf_counter()))
    cpu, began = time.process_time(), time.perf_counter()
    run_chain(context, job_id, 1)
    cpu = time.process_time() - cpu
    if len(store.load_version(job_id, 2).childIDs) != size:
        raise RuntimeError(f"cannot measure: the job has not committed its {size} children")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": committed[0] - began, "cpu": cpu, "peak_memory": peak}


def main(arguments: list[str]) -> None:
    """Run the job once and print what it took."""
    print(json.dumps(measure(int(arguments[0]), arguments[1])))


if __name__ == "__main__":
    main(sys.argv[1:])
