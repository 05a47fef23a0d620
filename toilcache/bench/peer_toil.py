"""The same workflows in Toil: ``PYTHON peer_toil.py KIND SIZE STORE WORKDIR``, with a Python that has Toil.

A script of its own, since it runs in another environment; nothing of this package is imported. Prints one
JSON object with the seconds from the start of the workflow to its result."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from toil.common import Toil
from toil.job import Job

SMALL = {"cores": 1, "memory": "100M", "disk": "10M"}
LARGE = {"cores": 1, "memory": "100M", "disk": "1G"}


def noop() -> None:
    """Do nothing."""


def fan(job: Any, size: int) -> None:
    """Add ``size`` children that do nothing."""
    for _ in range(size):
        job.addChildFn(noop, **SMALL)


def chain(job: Any, size: int) -> None:
    """Add one child that adds one child and so on."""
    if size:
        job.addChildJobFn(chain, size - 1, **SMALL)


def empty(job: Any, size: int) -> None:
    """Be the only job."""


def written(job: Any, size: int) -> Any:
    """Write a file of that many random bytes and return its id."""
    path = job.fileStore.getLocalTempFile()
    with open(path, "wb") as stream:
        stream.write(os.urandom(size))
    return job.fileStore.writeGlobalFile(path)


def read_often(job: Any, file_id: Any, times: int) -> list[float]:
    """Read a file that the cache has, each time to a new path."""
    store, place = job.fileStore, job.fileStore.getLocalTempDir()
    store.readGlobalFile(file_id, os.path.join(place, "warm"))
    return [
        _timed(store.readGlobalFile, file_id, os.path.join(place, f"copy-{number}"))
        for number in range(times)
    ]


def hits(job: Any, times: int) -> Any:
    """Read one megabyte again and again in one job."""
    first = job.addChildJobFn(written, 1 << 20, **SMALL)
    return first.addFollowOnJobFn(read_often, first.rv(), times, **LARGE).rv()


def writes(job: Any, times: int) -> list[float]:
    """Write files of 1,000 bytes."""
    paths = [job.fileStore.getLocalTempFile() for _ in range(times)]
    for path in paths:
        with open(path, "wb") as stream:
            stream.write(os.urandom(1000))
    return [_timed(job.fileStore.writeGlobalFile, path) for path in paths]


def _timed(call: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    call(*arguments)
    return 1000 * (time.perf_counter() - began)


KINDS: dict[str, Callable[..., Any]] = {
    "fan": fan,
    "chain": chain,
    "empty": empty,
    "hits": hits,
    "writes": writes,
}


def main(kind: str, size: str, store: str, work_dir: str) -> None:
    """Run one workflow and print what it took."""
    options = Job.Runner.getDefaultOptions(store)
    options.logLevel, options.clean, options.workDir = "ERROR", "always", work_dir
    options.caching = kind in ("hits", "writes")
    root = Job.wrapJobFn(KINDS[kind], int(size), **LARGE)
    with Toil(options) as toil:
        began = time.perf_counter()
        result = toil.start(root)
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "milliseconds": result}))


if __name__ == "__main__":
    main(*sys.argv[1:])
