"""What a machine has and what is taken of it: plain arithmetic, no input or output.

Must not know jobs beyond the four numbers and the image they ask for.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import NamedTuple

from toilcache.batch.model import JobRequest
from toilcache.errors import InsufficientSystemResources
from toilcache.units import format_size

_CORE_UNIT = 1000
"""Cores are counted in thousandths, so that ten times 0.1 cores is one core."""

Shape = tuple[float, int, int, int, str | None]


class Capacity(NamedTuple):
    """What may be used: cores, memory and disk in bytes, accelerators."""

    cores: float
    memory: int
    disk: int
    accelerators: int


class Pool:
    """Counts what is free of a capacity. ``limit`` is the largest number of jobs at a time, None for any.

    More may be taken than there is, by jobs that ran before anybody counted; then nothing fits until enough
    of them have given it back."""

    def __init__(self, capacity: Capacity, limit: int | None = None) -> None:
        self.capacity = capacity
        self._free = [_milli(capacity.cores), capacity.memory, capacity.disk, capacity.accelerators]
        self._jobs_left = limit

    def check(self, request: JobRequest) -> None:
        """Return if the request fits into an empty pool.

        :raises InsufficientSystemResources: it does not; names the resource, what is asked for and what there
        is."""
        has = self.capacity
        if request.cores > has.cores:
            raise InsufficientSystemResources(request.name, "cores", f"{request.cores:g}", f"{has.cores:g}")
        for resource, asked, there in (
            ("memory", request.memory, has.memory),
            ("disk", request.disk, has.disk),
        ):
            if asked > there:
                raise InsufficientSystemResources(
                    request.name, resource, format_size(asked), format_size(there)
                )
        if request.accelerators > has.accelerators:
            raise InsufficientSystemResources(
                request.name, "accelerators", request.accelerators, has.accelerators
            )

    def free(self) -> list[float | None]:
        """Return what is free of each resource, as in `Capacity`, and how many jobs may still start."""
        return [self._free[0] / _CORE_UNIT, *self._free[1:], self._jobs_left]

    def fits(self, shape: Shape) -> bool:
        """True if one more of this shape can start now."""
        if self._jobs_left is not None and self._jobs_left <= 0:
            return False
        return all(need <= free for need, free in zip(_needs(shape), self._free, strict=True))

    def take(self, shape: Shape) -> None:
        """Reserve for one job of this shape."""
        self._change(shape, -1)

    def give(self, shape: Shape) -> None:
        """Return what one job of this shape had."""
        self._change(shape, 1)

    def _change(self, shape: Shape, sign: int) -> None:
        for index, need in enumerate(_needs(shape)):
            self._free[index] += sign * need
        if self._jobs_left is not None:
            self._jobs_left += sign


def _milli(cores: float) -> int:
    return round(cores * _CORE_UNIT)


def _needs(shape: Shape) -> tuple[int, int, int, int]:
    return (_milli(shape[0]), shape[1], shape[2], shape[3])


PATIENCE = 64
"""So many later jobs may start before a job for which there is no room; then it is waited for."""


class Pending:
    """Requests that wait for room, first come first served, with backfill that cannot starve a large job.

    Of each shape only the first can be next; `_turns` are these, by their numbers of arrival.
    """

    def __init__(self) -> None:
        self._by_shape: dict[Shape, deque[tuple[int, JobRequest]]] = {}
        self._turns: list[tuple[int, Shape]] = []
        self._overtaken: dict[Shape, int] = {}
        self._arrived = 0

    def __len__(self) -> int:
        return sum(map(len, self._by_shape.values()))

    def add(self, request: JobRequest) -> None:
        """Queue a request behind all others."""
        self._arrived += 1
        if request.shape not in self._by_shape:
            self._by_shape[request.shape] = deque()
            self._turns.append((self._arrived, request.shape))
        self._by_shape[request.shape].append((self._arrived, request))

    def discard(self, job_id: str) -> JobRequest | None:
        """Remove a request and return it; None if it is not here."""
        for requests in self._by_shape.values():
            for index, (_, request) in enumerate(requests):
                if request.job_id == job_id:
                    self._remove(request.shape, index)
                    return request
        return None

    def shapes(self) -> list[tuple[Shape, int]]:
        """Return the shapes of what waits, in the order in which they are looked at, with their numbers."""
        return [(shape, len(self._by_shape[shape])) for _, shape in self._turns]

    def only_shape(self) -> Shape | None:
        """Return the shape of all that waits, None if nothing does or shapes differ."""
        return next(iter(self._by_shape)) if len(self._by_shape) == 1 else None

    def next(self, pool: Pool) -> JobRequest | None:
        """Remove and return the next request for which the pool has room, None if there is none."""
        passed: list[Shape] = []
        for _, shape in self._turns:
            if pool.fits(shape):
                for overtaken in passed:
                    self._overtaken[overtaken] = self._overtaken.get(overtaken, 0) + 1
                self._overtaken.pop(shape, None)
                return self.pop(shape)
            if self._overtaken.get(shape, 0) >= PATIENCE:
                return None
            passed.append(shape)
        return None

    def pop(self, shape: Shape) -> JobRequest | None:
        """Remove and return the first request of a shape, None if there is none."""
        requests = self._by_shape.get(shape)
        return self._remove(shape, 0) if requests else None

    def _remove(self, shape: Shape, index: int) -> JobRequest:
        """Take one out of its queue; where it was the first of its shape, the turn is the second's."""
        requests = self._by_shape[shape]
        arrived, request = requests[index]
        del requests[index]
        if index == 0:
            del self._turns[bisect_left(self._turns, (arrived,))]
            if requests:
                insort(self._turns, (requests[0][0], shape))
        if not requests:
            del self._by_shape[shape]
            self._overtaken.pop(shape, None)
        return request
