"""A workflow that is suspended in its middle. Run as a script by the tests of leaders and zombies.

A job notes that it works, waits for the file ``release`` in the directory ``FLAGS``, and then writes a file,
makes a child and returns. Its follow-on notes that it waits and waits for the file ``go``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from toilcache import Job, Toil

SMALL = {"cores": 1, "memory": "10M", "disk": "10M"}


def flag(name: str) -> Path:
    return Path(os.environ["FLAGS"]) / name


def wait_for(name: str) -> None:
    while not flag(name).exists():
        time.sleep(0.01)


def root(job: Job) -> Any:
    work = job.addChildJobFn(works, **SMALL)
    return job.addFollowOnJobFn(waits, work.rv(), **SMALL).rv()


def works(job: Job) -> Any:
    with job.fileStore.writeGlobalFileStream(basename="early") as (stream, _):
        stream.write(b"early")
    note = flag(f"works-{os.getpid()}.new")
    note.touch()
    note.rename(note.with_suffix(""))
    wait_for("release")
    with job.fileStore.writeGlobalFileStream(basename="late") as (stream, _):
        stream.write(b"late")
    job.fileStore.log_to_leader("has worked")
    return job.addChildFn(int, 42, **SMALL).rv()


def waits(job: Job, value: int) -> int:
    flag("waits").touch()
    wait_for("go")
    return value


def main() -> None:
    options = Job.Runner.getDefaultArgumentParser().parse_args()
    with Toil(options) as toil:
        result = toil.restart() if options.restart else toil.start(Job.wrapJobFn(root, **SMALL))
    print("result", repr(result))


if __name__ == "__main__":
    main()
