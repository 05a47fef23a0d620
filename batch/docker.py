"""The Docker batch system: the adapter for this machine, with a container for each job, by Docker.

The engine keeps each job to its cores, memory and accelerators, and says how its container has ended. Knows
what is asked of that engine before anything is started, and how the containers of an earlier leader are
found again: by their labels, which the engine keeps whatever becomes of leaders, launchers and itself. Must
not know how a container is started or what a worker in it does: that is the same wherever hosts run in
containers.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, NamedTuple

from toilcache.batch.adoption import Attempt
from toilcache.batch.container_plan import HostContainer, fate_of
from toilcache.batch.local import LocalAdapter
from toilcache.batch.resources import Pool
from toilcache.containers.docker_engine import DockerEngine
from toilcache.containers.model import (
    ATTEMPT_LABEL,
    BEGAN_LABEL,
    DEVICES_LABEL,
    RUN_LABEL,
    WORKFLOW_LABEL,
    Container,
    Engine,
    Exit,
)
from toilcache.errors import ContainerError
from toilcache.job.exit_reason import BatchJobExitReason

PATIENCE = 30.0
"""So many seconds an engine may be away, being started anew, before what was asked of it is lost."""

_LIMITS = frozenset({"cores", "memory", "pids"})


def make_adapter(
    pool: Pool,
    workflow_id: str,
    run: int,
    setup: dict[str, Any],
    clean: Callable[[], None],
    container: HostContainer,
) -> LocalAdapter:
    """Return the adapter; the parameters are those of :class:`toilcache.batch.local.LocalAdapter`.

    :raises EngineUnavailableError: Docker does not answer.
    :raises ContainerError: it cannot enforce limits here.
    """
    with closing(DockerEngine()) as engine:
        missing = sorted(_LIMITS - engine.enforces)
        if missing:
            raise ContainerError(
                f"cannot use batch system docker: {engine.version()} enforces no limit of "
                f"{' and '.join(missing)} on this node; use --batchSystem single_machine"
            )
    box = replace(container, engine=DockerEngine.name, per_job=True, patience=PATIENCE)
    left = JobContainers(DockerEngine, workflow_id, run)
    adapter = LocalAdapter(pool, workflow_id, run, setup, clean, box, [left])
    left.tell = adapter.wake
    return adapter


class _Left(NamedTuple):
    """A container of an earlier run's attempt."""

    container: str
    seconds: float
    devices: tuple[int, ...]


class JobContainers:
    """The attempts of earlier runs whose containers still run (see :class:`toilcache.batch.adoption.Source`).

    A thread waits for the end of each. ``tell`` is called, by it, when there is something to hear.

    :param connect: returns an engine; each thread has its own.
    """

    def __init__(self, connect: Callable[[], Engine], workflow_id: str, run: int) -> None:
        self._connect = connect
        self._workflow_id = workflow_id
        self._run = run
        self._left: dict[Attempt, _Left] = {}
        self._fates: dict[Attempt, tuple[BatchJobExitReason, str]] = {}
        self._gone: queue.SimpleQueue[tuple[Attempt, Exit]] = queue.SimpleQueue()
        self.tell: Callable[[], None] = lambda: None

    def find(self) -> list[Attempt]:
        with closing(self._connect()) as engine:
            found = engine.find({WORKFLOW_LABEL: self._workflow_id})
        for container in found:
            attempt = self._attempt_of(container)
            if attempt is not None and attempt not in self._left:
                self._left[attempt] = _Left(container.id, _age(container), _devices(container))
                threading.Thread(target=self._await_end, args=(attempt, container.id), daemon=True).start()
        return list(self._left)

    def _attempt_of(self, container: Container) -> Attempt | None:
        """Return the attempt that runs in a container, None if it is no running one of an earlier run's."""
        job_id, _, version = container.labels.get(ATTEMPT_LABEL, "").rpartition(":")
        run = container.labels.get(RUN_LABEL, "")
        if not (container.running and job_id and version.isdigit() and run.isdigit()):
            return None
        return (job_id, int(version)) if int(run) < self._run else None

    def _await_end(self, attempt: Attempt, container: str) -> None:
        ended = None
        try:
            with suppress(ContainerError), closing(self._connect()) as engine:
                ended = engine.wait(container)
                engine.remove(container)  # unless its launcher, if that lives, was quicker
        finally:  # if the engine is away for good, its processes are ended by their marks
            self._gone.put((attempt, ended or Exit(None)))
            self.tell()

    def facts(self, attempt: Attempt) -> tuple[float, tuple[int, ...]] | None:
        left = self._left.get(attempt)
        return None if left is None else (left.seconds, left.devices)

    def kill(self, attempt: Attempt) -> None:
        if attempt in self._left:
            with suppress(ContainerError), closing(self._connect()) as engine:
                engine.kill(self._left[attempt].container)

    def limit(self, timeout: float | None) -> float | None:
        return timeout

    def ended(self) -> list[Attempt]:
        gone = []
        while not self._gone.empty():
            attempt, ended = self._gone.get()
            del self._left[attempt]
            self._fates[attempt] = fate_of(ended)
            gone.append(attempt)
        return gone

    def fate(self, attempt: Attempt) -> tuple[BatchJobExitReason, str]:
        return self._fates.pop(attempt)


def _age(container: Container) -> float:
    try:
        return max(0.0, time.time() - float(container.labels[BEGAN_LABEL]))
    except (KeyError, ValueError):
        return 0.0


def _devices(container: Container) -> tuple[int, ...]:
    words = container.labels.get(DEVICES_LABEL, "").split(",")
    return tuple(int(word) for word in words if word.isdigit())
