"""The contract between a batch system and whoever explains why its attempts have not begun.

Asked by a person's command, perhaps on another machine than the leader, perhaps after that has ended: so an
answer is made of what stands in the job store, and of what the scheduler says to one question. Must not know
any particular scheduler.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from toilcache.batch.model import JobRequest


class Wait(NamedTuple):
    """How it stands with an attempt that was handed to a batch system.

    `begun`: a process works on it. `words` continue a sentence that begins with the job; `facts` are JSON
    values for scripts. `since` is when it began, in seconds since 1970, where that is known.
    """

    begun: bool
    words: str
    facts: dict[str, Any]
    since: float | None = None


class Waits(Protocol):
    """Explains the attempts of one workflow."""

    def of(self, requests: Sequence[JobRequest]) -> list[Wait]:
        """Return how it stands with each of these attempts."""

    def summary(self, attempts: Collection[tuple[str, int]]) -> list[tuple[int, Wait]]:
        """Return how it stands with all of these, those of which the same is true counted together."""
