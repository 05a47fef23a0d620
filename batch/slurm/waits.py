"""Why attempts in Slurm have not begun: what stands in the job store, and one look at the queue.

Knows the work of the leader's runs (who has claimed what, which arrays were asked for) and what squeue says
of these arrays. Must not submit, cancel or claim anything. Where Slurm cannot be asked the store says what it
can.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from toilcache.batch.model import JobRequest
from toilcache.batch.slurm.client import SlurmClient, SlurmError
from toilcache.batch.slurm.evidence import Look, TaskState
from toilcache.batch.slurm.hosts import task_of
from toilcache.batch.slurm.queues import Attempt
from toilcache.batch.slurm.reasons import in_words
from toilcache.batch.slurm.states import Phase, verdict
from toilcache.batch.waits import Wait
from toilcache.errors import ProcessError, show
from toilcache.job_store.work import BLOCK, Work, fits
from toilcache.units import format_duration

MOST_REASONS = 3
MOST_NODES = 4


class _Place(NamedTuple):
    work: Work
    queue: str
    number: int


class SlurmWaits:
    """Explains the attempts of a workflow.

    :param works: the work of its leader's runs, the newest first.
    :param record: what the adapter has written down (`Submitter.standing`).
    """

    def __init__(self, works: Sequence[Work], client: SlurmClient, record: Mapping[str, Any]) -> None:
        self._works = works
        self._client = client
        self._record = record
        self._trouble = ""
        self._blocks: dict[tuple[int, str, int], set[int]] = {}
        self._missing: dict[str, Wait] = {}

    def of(self, requests: Sequence[JobRequest]) -> list[Wait]:
        return [self._of(self._places.get((one.job_id, one.version))) for one in requests]

    def summary(self, attempts: Collection[Attempt]) -> list[tuple[int, Wait]]:
        counts: Counter[str] = Counter()
        waits: dict[str, Wait] = {}
        for attempt in attempts:
            place = self._places.get(attempt)
            if place is not None and place.number in self._claimed(place):
                wait = Wait(True, "run on nodes of Slurm", {})
            else:
                wait = self._of(place)
            counts[wait.words] += 1
            waits[wait.words] = wait._replace(since=None)
        found = [(count, waits[words]) for words, count in counts.items()]
        return sorted(found, key=lambda one: (not one[1].begun, -one[0]))

    @cached_property
    def _places(self) -> dict[Attempt, _Place]:
        """Where each attempt was handed out."""
        found: dict[Attempt, _Place] = {}
        for work in self._works:
            for queue in work.queues():
                for number, attempt in enumerate(work.read(queue, 0)):
                    found.setdefault(attempt, _Place(work, queue, number))
        return found

    def _claimed(self, place: _Place) -> set[int]:
        """Return what is claimed of the block of a place, as it was when that was first asked."""
        block = place.number // BLOCK
        key = (place.work.run, place.queue, block)
        if key not in self._blocks:
            self._blocks[key] = place.work.claimed(place.queue, block)
        return self._blocks[key]

    def _of(self, place: _Place | None) -> Wait:
        if place is None:
            return Wait(False, "waits to be put into a queue for workers", {"waits for": "leader"})
        claimant = place.work.claimant(place.queue, place.number)
        if claimant is None:
            return self._unclaimed(place)
        lines, _ = place.work.read_log(claimant, 0)
        hello = next((line.decode("ascii", "replace").split(" ") for line in lines[:1]), [])
        if len(hello) < 5 or hello[0] != "hello":
            return Wait(
                True, "was begun by a worker that has ended since; the leader looks for its record", {}
            )
        task = "_".join(word for word in hello[4:6] if word.isdigit()) or hello[-1]
        facts = {"node": hello[2], "slurm job": task, "worker": claimant}
        since = place.work.claimed_at(place.queue, place.number)
        return Wait(True, f"runs on {hello[2]}, in job {task} of Slurm", facts, since)

    def _unclaimed(self, place: _Place) -> Wait:
        """Nobody has begun it: a worker is missing, and Slurm knows why."""
        if place.queue not in self._missing:
            self._missing[place.queue] = self._why_no_worker(place)
        return self._missing[place.queue]

    def _why_no_worker(self, place: _Place) -> Wait:
        look = self._look
        facts: dict[str, Any] = {"waits for": "worker", "queue": place.queue}
        if look is None:
            return Wait(False, f"waits for a worker; {self._trouble}", facts)
        arrays = _arrays(place, look)
        states = [state for (array, _), state in look.tasks.items() if array in arrays]
        pending = [state for state in states if verdict(state.state).phase is Phase.WAITS]
        if pending:
            reasons = Counter(state.reason for state in pending)
            facts |= {"reasons": dict(reasons), "workers asked for": len(pending)}
        fetching = self._fetching(place, look)
        if fetching is not None:
            more = f"; {_pending(pending)}" if pending else ""
            return fetching._replace(words=fetching.words + more, facts=facts | fetching.facts)
        if pending:
            return Wait(False, f"waits for a worker: {_pending(pending)}", facts)
        if self._record.get("refused"):
            facts |= {"refused": self._record["refused"], "again": self._record["again"]}
            return Wait(False, f"waits for a worker: {self._refusal()}", facts)
        running = sum(verdict(state.state).phase is Phase.RUNS for state in states)
        if running:
            facts["workers"] = running
            return Wait(False, f"waits until one of {running} workers of its kind is free", facts)
        return Wait(False, "waits for a worker, for which the leader has yet to ask Slurm", facts)

    def _fetching(self, place: _Place, look: Look) -> Wait | None:
        """Return what is told of an image that workers who would do for a place are fetching."""
        found = []
        for line, since in place.work.fetches():
            queue, node, image, *identity = line.split(" ")
            state = look.tasks.get(task_of(identity))
            if state and verdict(state.state).phase is Phase.RUNS and fits(place.queue, queue):
                found.append((since, node, bytes.fromhex(image).decode("utf-8", "surrogateescape")))
        if not found:
            return None
        since, _, image = min(found)
        nodes = sorted({node for _, node, _ in found})
        facts = {"waits for": "image", "image": image, "nodes": nodes}
        words = f"waits for container image {show(image)}, which is being fetched for {_names(nodes)}"
        return Wait(False, words, facts, since)

    def _refusal(self) -> str:
        left = max(0.0, self._record["again"] - time.time())
        return (
            f"Slurm refused it: {self._record['refused']}; the leader asks again in {format_duration(left)}"
        )

    @cached_property
    def _look(self) -> Look | None:
        """The one question to Slurm."""
        try:
            return self._client.look()
        except (SlurmError, ProcessError) as error:
            self._trouble = f"Slurm cannot be asked: {error}"
            return None


def _arrays(place: _Place, look: Look) -> set[int]:
    """Return the arrays that were asked for because of a queue, by the leader's book and their comments."""
    tags, arrays = set(), set()
    for line in place.work.notes():
        words = line.decode("utf-8", "replace").split(" ")
        if words[0] == "intent" and words[2] == place.queue:
            tags.add(words[1])
        elif words[0] == "made" and words[1] in tags:
            arrays.add(int(words[2]))
    return arrays | {array for array, tag in look.tags.items() if tag in tags}


def _names(nodes: Sequence[str]) -> str:
    more = [f"{len(nodes) - MOST_NODES} more nodes"] if len(nodes) > MOST_NODES else []
    *first, last = [*nodes[:MOST_NODES], *more]
    return f"{', '.join(first)} and {last}" if first else last


def _pending(states: Sequence[TaskState]) -> str:
    count, reasons = len(states), Counter(state.reason for state in states)
    most = [in_words(reason) for reason, _ in reasons.most_common(MOST_REASONS)]
    more = f", and {len(reasons) - len(most)} other reasons" if len(reasons) > len(most) else ""
    noun = "1 worker is" if count == 1 else f"{count} workers are"
    return f"{noun} pending in Slurm, {'; '.join(most)}{more}"
