"""The hosts of a workflow, as their logs in the job store tell of them.

Knows the lines of a log (`toilcache.worker.store_source` writes them) and what each makes of an attempt. Must
not call Slurm: what that says comes in as a look. A host whose end is certain is settled: each attempt that
it began and did not end gets its end, those included whose claim it made and had no time to log."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from toilcache.batch import protocol
from toilcache.batch.model import Ended, Record, Update
from toilcache.batch.slurm.evidence import Look, Sighting, Task
from toilcache.batch.slurm.states import Phase, Verdict
from toilcache.batch.status import explain
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job_store.work import Work

IDENTITY = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID")
"""The variables whose values a host says at the beginning: together they name its task."""

LISTING_SECONDS = 0.2
"""The least time between two looks for new logs."""

_ENDINGS = {
    "time": Verdict(
        Phase.ENDED,
        BatchJobExitReason.MAXJOBDURATION,
        "was ended shortly before the time limit of its allocation; raise --slurmTime, or let --doubleTime "
        "do that",
    ),
    "terminated": Verdict(Phase.ENDED, BatchJobExitReason.LOST, "was lost: its allocation was taken back"),
}


class Claim(NamedTuple):
    """An attempt was begun: the run, the queue and the place in it that it was handed out at."""

    run: int
    queue: str
    place: int
    attempt: tuple[str, int]


class Host:
    """One host: where it is, what it runs, and how far its log was read."""

    def __init__(self, name: str, work: Work, now: float) -> None:
        self.name = name
        self.work = work
        self.offset = 0
        self.node = ""
        self.queue = ""
        self.sighting = Sighting((0, 0), now)
        self.began = False
        self.attempt: tuple[str, int] | None = None
        self.attempt_since = 0.0
        self.first = True
        self.claims = 0
        self.broken: str | None = None
        self.bye = ""

    def is_idle(self, reuse: bool) -> bool:
        """Tell whether it would take an attempt: with `reuse`, after others."""
        there = self.began and not self.sighting.said_bye and self.broken is None
        return there and self.attempt is None and (reuse or self.claims == 0)


class Hosts:
    """All hosts that have not been settled yet, of this run and of adopted ones.

    `heard` are the tasks that had a host, `clean` the nodes of which the last host said that it cleaned them,
    `bad_nodes` those that Slurm says have failed. `ghosts` were given up without a last word. One that lives
    on is told to leave; should it have begun something before it reads that, it is a host like any other,
    until that ends.
    """

    def __init__(self) -> None:
        self.all: dict[str, Host] = {}
        self.ghosts: dict[str, Host] = {}
        self.heard: set[Task] = set()
        self.clean: dict[str, bool] = {}
        self.claimed: list[Claim] = []
        self.settled: list[Host] = []
        self.lost: list[Host] = []
        self._listing: dict[int, float] = {}
        self.bad_nodes: set[str] = set()

    def running(self) -> Iterator[Host]:
        """Iterate over the hosts that run an attempt."""
        return (host for host in self.all.values() if host.attempt is not None)

    def read(self, work: Work, now: float, only: Iterable[str] | None = None) -> list[Update]:
        """Read what is new in the logs of a run."""
        updates: list[Update] = []
        for name in self._names(work, now) if only is None else only:
            host = self.all.get(name) or self.ghosts.get(name)
            if host is None:
                host = self.all[name] = Host(name, work, now)
            lines, host.offset = work.read_log(name, host.offset)
            if lines:
                host.sighting.hear(now)
            for line in lines:
                self._understand(host, line.decode("ascii", "replace").split(" "), now, updates)
            if lines and name in self.ghosts:
                self._meet_again(host, now)
        return updates

    def _names(self, work: Work, now: float) -> Iterable[str]:
        """Return whose logs to read; which there are is looked up a few times a second."""
        if now >= self._listing.get(work.run, now):
            self._listing[work.run] = now + LISTING_SECONDS
            return work.hosts()
        return [
            host.name for host in (*self.all.values(), *self.ghosts.values()) if host.work.run == work.run
        ]

    def _meet_again(self, host: Host, now: float) -> None:
        if host.sighting.said_bye:
            self.settled.append(self.ghosts.pop(host.name))
        elif host.attempt is not None:
            host.sighting = Sighting(host.sighting.task, now)
            self.all[host.name] = self.ghosts.pop(host.name)

    def _understand(self, host: Host, words: list[str], now: float, updates: list[Update]) -> None:
        verb = words[0]
        if verb == "hello":
            self._greet(host, words, now)
        elif verb == "claim":
            host.attempt, host.attempt_since = (words[3], int(words[4])), now
            host.claims += 1
            self.claimed.append(Claim(host.work.run, words[1], int(words[2]), host.attempt))
        elif verb == "record":
            updates.append(Record(words[1], int(words[2])))
        elif verb == "ended":
            updates.append(_ended(words, first=host.claims <= 1))
            host.attempt = None
        elif verb == "broken":
            host.broken = bytes.fromhex(words[1]).decode("utf-8", "replace")
        elif verb == "bye":
            host.bye, host.sighting.said_bye = words[1], True
            if words[1] != "busy":  # what others were using was left to them; one of them cleans, or has
                self.clean[host.node] = words[1] == "clean"

    def _greet(self, host: Host, words: list[str], now: float) -> None:
        task = task_of(words[4:7])
        for other in self.all.values():
            if other.began and other.sighting.task == task:
                other.sighting.superseded = True  # the task was requeued, and this is its next life
        host.began, host.node, host.queue = True, words[2], words[3]
        host.sighting = Sighting(task, now)
        self.heard.add(task)
        self.clean[host.node] = False

    def see(self, look: Look) -> None:
        """Take in what Slurm says."""
        for host in self.all.values():
            if host.began:
                host.sighting.see(look)

    def settle(self, now: float) -> list[Update]:
        """Give the ends of what hosts ran that are gone for certain, and let go of these hosts."""
        updates: list[Update] = []
        for host in list(self.all.values()):
            verdict = host.sighting.end(now)
            if verdict is None:
                continue
            updates += self.read(host.work, now, only=[host.name])  # the very last of what it said
            if host.attempt is not None:
                updates.append(end_of(host.attempt, _blame(verdict, first=host.claims <= 1)))
                host.attempt = None
            del self.all[host.name]
            if verdict.blames_node:
                self.bad_nodes.add(host.node)
            if host.sighting.said_bye:
                self.settled.append(host)
            else:
                host.work.order(f"leave {host.name}")
                self.ghosts[host.name] = host
                self.lost.append(host)
        return updates

    def is_doubtful(self, now: float, silence: float) -> bool:
        """Tell whether some host has been silent for so long that Slurm should be asked."""
        return any(host.sighting.is_doubtful(now, silence) for host in self.all.values())


def end_of(attempt: tuple[str, int], verdict: Verdict) -> Ended:
    """Return the end of an attempt of which no more is known than what became of its host."""
    return Ended(*attempt, verdict.reason, verdict.words, 0, b"")


def _blame(verdict: Verdict, *, first: bool) -> Verdict:
    """A time limit is the fault of the job only if it had all the time that there is."""
    if verdict.reason == BatchJobExitReason.MAXJOBDURATION and not first:
        return verdict._replace(reason=BatchJobExitReason.LOST)
    return verdict


def _ended(words: list[str], *, first: bool) -> Ended:
    _, job_id, version, status, max_rss, oom, why, log = words
    tail = b"" if log == "-" else bytes.fromhex(log)
    ending = _ENDINGS.get(why)
    if int(status) != 0 and ending is not None:
        verdict = _blame(ending, first=first)
        return Ended(job_id, int(version), verdict.reason, verdict.words, int(max_rss), tail)
    reason, detail = explain(int(status), oom_killed=oom == "1")
    if int(status) == protocol.NOT_STARTED:
        detail, tail = f"{detail}: {os.fsdecode(tail)}", b""
    return Ended(job_id, int(version), reason, detail, int(max_rss), tail)


def task_of(identity: Sequence[str]) -> Task:
    """Return the task that the values of `IDENTITY` name; a job that is no array counts as task 0."""
    array, index, job = identity
    return (int(array), int(index)) if array.isdigit() and index.isdigit() else (_number(job), 0)


def _number(word: str) -> int:
    return int(word) if word.isdigit() else 0
