"""The workflows that are timed: ``python -m toilcache.bench.workflows KIND SIZE STORE [options]``.

Prints one JSON object: the seconds from the start of the workflow to its result, and what the row needs to be
believed (distinct process ids).
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from toilcache.job.functions import JobFunctionWrappingJob
from toilcache.job.job import Job
from toilcache.workflow import Toil

SMALL = {"cores": 1, "memory": "10M", "disk": "10M"}


def noop() -> None:
    """Do nothing, in a process of its own."""


def noop_given(job: Job) -> None:
    """Do nothing, and be given one's job for that."""


def own_pid() -> int:
    """Return the id of the process that the job runs in."""
    return os.getpid()


def fan(job: Job, size: int) -> None:
    """Add ``size`` children that do nothing."""
    for _ in range(size):
        job.addChildFn(noop, **SMALL)


def fan_given(job: Job, size: int) -> None:
    """Add ``size`` children that are given their jobs and do nothing."""
    for _ in range(size):
        job.addChildJobFn(noop_given, **SMALL)


def pids(job: Job, size: int) -> Any:
    """Add ``size`` children that return their process ids."""
    return [job.addChildFn(own_pid, **SMALL).rv() for _ in range(size)]


def chain(job: Job, size: int) -> None:
    """Add one child that adds one child and so on, ``size`` in all."""
    if size:
        job.addChildJobFn(chain, size - 1, **SMALL)


def empty(job: Job, size: int) -> None:
    """Be the only job."""


KINDS = {"fan": fan, "fan-given": fan_given, "pids": pids, "chain": chain, "empty": empty}


def main(arguments: list[str]) -> None:
    """Run one workflow and print what was measured."""
    kind, size, *rest = arguments
    options = Job.Runner.getDefaultArgumentParser().parse_args(rest)
    with Toil(options) as toil:
        root = JobFunctionWrappingJob(KINDS[kind], int(size), **SMALL)
        began = time.perf_counter()
        result = toil.start(root)
        seconds = time.perf_counter() - began
    distinct = len(set(result)) if kind == "pids" else None
    print(json.dumps({"seconds": seconds, "distinct_pids": distinct}))


if __name__ == "__main__":
    main(sys.argv[1:])
