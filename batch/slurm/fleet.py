"""The arrays of workers that were submitted: how many tasks of them may still begin, and how many more to ask
for.

Pure but for its log: knows arrays, looks and numbers. Must not call Slurm. Workers take work for themselves,
so one too many does no harm and an answer that got lost needs no repair: an array that Slurm has under our
name is ours, whatever we know of it."""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import NamedTuple

from toilcache.batch.slurm.evidence import ABSENCE_GRACE, END_GRACE, Look, Task, TaskState
from toilcache.batch.slurm.states import Phase, unknown, verdict

logger = logging.getLogger(__name__)

FIRST_ARRAY = 500
"""So many workers are asked for at first; each further array, once all have begun, doubles that."""

FAILED_STARTS = 3
"""After so many workers of a queue that ended before they began, and none that did, something is wrong for
all.
"""


class FailedStart(NamedTuple):
    """A task that had ended and of whose worker nothing had been heard, when Slurm was asked."""

    task: Task
    state: TaskState
    at: float


class Array:
    """One submitted array; a job that was found under our name and that we know nothing of has no queue."""

    def __init__(self, job_id: int, size: int, queue: str, now: float) -> None:
        self.job_id = job_id
        self.size = size
        self.queue = queue
        self.since = now
        self.failed: dict[int, TaskState] = {}
        self.over = False
        self._counted = (0, 0)
        self._begun = 0
        self._absent_since: float | None = None

    def see(self, look: Look, heard: Set[Task]) -> list[FailedStart]:
        """Take in a look; return the tasks that newly turn out to have ended before they began."""
        if self.over or look.at < self.since:
            return []
        if self.job_id not in look.arrays:
            self._absent_since = self._absent_since or look.at
            self.over = look.at >= self._absent_since + ABSENCE_GRACE
            return []
        self._absent_since = None
        failed = {}
        for index in range(self.size):
            state = look.tasks.get((self.job_id, index))
            if state is None or (self.job_id, index) in heard or index in self.failed:
                continue
            if verdict(state.state).phase is Phase.ENDED:
                failed[index] = state
        self.failed |= failed
        return [FailedStart((self.job_id, index), state, look.at) for index, state in failed.items()]

    def waiting(self, heard: Set[Task]) -> int:
        """Return how many tasks may still begin."""
        if self.over:
            return 0
        if self._counted != (len(heard), len(self.failed)):  # both only grow
            indices = (index for index in range(self.size) if index not in self.failed)
            self._begun = sum((self.job_id, index) in heard for index in indices)
            self._counted = len(heard), len(self.failed)
        return self.size - len(self.failed) - self._begun


class Fleet:
    """All arrays of a run, and how many workers to ask for next."""

    def __init__(self, most_per_array: int, most_jobs: int, max_workers: int | None, reuse: bool) -> None:
        self._most_per_array = most_per_array
        self._most_jobs = most_jobs
        self._max_workers = max_workers
        self.reuse = reuse
        self._next: dict[str, int] = {}
        self.arrays: dict[int, Array] = {}
        self._failures: dict[str, list[FailedStart]] = {}
        self._said: set[str] = set()

    def made(self, job_id: int, size: int, queue: str, now: float) -> None:
        """An array was submitted."""
        self.arrays.setdefault(job_id, Array(job_id, size, queue, now))
        self._next[queue] = max(FIRST_ARRAY, 2 * size)

    def see(self, look: Look, heard: Set[Task], now: float) -> None:
        """Take in a look: workers that failed to start, and arrays whose submission we never heard of."""
        self._say_unknown(look)
        for job_id in look.arrays - self.arrays.keys():
            if any(
                array == job_id and verdict(state.state).phase is not Phase.ENDED
                for (array, _), state in look.tasks.items()
            ):
                logger.debug("Slurm has an array %d of this workflow that it did not tell us of", job_id)
                self.arrays[job_id] = Array(job_id, 0, "", now)
        for array in self.arrays.values():
            self._failures.setdefault(array.queue, []).extend(array.see(look, heard))

    def _say_unknown(self, look: Look) -> None:
        """Say of a state that stands in no table how it is taken, once in a run."""
        for name in sorted(unknown(task.state for task in look.tasks.values()) - self._said):
            self._said.add(name)
            logger.warning("job state %r of Slurm is not known here; taken as one that goes on", name)

    def take_failures(self, queue: str, heard: Set[Task], now: float) -> list[TaskState]:
        """Return the tasks that ended before their workers began, once; none before their logs must be here.

        One that was heard of meanwhile has begun, said all it had to say, and ended.
        """
        failures = [one for one in self._failures.get(queue, ()) if one.task not in heard]
        self._failures[queue] = failures
        if not failures or now < max(one.at for one in failures) + END_GRACE:
            return []
        enough = (
            len(failures) >= FAILED_STARTS or not self.waiting(heard, queue) or self._has_begun(queue, heard)
        )
        if not enough:
            return []
        self._failures[queue] = []
        return [one.state for one in failures]

    def _has_begun(self, queue: str, heard: Set[Task]) -> bool:
        return any(job in self.arrays and self.arrays[job].queue == queue for job, _ in heard)

    def is_hopeless(self, queue: str, heard: Set[Task]) -> bool:
        """Tell whether no worker of a queue has ever begun."""
        return not self._has_begun(queue, heard)

    def waiting(self, heard: Set[Task], queue: str | None = None) -> int:
        """Return how many workers, of a queue or of all, may still begin."""
        return sum(a.waiting(heard) for a in self.arrays.values() if queue is None or a.queue == queue)

    def wanted(self, queue: str, unclaimed: int, idle: int, hosts: int, heard: Set[Task]) -> int:
        """Return how many workers to ask for now, 0 if those that are there or on their way will do."""
        waiting = self.waiting(heard, queue)
        room = self._most_jobs - self.waiting(heard) - hosts
        if self._max_workers is not None:
            room = min(room, self._max_workers - self.waiting(heard) - hosts)
        if self.reuse:
            if waiting:
                return 0
            missing = min(unclaimed - idle, self._next.get(queue, FIRST_ARRAY))
        else:
            missing = unclaimed - waiting - idle
        return max(0, min(missing, room, self._most_per_array))

    def too_many(self, asked: int) -> None:
        """Slurm takes no array of that size now: ask for smaller ones."""
        self._most_per_array = max(1, asked // 2)
