"""A batch adapter that runs jobs inside the leader's own process, one at a time and without any worker.

It takes requests and calls a function that does what a worker would: write a commit record to the store.
Tests replace that function to inject failures; a benchmark of the leader alone uses it as it is.
"""

from __future__ import annotations

import math
import select
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from toilcache.batch.model import Ended, JobRequest, Record, Update
from toilcache.batch.waker import Waker
from toilcache.errors import InsufficientSystemResources
from toilcache.job.description import JobDescription
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job_store.abstract import AbstractJobStore

Work = Callable[[JobRequest], "Iterable[Update] | None"]


def ended(request: JobRequest, reason: BatchJobExitReason, detail: str = "", log: bytes = b"") -> Ended:
    """The end of an attempt."""
    return Ended(request.job_id, request.version, reason, detail or reason.name.lower(), 0, log)


class NullAdapter:
    """Gives each request to ``work``, which returns the updates to report, or None for a job that runs on
    until it is cancelled or :meth:`report` brings its ``Ended``.

    :param slots: how many jobs may run at a time.
    :param max_cores: more than that is refused by :meth:`check`.
    """

    def __init__(self, work: Work, slots: int = 1_000_000, max_cores: float = 1e9) -> None:
        self.work = work
        self.submitted: list[JobRequest] = []
        self.cancelled: list[str] = []
        self.of_earlier_runs: list[tuple[str, int]] = []
        self.closed = 0
        self._slots = slots
        self._max_cores = max_cores
        self._pending: deque[JobRequest] = deque()
        self._running: dict[str, tuple[JobRequest, float]] = {}
        self._ready: list[Update] = []
        self._poll = select.poll()  # select knows no descriptors above 1,023
        self._waker = Waker(self._poll)

    def check(self, request: JobRequest) -> None:
        if request.cores > self._max_cores:
            raise InsufficientSystemResources(request.name, "cores", request.cores, self._max_cores)

    def submit(self, requests: Sequence[JobRequest]) -> None:
        self.submitted.extend(requests)
        self._pending.extend(requests)

    def cancel(self, job_ids: Collection[str]) -> None:
        for job_id in job_ids:
            self.cancelled.append(job_id)
            request = next((request for request in self._pending if request.job_id == job_id), None)
            if request is not None:
                self._pending.remove(request)
            elif job_id in self._running:
                request = self._running[job_id][0]
            if request is not None:
                self.report(ended(request, BatchJobExitReason.KILLED))

    def updates(self, timeout: float | None) -> list[Update]:
        while not self._ready and self._pending and len(self._running) < self._slots:
            self._start(self._pending.popleft())
        # No queue.SimpleQueue: its get with a time-out of microseconds can wait for ever (Python 3.11).
        if not self._ready and self._poll.poll(None if timeout is None else math.ceil(1000 * timeout)):
            self._waker.hear()
        ready, self._ready = self._ready, []
        return ready

    def _start(self, request: JobRequest) -> None:
        self._running[request.job_id] = (request, time.monotonic())
        self.report(*(self.work(request) or ()))

    def report(self, *updates: Update) -> None:
        """Have :meth:`updates` return these."""
        for update in updates:
            if isinstance(update, Ended):
                self._running.pop(update.job_id, None)
            self._ready.append(update)

    def wake(self) -> None:
        self._waker.wake()

    def running(self) -> dict[str, float]:
        now = time.monotonic()
        return {job_id: now - began for job_id, (_, began) in self._running.items()}

    def standing(self) -> dict[str, list[str]]:
        return {"runs": sorted(self._running)}

    def adopt(self) -> list[tuple[str, int]]:
        return self.of_earlier_runs

    def adopted(self, requests: Sequence[JobRequest]) -> None:
        now = time.monotonic()
        for request in requests:
            if (request.job_id, request.version) in self.of_earlier_runs:
                self._running[request.job_id] = (request, now)

    def shutdown(self, fenced: bool = False) -> None:
        self.closed += 1
        self._pending.clear()
        self._running.clear()


class Committer:
    """Does a worker's part: loads the attempt, commits it, and says so.

    :param connect: gives the worker's own connection to the store; the same one again if no attempt is ever
        refused.
    :param change: what the job does: it may change the description before the commit, or write files.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractJobStore],
        change: Callable[[AbstractJobStore, JobDescription], object] = lambda store, desc: None,
    ) -> None:
        self._connect = connect
        self._change = change

    def __call__(self, request: JobRequest) -> list[Update]:
        return [self.commit(request), ended(request, BatchJobExitReason.FINISHED)]

    def commit(self, request: JobRequest) -> Record:
        """Run and commit an attempt."""
        store = self._connect()
        desc = store.load_version(request.job_id, request.version)
        store.begin_attempt(request.job_id, request.version)
        self._change(store, desc)
        desc.detach_body()
        desc.has_result, desc.result = True, b"N."  # None, pickled
        store.update_job(desc)
        return Record(request.job_id, desc.version)

    def fail(self, request: JobRequest) -> Record:
        """Run an attempt that fails in the job's own code and says so in a record."""
        store = self._connect()
        store.begin_attempt(request.job_id, request.version)
        desc = store.load_version(request.job_id, request.version)
        self._change(store, desc)
        desc = store.load_version(request.job_id, request.version)
        desc.setupJobAfterFailure(exit_status=1, exit_reason=BatchJobExitReason.FAILED)
        desc.failure = "ValueError: no"
        store.update_job(desc)
        return Record(request.job_id, desc.version)
