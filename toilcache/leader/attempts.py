"""Attempts in flight: which chain works on which job, who takes the next slot, and how retries are charged.

Knows versions and slots. Must not know the adapter. An attempt is a job and the version it builds on; an
attempt is given up by taking the next slot before a new one is issued, and whoever finds the slot taken reads
what won."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import uniform

from toilcache.errors import ConcurrentFileModificationException, NoSuchJobException
from toilcache.job.description import JobDescription
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.leader.graph import Node, State

LONGEST_PAUSE = 60.0
_MOST_DOUBLINGS = 64
FREE_LOSSES = 3
"""So often a job may be lost through no fault of its own before that costs it a try."""


class Attempts:
    """The chains that run, by the id of the job they were issued for."""

    def __init__(self, store: AbstractJobStore) -> None:
        self._store = store
        self._current: dict[str, Node] = {}
        self._issued_as: dict[str, str] = {}
        self._issued_at: dict[str, int] = {}
        self._chained_at: dict[str, float] = {}
        self._losses: dict[str, int] = {}
        self._failures: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._current)

    def issue(self, node: Node) -> None:
        """An attempt at this job goes to the adapter."""
        self._current[node.id] = node
        self._issued_as[node.id] = node.id
        self._issued_at[node.id] = node.desc.version

    def chain(self, node: Node, successor: Node) -> bool:
        """The worker of ``node`` goes on with ``successor``; False if no such worker is known any more."""
        issue = self._issued_as.get(node.id)
        if issue is None or successor.state != State.READY:
            return False
        del self._issued_as[node.id]
        self._current[issue] = successor
        self._issued_as[successor.id] = issue
        self._chained_at[issue] = time.monotonic()
        return True

    def overdue(self, running: dict[str, float], limit: float) -> dict[str, Node]:
        """Return the jobs that run longer than ``limit`` seconds, by the id that their chain was issued as.

        :param running: the seconds for which each chain has run; a job in it counts from where it began.
        """
        now = time.monotonic()
        found = {}
        for issue, seconds in running.items():
            node = self._current.get(issue)
            if node is not None and min(seconds, now - self._chained_at.get(issue, 0.0)) > limit:
                found[issue] = node
        return found

    def current(self, issued_as: str) -> Node | None:
        """Return the job that the chain issued for this job was last known to run."""
        return self._current.get(issued_as)

    def is_known(self, issued_as: str, version: int) -> bool:
        """True if the chain that was issued for this job as this version has not ended yet.

        An earlier attempt that was given up may live on, and end while a later one runs.
        """
        return self._issued_at.get(issued_as) == version

    def is_running(self, node: Node) -> bool:
        """True while a process that worked on this job may still be there."""
        return node.id in self._issued_as

    def ended(self, issued_as: str) -> None:
        """The chain issued for this job has no process any more."""
        node = self._current.pop(issued_as, None)
        self._chained_at.pop(issued_as, None)
        self._issued_at.pop(issued_as, None)
        if node is not None:
            self._issued_as.pop(node.id, None)

    def adopt(self, attempts: Sequence[tuple[str, int]], nodes: dict[str, Node]) -> list[Node]:
        """Take over chains of an earlier leader; returns the jobs that they run now."""
        adopted = []
        for issued_as, version in attempts:
            node = nodes.get(issued_as)
            if node is not None and node.desc.has_body() and node.desc.version != version:
                continue  # it was given up already and will be refused
            while node is not None and not node.desc.has_body() and node.desc.chained_to:
                node = nodes.get(node.desc.chained_to)
            if node is not None and node.desc.has_body():
                node.inherited = False
                self._current[issued_as] = node
                self._issued_as[node.id] = issued_as
                self._issued_at[issued_as] = version
                adopted.append(node)
        return adopted

    def newest(self, node: Node) -> JobDescription | None:
        """Return the record that follows the one the attempt builds on, None if there is none."""
        try:
            return self._store.load_version(node.id, node.desc.version + 1)
        except NoSuchJobException:
            return None

    def take_slot(self, node: Node, change: Callable[[JobDescription], object]) -> JobDescription | None:
        """Write the job's record anew, changed, over the version we know; then ``node`` holds it.

        Returns None if we won, else the record that was there first.
        """
        desc = self._store.load_version(node.id, node.desc.version)
        change(desc)
        try:
            self._store.update_job(desc)
        except ConcurrentFileModificationException:
            newest = self._store.load_job(node.id)
            if newest.version > node.desc.version:
                return newest
            raise
        node.desc = desc
        return None

    def give_up(
        self, node: Node, reason: BatchJobExitReason, why: str, log_id: str | None
    ) -> JobDescription | None:
        """Take the next slot with what is to be said of the attempt, which costs the job a try or does not.

        Returns None if we won, else the record that was there first. What raises is not counted as a loss.
        """
        losses = self._losses.get(node.id, 0)
        is_free = reason == BatchJobExitReason.LOST and losses < FREE_LOSSES

        def change(desc: JobDescription) -> None:
            if not is_free:
                desc.setupJobAfterFailure(exit_reason=reason)
            desc.failure = why
            desc.logJobStoreFileID = log_id

        newest = self.take_slot(node, change)
        if newest is None and is_free:
            self._losses[node.id] = losses + 1
        return newest

    def pause(self, node: Node, base: float) -> float:
        """Return the seconds to wait before the next try: doubled each time, jittered, at most a minute."""
        failures = self._failures[node.id] = self._failures.get(node.id, 0) + 1
        doubled = base * 2 ** min(failures - 1, _MOST_DOUBLINGS)
        return float(uniform(0.5, 1.0) * min(LONGEST_PAUSE, doubled))
