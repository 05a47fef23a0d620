"""Batch systems by name: builds the adapter that ``--batchSystem`` asks for. Knows each adapter's
constructor.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from toilcache.batch.container_plan import HostContainer
from toilcache.batch.host_process import HOST_VARIABLES
from toilcache.batch.local import LocalAdapter
from toilcache.batch.local_waits import LocalWaits
from toilcache.batch.model import BatchAdapter
from toilcache.batch.resources import Capacity, Pool
from toilcache.batch.waits import Waits
from toilcache.config import Config
from toilcache.containers.model import RUN_LABEL, STORE_LABEL, WORKFLOW_LABEL
from toilcache.errors import ConfigError, JobException
from toilcache.job.module import ModuleDescriptor
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.node.coordination import NodeDirs
from toilcache.node.machine import disk_free, machine


def make_adapter(
    config: Config,
    store: AbstractJobStore,
    dirs: NodeDirs,
    run: int,
    clean: Callable[[], None],
    cleans_nodes: Callable[[], bool],
) -> BatchAdapter:
    """Return the adapter for the configured batch system.

    :param clean: what the adapter does last when it is shut down: clean this node.
    :param cleans_nodes: whether other nodes are to be cleaned then.
    :raises ConfigError: there is no such batch system.
    """
    if config.batchSystem == "slurm":
        from toilcache.batch.slurm.make import make_adapter as make_slurm

        setup = _host_setup(config, store, dirs, run)
        container = _host_container(config, store, setup, run)
        return make_slurm(config, store, run, setup, container, clean, cleans_nodes)
    makers = {"docker": _docker, "local": _local, "single_machine": _local}
    maker = makers.get(config.batchSystem)
    if maker is None:
        known = ", ".join(sorted([*makers, "slurm"]))
        raise ConfigError(
            f"cannot use batch system {config.batchSystem!r}: there is none of that name; choose {known}"
        )
    return maker(config, store, dirs, run, clean)


def make_waits(config: Config, store: AbstractJobStore, run: int, record: Mapping[str, Any]) -> Waits:
    """Return what explains why attempts of this run have not begun.

    :param record: what its adapter has written down last (`BatchAdapter.standing`).
    """
    if config.batchSystem == "slurm":
        from toilcache.batch.slurm.make import make_waits as make_slurm_waits

        return make_slurm_waits(config, store, run, record)
    return LocalWaits(record)


def _local(
    config: Config, store: AbstractJobStore, dirs: NodeDirs, run: int, clean: Callable[[], None]
) -> BatchAdapter:
    setup = _host_setup(config, store, dirs, run)
    container = _host_container(config, store, setup, run)
    return LocalAdapter(_local_pool(config, dirs), str(config.workflowID), run, setup, clean, container)


def _docker(
    config: Config, store: AbstractJobStore, dirs: NodeDirs, run: int, clean: Callable[[], None]
) -> BatchAdapter:
    from toilcache.batch.docker import make_adapter as make_docker

    setup = _host_setup(config, store, dirs, run)
    container = _host_container(config, store, setup, run)
    assert container is not None  # without an engine the options are refused
    return make_docker(_local_pool(config, dirs), str(config.workflowID), run, setup, clean, container)


def _host_container(
    config: Config, store: AbstractJobStore, setup: dict[str, Any], run: int
) -> HostContainer | None:
    """Return what worker hosts run in where they or their jobs have an image; None for nothing at all."""
    if config.containerEngine == "none":
        return None
    main = setup["main"]
    scripts = {*setup["sys_path"], *([main[0]] if main is not None and not main[2] else [])}
    stores = (store.path,) if isinstance(store, FileJobStore) else ()
    return HostContainer(
        engine=config.containerEngine,
        image_cache=config.imageCache,
        image=config.container,
        stores=stores,
        node=setup["node"],
        scripts=tuple(sorted(scripts)),
        labels={
            WORKFLOW_LABEL: str(config.workflowID),
            RUN_LABEL: str(run),
            STORE_LABEL: next(iter(stores), store.locator),
        },
        variables=HOST_VARIABLES,
        per_job=config.containerLimits,
    )


def _local_pool(config: Config, dirs: NodeDirs) -> Pool:
    here = machine()
    capacity = Capacity(
        cores=min(here.cores, config.maxCores or here.cores),
        memory=min(here.memory, config.maxMemory or here.memory),
        disk=min(disk_free(dirs.work), config.maxDisk or sys.maxsize),
        accelerators=len(
            [name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()]
        ),
    )
    return Pool(capacity, config.maxLocalJobs)


def _host_setup(config: Config, store: AbstractJobStore, dirs: NodeDirs, run: int) -> dict[str, Any]:
    """Return the first message to a worker host (see ``toilcache.worker.context``)."""
    try:
        main: tuple[Any, ...] | None = tuple(ModuleDescriptor.forModule("__main__"))
    except JobException:
        main = None  # an interactive session: its functions travel by value
    return {
        "locator": store.locator,
        "run": run,
        "node": (dirs.workflow_id, os.path.dirname(dirs.work), os.path.dirname(dirs.coordination)),
        "jobs_dir": dirs.jobs,
        "names_base": dirs.names_base,
        "notes_dir": os.path.dirname(dirs.host_note("any")),
        "sys_path": [os.path.abspath(entry) for entry in sys.path[:1]],
        "main": main,
        "preload": config.preload,
        "share_process": config.shareProcess,
    }
