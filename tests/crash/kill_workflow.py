"""The workflow of the kill tests: 200 jobs, each writes one global file, and 24 functions that are not given
their job. The result depends on all of them.

A root fans out to twelve short chains and a tail of single jobs; a follow-on sums up what all of them return.
Run as a script by the tests, which kill parts of it."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from toilcache import Job, Toil

CHAINS, LENGTH = 12, 8
SIDES = 2
SINGLES = 200 - CHAINS * LENGTH - SIDES - 3
FIRST_SIDE = CHAINS * LENGTH + SINGLES
BARE = 24
EXPECTED = sum(range(FIRST_SIDE + SIDES + 1)) + sum(range(BARE))
SMALL = {"cores": 1, "memory": "10M", "disk": "10M"}


def write_number(job: Job, number: int) -> None:
    """Write the one global file of a job, and take a little time, so that kills meet jobs at work."""
    path = job.fileStore.getLocalTempFile()
    with open(path, "w", encoding="ascii") as stream:
        stream.write(str(number))
    job.fileStore.writeGlobalFile(path)
    time.sleep(float(os.environ.get("KILL_TEST_PAUSE", "0.002")))


def link(job: Job, first: int, left: int) -> Any:
    """One link of a chain: returns the sum of its number and those of the links after it."""
    write_number(job, first)
    if left == 1:
        return first
    rest = job.addChildJobFn(link, first + 1, left - 1, **SMALL)
    return [first, rest.rv()]


def single(job: Job, number: int) -> int:
    """A job of its own."""
    write_number(job, number)
    return number


def bare(number: int) -> int:
    """A function that is not given its job."""
    return number


def flat(value: Any) -> int:
    """Sum up nested lists."""
    return sum(map(flat, value)) if isinstance(value, list) else int(value)


def total(job: Job, values: list[Any]) -> int:
    """Sum up everything; writes its file too."""
    write_number(job, -1)
    return flat(values)


def diamond(job: Job) -> list[Any]:
    """Add jobs with one common child; the values of all are wanted later."""
    sides = [job.addChildJobFn(single, FIRST_SIDE + i, **SMALL) for i in range(SIDES)]
    common = Job.wrapJobFn(single, FIRST_SIDE + SIDES, **SMALL)
    for side in sides:
        side.addChild(common)
    return [child.rv() for child in (*sides, common)]


def root(job: Job) -> Any:
    """Fan out."""
    write_number(job, -2)
    values = diamond(job)
    values += [job.addChildJobFn(link, i * LENGTH, LENGTH, **SMALL).rv() for i in range(CHAINS)]
    values += [job.addChildJobFn(single, CHAINS * LENGTH + i, **SMALL).rv() for i in range(SINGLES)]
    values += [job.addChildFn(bare, number, **SMALL).rv() for number in range(BARE)]
    return job.addFollowOnJobFn(total, values, **SMALL).rv()


def main() -> None:
    """Start, or restart with ``--restart``; prints the result."""
    options = Job.Runner.getDefaultArgumentParser().parse_args()
    with Toil(options) as toil:
        result = toil.restart() if options.restart else toil.start(Job.wrapJobFn(root, **SMALL))
    print("result", result, file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
