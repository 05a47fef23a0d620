"""Why attempts at this machine have not begun: what the adapter writes down, what is read from that. Pure.

Knows what there is, what is free, and what runs, at most two seconds old. Must not know hosts' processes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from toilcache.batch.host_process import HostProcess
from toilcache.batch.model import JobRequest
from toilcache.batch.resources import Pending, Pool, Shape
from toilcache.batch.waits import Wait
from toilcache.units import format_size

MOST_SHAPES = 50
"""So many kinds of waiting jobs are written down; others are only counted."""
_WORDS = ("cores", "memory", "disk", "accelerators")
_EPOCH = time.time() - time.monotonic()
_IMAGE = 4


def standing(
    pool: Pool, pending: Pending, hosts: Iterable[HostProcess], began: Mapping[str, float]
) -> dict[str, Any]:
    """Return what the adapter knows; the same values again while nothing has changed."""
    waits = dict(pending.shapes())
    starts: dict[str, str] = {}
    for host in hosts:
        for request in host.queued:
            waits[request.shape] = waits.get(request.shape, 0) + 1
        if not host.ready:
            starts |= {job_id: request.image or "" for job_id, request in host.running.items()}
    few = dict(islice(waits.items(), MOST_SHAPES))
    return {
        "has": [*pool.capacity],
        "free": pool.free(),
        "runs": {job_id: round(_EPOCH + since) for job_id, since in began.items()},
        "starts": starts,
        "waits": [[*shape, count] for shape, count in few.items()],
        "more": sum(waits.values()) - sum(few.values()),
    }


class LocalWaits:
    """Explains from the record of :func:`standing`; it is empty in the first two seconds of a run."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record

    def of(self, requests: Sequence[JobRequest]) -> list[Wait]:
        return [self._running(request.job_id) or self._waiting(request.shape) for request in requests]

    def summary(self, attempts: Collection[tuple[str, int]]) -> list[tuple[int, Wait]]:
        found: dict[str, tuple[int, Wait]] = {}
        running = [wait for job_id, _ in attempts if (wait := self._running(job_id))]
        waiting = [(self._waiting((*row[:5],)), row[5]) for row in self._record.get("waits", [])]
        left = len(attempts) - len(running)
        for wait, count in [*((wait, 1) for wait in running), *waiting]:
            number = count if wait.begun else min(count, left)
            left -= 0 if wait.begun else number
            if number:
                found[wait.words] = (found.get(wait.words, (0, wait))[0] + number, wait._replace(since=None))
        if left:
            found[""] = (left, Wait(False, "wait for room on this machine", {"waits for": "room"}))
        return sorted(found.values(), key=lambda one: (not one[1].begun, -one[0]))

    def _running(self, job_id: str) -> Wait | None:
        since = self._record.get("runs", {}).get(job_id)
        if since is None:
            return None
        image = self._record["starts"].get(job_id)
        if image is None:
            return Wait(True, "runs", {}, since)
        what = (
            f"container of {image!r}: its image is being fetched, or the container started" if image else ""
        )
        words = f"waits for its {what or 'worker, which is being started'}"
        return Wait(False, words, {"waits for": "host", "image": image or None}, since)

    def _waiting(self, shape: Shape) -> Wait:
        """Say which resource is short; what is free may do and yet belong to one that came earlier."""
        if not self._record:
            return Wait(False, "waits for room on this machine", {"waits for": "room"})
        has, free = self._record["has"], self._record["free"]
        needs: list[Any] = list(shape[:_IMAGE])
        short = [place for place, need in enumerate(needs) if need > free[place]]
        names = [_WORDS[place] for place in short]
        facts = {"waits for": names, "needs": needs, "free": free[:4], "has": has}
        if free[_IMAGE] is not None and free[_IMAGE] <= 0:
            return Wait(False, "waits until another job ends: as many as --maxLocalJobs run", facts)
        if not short:
            return Wait(False, "waits for its turn: jobs that came earlier are before it", facts)
        said = " and for ".join(_say(place, needs[place], free[place], has[place]) for place in short)
        return Wait(False, f"waits for {said}", facts)


def _say(place: int, need: float, left: float, there: float) -> str:
    if _WORDS[place] in ("memory", "disk"):
        words = [format_size(int(size)) for size in (need, max(0, left), there)]
        return f"{words[0]} of {_WORDS[place]}: {words[1]} of {words[2]} are free, other jobs have the rest"
    name = _WORDS[place].removesuffix("s" * (need == 1))
    return f"{need:g} {name}: {max(0, left):g} of {there:g} are free, other jobs have the rest"
