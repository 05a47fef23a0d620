"""Programs in containers of their own, run by jobs that are in a container and by jobs that are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.contract.test_container_hosts import Boxes, make
from tests.runs import Place
from toilcache.containers.model import WORKFLOW_LABEL
from toilcache.node.namespaces import pid_here

BOXED = [
    pytest.param((kind, boxed), id=f"{kind}-{'boxed' if boxed else 'plain'}", marks=marks)
    for kind, marks in (("fake", ()), ("docker", pytest.mark.real), ("singularity", pytest.mark.real))
    for boxed in (True, False)
]


@pytest.fixture(params=BOXED)
def boxes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Boxes]:
    """Jobs that run in containers of an engine, or that only have one."""
    kind, boxed = request.param
    made = make(kind, request, tmp_path)
    made.boxed = boxed
    yield made
    left = made.containers()
    for container in left:
        made.engine.remove(container.id)
    made.engine.close()
    assert left == []


def test_programs_run_with_the_files_of_the_job(boxes: Boxes) -> None:
    count, copied, told, owned, failed, quiet, large, many = boxes.result(
        "--kind", "runs_tools", "--argument", boxes.image
    )
    assert (count, copied) == ([b"4", b"input"], "some words of input")
    assert (told, owned) == (True, True)
    assert failed[1] == 3
    assert failed[0].startswith("cannot run sh -c ")
    assert failed[0].endswith(": exit code 3: broken")
    assert (quiet, large, many) == (b"said\n", 1_000_000, 4000)


def test_an_image_that_is_not_there_is_the_jobs_to_handle(boxes: Boxes) -> None:
    missing = "docker-daemon:no-such:1" if boxes.kind == "docker" else "/no such.sif"
    assert "no such" in boxes.result("--kind", "runs_a_missing_image", "--argument", missing).replace(
        "-", " "
    )


def begin_waiting(boxes: Boxes) -> tuple[subprocess.Popen[str], Path]:
    """A workflow whose job has a program running; its process, and where the job tells its own."""
    process = boxes.begin("--kind", "waits_in_a_tool", "--argument", boxes.image, "--retryCount", "1")
    boxes.wait_for(lambda: found(boxes.work, "tool-runs"), process)
    (job,) = found(boxes.work, "job-runs")
    return process, job


def found(place: Path, name: str) -> list[Path]:
    """The files of this name below a directory in which others come and go."""
    return [Path(where, name) for where, _, names in os.walk(place) if name in names]


def test_a_program_ends_with_its_workflow(boxes: Boxes) -> None:
    process, _ = begin_waiting(boxes)
    assert len(boxes.containers()) == 1 + boxes.boxed
    process.terminate()
    assert boxes.finish(process).status == 128 + 15
    assert boxes.containers() == []
    Place.check_clean(boxes)


def test_a_program_ends_with_its_job(boxes: Boxes) -> None:
    process, job = begin_waiting(boxes)
    pid, namespace = job.read_text().split()
    here = pid_here(int(pid), namespace)
    assert here > 0
    os.kill(here, signal.SIGKILL)
    boxes.wait_for(lambda: len(boxes.containers()) == boxes.boxed, process)
    job.with_name("go").touch()
    boxes.finish(process).check_result(b"again")
    boxes.check_clean()


def test_a_program_whose_launcher_and_leader_were_killed_goes_with_the_workflow(boxes: Boxes) -> None:
    """Nobody who has started it lives, and it would run on for ever."""
    process, _ = begin_waiting(boxes)
    left = boxes.containers()
    workflow = left[0].labels[WORKFLOW_LABEL]
    family = psutil.Process(process.pid).children()
    launchers = [one for one in family if {"toilcache.container", "toilcache.worker"} & set(one.cmdline())]
    process.kill()
    for launcher in launchers:
        launcher.kill()
    boxes.finish(process)
    argv = [sys.executable, "-m", "toilcache", "node-cleanup", "--workflow", workflow, *boxes.directories]
    for _ in range(100):  # the worker in the other container has to see that its launcher is gone
        if "somebody on this node uses it" not in boxes.finish(boxes.spawn(argv)).out:
            break
    boxes.store.rename(boxes.base / "gone")
    done = boxes.finish(boxes.spawn(argv))
    assert (done.status, done.err) == (0, "")
    assert done.out == f"{workflow}: removed: its job store is gone\n"
    assert (len(left), boxes.containers()) == (1 + boxes.boxed, [])
    Place.check_clean(boxes)
