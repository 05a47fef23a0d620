"""Asking Slurm for workers: when, how many, and what a refusal or a lost answer means.

Knows queues, the fleet and sbatch. Must not read workers' logs or end attempts: what can never be submitted
or never begins is given back with the words for the person.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Collection, Iterable, Sequence, Set
from typing import Any

from toilcache.batch.slurm import commands
from toilcache.batch.slurm.client import SlurmClient, SlurmError
from toilcache.batch.slurm.commands import Placement
from toilcache.batch.slurm.evidence import Look, Task
from toilcache.batch.slurm.fleet import Fleet
from toilcache.batch.slurm.hosts import Host
from toilcache.batch.slurm.parse import NodeGroup
from toilcache.batch.slurm.partitions import choose_partition, with_more_time
from toilcache.batch.slurm.queues import Queue
from toilcache.batch.slurm.trouble import Patience, Trouble
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.job_store.work import Work
from toilcache.process import own_program

logger = logging.getLogger(__name__)

SUBMIT_SECONDS = 1.0
"""The least time between two calls of sbatch."""
AVOID_SECONDS = 600.0
"""So long no worker is asked for on a node that failed, or on which workers ended before they began."""

Refusal = tuple[Queue, str]


class Submitter:
    """Submits arrays of workers for one run.

    `wants_look`: an answer of sbatch got lost, and nothing is submitted before the next look at the queue.
    """

    def __init__(
        self, client: SlurmClient, store: AbstractJobStore, run: int, placement: Placement, fleet: Fleet
    ) -> None:
        self.fleet = fleet
        self.wants_look = False
        self.groups: Sequence[NodeGroup] = client.partitions()
        self._client = client
        self._store = store
        self._run = run
        self._work: Work = store.work(run)
        self._placement = placement
        self._patience = Patience()
        self._count = 0
        self._next = 0.0
        self._lost: dict[str, tuple[str, int]] = {}
        self._avoid: dict[str, float] = {}
        self._refusal: dict[str, Any] = {}

    def worker(self, verb: str, queue: str, *more: str) -> list[str]:
        """Return the argv of a worker that is to go on as this program of `toilcache.worker.allocation`."""
        words = (verb, self._store.locator, str(self._run), queue, *more)
        return own_program("toilcache.enter", "toilcache.enter", *words)

    def submit(
        self, queues: Iterable[Queue], hosts: Sequence[Host], heard: Set[Task], now: float
    ) -> list[Refusal]:
        """Ask for more workers where there is work, with one call at most; return what is refused."""
        if now < self._next or self._patience.left(now) or self.wants_look:
            return []
        for queue in queues:
            if queue.unclaimed:
                idle = sum(host.is_idle(self.fleet.reuse) and host.queue == queue.name for host in hosts)
                size = self.fleet.wanted(queue.name, len(queue.unclaimed), idle, len(hosts), heard)
                if size:
                    return self._submit_array(queue, size, now)
        return []

    def _submit_array(self, queue: Queue, size: int, now: float) -> list[Refusal]:
        """Note what is about to be done, then do it."""
        self._store.check_run(self._run)
        self._count += 1
        tag = f"toilcache.{self._run}.{self._count}"
        self._work.note(f"intent {tag} {queue.name} {size}")
        placement = with_more_time(self.groups, queue.needs, self._placement, queue.times)
        argv = commands.sbatch(
            placement,
            queue.needs,
            size,
            name=self._client.name,
            tag=tag,
            output=self._work.output("%A_%a"),
            partition=choose_partition(self.groups, queue.needs, placement),
            avoid=self._avoided(now),
        )
        self._next = now + SUBMIT_SECONDS
        serve = ("serve",) if queue.image is None else ("box", queue.image)
        words = (self.worker(verb, queue.name, *more) for verb, *more in (serve, ("after",)))
        script = commands.worker_script(*words)
        try:
            made = self._client.submit(argv, script)
        except SlurmError as error:
            return self._refused(queue, size, error, tag, now)
        self._patience.worked()
        self._refusal.clear()
        self._work.note(f"made {tag} {made.job_id}")
        self.fleet.made(made.job_id, size, queue.name, now)
        return []

    def avoid(self, nodes: Collection[str], now: float) -> None:
        """Ask for no workers on these nodes for a while: something is wrong with them."""
        self._avoid |= dict.fromkeys(nodes, now + AVOID_SECONDS)

    def _avoided(self, now: float) -> list[str]:
        self._avoid = {node: until for node, until in self._avoid.items() if until > now}
        return sorted(self._avoid)

    def _refused(self, queue: Queue, size: int, error: SlurmError, tag: str, now: float) -> list[Refusal]:
        if error.trouble is Trouble.PERMANENT and self._avoid:
            self._avoid.clear()  # perhaps no other node would do; a bad one is better than none
            return []
        if error.trouble is Trouble.PERMANENT:
            return [(queue, f"cannot be submitted to Slurm: {error.text}")]
        if error.trouble is Trouble.LIMIT:
            self.fleet.too_many(size)
        if error.trouble is Trouble.AMBIGUOUS:
            self.wants_look = True
            self._lost[tag] = queue.name, size
        pause = self._patience.failed(now)
        self._refusal = {"refused": error.text, "again": round(time.time() + pause)}
        logger.warning("%s; trying again in %.0f s", error, pause)
        return []

    def standing(self) -> dict[str, Any]:
        """Return what `toilcache.batch.slurm.waits` is to know of us: refusals, nodes that are avoided."""
        return self._refusal | {"avoided": sorted(self._avoid)}

    def see(self, look: Look, heard: Set[Task], now: float) -> None:
        """Take in a look: recognise arrays by what we wrote on them; what is not there was not submitted."""
        for array in sorted(look.arrays - self.fleet.arrays.keys()):
            tag = look.tags[array]
            if not tag and len(self._lost) == 1:  # the site has written its own comment, or none
                (tag,) = self._lost
            if tag in self._lost:
                queue, size = self._lost.pop(tag)
                self.fleet.made(array, size, queue, now)
        self._lost.clear()
        self.wants_look = False
        self.fleet.see(look, heard, now)

    def hopeless(self, queues: Iterable[Queue], heard: Set[Task], now: float) -> list[Refusal]:
        """Workers that ended before they began: avoid their nodes; if all do so, return their queues."""
        found = []
        for queue in queues:
            failures = self.fleet.take_failures(queue.name, heard, now)
            if failures and self.fleet.is_hopeless(queue.name, heard):
                state = failures[-1]
                where = f"on {state.node}" if state.node else "on no node"
                why = f"its workers ended {where} before they began ({state.state}, {state.reason})"
                found.append((queue, f"cannot be run: {why}{self._last_output()}"))
            else:
                self.avoid({state.node for state in failures if state.node and "," not in state.node}, now)
        return found

    def _last_output(self) -> str:
        """What the last worker printed, or what it may mean that none could print anything."""
        place = os.path.dirname(self._work.output(""))
        entries = os.scandir(place) if os.path.isdir(place) else iter(())
        for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime, reverse=True):
            with open(entry.path, "rb") as file:
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
            if lines:
                return f": {lines[-1]}"
        return f"; are {self._store.locator} and {sys.executable} visible on the nodes?"
