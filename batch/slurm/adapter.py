"""The batch adapter for Slurm (see :class:`toilcache.batch.model.BatchAdapter`).

Knows how the parts of this room work together: attempts go into queues in the job store, arrays of workers
are submitted that take them from there, the workers' logs tell what became of them, and Slurm is asked only
to explain silence, at most once in 30 seconds (I11). Must not know the graph, retries or what a job is.
Nothing that Slurm says is evidence of success (I1)."""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from toilcache.batch.container_plan import BOX_MEMORY, container_of
from toilcache.batch.model import Ended, JobRequest, Update
from toilcache.batch.slurm.cleaning import clean_nodes
from toilcache.batch.slurm.client import SlurmClient, SlurmError
from toilcache.batch.slurm.commands import Needs, Placement
from toilcache.batch.slurm.evidence import LOOK_SECONDS
from toilcache.batch.slurm.hosts import Hosts, end_of
from toilcache.batch.slurm.partitions import what_is_lacking
from toilcache.batch.slurm.queues import Attempt, Queue, Queues, seize
from toilcache.batch.slurm.states import Phase, Verdict
from toilcache.batch.slurm.submitter import Submitter
from toilcache.batch.waker import Waker
from toilcache.errors import InsufficientSystemResources
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.job_store.work import Work

logger = logging.getLogger(__name__)

SHORTEST_PAUSE, LONGEST_PAUSE, LONGEST_REST = 0.02, 0.5, 2.0
DOUBT_SECONDS = 45.0
"""A host that has said nothing for three of its beats is asked after."""
STOP_SECONDS = 8.0


class SlurmAdapter:
    """Runs workers in allocations of Slurm.

    :param run: the number of the leader's run.
    :param setup: what every host is to know (see `toilcache.worker.allocation`).
    :param clean: called once at the end of :meth:`shutdown`, to clean this node.
    :param cleans_nodes: whether the other nodes are to be cleaned then.
    """

    def __init__(
        self,
        client: SlurmClient,
        store: AbstractJobStore,
        run: int,
        placement: Placement,
        submitter: Submitter,
        setup: dict[str, Any],
        clean: Callable[[], None],
        cleans_nodes: Callable[[], bool],
    ) -> None:
        self._client = client
        self._store = store
        self._run = run
        self._placement = placement
        self._submitter = submitter
        self._clean = clean
        self._cleans_nodes = cleans_nodes
        self._work: Work = store.work(run)
        self._work.make(setup)
        self._claimant = f"leader-{run}"
        self._queues = Queues(self._work, self._claimant, container_of(setup))
        self._hosts = Hosts()
        self._adopted: set[Attempt] = set()
        self._ready: list[Update] = []
        self._last_look = -LOOK_SECONDS
        self._absent = False
        self._pause = SHORTEST_PAUSE
        self._next_round = 0.0
        self._closed = False
        self._poll = select.poll()
        self._waker = Waker(self._poll)

    # The verbs

    def check(self, request: JobRequest) -> None:
        box = 0 if self._queues.image_of(request) is None else BOX_MEMORY
        needs = Needs(request.cores, request.memory + box, request.disk, request.accelerators)
        lack = what_is_lacking(self._submitter.groups, needs, self._placement)
        if lack is not None:
            raise InsufficientSystemResources(
                request.name, lack.resource, f"{lack.wanted:g}", f"at most {lack.most:g}", "any node of Slurm"
            )

    def submit(self, requests: Sequence[JobRequest]) -> None:
        self._queues.add(requests)
        now = time.monotonic()
        self._pause, self._next_round = SHORTEST_PAUSE, min(self._next_round, now + SHORTEST_PAUSE)
        self._submit_workers(now)

    def cancel(self, job_ids: Collection[str]) -> None:
        for attempt in [*self._queues.of(job_ids), *(one for one in self._adopted if one[0] in job_ids)]:
            if attempt in self._adopted or not self._queues.withdraw(attempt):
                for work in self._works():
                    work.order(f"cancel {attempt[0]} {attempt[1]}")
            else:
                self._end(attempt, Verdict(Phase.ENDED, BatchJobExitReason.KILLED, "was cancelled"))

    def running(self) -> dict[str, float]:
        now = time.monotonic()
        running = (host for host in self._hosts.running())
        return {host.attempt[0]: now - host.attempt_since for host in running if host.attempt is not None}

    def standing(self) -> dict[str, Any]:
        return self._submitter.standing()

    def adopt(self) -> list[tuple[str, int]]:
        """Seize what no host of an earlier run has begun, cancel what has not started, and find out what
        runs.

        A host of an earlier run that begins only now sees the newer run, and ends.
        """
        now = time.monotonic()
        claims: list[tuple[Attempt, str]] = []
        earlier = [work for work in map(self._store.work, range(1, self._run)) if work.exists()]
        for work in earlier:
            claims += seize(work, self._claimant)
            self._hosts.read(work, now)
        if earlier:
            self._client.cancel_pending()
        self._forget_updates(claims)
        if self._hosts.all:
            self._look(now)
            for _ in self._hosts.settle(now):
                continue  # the leader fences what had ended
        self._adopted = {host.attempt for host in self._hosts.running() if host.attempt is not None}
        return sorted(self._adopted)

    def _forget_updates(self, claims: list[tuple[Attempt, str]]) -> None:
        """A host that has claimed and not yet said so runs that attempt."""
        said = {claim.attempt for claim in self._hosts.claimed}
        self._hosts.claimed.clear()
        for attempt, name in claims:
            host = self._hosts.all.get(name)
            if host is not None and attempt not in said and host.attempt is None:
                host.attempt, host.attempt_since = attempt, time.monotonic()

    def adopted(self, requests: Sequence[JobRequest]) -> None:
        """Nothing is to be reserved: what runs has an allocation of its own."""

    def wake(self) -> None:
        self._waker.wake()

    def updates(self, timeout: float | None) -> list[Update]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            now = time.monotonic()
            if now >= self._next_round:
                self._work_on(now)
                self._plan(time.monotonic(), now)
            left = None if deadline is None else deadline - time.monotonic()
            if self._ready or (left is not None and left <= 0):
                break
            if self._sleep(left):
                break
        ready, self._ready = self._ready, []
        return ready

    def shutdown(self, fenced: bool = False) -> None:
        """End the workers and clean the nodes; a leader that was fenced leaves all to the newer one."""
        if self._closed:
            return
        self._closed = True
        if not fenced:
            self._end_workers()
            self._work.end()
        self._clean()

    # One round of work

    def _plan(self, now: float, began: float) -> None:
        """Set the time of the next round: later when nothing happens, or when a round is costly."""
        self._next_round = now + max(self._pause, min(5 * (now - began), LONGEST_REST))
        self._pause = min(1.3 * self._pause, LONGEST_PAUSE)

    def _sleep(self, left: float | None) -> bool:
        """Wait for the next round, if anything can come of it; True if woken."""
        outstanding = self._queues.outstanding or self._adopted
        pause = max(0.0, self._next_round - time.monotonic()) if outstanding else None
        limits = [seconds for seconds in (left, pause) if seconds is not None]
        if not self._poll.poll(1000.0 * min(limits) if limits else None):
            return False
        self._waker.hear()
        return True

    def _work_on(self, now: float) -> None:
        self._queues.push()
        for work in self._works():
            self._hear(self._hosts.read(work, now))
        if now >= self._last_look + LOOK_SECONDS and self._should_look(now):
            self._look(now)
        self._hear(self._hosts.settle(now))
        self._part_with_hosts()
        for queue, words in self._submitter.hopeless(self._queues, self._hosts.heard, now):
            self._end_all(queue, words)
        self._submit_workers(now)

    def _submit_workers(self, now: float) -> None:
        ours = [host for host in self._hosts.all.values() if host.work.run == self._run]
        for queue, words in self._submitter.submit(self._queues, ours, self._hosts.heard, now):
            self._end_all(queue, words)

    def _works(self) -> list[Work]:
        """The work of this run, and of those whose hosts still run something."""
        earlier = {host.work.run: host.work for host in self._hosts.all.values()}
        return [*(earlier | {self._run: self._work}).values()]

    def _hear(self, updates: list[Update]) -> None:
        for claim in self._hosts.claimed:
            if claim.run == self._run:
                self._queues.claimed(claim.queue, claim.place)
        if updates or self._hosts.claimed:
            self._pause = SHORTEST_PAUSE
        self._hosts.claimed.clear()
        for update in updates:
            if isinstance(update, Ended):
                self._told(update)
            else:
                self._ready.append(update)

    def _told(self, end: Ended) -> None:
        """Pass an end on, once."""
        attempt = (end.job_id, end.version)
        if attempt in self._adopted:
            self._adopted.discard(attempt)
            self._ready.append(end)
        elif self._queues.ended(attempt):
            self._ready.append(end)

    def _end(self, attempt: Attempt, verdict: Verdict) -> None:
        self._told(end_of(attempt, verdict))

    def _part_with_hosts(self) -> None:
        """Give the ends of what hosts claimed in their last moment, and remove their logs."""
        gone = [*self._hosts.settled, *self._hosts.lost]
        for host in gone:
            if host.work.run == self._run:
                for attempt in self._queues.claims_of(host.name):
                    self._end(attempt, Verdict(Phase.ENDED, words="was lost: its worker ended at once"))
        for host in self._hosts.settled:
            host.work.forget_host(host.name)
        for host in gone:
            if host.broken is not None and host.claims == 0 and host.work.run == self._run:
                self._end_all(self._queues[host.queue], f"cannot be run by its worker: {host.broken}")
        self._submitter.avoid(self._hosts.bad_nodes, time.monotonic())
        self._hosts.bad_nodes.clear()
        self._hosts.settled.clear()
        self._hosts.lost.clear()

    # Slurm

    def _should_look(self, now: float) -> bool:
        """Ask only while something is outstanding that the logs leave open."""
        if not self._queues.outstanding and not self._adopted:
            return False
        waiting = self._submitter.fleet.waiting(self._hosts.heard) > 0
        return self._submitter.wants_look or waiting or self._hosts.is_doubtful(now, DOUBT_SECONDS)

    def _look(self, now: float) -> None:
        self._last_look = now
        try:
            ask_accounts = self._absent and not self._submitter.wants_look
            look = self._client.look_back() if ask_accounts else self._client.look()
        except SlurmError as error:
            logger.info("%s; nothing is concluded from that", error)
            return
        self._hosts.see(look)
        self._absent = not self._absent and any(
            host.began and host.sighting.task not in look.tasks for host in self._hosts.all.values()
        )
        self._submitter.see(look, self._hosts.heard, now)

    def _end_all(self, queue: Queue, words: str) -> None:
        """End every attempt of a queue that nobody has begun."""
        waiting = [queue.attempts[place] for place in sorted(queue.unclaimed)]
        for attempt in waiting:
            if self._queues.withdraw(attempt):
                self._end(attempt, Verdict(Phase.ENDED, BatchJobExitReason.ERROR, words))

    def _end_workers(self) -> None:
        """Tell all hosts to go, wait for them, cancel the rest, and clean the nodes that none has cleaned."""
        cleans = self._cleans_nodes()
        for work in self._works():
            work.order("stop clean" if cleans else "stop")
        if not self._submitter.fleet.arrays and not self._hosts.all and not self._store.nodes():
            return
        try:
            self._client.cancel_pending()
            self._await_hosts(time.monotonic() + STOP_SECONDS)
            self._client.cancel_all()
        except SlurmError as error:
            logger.warning("%s; cancel the jobs named %s by hand", error, self._client.name)
        if cleans:
            nodes = [str(info["host"]) for info in self._store.nodes().values()]
            silent = {host.node for host in self._hosts.all.values()}
            dirty = sorted({node for node in nodes if node in silent or not self._hosts.clean.get(node)})
            clean_nodes(self._client, self._placement, dirty, self._submitter.worker, self._work)

    def _await_hosts(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            now = time.monotonic()
            for work in self._works():
                self._hosts.read(work, now)
            self._hosts.settle(now)
            self._part_with_hosts()  # or their logs would be read again as those of new hosts
            if not self._hosts.all:
                return
            time.sleep(0.05)
