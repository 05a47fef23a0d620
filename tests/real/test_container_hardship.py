"""Warm containers of real engines in trouble: it is said in one line, and what can be is tried again."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.contract.test_container_hosts import Boxes, make
from tests.runs import QUOTED
from tests.testbed.fixtures import Engines

pytestmark = [pytest.mark.real, pytest.mark.slow]
CGROUP = Path("/sys/fs/cgroup/memory")
HOSTILE = "a, b:c;d 'e' \"f\" \n$(id) `id` \\ %s é"


@pytest.fixture(params=["docker", "singularity"])
def boxes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Boxes]:
    made = make(request.param, request, tmp_path)
    yield made
    left = made.containers()
    for container in left:
        made.engine.remove(container.id)
    made.engine.close()
    assert left == []


def line_about(err: str, words: str) -> str:
    """The one line of ours in which these words stand."""
    lines = [line for line in err.splitlines() if words in line and not line.startswith(QUOTED)]
    assert lines, err
    return lines[0]


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with 200 MB of memory."""
    made = CGROUP / f"toilcache-test-{secrets.token_hex(6)}"
    made.mkdir()
    (made / "memory.limit_in_bytes").write_text(str(200 << 20))
    yield made
    made.rmdir()


def test_a_job_that_takes_more_memory_than_there_is(boxes: Boxes, group: Path) -> None:
    process = boxes.begin("--kind", "eats_when_told", "--retryCount", "1")
    boxes.wait_for(boxes.begun, process)
    for one in inside(boxes):
        (group / "cgroup.procs").write_text(str(one))
    (home,) = boxes.work.glob("*.work/home")
    (home / "go").touch()
    done = boxes.finish(process)
    done.check_result("again")
    assert "memory ran out" in line_about(done.err, "failed")
    boxes.check_clean()


def inside(boxes: Boxes) -> list[int]:
    """The processes of the place that have a process namespace of their own."""
    ours = os.readlink("/proc/self/ns/pid")
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
            boxed = os.readlink(f"/proc/{process.pid}/ns/pid") != ours
            if boxed and any(str(boxes.base) in word for word in words):
                found.append(process.pid)
        except (OSError, psutil.Error):
            continue
    assert found
    return found


def small_work(boxes: Boxes, size: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(boxes.work)], check=True)


def test_a_job_that_fills_the_work_directory(boxes: Boxes) -> None:
    small_work(boxes, "60m")
    try:
        done = boxes.run("--kind", "fills", "--retryCount", "1")
        done.check_result("again")
        assert "No space left on device" in line_about(done.err, "failed")
        assert list(boxes.work.iterdir()) == []
    finally:
        subprocess.run(["umount", str(boxes.work)], check=True)
    boxes.check_clean()


def test_a_work_directory_without_room_for_the_engine(boxes: Boxes) -> None:
    small_work(boxes, "60m,nr_inodes=80")
    try:
        done = boxes.run("--kind", "looks")
        done.check_refused()
        assert "o space left on device" in done.err
    finally:
        subprocess.run(["umount", str(boxes.work)], check=True)
    boxes.check_node()


def test_a_job_whose_image_is_missing(boxes: Boxes) -> None:
    missing = "docker-daemon:no-such-image:1" if boxes.kind == "docker" else "/no/such.sif"
    done = boxes.refused("--kind", "asks", "--argument", missing)
    assert missing in line_about(done.err, "cannot use image")


def test_hostile_names_of_every_place(
    boxes: Boxes, request: pytest.FixtureRequest, engines: Engines, tmp_path: Path
) -> None:
    base = tmp_path / HOSTILE
    base.mkdir()
    image = boxes.image
    if boxes.kind == "singularity":
        image = str(base / "i: m,a ge.sif")
        os.symlink(boxes.image, image)
    hostile = Boxes(base, boxes.kind, boxes.engine, image, engines.environment)
    (base / "original, x:y\n").write_text("content ")
    assert hostile.result("--kind", "fans_out") == 140 + 27
    assert (
        hostile.result("--kind", "reads", "--argument", str(base / "original, x:y\n")) == "content content "
    )
