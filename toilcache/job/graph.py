"""Checks and orders of graphs of jobs that were made in this process.

Knows links between jobs; every walk is iterative and takes time in proportion to jobs and links. Must not
know descriptions' records or stores.
"""

from __future__ import annotations

from toilcache.errors import JobGraphDeadlockException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    from toilcache.job.job import Job

    Node: TypeAlias = tuple[Job, int]

_START, _CHILDREN_DONE, _END = 0, 1, 2


def successors(job: Job) -> Iterator[Job]:
    """The children and follow-ons of a job."""
    yield from job._children or ()
    yield from job._follow_ons or ()


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


def root_jobs(job: Job) -> set[Job]:
    """The jobs of the component that have no predecessor."""
    return {found for found in component(job) if not found._predecessors}


def check_one_root(job: Job) -> None:
    """Raise JobGraphDeadlockException unless exactly one job has no predecessor."""
    roots = root_jobs(job)
    if len(roots) == 1:
        return
    if not roots:
        raise JobGraphDeadlockException(
            f"cannot run the graph of {job}: it has no root, so it has a cycle; remove one of the links"
        )
    names = ", ".join(sorted(str(root) for root in roots)[:4])
    raise JobGraphDeadlockException(
        f"cannot run the graph of {job}: it has {len(roots)} roots ({names}) and a workflow starts at one; "
        "add the others below it"
    )


def check_checkpoints(job: Job) -> None:
    """Raise JobGraphDeadlockException for an unsaved checkpoint job that has successors already."""
    for found in component(job):
        if found.checkpoint and not found._is_saved and next(successors(found), None) is not None:
            raise JobGraphDeadlockException(
                f"cannot run checkpoint {found}: it has successors before it ran; add them inside its run"
            )


def check_acyclic(job: Job) -> None:
    """Raise JobGraphDeadlockException that names some jobs of a cycle.

    A follow-on waits for all that its job's children lead to. Instead of an edge from each of those, a job
    with follow-ons gets a node for "children done" and every job one for "all done".
    """
    jobs = component(job)
    if len(_starts_in_order(jobs)) < len(jobs):
        stuck = _a_cycle(jobs)
        raise JobGraphDeadlockException(
            f"cannot run the graph of {job}: it has a cycle through {' -> '.join(map(str, stuck))}; "
            "a job cannot wait for itself, nor a follow-on come before its job's children are done"
        )


def topological_order(job: Job) -> list[Job]:
    """The new jobs from this one on in an order in which they can run, services left aside."""
    below = {found for found in new_jobs(job)}
    for found in list(below):
        below.difference_update(found._services or ())
    return _starts_in_order(below)


def _edges(node: Node) -> Iterator[Node]:
    job, stage = node
    if stage == _START:
        for child in job._children or ():
            yield child, _START
        yield job, _CHILDREN_DONE
    elif stage == _CHILDREN_DONE:
        for follow_on in job._follow_ons or ():
            yield follow_on, _START
        yield job, _END
    else:
        for parent in job._predecessors or ():
            if job in (parent._children or ()):
                yield parent, _CHILDREN_DONE
            if job in (parent._follow_ons or ()):
                yield parent, _END


def _starts_in_order(jobs: Iterable[Job]) -> list[Job]:
    """The jobs whose start can be reached, in order; those on or behind a cycle are missing."""
    inside = set(jobs)
    waiting: dict[Node, int] = {}
    for job in inside:
        for stage in (_START, _CHILDREN_DONE, _END):
            for other in _edges((job, stage)):
                waiting[other] = waiting.get(other, 0) + 1
    ready: list[Node] = [(job, _START) for job in jobs if (job, _START) not in waiting]
    order: list[Job] = []
    for node in ready:
        if node[1] == _START:
            order.append(node[0])
        for other in _edges(node):
            if other[0] not in inside:
                continue
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    return order


def _a_cycle(jobs: list[Job]) -> list[Job]:
    started = set(_starts_in_order(jobs))
    stuck = {job for job in jobs if job not in started}
    walk: dict[Job, None] = {}
    job = next(iter(stuck))
    while job not in walk:
        walk[job] = None
        job = next((found for found in job._predecessors or () if found in stuck), job)
    path = list(walk)
    return [*path[path.index(job) :][::-1], job][:6]
