"""Removing the containers that a workflow has left on this node.

Knows the labels of hosts' containers. Usually there are none: who starts a container removes it. This is for
those whose launcher was killed, or whose node lost its power.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

from toilcache.batch.container_plan import HostContainer
from toilcache.containers.engines import AUTOMATIC, make_engine, patiently
from toilcache.containers.model import RUN_LABEL, WORKFLOW_LABEL
from toilcache.errors import ContainerError, EngineUnavailableError

logger = logging.getLogger(__name__)


def sweep(container: HostContainer, runs: range) -> None:
    """Remove the containers that these runs of the workflow's leader have started; what cannot be is told."""
    wanted = {str(run) for run in runs}
    workflow = {WORKFLOW_LABEL: container.labels[WORKFLOW_LABEL]}
    remove_all(container, workflow, lambda labels: labels.get(RUN_LABEL) in wanted)


def remove_left(workflow_id: str, run: int) -> None:
    """Remove the containers that runs of a workflow up to this one have left, whatever engine they used."""
    some = HostContainer("auto", None, None, (), ("", "", ""))
    remove_all(some, {WORKFLOW_LABEL: workflow_id}, lambda labels: 0 < _run_of(labels) <= run)


def _run_of(labels: Mapping[str, str]) -> int:
    run = labels.get(RUN_LABEL, "")
    return int(run) if run.isdigit() else 0


def remove_all(
    container: HostContainer, labels: Mapping[str, str], is_wanted: Callable[[Mapping[str, str]], bool]
) -> None:
    """Remove the containers of this node that have these labels and are wanted by all that they have."""
    for name in AUTOMATIC if container.engine == "auto" else (container.engine,):
        try:
            engine = patiently(container.patience, partial(make_engine, name, container.image_cache))
        except EngineUnavailableError:
            continue  # it has run none, or is gone with all that it ran
        try:
            for found in engine.find(labels):
                if is_wanted(found.labels):
                    engine.remove(found.id)
        except ContainerError as error:
            logger.warning("a container may be left on this node: %s", error)
        finally:
            engine.close()
