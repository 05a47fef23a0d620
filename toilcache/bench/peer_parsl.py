"""No-op apps in Parsl's HighThroughputExecutor: ``PYTHON peer_parsl.py SIZE WORKDIR``, with a Python that has
it.

A script of its own, since it runs in another environment; nothing of this package is imported. Parsl's
workers run many apps in one process and keep nothing on disk, so this is a peer that promises less. Prints
one JSON object with the seconds from the first submission to the last result; the executor is warm by then.
"""

from __future__ import annotations

import json
import os
import sys
import time

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider


@parsl.python_app  # type: ignore[untyped-decorator]
def noop() -> None:
    """Do nothing."""


def main(size: str, work_dir: str) -> None:
    """Run the apps and print what they took."""
    executor = HighThroughputExecutor(
        label="bench",
        address="127.0.0.1",
        max_workers_per_node=os.cpu_count(),
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    parsl.load(Config(run_dir=os.path.join(work_dir, "runinfo"), executors=[executor], usage_tracking=0))
    noop().result()
    began = time.perf_counter()
    for future in [noop() for _ in range(int(size))]:
        future.result()
    print(json.dumps({"seconds": time.perf_counter() - began}))
    parsl.dfk().cleanup()


if __name__ == "__main__":
    main(*sys.argv[1:])
