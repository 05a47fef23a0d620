"""What Slurm's programs say when they refuse, and what to do about it. Pure."""

from __future__ import annotations

import random
import re
from enum import Enum

_AMBIGUOUS = ("socket timed out", "timed out on send/recv", "zero bytes were transmitted", "connection reset")
_TRANSIENT = (
    *("unable to contact slurm controller", "connection refused", "connection timed out", "no route to host"),
    *("temporarily unable", "resource temporarily unavailable", "controller not responding", "standby mode"),
    *(
        "unable to establish control",
        "transport endpoint",
        "network is unreachable",
        "munge",
        "authentication",
    ),
    *("unable to connect", "slurmdbd", "could not resolve", "unable to resolve", "too many open files"),
)
_LIMIT = (
    *("submit limit", "submitjoblimit", "maxsubmitjob", "job limit", "max job count", "maxjobcount"),
    "too many jobs",
)

# https://slurm.schedmd.com/resource_limits.html: QOSMaxCpuPerJobLimit, AssocGrpSubmitJobsLimit and so on
_POLICY = re.compile(r"\b(?:assoc|qos)\w*limit\b")
_OF_JOBS = re.compile(r"submit|(?<!per)job")


class Trouble(Enum):
    """Why a call failed."""

    AMBIGUOUS = "it may have been carried out"
    TRANSIENT = "it was not carried out, and may be another time"
    LIMIT = "there are too many jobs already"
    PERMANENT = "it never will be"


def classify(text: str) -> Trouble:
    """Tell from the error text of sbatch and its like what kind of trouble it is."""
    lower = text.lower()
    named = _POLICY.findall(lower)
    if named:
        return _above_policy(named)
    for words, trouble in (
        (_AMBIGUOUS, Trouble.AMBIGUOUS),
        (_LIMIT, Trouble.LIMIT),
        (_TRANSIENT, Trouble.TRANSIENT),
    ):
        if any(word in lower for word in words):
            return trouble
    return Trouble.PERMANENT


def _above_policy(named: list[str]) -> Trouble:
    """Tell of the limits of accounts that sbatch names whether they are all of one job's size.

    The sentence that it adds speaks of submit limits whatever was exceeded.
    """
    return Trouble.LIMIT if any(_OF_JOBS.search(name) for name in named) else Trouble.PERMANENT


def said(text: str) -> str:
    """Return what a program said as one line: the errors, without its name before each."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition("error:")[2].strip() for line in lines if "error:" in line]
    return "; ".join(errors or lines[-3:]) or "it did not say why"


class Patience:
    """Pauses after trouble: doubled each time up to five minutes, jittered, so that leaders do not call at
    once.
    """

    FIRST, LONGEST = 2.0, 300.0

    def __init__(self, uniform: random.Random | None = None) -> None:
        self._random = uniform or random.Random()
        self._failures = 0
        self._until = 0.0

    def failed(self, now: float) -> float:
        """Take note of a failure; return the pause in seconds."""
        doubled: float = self.FIRST * 2.0 ** min(self._failures, 16)
        pause = min(self.LONGEST, doubled) * self._random.uniform(0.5, 1.0)
        self._failures += 1
        self._until = now + pause
        return pause

    def worked(self) -> None:
        """Take note of a success."""
        self._failures, self._until = 0, 0.0

    def left(self, now: float) -> float:
        """Return how long to wait still."""
        return max(0.0, self._until - now)
