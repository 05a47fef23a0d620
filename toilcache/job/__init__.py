"""Jobs, their descriptions, promises and graphs; made here, saved in a job store, run elsewhere."""

from __future__ import annotations

from toilcache.errors import JobException, JobGraphDeadlockException, JobPromiseConstraintError
from toilcache.job.body import dumps, loads
from toilcache.job.debugging import FilesDownloadedStoppingPointReached
from toilcache.job.description import JobDescription
from toilcache.job.description_kinds import CheckpointJobDescription, ServiceJobDescription
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job.functions import (
    EncapsulatedJob,
    FunctionWrappingJob,
    JobFunctionWrappingJob,
    PromisedRequirementJob,
)
from toilcache.job.identifiers import Names, TemporaryID
from toilcache.job.job import Job, run_job
from toilcache.job.module import MAIN_NAME, ModuleDescriptor
from toilcache.job.promise import Promise, PromisedRequirement, resolve_values
from toilcache.job.requirements import AcceleratorRequirement, Requirer
from toilcache.job.saving import save_job_graph
from toilcache.job.service_host import ServiceHostJob

__all__ = [
    "MAIN_NAME",
    "AcceleratorRequirement",
    "BatchJobExitReason",
    "CheckpointJobDescription",
    "EncapsulatedJob",
    "FilesDownloadedStoppingPointReached",
    "FunctionWrappingJob",
    "Job",
    "JobDescription",
    "JobException",
    "JobFunctionWrappingJob",
    "JobGraphDeadlockException",
    "JobPromiseConstraintError",
    "ModuleDescriptor",
    "Names",
    "Promise",
    "PromisedRequirement",
    "PromisedRequirementJob",
    "Requirer",
    "ServiceHostJob",
    "ServiceJobDescription",
    "TemporaryID",
    "dumps",
    "loads",
    "resolve_values",
    "run_job",
    "save_job_graph",
]
