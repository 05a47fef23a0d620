"""What a job has deferred is called when its attempt is over, however that ended, by whoever is there."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.crash import deferred_workflow
from tests.runs import DEADLINE, Finished, Place

pytestmark = pytest.mark.crash


class Workflow:
    """A run of the workflow, and the words that it leaves."""

    def __init__(self, base: Path) -> None:
        self.place = Place(base, deferred_workflow.__file__)
        self.notes = self.place.base / "notes"
        self.begun: list[subprocess.Popen[str]] = []

    def options(self, kind: str, how: str, *more: str) -> list[str]:
        return ["--kind", kind, "--how", how, "--place", str(self.notes), "--clean", "always", *more]

    def run(self, kind: str, how: str, *more: str, **environment: str) -> Finished:
        return self.place.run(*self.options(kind, how, *more), **environment)

    def begin(self, kind: str, how: str, *more: str) -> subprocess.Popen[str]:
        self.begun.append(self.place.begin(*self.options(kind, how, *more)))
        return self.begun[-1]

    def words(self) -> list[str]:
        return self.notes.read_text("utf-8").split(";")[:-1] if self.notes.exists() else []

    def go(self) -> None:
        """Let jobs that wait return."""
        Path(f"{self.notes}.go").touch()

    def job(self) -> psutil.Process:
        """The process of the job that waits."""
        return psutil.Process(int(Path(f"{self.notes}.pid").read_text("ascii")))

    def wait_for(self, *words: str, process: subprocess.Popen[str]) -> None:
        self.place.wait_for(lambda: set(words) <= set(self.words()), process)


def host_of(leader: subprocess.Popen[str]) -> psutil.Process:
    (host,) = [
        child for child in psutil.Process(leader.pid).children() if "toilcache.worker" in child.cmdline()
    ]
    return host


@pytest.fixture
def workflow(tmp_path: Path) -> Iterator[Workflow]:
    workflow = Workflow(tmp_path)
    yield workflow
    for process in workflow.begun:
        if process.poll() is None:  # the test has failed
            process.kill()
            process.communicate()


ENDS = {"return": 0, "raise": 1, "exit0": 1, "exit7": 1, "signal9": 1, "signal11": 1, "fork": 0}


@pytest.mark.parametrize("how", ENDS)
def test_it_is_called_however_the_attempt_ends(how: str, workflow: Workflow) -> None:
    finished = workflow.run("end", how)
    assert finished.status == ENDS[how], finished.err
    assert workflow.words() == ["ran", "first", "second"]
    workflow.place.check_clean()


def test_it_is_called_before_the_next_attempt(workflow: Workflow) -> None:
    assert workflow.run("end", "signal9", "--retryCount", "1").status == 1
    assert workflow.words() == ["ran", "first", "second"] * 2


@pytest.mark.parametrize("how", ["return", "signal9"])
def test_in_a_chain_each_job_has_its_own(how: str, workflow: Workflow) -> None:
    assert workflow.run("chain", how).status == (how != "return")
    words = workflow.words()
    pids = {word.partition("-")[0] for word in words}
    assert len(pids) == 1, "it was no chain"
    assert [word.partition("-")[2] for word in words] == [
        f"{name}-{word}" for name in ("parent", "child") for word in ("ran", "first", "second")
    ]


@pytest.mark.parametrize(
    ("how", "dies", "expected"),
    [
        ("raise", False, ["first", "raising", "last"]),
        ("raise", True, ["first", "raising", "last"]),
        # In the job's own process it ends that; the host's child calls it once more, and goes on behind it.
        ("exit0", False, ["first", "exit0", "exit0", "last"]),
        ("exit5", True, ["first", "exit5", "last"]),
    ],
)
def test_one_that_behaves_badly_keeps_none_from_being_called(
    how: str, dies: bool, expected: list[str], workflow: Workflow
) -> None:
    finished = workflow.run("odd", how, **({"ODD_DIES": "1"} if dies else {}))
    assert workflow.words() == expected, finished.err
    assert finished.status == (1 if dies else 0), finished.err
    workflow.place.check_clean()


def test_one_that_kills_whoever_calls_it_is_given_up(workflow: Workflow) -> None:
    finished = workflow.run("odd", "kill", ODD_DIES="1")
    assert finished.status == 1
    assert workflow.words() == ["first", "killing", "killing", "killing", "last"], finished.err
    workflow.place.check_clean()


@pytest.mark.parametrize("dies", [False, True])
def test_a_deferred_method_finds_its_job_not_running(dies: bool, workflow: Workflow) -> None:
    finished = workflow.run("tidy", "", **({"TIDY_DIES": "1"} if dies else {}))
    assert finished.status == int(dies), finished.err
    assert workflow.words() == ["ran", "deferring"]
    assert not dies or "it is not running" in finished.err


def test_a_host_that_is_killed_leaves_it_to_the_next(workflow: Workflow) -> None:
    leader = workflow.begin("end", "wait", "--retryCount", "1")
    workflow.wait_for("ran", process=leader)
    host_of(leader).kill()
    workflow.place.wait_for(lambda: workflow.words().count("ran") == 2, leader)
    workflow.go()
    finished = workflow.place.finish(leader)
    assert finished.status == 0, finished.err
    assert workflow.words() == ["ran", "first", "second"] * 2
    workflow.place.check_clean()


def test_a_leader_that_is_killed_leaves_it_to_the_host(workflow: Workflow) -> None:
    leader = workflow.begin("end", "wait")
    workflow.wait_for("ran", process=leader)
    job, host = workflow.job(), host_of(leader)
    leader.kill()
    workflow.place.finish(leader)
    job.kill()
    host.wait(60)
    assert workflow.words() == ["ran", "first", "second"]
    workflow.go()
    finished = workflow.place.restart(*workflow.options("end", "wait"))
    assert finished.status == 0, finished.err
    assert workflow.words() == ["ran", "first", "second"] * 2
    workflow.place.check_clean()


def test_leader_and_host_killed_leave_it_to_the_restart(workflow: Workflow) -> None:
    leader = workflow.begin("end", "wait")
    workflow.wait_for("ran", process=leader)
    job, host = workflow.job(), host_of(leader)
    leader.kill()
    host.kill()
    workflow.place.finish(leader)
    psutil.wait_procs([host, job], timeout=DEADLINE)
    assert workflow.words() == ["ran"]
    workflow.go()
    finished = workflow.place.restart(*workflow.options("end", "wait"))
    assert finished.status == 0, finished.err
    assert workflow.words() == ["ran", "first", "second"] * 2
    workflow.place.check_clean()


def test_a_stopped_workflow_calls_it_on_its_way_out(workflow: Workflow) -> None:
    leader = workflow.begin("end", "wait")
    workflow.wait_for("ran", process=leader)
    leader.send_signal(signal.SIGTERM)
    workflow.place.finish(leader)
    assert workflow.words() == ["ran", "first", "second"]
    workflow.place.check_clean()


@pytest.mark.parametrize("policy", ["always", "never"])
def test_a_host_that_is_stopped_leaves_it_to_the_leader(policy: str, workflow: Workflow) -> None:
    """Whether the node is cleaned or kept."""
    leader = workflow.begin("end", "wait", "--cleanWorkDir", policy)
    workflow.wait_for("ran", process=leader)
    host_of(leader).send_signal(signal.SIGSTOP)
    leader.send_signal(signal.SIGTERM)
    workflow.place.finish(leader)
    assert workflow.words() == ["ran", "first", "second"]
    assert (list(workflow.place.work.iterdir()) == []) == (policy == "always")


def test_when_all_are_killed_the_clean_up_calls_it(workflow: Workflow) -> None:
    leader = workflow.begin("end", "wait")
    workflow.wait_for("ran", process=leader)
    job, host = workflow.job(), host_of(leader)
    leader.kill()
    host.kill()
    workflow.place.finish(leader)
    psutil.wait_procs([host, job], timeout=DEADLINE)
    (directory,) = workflow.place.work.iterdir()
    workflow_id = directory.name.split("-")[1]
    finished = cleanup(workflow.place, "--workflow", workflow_id)
    assert finished.out.startswith(f"{workflow_id}: left: its leader has been silent for ")
    assert workflow.words() == ["ran"]
    subprocess.run(["rm", "-rf", "--", str(workflow.place.store)], check=True)
    finished = cleanup(workflow.place, "--workflow", workflow_id)
    assert finished.out == f"{workflow_id}: removed: its job store is gone\n"
    assert workflow.words() == ["ran", "first", "second"]
    workflow.place.check_clean()


def cleanup(place: Place, *options: str) -> Finished:
    argv = [place.argv()[0], "-m", "toilcache", "node-cleanup", *place.directories, *options]
    return place.finish(place.spawn(argv))
