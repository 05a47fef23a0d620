"""Attempts of an earlier leader that run on: which they are, what they have reserved, and how they end.

Knows the places that tell of such attempts: notes of hosts, labels of containers. Must not know either, nor
what there is to reserve.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from toilcache.batch import protocol
from toilcache.batch.model import Ended, JobRequest
from toilcache.batch.status import explain
from toilcache.job.exit_reason import BatchJobExitReason

Attempt = tuple[str, int]


class Source(Protocol):
    """One place that tells of attempts that an earlier leader has left behind."""

    def find(self) -> list[Attempt]:
        """Look which there are; called once."""

    def facts(self, attempt: Attempt) -> tuple[float, tuple[int, ...]] | None:
        """Return the seconds for which it has been running, and its devices; None if it is not known here."""

    def kill(self, attempt: Attempt) -> None:
        """End it; :meth:`ended` will tell."""

    def limit(self, timeout: float | None) -> float | None:
        """Shorten a time-out while there is something to look at."""

    def ended(self) -> list[Attempt]:
        """Return the attempts that have ended since the last call."""

    def fate(self, attempt: Attempt) -> tuple[BatchJobExitReason, str]:
        """Return what is known of how it ended, as a reason and a phrase."""


class Adopted(NamedTuple):
    """An attempt that was taken over: what it has reserved, its devices, for how long it has been running."""

    request: JobRequest
    devices: tuple[int, ...]
    seconds: float


class Adoption:
    """What is left of earlier leaders, from all sources; the first that names an attempt speaks for it."""

    def __init__(self, *sources: Source) -> None:
        self._sources = sources
        self._teller: dict[Attempt, Source] = {}
        self._adopted: dict[str, Adopted] = {}
        self._cancelled: set[str] = set()

    def find(self) -> list[Attempt]:
        """Return the attempts that still run."""
        for source in self._sources:
            for attempt in source.find():
                self._teller.setdefault(attempt, source)
        return list(self._teller)

    def take(self, requests: Iterable[JobRequest]) -> list[Adopted]:
        """Take these over, as far as they are known and not taken yet."""
        taken = []
        for request in requests:
            source = self._teller.get((request.job_id, request.version))
            facts = None if source is None else source.facts((request.job_id, request.version))
            if facts is not None and request.job_id not in self._adopted:
                self._adopted[request.job_id] = Adopted(request, facts[1], facts[0])
                taken.append(self._adopted[request.job_id])
        return taken

    def cancel(self, job_id: str) -> bool:
        """Kill an attempt that was taken over; False if there is none at this job."""
        if job_id not in self._adopted:
            return False
        request = self._adopted[job_id].request
        attempt = request.job_id, request.version
        self._cancelled.add(job_id)
        self._teller[attempt].kill(attempt)
        return True

    def limit(self, timeout: float | None) -> float | None:
        """Shorten a time-out while there is something to look at."""
        for source in self._sources:
            timeout = source.limit(timeout)
        return timeout

    def ended(self) -> list[tuple[Attempt, Source]]:
        """Return the attempts that have ended since the last call, and who says so."""
        gone = [(attempt, source) for source in self._sources for attempt in source.ended()]
        return [(attempt, source) for attempt, source in gone if self._teller.get(attempt) is source]

    def part_with(self, attempt: Attempt, source: Source) -> tuple[Ended, Adopted | None]:
        """Forget an attempt that has ended; return what is to be said of it, and what it had reserved."""
        del self._teller[attempt]
        adopted = self._adopted.pop(attempt[0], None)
        reason, detail = source.fate(attempt)
        if attempt[0] in self._cancelled:
            self._cancelled.discard(attempt[0])
            reason, detail = explain(protocol.CANCELLED)
        return Ended(*attempt, reason, detail, 0, b""), adopted
