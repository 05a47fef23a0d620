"""What is known of a worker, and when that is enough to say that it is gone. Pure.

Knows three sources: the worker's own log in the job store, what squeue or sacct say, and the time that
passed. Must not know how any of them is read. Absence proves nothing by itself (I1): a worker that Slurm does
not name is *unknown*, and *lost* only when a second look, a while later, does not find it either and it has
said nothing meanwhile. Whatever is decided here ends an attempt and never a job: the leader looks into the
store first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from toilcache.batch.slurm.parse import AccountLine, QueueLine
from toilcache.batch.slurm.states import Phase, Verdict, verdict
from toilcache.job.exit_reason import BatchJobExitReason

Task = tuple[int, int]

LOOK_SECONDS = 30.0
"""The least time between two calls for the state of all jobs."""

END_GRACE = 3.0
"""How long the log of a worker that Slurm says has ended may take to arrive here."""

ABSENCE_GRACE = 40.0
"""How long after the first look that did not find a worker a second one may declare it lost."""

SILENCE = 600.0
"""A worker that Slurm calls running and that says nothing for so long is given up."""


class TaskState(NamedTuple):
    """What Slurm said of one task."""

    state: str
    reason: str
    node: str


class Look(NamedTuple):
    """One answer to the question for all tasks: when it was asked (seconds, monotonic), and what was said.

    `tags` are the comments of arrays, as far as the site leaves them alone.
    """

    at: float
    tasks: Mapping[Task, TaskState]
    arrays: frozenset[int]
    tags: Mapping[int, str]


def look_of(lines: list[QueueLine], at: float) -> Look:
    """Make a look of what squeue printed; a job that is no array counts as task 0."""
    tasks: dict[Task, TaskState] = {}
    for line in lines:
        ids = (0,) if line.tasks is None else line.tasks
        for index in ids:
            tasks[line.job_id, index] = TaskState(line.state, line.reason, line.nodes)
    tags = {line.job_id: line.comment for line in lines}
    return Look(at, tasks, frozenset(tags), tags)


def look_of_accounts(lines: list[AccountLine], at: float) -> Look:
    """Make a look of what sacct printed."""
    return look_of(
        [QueueLine(one.job_id, one.tasks, one.state, one.exit_code, one.nodes, "") for one in lines], at
    )


class Sighting:
    """What has been seen of one worker so far. All times are seconds of the leader's monotonic clock."""

    def __init__(self, task: Task, now: float) -> None:
        self.task = task
        self.began = now
        self.heard = now
        self.said_bye = False
        self.superseded = False
        self._end: Verdict | None = None
        self._end_seen = 0.0
        self._absent_since: float | None = None
        self._absent_again = False
        self._stopped = False

    def hear(self, now: float) -> None:
        """It has said something, so it was there."""
        self.heard = now
        self._absent_since, self._absent_again = None, False

    def see(self, look: Look) -> None:
        """Take note of what a look says of it."""
        if look.at < self.began or self._end is not None:
            return
        found = look.tasks.get(self.task)
        self._stopped = False
        if found is None:
            self._see_nothing(look.at)
            return
        self._absent_since, self._absent_again = None, False
        what = verdict(found.state)
        self._stopped = what.phase is Phase.STOPPED
        if what.phase is Phase.ENDED:
            self._end, self._end_seen = what, look.at
        elif what.phase is Phase.WAITS:
            self._end, self._end_seen = _requeued(found.state), look.at

    def _see_nothing(self, at: float) -> None:
        if self._absent_since is None:
            self._absent_since = at
        elif at >= self._absent_since + ABSENCE_GRACE:
            self._absent_again = True

    def end(self, now: float) -> Verdict | None:
        """Return why it is gone; None while it may be there."""
        if self.said_bye:
            return _lost("was lost: its worker ended without a record of it")
        if self.superseded:
            return _requeued("REQUEUED")
        if self._end is not None and now >= self._end_seen + END_GRACE:
            return self._end
        if self._absent_again:
            return _lost("was lost: its allocation disappeared from Slurm without a trace")
        if now >= self.heard + SILENCE and not self._stopped:
            return _lost(f"was lost: its worker has said nothing for {SILENCE:g} s")
        return None

    def is_doubtful(self, now: float, silence: float) -> bool:
        """Tell whether somebody should ask Slurm about it."""
        return now >= self.heard + silence


def _lost(words: str) -> Verdict:
    return Verdict(Phase.ENDED, BatchJobExitReason.LOST, words)


def _requeued(state: str) -> Verdict:
    return _lost(f"was lost: Slurm has taken its allocation back ({state})")
