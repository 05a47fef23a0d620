"""Containers that nobody is left to remove go with what else a dead workflow has left on a node."""

from __future__ import annotations

import os

import pytest

from tests.unit.test_sweep import Node, _no_other_places, node
from toilcache.batch import container_sweep
from toilcache.containers.model import RUN_LABEL, WORKFLOW_LABEL, Container
from toilcache.errors import EngineUnavailableError
from toilcache.worker.sweep import LEFT, REMOVED, WOULD_GO, sweep_one

__all__ = ["_no_other_places", "node"]  # fixtures


class Engine:
    """An engine that has containers of two workflows, whoever asks."""

    def __init__(self, *containers: Container) -> None:
        self.containers = {container.id: container for container in containers}

    def make(self, name: str, image_cache: str | None) -> Engine:
        if name != "docker":
            raise EngineUnavailableError(f"there is no {name} here")
        return self

    def find(self, labels: dict[str, str]) -> list[Container]:
        return [one for one in self.containers.values() if labels.items() <= one.labels.items()]

    def remove(self, container: str) -> None:
        del self.containers[container]

    def close(self) -> None:
        """Nothing is open."""


def container_of(name: str, run: str, running: bool = True) -> Container:
    labels = {WORKFLOW_LABEL: name, RUN_LABEL: run}
    return Container(f"{name}.{run}", "", labels, running)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine(
        *(container_of("wf-1", run, running) for run, running in (("1", False), ("2", True), ("3", True))),
        *(container_of("wf-1", ""), container_of("another", "1")),
    )
    monkeypatch.setattr(container_sweep, "make_engine", made.make)
    return made


def test_containers_of_a_dead_workflow_go(node: Node, engine: Engine) -> None:
    """Those of the runs that have used the directories, and no later ones."""
    node.hold(run=2).close()
    node.dead()
    os.mkdir(node.dirs().engine)
    assert sweep_one(node.one(), dry_run=True).action == WOULD_GO
    assert len(engine.containers) == 5
    assert sweep_one(node.one()).action == REMOVED
    assert list(engine.containers) == ["wf-1.3", "wf-1.", "another.1"]


def test_containers_of_an_idle_workflow_stay(node: Node, engine: Engine) -> None:
    node.idle()
    os.mkdir(node.dirs().engine)
    assert sweep_one(node.one()).action == LEFT
    assert len(engine.containers) == 5


def test_no_engine_is_asked_about_a_workflow_without_containers(node: Node, engine: Engine) -> None:
    node.dead()
    assert sweep_one(node.one()).action == REMOVED
    assert len(engine.containers) == 5
