"""Why Slurm lets a job wait, in words: one total table.

The reasons are those of https://slurm.schedmd.com/job_reason_codes.html, up to Slurm 25. Pure; must not know
how a reason was learned. Limits have hundreds of names, made of a few parts, and are read part by part. A
reason that nobody here knows is shown as it is.
"""

from __future__ import annotations

import re

PAGE = "https://slurm.schedmd.com/job_reason_codes.html"

REASONS: dict[str, str] = {
    "AccountNotAllowed": "the partition does not take this account; choose another with --slurmAccount",
    "AccountingPolicy": "a limit of accounting is reached",
    "BadConstraints": "no node has what is asked for; look at --slurmConstraint and the jobs' requirements",
    "BeginTime": "its time to begin has not come; after a requeue Slurm waits two minutes",
    "BurstBufferOperation": "an operation of its burst buffer failed; ask the administrators",
    "BurstBufferResources": "there is not enough burst buffer",
    "BurstBufferStageIn": "its burst buffer is being filled",
    "Cleaning": "its last life is still being cleaned up",
    "DeadLine": "it could not end before its deadline; raise --deadline in --slurmArgs",
    "Dependency": "a job that it depends on (--slurmArgs) has yet to end",
    "DependencyNeverSatisfied": "a job that it depends on (--slurmArgs) ended otherwise than it asks for",
    "FedJobLock": "the clusters of the federation are deciding who runs it",
    "FrontEndDown": "no front end of the cluster is up",
    "InactiveLimit": "it has reached the system's limit for inactive jobs",
    "InvalidAccount": "its account is not valid; choose another with --slurmAccount",
    "InvalidQOS": "its QOS is not valid; choose another with --slurmQos",
    "JobArrayTaskLimit": "as many tasks of its array run as it allows itself",
    "JobHeldAdmin": "an administrator holds it back",
    "JobHeldUser": "it is held back; let it go with scontrol release",
    "JobHoldMaxRequeue": "it was requeued too often; let it go with scontrol release",
    "JobLaunchFailure": "it could not be started on its node; ask the administrators",
    "Licenses": "it waits for a license (--slurmArgs)",
    "MaxBBPerAccount": "its account has reached its limit of burst buffer",
    "MaxBillingPerAccount": "its account has reached its limit of billing",
    "MaxCpuPerAccount": "its account has reached its limit of cores",
    "MaxEnergyPerAccount": "its account has reached its limit of energy",
    "MaxGRESPerAccount": "its account has reached its limit of generic resources",
    "MaxJobsPerAccount": "its account has reached its limit of jobs that run",
    "MaxLicensePerAccount": "its account has reached its limit of licenses",
    "MaxMemoryPerAccount": "its account has reached its limit of memory",
    "MaxMemPerLimit": "it asks for more memory than a job may have; ask for less, or try another partition",
    "MaxNodePerAccount": "its account has reached its limit of nodes",
    "MaxRequeueExceeded": "it was requeued too often",
    "MaxSubmitJobsPerAccount": "its account has reached its limit of jobs that are submitted",
    "MaxUnknownPerAccount": "its account has reached a limit",
    "NoReason": "Slurm gives no reason",
    "NodeDown": "a node that it needs is down",
    "NonZeroExitCode": "its last life ended with an error",
    "None": "Slurm has not looked at it yet",
    "OutOfMemory": "its last life ran out of memory",
    "PartitionConfig": "its partition does not allow what it asks for; look at --slurmPartition",
    "PartitionDown": "its partition is down; wait, or choose another with --slurmPartition",
    "PartitionInactive": "its partition starts no jobs now; wait, or choose another with --slurmPartition",
    "PartitionNodeLimit": "it asks for more than the nodes of its partition may give, or they are down",
    "PartitionTimeLimit": "it asks for more time than its partition allows; lower --slurmTime",
    "PowerNotAvail": "there is not enough power",
    "PowerReserved": "the power that is there is reserved for others",
    "Priority": "jobs of higher priority are before it",
    "Prolog": "the prolog of its node is still running",
    "QOSJobLimit": "its QOS has reached its limit of jobs",
    "QOSNotAllowed": "its QOS may not be used there; choose another with --slurmQos or --slurmPartition",
    "QOSResourceLimit": "its QOS has reached a limit of resources",
    "QOSTimeLimit": "its QOS has reached its limit of time; lower --slurmTime or choose another QOS",
    "QOSUsageThreshold": "its QOS is used more than its threshold allows",
    "ReqNodeNotAvail": "a node that it needs is down, drained or reserved",
    "Reservation": "its reservation is not there yet",
    "ReservationDeleted": "its reservation is gone; look at --slurmReservation",
    "Resources": "it is the next, and waits until enough cores, memory or disk are free",
    "SchedDefer": "the scheduler looks at new jobs in its next round",
    "StageOut": "its burst buffer is being emptied",
    "SystemFailure": "Slurm, a file system or the network failed",
    "TimeLimit": "its last life reached its time limit; raise --slurmTime",
}
"""Every reason that is no limit made of parts; reasons of jobs that ended come up after a requeue."""

_WHOSE = {"Assoc": "your association", "QOS": "its QOS"}
_WHAT = {
    **{"BB": "burst buffer", "Billing": "billing", "Cpu": "cores", "CPU": "cores", "Energy": "energy"},
    **{"GRES": "generic resources", "Job": "jobs that run", "Jobs": "jobs that run", "License": "licenses"},
    **{"Mem": "memory", "Memory": "memory", "Node": "nodes", "Submit": "jobs that are submitted"},
    **{
        "SubmitJob": "jobs that are submitted",
        "SubmitJobs": "jobs that are submitted",
        "Unknown": "a resource",
    },
    **{"Wall": "time", "WallDuration": "time"},
}
_SCOPE = {"Job": " for one job", "Node": " for one node", "User": " for you", "Account": " for your account"}
_LIMIT = re.compile(
    r"(Assoc|QOS)(Grp|Max|Min)(" + "|".join(sorted(_WHAT, key=len, reverse=True)) + r")"
    r"(Run)?(Minutes|Mins)?(?:Per(Job|Node|User|Account))?(?:Limit|NotSatisfied)?"
)


def in_words(reason: str) -> str:
    """Return what a pending reason means, beginning with the reason as Slurm writes it.

    squeue puts some into brackets and adds the names of nodes after a comma.
    """
    text = reason.strip().strip("()")
    name, _, more = text.partition(",")
    words = REASONS.get(name.strip()) or _limit(name.strip())
    if words is None:
        return text or "Slurm gives no reason"
    return f"{text} ({words})" if more else f"{name} ({words})"


def _limit(name: str) -> str | None:
    """Read the name of a limit: whose it is, of the sum or the single request, of what, for whom."""
    match = _LIMIT.fullmatch(name)
    if match is None:
        return None
    whose, kind, what, running, minutes, scope = match.groups()
    thing = f"{_WHAT[what]}{' in minutes' if minutes else ''}{' of what runs' if running else ''}"
    if kind == "Min":
        return f"{_WHOSE[whose]} wants more {thing} of a job than is asked for"
    if kind == "Grp":
        return f"{_WHOSE[whose]} has reached its limit of {thing} for all jobs together"
    return f"{_WHOSE[whose]} has a limit of {thing}{_SCOPE.get(scope, '')} that is reached"
