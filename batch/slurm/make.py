"""Makes the adapter for Slurm of a workflow's configuration: the one place where options become its parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from toilcache.batch.container_plan import HostContainer
from toilcache.batch.host_process import HOST_MARKER, THREAD_VARIABLES, run_marker
from toilcache.batch.protocol import BIND_NOW
from toilcache.batch.slurm import commands
from toilcache.batch.slurm.adapter import SlurmAdapter
from toilcache.batch.slurm.client import SlurmClient
from toilcache.batch.slurm.fleet import Fleet
from toilcache.batch.slurm.hosts import IDENTITY
from toilcache.batch.slurm.partitions import usual_time
from toilcache.batch.slurm.submitter import Submitter
from toilcache.batch.slurm.waits import SlurmWaits
from toilcache.config import Config
from toilcache.job_store.abstract import AbstractJobStore

END_VARIABLE = "SLURM_JOB_END_TIME"


def make_adapter(
    config: Config,
    store: AbstractJobStore,
    run: int,
    setup: dict[str, Any],
    container: HostContainer | None,
    clean: Callable[[], None],
    cleans_nodes: Callable[[], bool],
) -> SlurmAdapter:
    """Return the adapter; `setup` is the first message to a host as any adapter sends it, `container` what
    hosts run in where they or their jobs have an image.

    :raises ProcessError: there is no Slurm here.
    """
    workflow_id = str(config.workflowID)
    client = _client(config)
    placement = commands.Placement(
        account=config.slurmAccount,
        partition=config.slurmPartition,
        qos=config.slurmQos,
        constraint=config.slurmConstraint,
        reservation=config.slurmReservation,
        clusters=config.slurmClusters,
        time=config.slurmTime,
        memory_as=config.slurmMemory,
        arguments=tuple(config.slurmArgs),
    )
    limits = client.limits()
    fleet = Fleet(limits.array, limits.jobs, config.maxWorkers, config.workerReuse)
    submitter = Submitter(client, store, run, placement, fleet)
    whole = setup | of_allocations(config, run_marker(workflow_id, run), container)
    whole["time"] = usual_time(submitter.groups, placement)
    return SlurmAdapter(client, store, run, placement, submitter, whole, clean, cleans_nodes)


def make_waits(config: Config, store: AbstractJobStore, run: int, record: Mapping[str, Any]) -> SlurmWaits:
    """Return what explains the attempts of the leader's runs up to this one."""
    return SlurmWaits([store.work(number) for number in range(run, 0, -1)], _client(config), record)


def _client(config: Config) -> SlurmClient:
    return SlurmClient(f"toilcache-{str(config.workflowID)[:16]}", config.slurmClusters)


def of_allocations(config: Config, marker: str, container: HostContainer | None) -> dict[str, Any]:
    """Return what a host in an allocation needs to know besides (see `toilcache.worker.allocation`)."""
    if container is not None:
        container = replace(container, variables=(*container.variables, *IDENTITY, END_VARIABLE))
    return {
        "container": container and container.to_json(),
        "host_variable": HOST_MARKER,
        "environment": BIND_NOW | commands.leader_environment(os.environ),
        "own_prefixes": commands.OWN_PREFIXES,
        "own_names": commands.OWN_NAMES,
        "thread_variables": THREAD_VARIABLES,
        "marker": marker.split("=", 1),
        "identity": IDENTITY,
        "end_variable": END_VARIABLE,
        "warning": commands.WARNING_SECONDS,
        "time": config.slurmTime,
        "lifetime": config.workerLifetime,
        "idle": config.workerIdleTime,
        "max_jobs": config.workerMaxJobs if config.workerReuse else 1,
    }
