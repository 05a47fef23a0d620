"""What Slurm's job states mean for a worker, as one total table.

The states and flags are those of https://slurm.schedmd.com/job_state_codes.html, up to Slurm 25. Pure; must
not know how a state was learned. COMPLETED is no success: the record of a job in the job store is (I1). A
state that stands here not is taken as one that goes on; `unknown` names it, for somebody to say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from toilcache.job.exit_reason import BatchJobExitReason


class Phase(Enum):
    """What a state says about the process of an array task."""

    WAITS = "waits"
    """It has no process: it never started, or it was requeued and the process that was there is gone."""
    RUNS = "runs"
    """It has a process, or is about to have one or to lose it."""
    STOPPED = "stopped"
    """Its process is suspended and may go on; silence of it means nothing."""
    ENDED = "ended"
    """It has no process and will have none."""


class Verdict(NamedTuple):
    """What a state means: the phase, why an attempt ended, how to say that to a person, and whether the node
    is to be avoided for a while.
    """

    phase: Phase
    reason: BatchJobExitReason = BatchJobExitReason.LOST
    words: str = ""
    blames_node: bool = False

    @property
    def is_charged(self) -> bool:
        """Whether an attempt that ends so costs its job a try: what is lost through no fault does not."""
        return self.reason != BatchJobExitReason.LOST


_LOST = BatchJobExitReason.LOST


def _ended(words: str, reason: BatchJobExitReason = _LOST, *, blames_node: bool = False) -> Verdict:
    return Verdict(Phase.ENDED, reason, words, blames_node)


_WAITS, _RUNS, _STOPPED = Verdict(Phase.WAITS), Verdict(Phase.RUNS), Verdict(Phase.STOPPED)

STATES: dict[str, Verdict] = {
    "BOOT_FAIL": _ended("was lost: its node did not boot", blames_node=True),
    "CANCELLED": _ended("was lost: its allocation was cancelled"),
    "COMPLETED": _ended("was lost: its allocation ended without a record of it"),
    "DEADLINE": _ended("was ended: its allocation had a deadline and reached it", BatchJobExitReason.KILLED),
    "FAILED": _ended("was lost: its worker failed"),
    "NODE_FAIL": _ended("was lost: its node failed", blames_node=True),
    "OUT_OF_MEMORY": _ended(
        "was killed because memory ran out; raise its memory requirement", BatchJobExitReason.MEMLIMIT
    ),
    "PENDING": _WAITS,
    "PREEMPTED": _ended("was lost: its allocation was preempted"),
    "RUNNING": _RUNS,
    "SUSPENDED": _STOPPED,
    "TIMEOUT": _ended(
        "reached the time limit of its allocation; raise --slurmTime, or let --doubleTime do that",
        BatchJobExitReason.MAXJOBDURATION,
    ),
}
"""The base states: a job has exactly one."""

FLAGS: dict[str, Verdict] = {
    "COMPLETING": _RUNS,
    "CONFIGURING": _WAITS,
    "EXPEDITING": _WAITS,
    "LAUNCH_FAILED": _WAITS,
    "POWER_UP_NODE": _WAITS,
    "RECONFIG_FAIL": _WAITS,
    "REQUEUED": _WAITS,
    "REQUEUE_FED": _WAITS,
    "REQUEUE_HOLD": _WAITS,
    "RESIZING": _RUNS,
    "RESV_DEL_HOLD": _WAITS,
    "REVOKED": _ended("was lost: another cluster of the federation has its allocation"),
    "SIGNALING": _RUNS,
    "SPECIAL_EXIT": _WAITS,
    "STAGE_OUT": _RUNS,
    "STOPPED": _STOPPED,
    "UPDATE_DB": _RUNS,
}
"""The flags, which squeue shows in the place of the base state."""

CODES = {
    **{"BF": "BOOT_FAIL", "CA": "CANCELLED", "CD": "COMPLETED", "CF": "CONFIGURING", "CG": "COMPLETING"},
    **{"DL": "DEADLINE", "F": "FAILED", "NF": "NODE_FAIL", "OOM": "OUT_OF_MEMORY", "PD": "PENDING"},
    **{"PR": "PREEMPTED", "R": "RUNNING", "RD": "RESV_DEL_HOLD", "RF": "REQUEUE_FED", "RH": "REQUEUE_HOLD"},
    **{"RQ": "REQUEUED", "RS": "RESIZING", "RV": "REVOKED", "SI": "SIGNALING", "SE": "SPECIAL_EXIT"},
    **{"SO": "STAGE_OUT", "ST": "STOPPED", "S": "SUSPENDED", "TO": "TIMEOUT"},
}
"""The compact codes of squeue."""


def normal(text: str) -> str:
    """Return the name of a state as the tables have it: sacct writes `CANCELLED by 1000` and `CANCELLED+`."""
    word = (text.split() or [""])[0].rstrip("+").upper()
    return CODES.get(word, word)


def verdict(text: str) -> Verdict:
    """Return what a state means; one that nobody has heard of goes on."""
    name = normal(text)
    return STATES.get(name) or FLAGS.get(name) or _RUNS


def unknown(texts: Iterable[str]) -> set[str]:
    """Return the names of those states that no table has."""
    return {normal(text) for text in set(texts)} - STATES.keys() - FLAGS.keys()
