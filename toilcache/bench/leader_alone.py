"""The leader without workers: ``python -m toilcache.bench.leader_alone SIZE STORE``.

A root with SIZE children, whose commits stand in a real job store before the leader begins; an adapter that
reports each submitted attempt as done at once. So the leader does all that it does in a real run (reads
records, resolves the graph, writes its journal, syncs, deletes) and nothing else is timed. Prints one JSON
object."""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence

from toilcache.batch.model import Ended, JobRequest, Record, Update
from toilcache.bench.workflows import SMALL, noop
from toilcache.config import Config
from toilcache.job.description import JobDescription
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job.job import Job
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.leader.leader import Leader
from toilcache.leader.report import Reporter

AT_ONCE = 64
"""So many attempts end between two looks of the leader, as with a busy adapter."""


class DoneAtOnce:
    """An adapter whose every attempt has a record and has ended when the leader looks."""

    def __init__(self) -> None:
        self._submitted: deque[JobRequest] = deque()
        self._woken = threading.Event()

    def check(self, request: JobRequest) -> None:
        """Everything fits."""

    def submit(self, requests: Sequence[JobRequest]) -> None:
        """Remember them."""
        self._submitted.extend(requests)

    def cancel(self, job_ids: Collection[str]) -> None:
        """Nothing runs that could be cancelled."""

    def updates(self, timeout: float | None) -> list[Update]:
        """Report the next attempts; wait only when there is none."""
        if not self._submitted:
            self._woken.wait(timeout)
            self._woken.clear()
        found: list[Update] = []
        for _ in range(min(AT_ONCE, len(self._submitted))):
            request = self._submitted.popleft()
            found.append(Record(request.job_id, request.version + 1))
            found.append(Ended(request.job_id, request.version, BatchJobExitReason.FINISHED, "ended", 0, b""))
        return found

    def wake(self) -> None:
        """End a wait."""
        self._woken.set()

    def running(self) -> dict[str, float]:
        """Nothing runs."""
        return {}

    def standing(self) -> dict[str, object]:
        """Nothing waits."""
        return {}

    def adopt(self) -> list[tuple[str, int]]:
        """There is no earlier leader."""
        return []

    def adopted(self, requests: Sequence[JobRequest]) -> None:
        """There is none to tell of."""

    def shutdown(self, fenced: bool = False) -> None:
        """There is nothing to end."""


def prepare(size: int, locator: str) -> tuple[FileJobStore, JobDescription]:
    """Make a store with a root and ``size`` children, and the commit of each."""
    store = FileJobStore(locator)
    store.initialize(Config())
    root = Job.wrapFn(noop, **SMALL)
    for _ in range(size):
        root.addChildFn(noop, **SMALL)
    root.assignConfig(store.config)
    born = root.saveAsRootJob(store)
    for job_id in [str(born.jobStoreID), *born.childIDs]:
        commit = store.load_version(job_id, 1)
        commit.detach_body()
        commit.has_result = True
        store.update_job(commit)
    store.sync()
    return store, store.load_version(str(born.jobStoreID), 1)


def main(arguments: list[str]) -> None:
    """Run the leader once and print what it took."""
    size, locator = int(arguments[0]), arguments[1]
    store, root = prepare(size, locator)
    config = store.config
    config.disableProgress = True
    leader = Leader(store, config, DoneAtOnce(), store.claim_run(), Reporter(config))
    cpu, began = time.process_time(), time.perf_counter()
    leader.run(root, resume=False)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_memory": peak}))


if __name__ == "__main__":
    main(sys.argv[1:])
