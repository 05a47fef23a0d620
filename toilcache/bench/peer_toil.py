"""The same workflows in Toil: ``PYTHON peer_toil.py KIND SIZE STORE WORKDIR``, with a Python that has Toil.

A script of its own, since it runs in another environment; nothing of this package is imported. Prints one
JSON object with the seconds from the start of the workflow to its result."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from toil.common import Toil
from toil.job import Job

SMALL = {"cores": 1, "memory": "100M", "disk": "10M"}


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


def main(kind: str, size: str, store: str, work_dir: str) -> None:
    """Run one workflow and print what it took."""
    options = Job.Runner.getDefaultOptions(store)
    options.logLevel, options.clean, options.workDir = "ERROR", "always", work_dir
    root = Job.wrapJobFn({"fan": fan, "chain": chain, "empty": empty}[kind], int(size), **SMALL)
    with Toil(options) as toil:
        began = time.perf_counter()
        toil.start(root)
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
