"""Workflows whose jobs run in containers: a fake engine everywhere, Docker and Apptainer where they are."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fakes.apptainers import FakeApptainer
from tests.runs import Finished, Place
from tests.testbed.fixtures import Engines
from toilcache.containers.docker_engine import DockerEngine
from toilcache.containers.model import STORE_LABEL, Container, Engine
from toilcache.containers.singularity import SingularityEngine
from toilcache.node.mounts import read_mounts

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
        self.boxed = True
        self.environment |= environment
        self.environment["SECRET_OF_OURS"] = "secret"

    def argv(self, *arguments: str) -> list[str]:
        name = "docker" if self.kind == "docker" else "singularity"
        image = ["--container", self.image] if self.boxed and self.image else []
        return [*super().argv(), *image, "--container-engine", name, *arguments]

    def containers(self) -> list[Container]:
        """Those that workers of this place run in."""
        return self.engine.find({STORE_LABEL: str(self.store)})

    def led(self) -> int:
        """How many leaders have begun to write down what they do."""
        return sum(path.stat().st_size > 0 for path in self.store.glob("journal/*"))

    def begun(self) -> list[Path]:
        """The mark of a job that waits."""
        return list(self.work.glob("*.work/home/started"))

    def result(self, *arguments: str) -> Any:
        """Run the script; return the value, and see that nothing is left."""
        done = self.run(*arguments)
        assert done.status == 0, done.err
        self.check_clean()
        return ast.literal_eval(done.out.removeprefix("result "))

    def check_clean(self) -> None:
        self.check_node()
        assert not self.store.exists()

    def check_node(self) -> None:
        """No process, container, mount, directory or lock file is left."""
        super().check_clean()
        assert self.containers() == []
        assert [mount.point for mount in read_mounts() if mount.point.startswith(str(self.base))] == []
        assert list(self.coordination.iterdir()) == []

    def refused(self, *arguments: str) -> Finished:
        done = self.run(*arguments)
        done.check_refused()
        self.check_node()
        return done


def make(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Boxes:
    if kind == "fake":
        return fake_boxes(FakeApptainer(tmp_path / "fake"), tmp_path)
    engines: Engines = request.getfixturevalue("engines")
    engine: Engine = DockerEngine(engines.docker_host)
    if kind == "singularity":
        engine = SingularityEngine(os.path.join(engines.programs, "apptainer"))
    return Boxes(tmp_path, kind, engine, engines.image(kind), engines.environment)


def fake_boxes(fake: FakeApptainer, base: Path) -> Boxes:
    return Boxes(base, "fake", SingularityEngine(fake.program), fake.image, fake.environment)


@pytest.fixture
def fake(tmp_path: Path) -> FakeApptainer:
    return FakeApptainer(tmp_path / "fake")


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


def test_an_original_outside_of_the_store_is_read(boxes: Boxes, tmp_path: Path) -> None:
    (tmp_path / "originals").mkdir()
    (tmp_path / "linked").symlink_to("originals")
    (tmp_path / "originals" / "a, b:c").write_text("content ")
    original = str(tmp_path / "linked" / "a, b:c")
    assert boxes.result("--kind", "reads", "--argument", original) == "content content "


def test_another_minor_version_of_python_than_the_leaders(real_boxes: Boxes, engines: Engines) -> None:
    real_boxes.image = engines.image(real_boxes.kind, "py313")
    assert real_boxes.result("--kind", "looks")["python"] == [3, 13]


def test_a_job_may_run_in_an_image_of_its_own(real_boxes: Boxes, engines: Engines) -> None:
    other = engines.image(real_boxes.kind, "py313")
    assert real_boxes.result("--kind", "asks", "--argument", other) == [[3, 11], [3, 13]]


def test_only_the_job_that_asks_runs_in_a_container(real_boxes: Boxes, engines: Engines) -> None:
    real_boxes.image = ""
    other = engines.image(real_boxes.kind, "py313")
    assert real_boxes.result("--kind", "asks", "--argument", other) == [[*sys.version_info[:2]], [3, 13]]


def test_no_engine_is_wanted_for_none(boxes: Boxes) -> None:
    boxes.image = "no-such-image:1"
    assert boxes.result("--kind", "fans_out", "--containerEngine", "none") == 140 + 27


def test_a_missing_image_is_told_in_one_line(boxes: Boxes) -> None:
    boxes.image = "docker-daemon:no-such-image:1" if boxes.kind == "docker" else "/no/such.sif"
    done = boxes.refused("--kind", "looks")
    assert "cannot use image" in done.err
    assert boxes.image in done.err


def test_a_missing_engine_is_told_in_one_line(boxes: Boxes) -> None:
    done = boxes.refused("--kind", "looks", "--containerEngine", "podman")
    assert "cannot reach podman" in done.err


def test_an_engine_that_refuses_is_told_in_one_line(fake: FakeApptainer, tmp_path: Path) -> None:
    fake.fail("no-start")
    done = fake_boxes(fake, tmp_path).refused("--kind", "looks")
    assert "mount hook function failure: no loop devices" in done.err


def test_an_engine_that_does_not_answer_is_told_in_one_line(fake: FakeApptainer, tmp_path: Path) -> None:
    fake.fail("no-answer")
    done = fake_boxes(fake, tmp_path).refused("--kind", "looks")
    assert "configuration file is not owned by root" in done.err


def test_an_engine_that_is_slow_is_waited_for(fake: FakeApptainer, tmp_path: Path) -> None:
    fake.fail("slow-start")
    assert fake_boxes(fake, tmp_path).result("--kind", "fans_out") == 140 + 27


def test_an_image_without_python_is_told_in_one_line(fake: FakeApptainer, tmp_path: Path) -> None:
    fake.python.unlink()
    fake.fail("bare")
    done = fake_boxes(fake, tmp_path).refused("--kind", "looks")
    assert '"python3": executable file not found' in done.err


def test_an_image_with_an_old_python_is_told_in_one_line(fake: FakeApptainer, tmp_path: Path) -> None:
    fake.python.unlink()
    older = "import sys; code = sys.argv.pop(1); sys.version_info = (3, 9, 1); exec(code)"
    fake.python.write_text(f'#!/bin/sh\nshift\nexec {sys._base_executable} -c "{older}" "$@"\n')  # type: ignore[attr-defined]
    fake.python.chmod(0o755)
    done = fake_boxes(fake, tmp_path).refused("--kind", "looks")
    assert "its Python is 3.9, and jobs need 3.10 or later" in done.err


def test_a_place_that_is_not_bound_is_named_though_all_inside_can_be_written(
    real_boxes: Boxes, tmp_path: Path
) -> None:
    """The engine of a site leaves mounts out, and puts writable memory in their place."""
    site = tmp_path / "site"
    metadata = site / "forgetful-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: forgetful\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[toilcache.container_engines]\nforgetful = forgetful:make\n")
    shutil.copy(Path(__file__).parents[1] / "fakes" / "forgetful_engine.py", site / "forgetful.py")
    (tmp_path / "others").mkdir()
    added = {"PYTHONPATH": str(site), "FORGETFUL": real_boxes.kind, "TMPDIR": str(tmp_path / "others")}
    real_boxes.environment |= added
    for forgotten, name in (
        (real_boxes.store, "job store"),
        (real_boxes.work, "work directory"),
        (real_boxes.coordination, "coordination directory"),
        (Path(real_boxes.script).parent, "scripts, a:b"),
    ):
        real_boxes.environment["FORGET"] = str(forgotten)
        done = real_boxes.refused("--kind", "looks", "--containerEngine", "forgetful")
        assert name in done.err, done.err
        assert "bind" in done.err
        shutil.rmtree(real_boxes.store)


def test_a_container_that_is_killed_costs_a_try(boxes: Boxes) -> None:
    process = boxes.begin("--kind", "waits", "--retryCount", "1")
    boxes.wait_for(boxes.begun, process)
    (container,) = boxes.containers()
    boxes.engine.kill(container.id)
    done = boxes.finish(process)
    done.check_result("again")
    assert "was lost" in done.err
    boxes.check_clean()


@pytest.mark.real
def test_an_engine_that_is_restarted_costs_a_try(
    engines: Engines, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    boxes = make("docker", request, tmp_path)
    process = boxes.begin("--kind", "waits", "--retryCount", "1")
    boxes.wait_for(boxes.begun, process)
    engines.restart_docker()
    done = boxes.finish(process)
    done.check_result("again")
    assert "was lost" in done.err
    boxes.check_clean()
    boxes.engine.close()


def test_a_stopped_workflow_leaves_no_container(boxes: Boxes) -> None:
    process = boxes.begin("--kind", "waits")
    boxes.wait_for(boxes.begun, process)
    process.terminate()
    assert boxes.finish(process).status == 128 + 15
    boxes.check_node()


def test_a_later_leader_goes_on_with_what_runs_in_a_container(boxes: Boxes) -> None:
    process = boxes.begin("--kind", "waits")
    boxes.wait_for(boxes.begun, process)
    process.kill()
    boxes.finish(process)
    (container,) = boxes.containers()
    process = boxes.begin("--restart", "--kind", "waits")
    boxes.wait_for(lambda: boxes.led() == 2, process)
    assert [found.id for found in boxes.containers()] == [container.id]
    (home,) = boxes.work.glob("*.work/home")
    (home / "go").touch()
    boxes.finish(process).check_result("the first time")
    boxes.check_clean()


def test_a_container_of_an_earlier_leader_is_ended_with_the_workflow(boxes: Boxes) -> None:
    process = boxes.begin("--kind", "waits")
    boxes.wait_for(boxes.begun, process)
    process.kill()
    boxes.finish(process)
    process = boxes.begin("--restart", "--kind", "waits")
    boxes.wait_for(lambda: boxes.led() == 2, process)
    process.terminate()
    assert boxes.finish(process).status == 128 + 15
    boxes.check_node()


def test_a_launcher_that_is_killed_leaves_no_container(boxes: Boxes) -> None:
    process = boxes.begin("--kind", "waits", "--retryCount", "1")
    boxes.wait_for(boxes.begun, process)
    launchers = [
        one for one in psutil.Process(process.pid).children() if "toilcache.container" in one.cmdline()
    ]
    (launcher,) = launchers
    launcher.kill()
    boxes.finish(process).check_result("again")
    boxes.check_clean()
