"""What the leader has handed out and what of it nobody has begun, by queue.

Knows attempts, their places in the queues of :mod:`toilcache.job_store.work`, and how one is withdrawn: by
claiming it, so that either we have it or a host has. Must not know hosts or Slurm."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from toilcache.batch.container_plan import BOX_MEMORY, HostContainer
from toilcache.batch.model import JobRequest
from toilcache.batch.slurm.commands import Needs
from toilcache.errors import JobStoreUnavailableError
from toilcache.job_store.core import is_full
from toilcache.job_store.work import BLOCK, Work, queue_name, queue_needs, queue_times, with_time

Attempt = tuple[str, int]


class Queue:
    """The attempts of one shape: all that were ever added, and the places that nobody is known to have
    claimed.

    `image` is what their workers run in, None for no container.
    """

    def __init__(self, name: str, image: str | None = None) -> None:
        self.name = name
        self.image = image
        cores, memory, disk, accelerators, _ = queue_needs(name)
        self.needs = Needs(cores, memory + (0 if image is None else BOX_MEMORY), disk, accelerators)
        self.times = queue_times(name)
        self.attempts: list[Attempt] = []
        self.unclaimed: set[int] = set()


class Queues:
    """All queues of a run.

    `outstanding` has every attempt that was taken over and has no end yet: the queue, and the place in it.
    """

    def __init__(self, work: Work, claimant: str, container: HostContainer | None = None) -> None:
        """Serve the queues of `work`; `container` is what jobs run in, if they or all have an image."""
        self._work = work
        self._container = container
        self._claimant = claimant
        self._queues: dict[str, Queue] = {}
        self.outstanding: dict[Attempt, tuple[Queue, int]] = {}
        self._unwritten: set[str] = set()

    def __iter__(self) -> Iterator[Queue]:
        return iter(self._queues.values())

    def __getitem__(self, name: str) -> Queue:
        return self._queues[name]

    def add(self, requests: Sequence[JobRequest]) -> None:
        """Put attempts where hosts find them."""
        by_name: dict[str, list[Attempt]] = {}
        for one in requests:
            image = self.image_of(one)
            name = queue_name(one.cores, one.memory, one.disk, one.accelerators, one.preemptible, image)
            name = with_time(name, one.times)
            self._queues.setdefault(name, Queue(name, image))
            by_name.setdefault(name, []).append((one.job_id, one.version))
        for name, attempts in by_name.items():
            queue = self._queues[name]
            first = len(queue.attempts)
            queue.attempts += attempts
            self._try(name, lambda name=name, first=first, new=attempts: self._work.add(name, first, new))  # type: ignore[misc]
            for place, attempt in enumerate(attempts, first):
                queue.unclaimed.add(place)
                self.outstanding[attempt] = queue, place

    def image_of(self, request: JobRequest) -> str | None:
        """Return what a job is to run in; None for no container."""
        return None if self._container is None else request.image or self._container.image

    def push(self) -> None:
        """Write what a full disk did not take."""
        for name in list(self._unwritten):
            self._try(name, lambda name=name: self._work.push(name))  # type: ignore[misc]

    def _try(self, name: str, write: Callable[[], None]) -> None:
        try:
            write()
            self._unwritten.discard(name)
        except JobStoreUnavailableError as error:
            if not is_full(error):
                raise
            self._unwritten.add(name)

    def claimed(self, name: str, place: int) -> None:
        """Take note that a host has begun what is at this place."""
        queue = self._queues.get(name)
        if queue is not None:
            queue.unclaimed.discard(place)

    def ended(self, attempt: Attempt) -> bool:
        """Take note of an end; False if it was told already, or if we never handed that out."""
        found = self.outstanding.pop(attempt, None)
        if found is not None:
            found[0].unclaimed.discard(found[1])
        return found is not None

    def of(self, job_ids: Collection[str]) -> list[Attempt]:
        """Return the outstanding attempts at these jobs."""
        wanted = set(job_ids)
        return [attempt for attempt in self.outstanding if attempt[0] in wanted]

    def withdraw(self, attempt: Attempt) -> bool:
        """Take back what nobody has begun; False if a host has it."""
        queue, place = self.outstanding[attempt]
        if place not in queue.unclaimed:
            return False
        won: list[bool] = []
        self._try(queue.name, lambda: won.append(self._claim(queue, place)))
        if won != [True]:
            return False
        queue.unclaimed.discard(place)
        return True

    def _claim(self, queue: Queue, place: int) -> bool:
        self._work.push(queue.name)
        return self._work.claim(queue.name, place, self._claimant)

    def claims_of(self, host: str) -> list[Attempt]:
        """Return what a host has claimed without having said so, among what is not known to be claimed."""
        found = []
        for queue in self:
            for block in {place // BLOCK for place in queue.unclaimed}:
                for place in self._work.claimed(queue.name, block) & queue.unclaimed:
                    if self._work.claimant(queue.name, place) == host:
                        queue.unclaimed.discard(place)
                        found.append(queue.attempts[place])
        return found


def seize(work: Work, claimant: str) -> list[tuple[Attempt, str]]:
    """Claim all that is left in the queues of an earlier run; return what others had claimed, and who."""
    taken = []
    for name in work.queues():
        for place, attempt in enumerate(work.read(name, 0)):
            if not work.claim(name, place, claimant):
                taken.append((attempt, work.claimant(name, place) or ""))
    return taken
