"""The Docker batch system with a real Docker: what goes wrong is retried, or told for what it was."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.contract.test_container_hosts import Boxes
from tests.real.test_demo import here, read_line, run, temporary
from tests.runs import Finished
from tests.testbed.fixtures import Engines
from toilcache.containers.docker_engine import DockerEngine

__all__ = ["here", "temporary"]  # fixtures

pytestmark = pytest.mark.real
FORGETFUL = Path(__file__).parents[1] / "fakes" / "forgetful_engine.py"


class DockerBoxes(Boxes):
    """A place whose jobs run in containers of their own."""

    def argv(self, *arguments: str) -> list[str]:
        return super().argv("--batchSystem", "docker", *arguments)


@pytest.fixture
def boxes(engines: Engines, tmp_path: Path) -> Iterator[DockerBoxes]:
    engine = DockerEngine(engines.docker_host)
    made = DockerBoxes(tmp_path, "docker", engine, engines.image("docker"), engines.environment)
    yield made
    left = made.containers()
    for container in left:
        engine.remove(container.id)
    engine.close()
    assert left == []


def told(done: Finished, words: str) -> str:
    """The one line of ours that says this."""
    lines = [line for line in done.own_lines.splitlines() if words in line]
    assert lines, done.err
    return lines[0]


def test_the_demo_gives_the_same_answer(
    engines: Engines, here: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in engines.environment.items():
        monkeypatch.setenv(name, value)
    boxed = ["--batchSystem", "docker", "--container", engines.image("docker")]
    plain = read_line(run("demo.py", "--parts", "4", cwd=here, temporary=temporary))
    assert read_line(run("demo.py", "--parts", "4", *boxed, cwd=here, temporary=temporary)) == plain
    assert list(here.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_a_job_out_of_memory_gets_twice_as_much(boxes: DockerBoxes) -> None:
    done = boxes.run("--kind", "grows", "--doubleMem", "--retryCount", "1")
    done.check_result(170 << 20)
    assert "was killed because memory ran out; raise its memory requirement" in told(done, "takes_memory")
    boxes.check_clean()


def test_a_job_out_of_memory_is_told_so(boxes: DockerBoxes) -> None:
    done = boxes.run("--kind", "grows", "--retryCount", "0", "--clean", "always")
    done.check_refused("was killed because memory ran out")
    boxes.check_clean()


def test_a_killed_container_costs_no_try(boxes: DockerBoxes) -> None:
    process = boxes.begin("--kind", "waits", "--retryCount", "0")
    boxes.wait_for(boxes.begun, process)
    (container,) = boxes.containers()
    boxes.engine.kill(container.id)
    done = boxes.finish(process)
    done.check_result("again")
    assert "was lost: its container was killed by signal 9" in told(done, "waits")
    boxes.check_clean()


def test_an_engine_that_is_restarted_costs_no_try(boxes: DockerBoxes, engines: Engines) -> None:
    process = boxes.begin("--kind", "waits", "--retryCount", "0")
    boxes.wait_for(boxes.begun, process)
    engines.restart_docker()
    done = boxes.finish(process)
    done.check_result("again")
    assert "was lost: its container" in told(done, "waits")
    boxes.check_clean()


def test_a_missing_image_is_told(boxes: DockerBoxes) -> None:
    boxes.image = "docker-daemon:no-such-image:1"
    boxes.refused("--kind", "looks").check_refused("cannot use image", boxes.image)


def test_a_missing_bind_is_told(boxes: DockerBoxes, tmp_path: Path) -> None:
    """A site's own way to Docker leaves the work directory out."""
    site = tmp_path / "site"
    metadata = site / "forgetful-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: forgetful\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[toilcache.container_engines]\ndocker = forgetful:make\n")
    shutil.copy(FORGETFUL, site / "forgetful.py")
    (tmp_path / "others").mkdir()
    boxes.environment |= {"PYTHONPATH": str(site), "FORGETFUL": "docker", "FORGET": str(boxes.work)}
    boxes.environment["TMPDIR"] = str(tmp_path / "others")
    boxes.refused("--kind", "looks").check_refused("the work directory is not in it; bind ")


def test_a_full_disk_is_the_job_s_error_and_is_left_clean(boxes: DockerBoxes, tmp_path: Path) -> None:
    """On a disk: what is written to memory would count as memory of the container."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(boxes.work)], check=True)
    (boxes.work / "lost+found").rmdir()
    try:
        options = ("--kind", "fills", "--retryCount", "0", "--clean", "always")
        boxes.run(*options).check_refused("No space left on device")
        assert list(boxes.work.iterdir()) == []
    finally:
        subprocess.run(["umount", str(boxes.work)], check=True)
    boxes.check_clean()


@pytest.mark.parametrize("launchers", ["live", "killed"])
def test_a_later_leader_goes_on_with_the_containers_that_run(boxes: DockerBoxes, launchers: str) -> None:
    process = boxes.begin("--kind", "waits")
    boxes.wait_for(boxes.begun, process)
    attending = [
        one for one in psutil.Process(process.pid).children() if "toilcache.container" in one.cmdline()
    ]
    process.kill()
    for launcher in attending if launchers == "killed" else []:
        launcher.kill()
    boxes.finish(process)
    (container,) = boxes.containers()
    process = boxes.begin("--restart", "--kind", "waits")
    boxes.wait_for(lambda: boxes.led() == 2, process)
    assert [found.id for found in boxes.containers()] == [container.id]
    (home,) = boxes.work.glob("*.work/home")
    (home / "go").touch()
    boxes.finish(process).check_result("the first time")
    boxes.check_clean()


def test_a_stopped_workflow_leaves_no_container(boxes: DockerBoxes) -> None:
    process = boxes.begin("--kind", "waits")
    boxes.wait_for(boxes.begun, process)
    process.terminate()
    assert boxes.finish(process).status == 128 + 15
    assert boxes.containers() == []
    super(Boxes, boxes).check_clean()


def test_a_program_beside_a_job_has_the_job_s_limits(boxes: DockerBoxes) -> None:
    told_by_tool = boxes.result("--kind", "runs_a_limited_tool", "--argument", boxes.image)
    assert told_by_tool == (10 + 64) << 20
