"""What a journal says of each job, found in one pass over its bytes, and what a status makes of that. Pure.

Knows the events of :mod:`toilcache.leader.journal`. Must not know a store. A journal may have hundreds of
thousands of lines: what a line is about is told by a pattern, and only the few lines that an answer needs are
read as JSON.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any, NamedTuple

from toilcache.leader.journal import Counts

_LINE = re.compile(rb'\{"t":([0-9.]+),"e":"([a-z-]+)"(?:,"job":"([^"\\]+)")?([^\n]*)\}\n')
_SUCCESSOR = re.compile(rb'"([0-9a-f]{16})":"')
_NOT_OF_A_JOB = frozenset((b"begin", b"progress", b"end", b"plan"))


class Event(NamedTuple):
    """The last that was noted of a job: what, when (seconds since 1970), and the event's fields."""

    kind: str
    at: float
    fields: dict[str, Any]


class Follower(NamedTuple):
    """A job that others follow: its id, and their names by id, phase by phase, the first to run first."""

    job_id: str
    phases: list[dict[str, str]]

    def before(self, job_id: str) -> list[str]:
        """Return the jobs of the phases that must be done before the one of this job begins."""
        found: list[str] = []
        for phase in self.phases:
            if job_id in phase:
                break
            found += phase
        return found


class Account:
    """The newest run as journals, the oldest first, tell of it; `root` is "" and `run` 0 where there is none.

    The last line of each may be torn.
    """

    def __init__(self, *journals: bytes) -> None:
        self.run = 0
        self.root = ""
        self.ended = False
        self.counts: dict[str, int] = {}
        self._last: dict[bytes, re.Match[bytes]] = {}
        self._failed: dict[bytes, re.Match[bytes]] = {}
        self._followed: dict[bytes, re.Match[bytes]] = {}
        self._names: dict[str, str] = {}
        counts = None
        for match in _LINE.finditer(b"".join(one[: one.rfind(b"\n") + 1] for one in journals)):
            kind, job = match[2], match[3]
            if kind not in _NOT_OF_A_JOB:
                self._last[job] = match
                if kind == b"fail":
                    self._failed[job] = match
            if kind in (b"commit", b"plan") and b'"next"' in match[4]:
                self._followed[job] = match
                if b'"ran"' in match[4]:
                    self._last[job] = match
            elif kind == b"begin":
                self._begin()
                fields = _read(match).fields
                self.run, self.root = fields["run"], str(fields["job"])
                self._names[self.root] = fields.get("name", "")
            elif kind in (b"progress", b"end"):
                counts, self.ended = match, kind == b"end"
        if counts is not None:
            self.counts = _read(counts).fields["jobs"]

    def _begin(self) -> None:
        """A run decides anew about all that is not done."""
        self.ended = False
        for known in (self._last, self._failed, self._followed, self._names):
            known.clear()

    def last(self, job_id: str) -> Event | None:
        """Return the last decision about a job; None if there was none yet."""
        match = self._last.get(job_id.encode())
        return None if match is None else _read(match)

    def last_failure(self, job_id: str) -> Event | None:
        """Return the last failure of a job in this run."""
        match = self._failed.get(job_id.encode())
        return None if match is None else _read(match)

    def is_done(self, job_id: str) -> bool:
        """Tell whether a job and all that follows it is done."""
        match = self._last.get(job_id.encode())
        return match is not None and match[2] == b"done"

    def is_known(self, job_id: str) -> bool:
        """Tell whether the journal speaks of a job."""
        job = job_id.encode()
        return job in self._last or job in self._before or job_id == self.root

    def find(self, text: str) -> list[str]:
        """Return the jobs that an id, the beginning of one, or else a name means."""
        if self.is_known(text):
            return [text]
        prefix = [job for job in self.names if job.startswith(text)]
        return prefix or [job for job, name in self.names.items() if name == text]

    def name(self, job_id: str) -> str:
        """Return the name of a job; "" where the journal does not tell it."""
        if job_id in self._names:
            return self._names[job_id]
        event = self.last(job_id)
        named = str(event.fields.get("name", "")) if event is not None else ""
        for follower in () if named else self.predecessors(job_id):
            named = next(phase[job_id] for phase in follower.phases if job_id in phase)
        self._names[job_id] = named
        return named

    def jobs(self, *kinds: str) -> list[str]:
        """Return the jobs of which one of these was noted last."""
        wanted = {kind.encode() for kind in kinds}
        return [job.decode() for job, match in self._last.items() if match[2] in wanted]

    @cached_property
    def names(self) -> dict[str, str]:
        """The names of all jobs that the journal speaks of, by id, as far as it tells them."""
        found = {job.decode(): "" for job in self._last} | self._names
        for match in self._followed.values():
            for phase in _follower(match).phases:
                found |= phase
        return found

    @cached_property
    def untouched(self) -> list[str]:
        """The jobs that follow others and about which nothing was decided yet."""
        return [job.decode() for job in self._before if job not in self._last]

    @cached_property
    def _before(self) -> dict[bytes, list[bytes]]:
        """What each job follows; a name that looks like a job may be among them, and harms nothing."""
        found: dict[bytes, list[bytes]] = {}
        for job, match in self._followed.items():
            for successor in _SUCCESSOR.findall(match[4]):
                found.setdefault(successor, []).append(job)
        return found

    def predecessors(self, job_id: str) -> list[Follower]:
        """Return the jobs that this one follows."""
        found = (_follower(self._followed[job]) for job in self._before.get(job_id.encode(), ()))
        return [one for one in found if any(job_id in phase for phase in one.phases)]

    def follower(self, job_id: str) -> Follower | None:
        """Return a job with what follows it; None if nothing does."""
        match = self._followed.get(job_id.encode())
        return None if match is None else _follower(match)


class Status:
    """What the journals of all runs tell about a workflow: the last counts, and what is under way."""

    def __init__(self, *journals: bytes) -> None:
        account = Account(*journals)
        self.run = account.run
        self.ended = account.ended or not account.run
        self.counts = Counts().as_dict() | account.counts
        issued = [] if self.ended else account.jobs("issue")
        self.running = {job: _issued(account, job) for job in issued}
        self.failed = {job: _why(account, job) for job in account.jobs("give-up")}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "run": self.run,
            "ended": self.ended,
            "jobs": self.counts,
            "running": self.running,
            "failed": self.failed,
        }


def _issued(account: Account, job_id: str) -> dict[str, Any]:
    event = account.last(job_id)
    return {"name": account.name(job_id), "since": event.at if event else 0.0}


def _why(account: Account, job_id: str) -> str:
    event = account.last(job_id)
    return str(event.fields["why"]) if event else ""


def _read(match: re.Match[bytes]) -> Event:
    fields = json.loads(match[0])
    return Event(fields["e"], fields["t"], fields)


def _follower(match: re.Match[bytes]) -> Follower:
    return Follower(match[3].decode(), json.loads(match[0])["next"])
