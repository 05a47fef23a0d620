"""Checks and orders of graphs of jobs that were made in this process.

Knows links between jobs; every walk is iterative and takes time in proportion to jobs and links. Must not
know descriptions' records or stores.
"""

from __future__ import annotations

from toilcache.errors import JobGraphDeadlockException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from toilcache.job.job import Job

CHILD, FOLLOW_ON = 1, 2
"""Kinds of links, as `Job._predecessors` has them; their sum where a job is both."""

_CYCLE_SHOWN = 6


def new_jobs(job: Job) -> list[Job]:
    """This job and the unsaved ones below it, services included, each after the job that led to it."""
    seen = {job: None}
    order = [job]
    for found in order:
        for linked in (found._children, found._follow_ons, found._services):
            for other in linked or ():
                if other not in seen and not other._is_saved:
                    seen[other] = None
                    order.append(other)
    return order


def component(job: Job) -> list[Job]:
    """All jobs of this process that are linked with this one in whatever direction, services left aside."""
    seen = {job}
    order = [job]
    for found in order:
        for linked in (found._children, found._follow_ons, found._predecessors):
            for other in linked or ():
                if other not in seen:
                    seen.add(other)
                    order.append(other)
    return order


def root_jobs(jobs: Iterable[Job]) -> set[Job]:
    """Those of the jobs that have no predecessor."""
    return {job for job in jobs if not job._predecessors}


def check(job: Job) -> None:
    """Raise JobGraphDeadlockException unless the graph of this job can be run to its end."""
    jobs = component(job)
    check_one_root(jobs)
    check_acyclic(jobs)
    check_checkpoints(jobs)


def check_one_root(jobs: list[Job]) -> None:
    """Raise JobGraphDeadlockException unless exactly one job has no predecessor."""
    roots = root_jobs(jobs)
    if len(roots) == 1:
        return
    if not roots:
        raise JobGraphDeadlockException(
            f"cannot run the graph of {jobs[0]}: it has no root, so it has a cycle; remove one of the links"
        )
    names = ", ".join(sorted(str(root) for root in roots)[:4])
    raise JobGraphDeadlockException(
        f"cannot run the graph of {jobs[0]}: it has {len(roots)} roots ({names}) and a workflow "
        "starts at one; add the others below it"
    )


def check_checkpoints(jobs: Iterable[Job]) -> None:
    """Raise JobGraphDeadlockException for an unsaved checkpoint job that has successors already."""
    for job in jobs:
        if (job._children or job._follow_ons) and not (job._is_saved or job._is_loaded) and job.checkpoint:
            raise JobGraphDeadlockException(
                f"cannot run checkpoint {job}: it has successors before it ran; add them inside its run"
            )


def check_acyclic(jobs: list[Job]) -> None:
    """Raise JobGraphDeadlockException that names some jobs of a cycle.

    A follow-on waits for everything that its job's children lead to. Instead of an edge from each of those,
    each job counts what it waits for in three steps: to start, to have its children done, to be done.
    """
    started = starting_order(jobs)
    if len(started) < len(jobs):
        raise JobGraphDeadlockException(
            f"cannot run the graph of {jobs[0]}: it has a cycle ({_a_cycle(jobs, set(started))}); "
            "a job cannot wait for itself, nor a follow-on be needed by what its own job's children lead to"
        )


def topological_order(job: Job) -> list[Job]:
    """The new jobs from this one on in an order in which they can run, services left aside."""
    jobs = new_jobs(job)
    hosts = {host for found in jobs for host in found._services or ()}
    return starting_order([found for found in jobs if found not in hosts])


def starting_order(jobs: list[Job]) -> list[Job]:
    """The jobs in an order in which they can start; those on or behind a cycle are missing.

    Links to jobs that are not among the given ones do not count.
    """
    return _Walk(jobs).order


class _Walk:
    """One pass over a graph: counts of what each job waits for, counted down."""

    def __init__(self, jobs: list[Job]) -> None:
        self._starts: dict[Job, int] = {}
        self._children: dict[Job, int] = {}
        self._follow_ons: dict[Job, int] = {}
        inside = set(jobs)
        for job in jobs:
            if job._children:
                self._children[job] = self._count(job._children, inside)
            if job._follow_ons:
                self._follow_ons[job] = self._count(job._follow_ons, inside)
        self.order = [job for job in jobs if job not in self._starts]
        for job in self.order:
            self._let_go(job._children)
            if not self._children.get(job):
                self._children_done([job])

    def _count(self, links: Iterable[Job], inside: set[Job]) -> int:
        starts = self._starts
        count = 0
        for other in links:
            if other in inside:
                count += 1
                starts[other] = starts.get(other, 0) + 1
        return count

    def _let_go(self, links: Iterable[Job] | None) -> None:
        starts = self._starts
        for other in links or ():
            left = starts.get(other, 0) - 1
            if left >= 0:
                starts[other] = left
            if left == 0:
                self.order.append(other)

    def _children_done(self, stack: list[Job]) -> None:
        done: list[Job] = []
        while stack or done:
            if stack:
                job = stack.pop()
                self._let_go(job._follow_ons)
                if not self._follow_ons.get(job):
                    done.append(job)
                continue
            for parent, kind in (done.pop()._predecessors or {}).items():
                if kind & CHILD and self._counted_down(self._children, parent):
                    stack.append(parent)
                if kind & FOLLOW_ON and self._counted_down(self._follow_ons, parent):
                    done.append(parent)

    @staticmethod
    def _counted_down(counts: dict[Job, int], job: Job) -> bool:
        left = counts.get(job, 0) - 1
        counts[job] = left
        return left == 0


def _a_cycle(jobs: list[Job], started: set[Job]) -> str:
    """Name some jobs that wait for each other, the first again at the end."""
    walk: dict[Job, str] = {}
    job = next(job for job in jobs if job not in started)
    while job not in walk:
        other, through = _waits_for(job, started)
        walk[job] = through
        job = other
    path = list(walk)[list(walk).index(job) :]
    steps = [step for found in path for step in (str(found), walk[found]) if step]
    return " -> ".join([*steps[:_CYCLE_SHOWN], *(["..."] if len(steps) > _CYCLE_SHOWN else []), str(job)])


def _waits_for(job: Job, started: set[Job]) -> tuple[Job, str]:
    """A job that has to come before this one and cannot start either, and whose children lead to it."""
    predecessors = job._predecessors or {}
    for parent in predecessors:
        if parent not in started:
            return parent, ""
    for parent, kind in predecessors.items():
        for found in _below(parent._children or ()) if kind & FOLLOW_ON else ():
            if found not in started:
                return found, f"children of {parent}"
    return job, ""


def _below(jobs: Iterable[Job]) -> list[Job]:
    order = list(jobs)
    seen = set(order)
    for found in order:
        for linked in (found._children, found._follow_ons):
            for other in linked or ():
                if other not in seen:
                    seen.add(other)
                    order.append(other)
    return order
