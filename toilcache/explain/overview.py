"""What all that is not running waits for, counted. Pure but for what the batch system is asked.

Knows the account of the journal and the batch system's summary. Must not know a store.
"""

from __future__ import annotations

import time
from typing import Any

from toilcache.batch.waits import Waits
from toilcache.leader.account import Account
from toilcache.units import format_duration

MOST = 5


class Overview:
    """A workflow in a few lines."""

    def __init__(self, account: Account, waits: Waits, *, live: bool) -> None:
        self._account = account
        self._live = live
        events = [(job, account.last(job)) for job in account.jobs("issue")]
        chained = [job for job, event in events if event is not None and "after" in event.fields]
        attempts = [
            (job, int(event.fields["version"]))
            for job, event in events
            if event is not None and "after" not in event.fields
        ]
        self._chained = len(chained)
        self._handed_out = waits.summary(attempts) if attempts else []
        self._backing_off = [(job, event) for job in account.jobs("retry") if (event := account.last(job))]
        self._failed = [(job, event) for job in account.jobs("give-up") if (event := account.last(job))]
        self._waiting = account.untouched

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "run": self._account.run,
            "leader": self._live,
            "jobs": self._account.counts,
            "issued": [
                {"count": count, "begun": wait.begun, "why": wait.words} | wait.facts
                for count, wait in self._handed_out
            ],
            "running in their predecessors' processes": self._chained,
            "backing off": {job: event.at + event.fields["seconds"] for job, event in self._backing_off},
            "waiting for other jobs": len(self._waiting),
            "failed": {job: event.fields["why"] for job, event in self._failed},
        }

    def __str__(self) -> str:
        """Write it for a person, several lines."""
        counts = self._account.counts
        far = f"{counts.get('done', 0)} of {counts.get('known', 0)} jobs done"
        state = "its leader runs" if self._live else "no leader runs it; go on with --restart"
        lines = [f"run {self._account.run}: {far}; {state}"]
        lines += [f"  {count} {_of_many(wait.words, count)}" for count, wait in self._handed_out]
        if self._chained:
            words = "runs in the process of a job that it follows"
            lines.append(f"  {self._chained} {_of_many(words, self._chained)}")
        lines += self._lines_of_retries()
        if self._waiting:
            words = "waits for jobs that come before it"
            lines.append(f"  {len(self._waiting)} {_of_many(words, len(self._waiting))}")
        for job, event in self._failed[:MOST]:
            lines.append(f"  failed for good: {self._account.name(job)!r} {job}: {event.fields['why']}")
        if len(self._failed) > MOST:
            lines.append(f"  and {len(self._failed) - MOST} more that failed for good")
        return "\n".join(lines)

    def _lines_of_retries(self) -> list[str]:
        if not self._backing_off:
            return []
        now = time.time()
        first = min(event.at + event.fields["seconds"] for _, event in self._backing_off)
        left = format_duration(round(max(0.0, first - now), 1))
        words = "has failed and waits to be tried again"
        count = len(self._backing_off)
        return [f"  {count} {_of_many(words, count)}, {'the first ' * (count > 1)}in {left}"]


def _of_many(words: str, count: int) -> str:
    return f"job {words}" if count == 1 else f"jobs, each of which {words}"
