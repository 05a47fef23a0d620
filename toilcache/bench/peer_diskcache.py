"""Many processes on one diskcache: ``PYTHON peer_diskcache.py PROCESSES DIRECTORY PAUSE``, with a Python that
has it.

A script of its own, since it runs in another environment; nothing of this package is imported. Each process
reads a value of one megabyte and writes one of 1,000 bytes in turn. Prints one JSON object with the
milliseconds of all these operations."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from typing import Any

import diskcache

TIMES = 50


def mixed(directory: str, pause: float) -> list[float]:
    """Read and write in turn."""
    cache, found = diskcache.Cache(directory), []
    for _ in range(TIMES):
        value = os.urandom(1000)
        found.append(_timed(cache.get, "file"))
        time.sleep(pause)
        found.append(_timed(cache.set, os.urandom(8).hex(), value))
        time.sleep(pause)
    return found


def _timed(call: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    call(*arguments)
    return 1000 * (time.perf_counter() - began)


def main(processes: str, directory: str, pause: str) -> None:
    """Run the processes and print what they measured."""
    place = os.path.join(directory, f"diskcache-{os.urandom(4).hex()}")
    diskcache.Cache(place).set("file", os.urandom(1 << 20))
    with multiprocessing.Pool(int(processes)) as pool:
        found = pool.starmap(mixed, [(place, float(pause))] * int(processes), chunksize=1)
    print(json.dumps({"milliseconds": [value for one in found for value in one]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
