"""Workflows whose results travel as promises, chosen by ``--kind``. Run as a script by the tests."""

from __future__ import annotations

import os
from typing import Any

from toilcache import Job, PromisedRequirement, Toil

SMALL = {"cores": 1, "memory": "10M", "disk": "10M"}
LARGE = 200_000


def chain(job: Job, left: int) -> Any:
    """Return what the child returns, which returns what its child returns, ..."""
    return "the end" if left == 0 else job.addChildJobFn(chain, left - 1, **SMALL).rv()


def nest(job: Job, left: int) -> Any:
    """Return a list with what the child returns."""
    return [left, job.addChildJobFn(nest, left - 1, **SMALL).rv()] if left else [0]


def depth(job: Job, nested: Any) -> int:
    count = 0
    while len(nested) > 1:
        count, nested = count + 1, nested[1]
    return count


def deep(job: Job, left: int) -> Any:
    """Count the levels of a nested result, as a consumer of it."""
    return job.addFollowOnJobFn(depth, job.addChildJobFn(nest, left, **SMALL).rv(), **SMALL).rv()


def follow_ons(job: Job, left: int, total: int = 0) -> Any:
    """A chain of follow-ons instead of children."""
    if left == 0:
        return total
    return job.addFollowOnJobFn(follow_ons, left - 1, total + left, **SMALL).rv()


def name_and_parts(name: str) -> dict[str, Any]:
    return {"name": name, "parts": list(name), "size": (len(name), None)}


def show(*values: Any, **named: Any) -> list[Any]:
    return [*values, *sorted(named.items())]


def diamond(job: Job) -> Any:
    """Left and right both need the top's value; the bottom needs both of theirs and runs once."""
    top = job.addChildFn(name_and_parts, "top", **SMALL)
    left = top.addChildFn(show, "left", top.rv("name"), **SMALL)
    right = top.addChildFn(show, "right", top.rv("parts", 1), **SMALL)
    bottom = left.addChildFn(show, left.rv(), right.rv(1), witness=os.getpid(), **SMALL)
    right.addChild(bottom)
    return [bottom.rv(0), bottom.rv(1)]


def wide_diamond(job: Job) -> Any:
    """Fifty between a first and a last job."""
    first = job.addChildFn(name_and_parts, "x", **SMALL)
    middle = [first.addChildFn(show, number, first.rv("name"), **SMALL) for number in range(50)]
    last = Job.wrapFn(total, [one.rv(0) for one in middle], **SMALL)
    for one in middle:
        one.addChild(last)
    return last.rv()


def total(numbers: list[int]) -> int:
    return sum(numbers)


def parts(job: Job) -> Any:
    """Parts of a value, in containers and under names."""
    child = job.addChildFn(name_and_parts, "abc", **SMALL)
    values = {"whole": child.rv(), "in": [{"deep": (child.rv("parts", slice(0, 2)),)}]}
    return child.addFollowOnFn(show, values, child.rv("size", 0), key=child.rv("name"), **SMALL).rv()


def large(job: Job) -> Any:
    """Values too large for a record, handed on by promise only."""
    child = job.addChildFn(many, LARGE, **SMALL)
    same = child.addFollowOnFn(same_size, child.rv(), **SMALL)
    return [same.rv(), child.rv(slice(0, 2))]


def many(count: int) -> bytes:
    return b"x" * count


def same_size(data: bytes) -> int:
    return len(data)


def requirements(job: Job) -> Any:
    """The disk of a job is what another has found out."""
    sizes = job.addChildFn(disk_needed, **SMALL)
    asked = PromisedRequirement(double, sizes.rv("bytes"))
    return sizes.addFollowOnJobFn(disk_of, cores=1, memory="10M", disk=asked).rv()


def disk_needed() -> dict[str, int]:
    return {"bytes": 5_000_000}


def double(number: int) -> int:
    return 2 * number


def disk_of(job: Job) -> int:
    return int(job.disk)


def missing_part(job: Job) -> Any:
    """A part that the value does not have."""
    child = job.addChildFn(name_and_parts, "abc", **SMALL)
    return child.addFollowOnFn(show, child.rv("color"), **SMALL).rv()


def encapsulated(job: Job) -> Any:
    """A follow-on of the enclosing job waits for all that the enclosed one has started."""
    inner = Job.wrapJobFn(diamond, **SMALL).encapsulate()
    job.addChild(inner)
    return inner.addFollowOnFn(show, inner.rv(0), **SMALL).rv()


def many_children(job: Job, count: int) -> Any:
    return [job.addChildFn(double, number, **SMALL).rv() for number in range(count)]


def main() -> None:
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--kind")
    parser.add_argument("--count", type=int, default=None)
    options = parser.parse_args()
    with Toil(options) as toil:
        if options.restart:
            result = toil.restart()
        else:
            arguments = [] if options.count is None else [options.count]
            result = toil.start(Job.wrapJobFn(globals()[options.kind], *arguments, **SMALL))
    print("result", repr(result))


if __name__ == "__main__":
    main()
