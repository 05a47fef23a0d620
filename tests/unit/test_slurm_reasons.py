"""Every reason why Slurm lets a job wait has words, and one that nobody knows is shown as it is."""

from __future__ import annotations

import pytest

from toilcache.batch.slurm.reasons import REASONS, in_words

# https://slurm.schedmd.com/job_reason_codes.html, without the limits.
VENDOR = """AccountNotAllowed AccountingPolicy BadConstraints BeginTime BurstBufferOperation
BurstBufferResources BurstBufferStageIn Cleaning DeadLine Dependency DependencyNeverSatisfied
FedJobLock FrontEndDown InactiveLimit InvalidAccount InvalidQOS JobArrayTaskLimit JobHeldAdmin
JobHeldUser JobHoldMaxRequeue JobLaunchFailure Licenses MaxBBPerAccount MaxBillingPerAccount
MaxCpuPerAccount MaxEnergyPerAccount MaxGRESPerAccount MaxJobsPerAccount MaxLicensePerAccount
MaxMemoryPerAccount MaxMemPerLimit MaxNodePerAccount MaxRequeueExceeded MaxSubmitJobsPerAccount
MaxUnknownPerAccount NodeDown NonZeroExitCode None OutOfMemory PartitionConfig PartitionDown
PartitionInactive PartitionNodeLimit PartitionTimeLimit Priority Prolog QOSJobLimit
QOSNotAllowed QOSResourceLimit QOSTimeLimit QOSUsageThreshold ReqNodeNotAvail Reservation
ReservationDeleted Resources SchedDefer SystemFailure TimeLimit"""

LIMITS = {
    "AssocGrpCpuLimit": "your association has reached its limit of cores for all jobs together",
    "AssocGrpCPUMinutesLimit": (
        "your association has reached its limit of cores in minutes for all jobs together"
    ),
    "AssocGrpMemRunMinutes": (
        "your association has reached its limit of memory in minutes of what runs for all jobs together"
    ),
    "AssocGrpJobsLimit": "your association has reached its limit of jobs that run for all jobs together",
    "AssocMaxJobsLimit": "your association has a limit of jobs that run that is reached",
    "AssocMaxWallDurationPerJobLimit": "your association has a limit of time for one job that is reached",
    "AssocMaxGRESPerNode": "your association has a limit of generic resources for one node that is reached",
    "AssocMaxBBMinutesPerJob": (
        "your association has a limit of burst buffer in minutes for one job that is reached"
    ),
    "QOSGrpNodeLimit": "its QOS has reached its limit of nodes for all jobs together",
    "QOSMaxCpuPerUserLimit": "its QOS has a limit of cores for you that is reached",
    "QOSMaxJobsPerUserLimit": "its QOS has a limit of jobs that run for you that is reached",
    "QOSMaxSubmitJobPerUserLimit": "its QOS has a limit of jobs that are submitted for you that is reached",
    "QOSMinCpuNotSatisfied": "its QOS wants more cores of a job than is asked for",
    "QOSMinMemory": "its QOS wants more memory of a job than is asked for",
}


@pytest.mark.parametrize("reason", VENDOR.split())
def test_every_reason_of_the_vendor_has_words(reason: str) -> None:
    assert in_words(reason) == f"{reason} ({REASONS[reason]})"


@pytest.mark.parametrize("reason", LIMITS)
def test_limits_are_read_part_by_part(reason: str) -> None:
    assert in_words(reason) == f"{reason} ({LIMITS[reason]})"


def test_brackets_and_names_of_nodes_around_a_reason() -> None:
    assert in_words("(Priority)") == f"Priority ({REASONS['Priority']})"
    text = "ReqNodeNotAvail, UnavailableNodes:n2"
    assert in_words(f"({text})") == f"{text} ({REASONS['ReqNodeNotAvail']})"


@pytest.mark.parametrize(
    "reason", ["Phase_of_the_moon", "AssocGrpPaperLimit", "QOSMaxCpuPerMoon", "a (b), c"]
)
def test_a_reason_that_nobody_knows_is_shown_as_it_is(reason: str) -> None:
    assert in_words(reason) == reason.strip("()")


def test_no_reason_at_all() -> None:
    assert in_words("") == "Slurm gives no reason"
