"""Jobs in containers with the adapter for Slurm: the fake cluster, and engines both fake and real."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.contract.test_container_hosts import REAL, Boxes, fake, fake_boxes, make
from tests.contract.test_image_cache import archive
from tests.fakes.apptainers import FakeApptainer
from tests.fakes.slurm.cluster import FakeSlurm
from tests.testbed.fixtures import Engines
from toilcache.cli import main
from toilcache.errors import show

__all__ = ["fake"]


class SlurmBoxes:
    """A place whose jobs run in containers in allocations of the fake cluster."""

    def __init__(self, boxes: Boxes, slurm: FakeSlurm) -> None:
        self.boxes = boxes
        self.slurm = slurm
        path = os.pathsep.join((str(slurm.home / "bin"), boxes.environment["PATH"]))
        usual = {"TOILCACHE_BATCH_SYSTEM": "slurm", "TOILCACHE_DEFAULT_MEMORY": "10M"}
        boxes.environment |= slurm.environment | usual | {"PATH": path}

    def scripts(self) -> list[int]:
        """The shells of the allocations that run."""
        return [int(task["pid"]) for task in self.slurm.tasks("RUNNING").values()]

    def launchers(self) -> list[psutil.Process]:
        """The workers' programs outside of containers."""
        return [child for pid in self.scripts() for child in psutil.Process(pid).children()]


@pytest.fixture(params=["fake", pytest.param("docker", marks=REAL), pytest.param("singularity", marks=REAL)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SlurmBoxes]:
    boxes = make(request.param, request, tmp_path)
    slurm = FakeSlurm(tmp_path / "fake slurm")
    yield SlurmBoxes(boxes, slurm)
    left = boxes.containers()
    for container in left:
        boxes.engine.remove(container.id)
    boxes.engine.close()
    slurm.end()
    assert left == []


def test_a_workflow_gives_the_same_answer(place: SlurmBoxes) -> None:
    assert place.boxes.result("--kind", "fans_out") == 140 + 27
    assert len(place.slurm.calls("sbatch")) <= 3


def test_who_waits_for_an_image_is_told_so(
    fake: FakeApptainer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = SlurmBoxes(fake_boxes(fake, tmp_path), FakeSlurm(tmp_path / "fake slurm"))
    for name, value in place.slurm.environment.items():
        monkeypatch.setenv(name, value)
    image = place.boxes.image = archive(tmp_path / "an image.tar", "ab" * 32)
    fake.fail("slow-build")
    process = place.boxes.begin("--kind", "looks", "--imageCache", str(tmp_path / "images"))
    place.boxes.wait_for(lambda: fake.builds, process)
    assert main(["explain", "--json", "--", str(place.boxes.store), "looks"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["jobs"]
    assert (answer["state"], answer["waits for"], answer["image"]) == ("issued", "image", image)
    place_of_it = f"which is being fetched for {os.uname().nodename}, since "
    assert answer["why"].startswith(f"waits for container image {show(image)}, {place_of_it}")
    fake.fail()
    done = place.boxes.finish(process)
    place.slurm.end()
    assert done.status == 0, done.err
    place.boxes.check_clean()


def test_a_worker_that_comes_later_uses_the_cache_of_the_node(fake: FakeApptainer, tmp_path: Path) -> None:
    """The second job has a worker of its own, on a node where the first has used the cache."""
    place = SlurmBoxes(fake_boxes(fake, tmp_path), FakeSlurm(tmp_path / "fake slurm"))
    place.boxes.boxed = False
    original = tmp_path / "original"
    original.write_text("words ")
    alone = ("--noWorkerReuse", "--disableChaining")
    done = place.boxes.run("--kind", "reads", "--argument", str(original), *alone)
    place.slurm.end()
    assert (done.status, done.out) == (0, "result 'words words '\n"), done.err
    assert "without the cache" not in done.err
    place.boxes.check_clean()


@pytest.mark.real
@pytest.mark.parametrize("place", ["docker", "singularity"], indirect=True)
def test_each_job_runs_in_the_image_that_it_asks_for(place: SlurmBoxes, engines: Engines) -> None:
    other = engines.image(place.boxes.kind, "py313")
    assert place.boxes.result("--kind", "asks", "--argument", other) == [[3, 11], [3, 13]]


def test_an_image_that_no_node_has_is_told_in_one_line(place: SlurmBoxes) -> None:
    image = "docker-daemon:no-such-image:1" if place.boxes.kind == "docker" else "/no/such.sif"
    place.boxes.image = image
    done = place.boxes.refused("--kind", "looks")
    assert "cannot use image" in done.err
    assert image in done.err


def test_a_launcher_that_is_killed_leaves_no_container(place: SlurmBoxes) -> None:
    """The batch script takes care of what it was to do."""
    process = place.boxes.begin("--kind", "waits", "--retryCount", "1")
    place.boxes.wait_for(place.boxes.begun, process)
    (launcher,) = place.launchers()
    launcher.kill()
    place.boxes.finish(process).check_result("again")
    place.boxes.check_clean()


def test_a_host_that_is_killed_in_its_container_costs_no_more_than_a_try(place: SlurmBoxes) -> None:
    process = place.boxes.begin("--kind", "waits", "--retryCount", "1")
    place.boxes.wait_for(place.boxes.begun, process)
    (container,) = place.boxes.containers()
    place.boxes.engine.kill(container.id)
    done = place.boxes.finish(process)
    done.check_result("again")
    assert "was lost" in done.err
    place.boxes.check_clean()


def test_a_warning_reaches_the_host_in_its_container(place: SlurmBoxes) -> None:
    process = place.boxes.begin("--kind", "waits", "--retryCount", "1")
    place.boxes.wait_for(place.boxes.begun, process)
    (script,) = place.scripts()
    os.kill(script, signal.SIGUSR1)
    done = place.boxes.finish(process)
    done.check_result("again")
    assert "was ended shortly before the time limit of its allocation" in done.err
    place.boxes.check_clean()


def test_a_stopped_workflow_leaves_no_container(place: SlurmBoxes) -> None:
    process = place.boxes.begin("--kind", "waits")
    place.boxes.wait_for(place.boxes.begun, process)
    process.terminate()
    assert place.boxes.finish(process).status == 128 + 15
    assert place.boxes.containers() == []
    assert place.slurm.wait_idle() == {}
    super(Boxes, place.boxes).check_clean()


def test_what_was_said_of_an_engine_that_refuses_is_told(fake: FakeApptainer, tmp_path: Path) -> None:
    fake.fail("no-start")
    place = SlurmBoxes(fake_boxes(fake, tmp_path), FakeSlurm(tmp_path / "fake slurm"))
    done = place.boxes.refused("--kind", "looks")
    place.slurm.end()
    assert "mount hook function failure: no loop devices" in done.err
