"""Workflows whose jobs run in containers: a fake engine everywhere, Docker and Apptainer where they are."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apptainers import FakeApptainer
from tests.runs import Finished, Place
from tests.testbed.fixtures import Engines
from toilcache.batch.container_plan import WORKFLOW_LABEL
from toilcache.containers.docker_engine import DockerEngine
from toilcache.containers.model import Container, Engine
from toilcache.containers.singularity import SingularityEngine

SCRIPT = Path(__file__).with_name("container_workflow.py")
REAL = pytest.mark.real


class Boxes(Place):
    """A place whose jobs run in containers of an engine."""

    def __init__(
        self, base: Path, kind: str, engine: Engine, image: str, environment: dict[str, str]
    ) -> None:
        super().__init__(base, SCRIPT)
        (self.base / "scripts, a:b").mkdir()
        self.script = shutil.copy(SCRIPT, self.base / "scripts, a:b" / "the script.py")
        self.kind = kind
        self.engine = engine
        self.image = image
        self.environment |= environment
        self.environment["SECRET_OF_OURS"] = "secret"

    def argv(self, *arguments: str) -> list[str]:
        name = "docker" if self.kind == "docker" else "singularity"
        return [*super().argv(), "--container", self.image, "--container-engine", name, *arguments]

    def containers(self) -> list[Container]:
        """Those that workers of this place run in."""
        return [one for one in self.engine.find({}) if WORKFLOW_LABEL in one.labels]

    def result(self, *arguments: str) -> Any:
        """Run the script; return the value, and see that nothing is left."""
        done = self.run(*arguments)
        assert done.status == 0, done.err
        self.check_clean()
        return ast.literal_eval(done.out.removeprefix("result "))

    def check_clean(self) -> None:
        super().check_clean()
        assert self.containers() == []
        assert not self.store.exists()

    def refused(self, *arguments: str) -> Finished:
        done = self.run(*arguments)
        done.check_refused()
        super().check_clean()
        assert self.containers() == []
        return done


def make(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Boxes:
    if kind == "fake":
        fake = FakeApptainer(tmp_path / "fake")
        os.symlink(sys.executable, fake.directory / "python3")
        return Boxes(tmp_path, kind, SingularityEngine(fake.program), fake.image, fake.environment)
    engines: Engines = request.getfixturevalue("engines")
    engine: Engine = DockerEngine(engines.docker_host)
    if kind == "singularity":
        engine = SingularityEngine(os.path.join(engines.programs, "apptainer"))
    return Boxes(tmp_path, kind, engine, engines.image(kind), engines.environment)


@pytest.fixture(params=["fake", pytest.param("docker", marks=REAL), pytest.param("singularity", marks=REAL)])
def boxes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Boxes]:
    made = make(request.param, request, tmp_path)
    yield made
    left = made.containers()
    for container in left:
        made.engine.remove(container.id)
    made.engine.close()
    assert left == []


@pytest.fixture(params=[pytest.param("docker", marks=REAL), pytest.param("singularity", marks=REAL)])
def real_boxes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Boxes]:
    made = make(request.param, request, tmp_path)
    yield made
    left = made.containers()
    for container in left:
        made.engine.remove(container.id)
    made.engine.close()
    assert left == []


def test_a_workflow_gives_the_same_answer(boxes: Boxes) -> None:
    assert boxes.result("--kind", "fans_out") == 140 + 27


def test_a_job_sees_what_it_needs_and_no_more(real_boxes: Boxes) -> None:
    seen = real_boxes.result("--kind", "looks")
    assert seen["boxed"]
    assert seen["uid"] == os.geteuid()
    assert seen["python"] == [3, 11]
    assert "/engine/first/toilcache/" in seen["engine"]
    assert seen["needs"] == ["cloudpickle", "fsspec"]
    assert seen["secret"] is None
    assert seen["writable"] == {
        "root": False,
        "script": False,
        "engine": False,
        "home": True,
        "temporary": True,
        "working": True,
        "job": True,
    }
