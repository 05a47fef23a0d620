"""Jobs that end when they are told to, each with a result, a child and a file. Run as a script by the tests.

Each job makes the file ``started-N`` in the directory ``FLAGS`` and waits there for the file ``go``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from toilcache import Job, Toil

SMALL = {"cores": 0.1, "memory": "10M", "disk": "10M"}
COUNT = 4
EXPECTED = [[number, number + COUNT, "x" * 100_000] for number in range(COUNT)]


def root(job: Job) -> list[Any]:
    """Begin all jobs; their inputs are deleted when they have run."""
    values = []
    for number in range(COUNT):
        with job.fileStore.writeGlobalFileStream() as (stream, file_id):
            stream.write(b"%d" % number)
        values.append(job.addChildJobFn(waits, number, file_id, **SMALL).rv())
    return values


def waits(job: Job, number: int, file_id: Any) -> list[Any]:
    """Write a file to keep; return an inline value, one that takes a file, and the value of a new job."""
    with job.fileStore.readGlobalFileStream(file_id) as stream:
        assert stream.read() == b"%d" % number
    job.fileStore.deleteGlobalFile(file_id)
    flags = Path(os.environ["FLAGS"])
    note = flags / f"begins-{number}"
    note.write_text(str(os.getpid()), encoding="ascii")
    note.rename(flags / f"started-{number}")
    while not (flags / "go").exists():
        time.sleep(0.01)
    kept = Path(job.fileStore.getLocalTempFile())
    kept.write_text(str(number), encoding="ascii")
    job.fileStore.writeGlobalFile(str(kept))
    return [number, job.addChildFn(int, number + COUNT, **SMALL).rv(), "x" * 100_000]


def main() -> None:
    options = Job.Runner.getDefaultArgumentParser().parse_args()
    with Toil(options) as toil:
        result = toil.restart() if options.restart else toil.start(Job.wrapJobFn(root, **SMALL))
    print("result", repr(result))


if __name__ == "__main__":
    main()
