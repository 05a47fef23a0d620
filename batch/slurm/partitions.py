"""Which partition a worker fits into, from what sinfo says. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from toilcache.batch.slurm.commands import MIB, Needs, Placement
from toilcache.batch.slurm.parse import NodeGroup


class Lack(NamedTuple):
    """What no node has enough of: the resource in words, how much is wanted, the most there is."""

    resource: str
    wanted: float
    most: float


def choose_partition(groups: Sequence[NodeGroup], needs: Needs, placement: Placement) -> str | None:
    """Return the partition to ask for; None to leave it to Slurm: the default one fits, or nothing is known.

    Of those that fit, the one with the shortest time limit, then the most nodes: what a longer one has is
    for jobs that need it.
    """
    if placement.partition:
        return None
    fitting = [group for group in groups if group.is_up and _fits(group, needs, placement)]
    if not fitting or any(group.is_default for group in fitting):
        return None
    return min(
        fitting, key=lambda group: (group.time_limit or math.inf, -group.nodes, group.partition)
    ).partition


def what_is_lacking(groups: Sequence[NodeGroup], needs: Needs, placement: Placement) -> Lack | None:
    """Return what no node has; None if some node could run such a worker.

    Nodes that are down count too, since they come back. Where nothing is known, and where a partition is
    asked for that is not there, nothing is refused here: sbatch says it better.
    """
    asked = set((placement.partition or "").split(",")) - {""}
    possible = [group for group in groups if not asked or group.partition in asked]
    if not possible or any(_fits(group, needs, placement) for group in possible):
        return None
    best: dict[str, tuple[float, float]] = {}
    for group in possible:
        for what, has, wanted in _compared(group, needs, placement):
            best[what] = (max(has, best.get(what, (0.0, 0.0))[0]), wanted)
    for what, (has, wanted) in best.items():
        if has < wanted:
            return Lack(what, wanted, has)
    return Lack("cores, memory, disk, time and GPUs at once", 1, 0)


def usual_time(groups: Sequence[NodeGroup], placement: Placement) -> float | None:
    """Return the seconds that an allocation lasts: what is asked for, else the least that it may be given.

    Slurm 22.05 does not tell that inside of an allocation.
    """
    if placement.time is not None:
        return placement.time
    asked = set((placement.partition or "").split(",")) - {""}
    meant = [group for group in groups if (group.partition in asked if asked else group.is_default)]
    return min((group.usual_time for group in meant if group.usual_time is not None), default=None)


def with_more_time(groups: Sequence[NodeGroup], needs: Needs, placement: Placement, times: int) -> Placement:
    """Return the placement with so many times the usual time, at most what a partition that fits allows.

    Where no limit is known there is nothing to multiply.
    """
    usual = usual_time(groups, placement)
    if times == 1 or usual is None:
        return placement
    asked = set((placement.partition or "").split(",")) - {""}
    fitting = [g for g in groups if (not asked or g.partition in asked) and _fits(g, needs, placement)]
    most = max((group.time_limit or math.inf for group in fitting), default=math.inf)
    return placement._replace(time=min(times * usual, most))


def _fits(group: NodeGroup, needs: Needs, placement: Placement) -> bool:
    return all(has >= wanted for _, has, wanted in _compared(group, needs, placement))


def _compared(group: NodeGroup, needs: Needs, placement: Placement) -> Iterable[tuple[str, float, float]]:
    """Yield (what, what there is, what is wanted), in the units of sinfo."""
    yield "cores", group.cores, math.ceil(needs.cores)
    if placement.memory_as != "none":
        yield "MiB of memory", group.memory, math.ceil(needs.memory / MIB)
    yield "MiB of disk for temporary files (TmpDisk)", group.disk, needs.disk // MIB
    yield "GPUs", group.gpus, needs.gpus
    yield "seconds of time", group.time_limit or math.inf, placement.time or 0
    if placement.constraint and re.fullmatch(r"[\w.-]+", placement.constraint):
        yield f"nodes with feature {placement.constraint}", float(placement.constraint in group.features), 1.0
