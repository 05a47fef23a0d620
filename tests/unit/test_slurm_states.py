"""Every job state of Slurm has a meaning, and an unknown one never ends a job."""

from __future__ import annotations

import pytest

from toilcache.batch.slurm.states import CODES, FLAGS, STATES, Phase, normal, unknown, verdict
from toilcache.job.exit_reason import BatchJobExitReason

BASE = """BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PENDING PREEMPTED RUNNING
SUSPENDED TIMEOUT"""
FLAG = """COMPLETING CONFIGURING EXPEDITING LAUNCH_FAILED POWER_UP_NODE RECONFIG_FAIL REQUEUED REQUEUE_FED
REQUEUE_HOLD RESIZING RESV_DEL_HOLD REVOKED SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED UPDATE_DB"""
ENDED = """BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT REVOKED"""


def test_the_tables_have_the_states_of_the_vendor_and_no_others() -> None:
    assert set(STATES) == set(BASE.split())
    assert set(FLAGS) == set(FLAG.split())
    assert set(CODES.values()) <= set(STATES) | set(FLAGS)


@pytest.mark.parametrize("state", (BASE + " " + FLAG).split())
def test_what_has_ended_has_words_and_a_reason_and_what_goes_on_has_none(state: str) -> None:
    found = verdict(state)
    assert (found.phase is Phase.ENDED) == (state in ENDED.split())
    assert bool(found.words) == (found.phase is Phase.ENDED)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("OUT_OF_MEMORY", BatchJobExitReason.MEMLIMIT),
        ("TIMEOUT", BatchJobExitReason.MAXJOBDURATION),
        ("DEADLINE", BatchJobExitReason.KILLED),
    ],
)
def test_what_is_the_fault_of_the_job_is_charged(state: str, reason: BatchJobExitReason) -> None:
    assert verdict(state).reason == reason
    assert verdict(state).is_charged


@pytest.mark.parametrize(
    "state", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "CANCELLED", "COMPLETED", "FAILED", "REVOKED"]
)
def test_what_is_no_fault_of_the_job_is_free(state: str) -> None:
    assert not verdict(state).is_charged


def test_no_state_is_a_success() -> None:
    assert BatchJobExitReason.FINISHED not in {found.reason for found in [*STATES.values(), *FLAGS.values()]}


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("CANCELLED by 5101", "CANCELLED"),
        ("CANCELLED+", "CANCELLED"),
        ("OUT_OF_ME+", "OUT_OF_ME"),
        ("NODE_FAIL", "NODE_FAIL"),
        ("oom", "OUT_OF_MEMORY"),
        ("CG", "COMPLETING"),
        ("", ""),
    ],
)
def test_spellings(written: str, name: str) -> None:
    assert normal(written) == name


def test_an_unknown_state_goes_on_and_is_named() -> None:
    assert verdict("DREAMING").phase is Phase.RUNS
    assert unknown(["R", "dreaming", "DREAMING+", "PENDING", "CANCELLED by 0"]) == {"DREAMING"}
