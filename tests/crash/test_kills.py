"""kill -9 of a worker, a worker host and the leader, in the middle of a workflow of 200 jobs (I1, I2, I8).

The moment is drawn by a printed seed, as a number of files that jobs have written by then, so that it does
not depend on the speed of the machine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.crash import kill_workflow
from tests.runs import DEADLINE
from toilcache.node.identity import process_name_exists

SEEDS = range(5)


class Workflow:
    """A run of the kill workflow in a directory of its own."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = base / "the store"
        self.work = base / "work dir"
        self.coordination = base / "coordination"
        self.work.mkdir()
        self.coordination.mkdir()

    def begin(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        """Start the leader."""
        argv = [
            *(sys.executable, kill_workflow.__file__, str(self.store), "--clean", "never"),
            *("--workDir", str(self.work), "--coordinationDir", str(self.coordination)),
            *("--retryBackoff", "0.05", "--maxLocalJobs", "4", "--maxCores", "4", *options),
        ]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(argv, env=os.environ | environment, **pipes)

    def written(self) -> list[str]:
        """Return the contents of all files that jobs have written."""
        contents = []
        for path in self.store.glob("kept/*/*/*/*"):
            try:
                contents.append(path.read_text(encoding="ascii"))
            except FileNotFoundError:
                continue  # the upload of a lost attempt is being removed
        return contents

    def wait_for(self, condition: Callable[[], object], leader: subprocess.Popen[str]) -> None:
        """Wait until something is true of the running workflow, or its leader has ended."""
        end = time.monotonic() + DEADLINE
        while leader.poll() is None and not condition():
            assert time.monotonic() < end, "the workflow makes no progress"
            time.sleep(0.001)

    def finish(self, leader: subprocess.Popen[str]) -> str:
        """Wait for the leader's end; returns what it printed."""
        out, err = leader.communicate(timeout=DEADLINE)
        assert leader.returncode == 0, err
        return out

    def check_end(self, output: str) -> None:
        """The right answer, each job's file once, nothing left on the node."""
        self.check_answer(output)
        assert list(self.work.iterdir()) == []
        assert [path.name for path in self.coordination.iterdir() if not path.name.endswith(".lock")] == []

    def check_answer(self, output: str) -> None:
        """The right answer, each job's file once, no process left."""
        assert output == f"result {kill_workflow.EXPECTED}\n"
        numbers = sorted(map(int, self.written()))
        assert numbers == list(range(-2, 198))
        assert self.processes() == []

    def processes(self) -> list[int]:
        """Return the processes that have this workflow's directories on their command line or in their
        environment.
        """
        found = []
        for process in psutil.process_iter():
            try:
                text = " ".join(process.cmdline()) + " ".join(process.environ().values())
            except psutil.Error:
                continue
            if str(self.base) in text and process.pid != os.getpid():
                found.append(process.pid)
        return found


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    base = tmp_path / 'kill\'s "place"'
    base.mkdir()
    return Workflow(base)


def _hosts(leader: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        children = psutil.Process(leader.pid).children()
        return [child for child in children if "toilcache.worker" in child.cmdline()]
    except psutil.Error:
        return []


def _workers(leader: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for host in _hosts(leader):
        try:
            found += host.children()
        except psutil.Error:
            continue
    return found


def _kill_one(
    find: Callable[[subprocess.Popen[str]], list[psutil.Process]], leader: subprocess.Popen[str]
) -> None:
    while leader.poll() is None:
        victims = find(leader)
        if victims:
            try:
                victims[-1].kill()
            except psutil.NoSuchProcess:
                continue  # it ended by itself; take another
            return


def _moment(seed: int, victim: str) -> int:
    files = random.Random(f"{victim}-{seed}").randrange(0, 195)
    print(f"victim {victim}, seed {seed}: kill when {files} files are written")
    return files


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_worker(workflow: Workflow, seed: int) -> None:
    files = _moment(seed, "worker")
    leader = workflow.begin()
    workflow.wait_for(lambda: len(workflow.written()) >= files, leader)
    _kill_one(_workers, leader)
    workflow.check_end(workflow.finish(leader))


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_host(workflow: Workflow, seed: int) -> None:
    files = _moment(seed, "host")
    leader = workflow.begin()
    workflow.wait_for(lambda: len(workflow.written()) >= files, leader)
    names = _host_names(workflow)
    _kill_one(_hosts, leader)
    workflow.wait_for(lambda: any(not process_name_exists(base, name) for base, name in names), leader)
    workflow.check_end(workflow.finish(leader))


def _host_names(workflow: Workflow) -> list[tuple[str, str]]:
    notes = list(workflow.coordination.glob("*/hosts/*.note"))
    return [(str(note.parent.parent), note.stem) for note in notes]


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_leader(workflow: Workflow, seed: int) -> None:
    files = _moment(seed, "leader")
    leader = workflow.begin()
    workflow.wait_for(lambda: len(workflow.written()) >= files, leader)
    leader.send_signal(signal.SIGKILL)
    leader.communicate()
    assert leader.returncode == -signal.SIGKILL
    again = workflow.begin("--restart")
    workflow.check_end(workflow.finish(again))


def test_killed_leader_and_hosts_together(workflow: Workflow) -> None:
    leader = workflow.begin()
    workflow.wait_for(lambda: len(workflow.written()) >= 60, leader)
    hosts = _hosts(leader)
    leader.kill()
    for host in hosts:
        host.kill()
    leader.communicate()
    workflow.check_end(workflow.finish(workflow.begin("--restart")))


def test_finished_workflow_returns_its_result_again(workflow: Workflow) -> None:
    workflow.check_end(workflow.finish(workflow.begin()))
    workflow.check_end(workflow.finish(workflow.begin("--restart")))
