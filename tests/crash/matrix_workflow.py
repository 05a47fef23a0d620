"""The workflow of the kill matrix: everything that jobs can do, in as few jobs as it takes.

A root with a fan-out, a chain, a diamond, a job that fails at its first try, a file that is deleted, and a
follow-on that consumes the promises of all, some of them late. Each job writes one file with its number that
stays; the follow-on reads them all. But for a function that is not given its job, whose value is wanted as
well. Run as a script by the tests, which kill parts of it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from toilcache import Job, Toil

SMALL = {"cores": 1, "memory": "10M", "disk": "10M"}
ROOT, SINGLE, FIRST, SECOND, LEFT, RIGHT, JOIN, STUMBLE, TOTAL = range(9)
NUMBERS = [ROOT, SINGLE, FIRST, SECOND, LEFT, RIGHT, JOIN, STUMBLE, TOTAL]
EXPECTED = sorted(set(NUMBERS) - {TOTAL})


def write(job: Job, text: object) -> Any:
    """Write a file that stays; returns its id."""
    path = Path(job.fileStore.getLocalTempFile())
    path.write_text(str(text), encoding="ascii")
    return job.fileStore.writeGlobalFile(str(path))


def read(job: Job, file_id: Any) -> int:
    return int(Path(job.fileStore.readGlobalFile(file_id)).read_text(encoding="ascii"))


def single(job: Job, number: int) -> list[Any]:
    """A job of its own."""
    return [write(job, number)]


def first(job: Job, doomed: Any) -> list[Any]:
    """The first of a chain: reads a file of the root and deletes it."""
    assert read(job, doomed) == -1
    job.fileStore.deleteGlobalFile(doomed)
    rest = job.addChildJobFn(single, SECOND, **SMALL)
    return [write(job, FIRST), rest.rv(0)]


def stumble(job: Job) -> list[Any]:
    """Fail at the first try, with a file written."""
    file_id = write(job, STUMBLE)
    if job.description.version == 1:
        raise RuntimeError("the first try of this job fails")
    return [file_id]


def bare(text: str) -> str:
    """A function that is not given its job."""
    return text.upper()


def total(job: Job, values: list[list[Any]], text: str) -> list[int]:
    """Read what all have written."""
    assert text == "BARE"
    numbers = sorted(read(job, file_id) for ids in values for file_id in ids)
    write(job, TOTAL)
    return numbers


def root(job: Job) -> Any:
    values = [[write(job, ROOT)]]
    doomed = write(job, -1)
    values.append(job.addChildJobFn(first, doomed, **SMALL).rv())
    values.append(job.addChildJobFn(single, SINGLE, **SMALL).rv())
    values.append(job.addChildJobFn(stumble, **SMALL).rv())
    join = Job.wrapJobFn(single, JOIN, **SMALL)
    for number in (LEFT, RIGHT):
        side = job.addChildJobFn(single, number, **SMALL)
        side.addChild(join)
        values.append(side.rv())
    values.append(join.rv())
    text = job.addChildFn(bare, "bare", **SMALL).rv()
    return job.addFollowOnJobFn(total, values, text, **SMALL).rv()


def main() -> None:
    """Start, or restart with ``--restart``; prints the result."""
    options = Job.Runner.getDefaultArgumentParser().parse_args()
    with Toil(options) as toil:
        result = toil.restart() if options.restart else toil.start(Job.wrapJobFn(root, **SMALL))
    print("result", result, flush=True, file=sys.stdout)


if __name__ == "__main__":
    main()
