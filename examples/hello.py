#!/usr/bin/env python3
"""A first workflow: square some numbers in a job each, then add the squares up.

Run it as `python examples/hello.py ./hello-store`; the argument is a directory for the job store.
"""

from __future__ import annotations

from typing import Any

from toilcache import Job, Toil


def square(number: int) -> int:
    """Run as one job per number."""
    return number * number


def total(squares: list[int]) -> int:
    """Run when every square is there: the promises in `squares` have become numbers."""
    return sum(squares)


def spread(job: Job, numbers: list[int]) -> Any:
    """Root: add a child per number and a follow-on that takes what the children return."""
    squares = [job.addChildFn(square, number).rv() for number in numbers]
    return job.addFollowOnFn(total, squares).rv()


if __name__ == "__main__":
    options = Job.Runner.getDefaultArgumentParser().parse_args()
    with Toil(options) as toil:
        print("sum of squares:", toil.start(Job.wrapJobFn(spread, list(range(10)))))
