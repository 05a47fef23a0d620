"""The node cache under the clock: ``python -m toilcache.bench.cache_jobs KIND SIZE STORE [options]``.

Each workflow's result is a list of milliseconds, or of seconds of a clock that all processes share, measured
in the jobs themselves. Prints one JSON object."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from toilcache.job.functions import JobFunctionWrappingJob
from toilcache.job.job import Job
from toilcache.job_store.file_id import FileID
from toilcache.workflow import Toil

MEGABYTE = 1 << 20
SMALL = {"cores": 1, "memory": "100M", "disk": "1G"}
SHARE = {"cores": 0.05, "memory": "10M", "disk": "10M"}
PAUSE = 0.02


def written(job: Job, size: int) -> Any:
    """Write a file of that many random bytes and return its id."""
    path = job.fileStore.getLocalTempFile()
    with open(path, "wb") as stream:
        stream.write(os.urandom(size))
    return job.fileStore.writeGlobalFile(path)


def read_often(job: Job, file_id: str, times: int) -> list[float]:
    """Read a file that the cache has, each time to a new path."""
    store = job.fileStore
    store.readGlobalFile(file_id, "warm")
    return [_timed(store.readGlobalFile, file_id, f"copy-{number}") for number in range(times)]


def hits(job: Job, times: int) -> Any:
    """Read one megabyte again and again in one job."""
    first = job.addChildJobFn(written, MEGABYTE, **SMALL)
    return first.addFollowOnJobFn(read_often, first.rv(), times, **SMALL).rv()


def writes(job: Job, times: int) -> list[float]:
    """Write files of 1,000 bytes."""
    paths = [job.fileStore.getLocalTempFile() for _ in range(times)]
    for path in paths:
        with open(path, "wb") as stream:
            stream.write(os.urandom(1000))
    return [_timed(job.fileStore.writeGlobalFile, path) for path in paths]


def mixed(job: Job, file_id: str, times: int, pause: float) -> list[float]:
    """Read and write in turn, as one of many processes that do so."""
    store, found = job.fileStore, []
    for number in range(times):
        with open(f"file-{number}", "wb") as stream:
            stream.write(os.urandom(1000))
        found.append(_timed(store.readGlobalFile, file_id, f"copy-{number}"))
        time.sleep(pause)
        found.append(_timed(store.writeGlobalFile, f"file-{number}"))
        time.sleep(pause)
    return found


def crowd(job: Job, processes: int, pause: float = PAUSE) -> Any:
    """Let many processes use the cache at once."""
    first = job.addChildJobFn(written, MEGABYTE, **SMALL)
    all_of_them = [first.addChildJobFn(mixed, first.rv(), 50, pause, **SHARE).rv() for _ in range(processes)]
    return all_of_them


def throng(job: Job, processes: int) -> Any:
    """The same without a pause."""
    return crowd(job, processes, 0.0)


def use_memory(size: int) -> None:
    """Write to so many bytes of memory, and give them back.

    What a virtual machine has not used for seconds its host may have taken away, and then it is several times
    slower. Who copies a file right after this finds memory as it was just used, and so does the next one.
    """
    memory = bytearray(b"x") * size
    del memory


def warmed(job: Job, size: int) -> Any:
    """Write a small file, so that the node has a cache, and use memory."""
    use_memory(size)
    return written(job, 1000)


def shares(job: Job, readers: int, file_id: FileID) -> Any:
    """Let several jobs ask for a file that nobody has fetched yet, on a node that has a cache already."""
    memory = 2 * file_id.size
    first = job.addChildJobFn(warmed, memory, cores=1, memory=memory + (100 << 20), disk="1G")
    return [first.addChildJobFn(reads_once, file_id, **SHARE).rv() for _ in range(readers)]


def reads_once(job: Job, file_id: str) -> tuple[float, float]:
    """Read a file; return when that began and when it was there."""
    began = time.monotonic()
    job.fileStore.readGlobalFile(file_id, "shared")
    return began, time.monotonic()


def _timed(call: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    call(*arguments)
    return 1000 * (time.perf_counter() - began)


KINDS: dict[str, Callable[..., Any]] = {
    "hits": hits,
    "writes": writes,
    "crowd": crowd,
    "throng": throng,
    "shares": shares,
}


def main(arguments: list[str]) -> None:
    """Run one workflow and print what its jobs measured.

    What is shared is the file `source` beside the store.
    """
    kind, size, *rest = arguments
    options = Job.Runner.getDefaultArgumentParser().parse_args(rest)
    with Toil(options) as toil:
        more: list[Any] = []
        if kind == "shares":
            source = os.path.join(os.path.dirname(rest[0]), "source")
            more.append(toil.import_file(f"file:{source}", symlink=False))
            os.sync()  # what is yet to be written would slow the readers down
        result = toil.start(JobFunctionWrappingJob(KINDS[kind], int(size), *more, **SMALL))
    if kind in ("crowd", "throng"):
        result = [value for one in result for value in one]
    print(json.dumps({"seconds" if kind == "shares" else "milliseconds": result}))


if __name__ == "__main__":
    main(sys.argv[1:])
