"""Why a job is not running: the answer, made of what is known. Pure but for the functions it is given.

Knows the account of the journal, what the batch system says of attempts, and how to put that into words. Must
not know a store or a scheduler.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from toilcache.batch.model import JobRequest
from toilcache.batch.waits import Wait, Waits
from toilcache.job.description import JobDescription
from toilcache.leader.account import Account, Event, Follower
from toilcache.units import format_duration

MOST = 5
"""So many of the jobs that another waits for are named."""
_FURTHEST = 1000
_LOST = "its process may have ended with the leader; its record, if it wrote one, is found by --restart"


class Answer(NamedTuple):
    """What there is to say of a job: its state in one word, the sentence, the lines below it, facts as JSON
    values.
    """

    job_id: str
    name: str
    state: str
    words: str
    below: list[str]
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        own = {"job": self.job_id, "name": self.name, "state": self.state, "why": self.words}
        return own | {"because": [line.strip() for line in self.below]} | self.facts

    def __str__(self) -> str:
        """Write it for a person, several lines."""
        return "\n".join([f"{self.name!r} {self.job_id} {self.words}", *(f"  {line}" for line in self.below)])


class Explainer:
    """Answers for the jobs of one workflow.

    :param load: returns the newest description of a job, None if it is gone.
    :param live: whether its leader is seen alive.
    :param tries: how often a job is tried.
    """

    def __init__(
        self,
        account: Account,
        waits: Waits,
        load: Callable[[str], JobDescription | None],
        *,
        live: bool,
        tries: int,
    ) -> None:
        self._account = account
        self._waits = waits
        self._load = load
        self._live = live
        self._tries = tries
        self._now = time.time()

    def explain(self, job_id: str) -> Answer:
        """Say how it stands with a job that the journal knows, and with some of those that it waits for."""
        answer = self._explain(job_id)
        waits_for = answer.facts.get("waits for jobs", [])
        return answer._replace(below=[*answer.below, *self._lines(waits_for)])

    def _explain(self, job_id: str) -> Answer:
        event = self._account.last(job_id)
        if event is None:
            return self._waiting(job_id)
        return _VERBS[event.kind](self, job_id, event)

    def _answer(
        self, job_id: str, state: str, words: str, below: list[str] | None = None, **facts: Any
    ) -> Answer:
        name = self._account.name(job_id) or self._name(job_id)
        return Answer(job_id, name, state, words, below or [], facts)

    def _name(self, job_id: str) -> str:
        desc = self._load(job_id)
        return "" if desc is None else str(desc.displayName)

    def _ago(self, at: float) -> str:
        return f"{format_duration(round(max(0.0, self._now - at), 1))} ago"

    # One function for each last event

    def _done(self, job_id: str, event: Event) -> Answer:
        words = f"is done, with all that follows it, since {self._clock(event.at)} ({self._ago(event.at)})"
        return self._answer(job_id, "done", words)

    def _clock(self, at: float) -> str:
        return time.strftime("%H:%M:%S", time.localtime(at))

    def _returned(self, job_id: str, event: Event) -> Answer:
        left = self._open_phase(job_id)
        words = f"has returned; {_count(len(left))} that follow{'s' * (len(left) == 1)} it must be done"
        return self._answer(job_id, "returned", words, **{"waits for jobs": left})

    def _open_phase(self, job_id: str) -> list[str]:
        """Return what is not done of the jobs that run now after one that has returned."""
        follower = self._account.follower(job_id) or Follower(job_id, [])
        return next((left for phase in follower.phases if (left := self._left(list(phase)))), [])

    def _issued(self, job_id: str, event: Event) -> Answer:
        fields = event.fields
        if "after" in fields:
            before = f"{self._account.name(fields['after'])!r} {fields['after']}"
            since = self._ago(event.at).removesuffix(" ago")
            words = f"runs in the process of {before}, which it follows, since {since}"
            below = [] if self._live else [_LOST]
            return self._answer(job_id, "running", words, below, since=event.at)
        desc = self._load(job_id)
        if desc is None:
            return self._answer(job_id, "running", "was issued, and its record is gone since")
        request = JobRequest.of(desc)._replace(version=int(fields["version"]))
        return self._handed_out(job_id, event, self._waits.of([request])[0])

    def _handed_out(self, job_id: str, event: Event, wait: Wait) -> Answer:
        state = "running" if wait.begun else "issued"
        since = wait.since or event.at
        words = f"{wait.words}, since {self._ago(since).removesuffix(' ago')}"
        below = [] if self._live else [_LOST]
        return self._answer(job_id, state, words, below, since=since, **wait.facts)

    def _failed(self, job_id: str, event: Event) -> Answer:
        words = f"has failed {self._ago(event.at)}, and waits until the process of that attempt has ended"
        return self._answer(job_id, "failing", words, [f"it failed: {event.fields['why']}"])

    def _backing_off(self, job_id: str, event: Event) -> Answer:
        until = event.at + float(event.fields["seconds"])
        failure = self._account.last_failure(job_id)
        left = int(failure.fields["left"]) if failure else 0
        try_number = f"try {max(1, self._tries - left + 1)} of {self._tries}" if failure else "the next try"
        when = f"{format_duration(round(max(0.0, until - self._now), 1))} more, until {self._clock(until)}"
        below = [f"its last attempt failed: {failure.fields['why']}"] if failure else []
        return self._answer(job_id, "backing off", f"waits {when}, before {try_number}", below, until=until)

    def _given_up(self, job_id: str, event: Event) -> Answer:
        words = f"has failed for good {self._ago(event.at)}: {event.fields['why']}"
        below = ["mend the cause and run the script again with --restart"]
        return self._answer(job_id, "failed", words, below)

    # What has not been issued

    def _waiting(self, job_id: str) -> Answer:
        """Nothing was decided about it: a predecessor has not let it go, or it is about to be issued."""
        blockers = self._blockers(job_id)
        if not blockers:
            return self._answer(job_id, "ready", "is ready, and the leader is about to issue it")
        words = f"waits for {_count(len(blockers))}"
        return self._answer(job_id, "waiting", words, **{"waits for jobs": blockers})

    def _blockers(self, job_id: str) -> list[str]:
        """Return the jobs that must come further first: predecessors, or what runs before it after those."""
        found: dict[str, None] = {}
        for follower in self._account.predecessors(job_id):
            event = self._account.last(follower.job_id)
            if event is None or event.kind not in ("commit", "plan", "done"):
                found[follower.job_id] = None
            else:
                found |= dict.fromkeys(self._left(follower.before(job_id)))
        return list(found)

    def _left(self, job_ids: list[str]) -> list[str]:
        return [job_id for job_id in job_ids if not self._account.is_done(job_id)]

    def _lines(self, job_ids: list[str]) -> list[str]:
        """Say of some jobs how it stands with them, of each waiting one with what it comes down to."""
        lines = []
        for job_id in job_ids[:MOST]:
            cause = self._cause(job_id)
            lines.append(_line(self._explain(job_id)))
            if cause != job_id:
                lines.append(f"  in the end for {_line(self._explain(cause))}")
        if len(job_ids) > MOST:
            lines.append(f"and {len(job_ids) - MOST} more")
        return lines

    def _cause(self, job_id: str) -> str:
        """Follow what a job waits for down to one that waits for no other job."""
        for _ in range(_FURTHEST):
            event = self._account.last(job_id)
            if event is not None and event.kind in ("commit", "plan"):
                further = self._open_phase(job_id)
            else:
                further = [] if event is not None else self._blockers(job_id)
            if not further:
                break
            job_id = further[0]
        return job_id


_VERBS: dict[str, Callable[[Explainer, str, Event], Answer]] = {
    "done": Explainer._done,
    "commit": Explainer._returned,
    "plan": Explainer._returned,
    "issue": Explainer._issued,
    "fail": Explainer._failed,
    "retry": Explainer._backing_off,
    "give-up": Explainer._given_up,
}


def _line(answer: Answer) -> str:
    return f"{answer.name!r} {answer.job_id} {answer.words}"


def _count(number: int) -> str:
    return "1 job" if number == 1 else f"{number} jobs"
