"""A workflow for `toilcache explain`: jobs that run until a gate opens, jobs without room, one that fails."""

from __future__ import annotations

import os
import sys
import time

from toilcache import Job, Toil


def wait_for(job: Job, gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.02)


def fail(job: Job) -> None:
    raise ValueError("no such thing")


def nothing(job: Job) -> None:
    pass


def root(job: Job, gate: str) -> None:
    for name in ("first", "second"):
        job.addChildJobFn(wait_for, gate, displayName=name, cores=1)
    bad = job.addChildJobFn(fail, displayName="bad", cores=0.1)
    bad.addChildJobFn(nothing, displayName="behind")
    job.addFollowOnJobFn(nothing, displayName="last")


if __name__ == "__main__":
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--gate")
    options = parser.parse_args(sys.argv[1:])
    start = Job.wrapJobFn(root, options.gate, displayName="root", cores=0.1)
    with Toil(options) as toil:
        print("result", toil.restart() if options.restart else toil.start(start))
