"""One run of the matrix workflow with a kill at step n, and what must be true after it.

Each run kills one process at one step: the one that makes it, or another of the three that belong together:
leader, host, worker. What a person would do comes next: nothing, if a host or a worker was killed, else
`--restart`, or what that says. In the end each job has committed once, and nothing is left on the node or in
the store.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash import matrix_workflow
from tests.crash.every_step import prepared
from tests.fakes.faults import HOST, KILL_BEFORE, LEADER, WORKER, Plan
from tests.fakes.faults.inject.fault_steps import Step
from tests.runs import Finished, Place
from toilcache.job_store.file_job_store import FileJobStore

OPTIONS = ("--maxLocalJobs", "1", "--maxCores", "1", "--retryCount", "3", "--retryBackoff", "0.01")
MODES = {
    "plain": ("--caching", "false"),
    "cached": ("--caching", "true"),
    "sharing": ("--caching", "false", "--shareProcess"),
}
"""What a run may be like, and the options for that."""
ROLES = (LEADER, HOST, WORKER)
START, RESTART, CLEAN, END = "start", "restart", "clean", "end"
# The middle of a run: the leader is killed there before a restart is tested.
MIDDLE = 250


class Case(NamedTuple):
    """A kill: in which operation, of whom, at which step of whom."""

    operation: str
    victim: str
    role: str
    step: int
    mode: str = "cached"

    def __str__(self) -> str:
        return f"{self.operation}: {self.victim} killed at step {self.step} of {self.role}"


class Run:
    """The workflow in a directory of its own."""

    def __init__(self, base: Path, *, keep: bool = True, mode: str = "cached") -> None:
        base.mkdir(parents=True)
        self.base = base
        self.place = Place(base, matrix_workflow.__file__)
        self.place.environment["PLACE"] = str(self.place.base)  # so that hosts are found too
        kept = ("--clean", "never" if keep else "always")
        self.options = (*OPTIONS, *kept, *MODES[mode])

    def plan(self, victim: str, role: str, step: int) -> Plan:
        """Plan a kill, or with step 0 to count."""
        return Plan(self.base / "trace", step, KILL_BEFORE, role, victim=victim)

    def start(self, **environment: str) -> Finished:
        """Run the workflow."""
        return self.place.run(*self.options, **environment)

    def restart(self, **environment: str) -> Finished:
        """Go on with it."""
        return self.place.restart(*self.options, **environment)

    def clean(self, **environment: str) -> Finished:
        """Remove the job store by the command."""
        argv = [sys.executable, "-m", "toilcache", "clean", str(self.place.store)]
        return self.place.finish(self.place.spawn(argv, **environment))

    def interrupt(self) -> None:
        """Have a workflow whose leader was killed in the middle, while a worker was at work."""
        plan = Plan(self.base / "first", MIDDLE, KILL_BEFORE, WORKER, victim=LEADER)
        finished = self.start(**plan.environment())
        assert finished.status == -signal.SIGKILL, finished.err
        self.place.wait_for_no_process()

    def complete(self) -> None:
        """Have a workflow that has ended well."""
        self.start().check_result(matrix_workflow.EXPECTED)

    def go_on(self) -> Finished:
        """Do what a person does after the leader was killed: restart, or do what that says."""
        again = self.restart()
        if again.status != 0 and "start" in again.last:
            again = self.start()
        return again

    def check_end(self) -> None:
        """Each job has committed once, its file is there once, and nothing else is left."""
        self.place.check_clean()
        # What a disk that failed did not let a worker remove has a temporary name, which nobody reads.
        written = [int(path.read_text("ascii")) for path in self.place.store.glob("kept/*/*/*/[!.]*")]
        assert sorted(written) == matrix_workflow.NUMBERS
        commits = self.commits()
        assert max(commits.values(), default=0) <= 1, commits
        store = FileJobStore(str(self.place.store))
        store.resume()
        store.clean()
        files = self.files()
        # What stays is the root, and the follow-on whose value is the root's.
        assert len(list(self.place.store.glob("jobs/*/*"))) == 2, files
        assert not files["trash"] + files["free"] + files["linked"], files
        store.destroy()
        assert not self.place.store.exists()

    def files(self) -> Counter[str]:
        """How many files of each kind the store holds."""
        files = [path for path in self.place.store.rglob("*") if path.is_file()]
        return Counter(path.relative_to(self.place.store).parts[0] for path in files)

    def commits(self) -> Counter[str]:
        """How often the leaders took note of each job's commit."""
        return Counter(event["job"] for event in self._events() if event["e"] == "commit")

    def failures(self, but: str) -> int:
        """How often they took note of a failure that does not name this."""
        return sum(event["e"] == "fail" and but not in event["why"] for event in self._events())

    def _events(self) -> list[dict[str, Any]]:
        journals = self.place.store.glob("journal/*")
        lines = [line for journal in journals for line in journal.read_bytes().splitlines()]
        return [json.loads(line) for line in lines if line.endswith(b"}")]


def survive(base: Path, case: Case) -> Plan:
    """Kill and go on, and check what then is; returns the plan, which tells what was killed and when."""
    run = Run(base, keep=case.operation != END, mode=case.mode)
    plan = run.plan(case.victim, case.role, case.step)
    operations = {START: _survive_run, RESTART: _survive_restart, CLEAN: _survive_clean, END: _survive_end}
    operations[case.operation](run, plan)
    return plan


def _survive_run(run: Run, plan: Plan) -> None:
    finished = run.start(**plan.environment())
    _check_result(run, plan, finished)
    run.check_end()


def _survive_restart(run: Run, plan: Plan) -> None:
    prepared(run.base, run.interrupt)
    finished = run.restart(**plan.environment())
    _check_result(run, plan, finished)
    run.check_end()


def _check_result(run: Run, plan: Plan, finished: Finished) -> None:
    if plan.victim == LEADER and plan.killed:
        assert finished.status == -signal.SIGKILL, finished.err
        finished = run.go_on()
    finished.check_result(matrix_workflow.EXPECTED)


def _survive_clean(run: Run, plan: Plan) -> None:
    prepared(run.base, run.complete)
    finished = run.clean(**plan.environment())
    if plan.killed:
        assert finished.status == -signal.SIGKILL, finished.err
        finished = run.clean()
    _check_gone(run, finished)


def _survive_end(run: Run, plan: Plan) -> None:
    """The leader is killed while it runs and then cleans up; a restart and the command clean up after it."""
    finished = run.start(**plan.environment())
    if not plan.killed:
        finished.check_result(matrix_workflow.EXPECTED)
        assert not run.place.store.exists()
        run.place.check_clean()
        return
    finished = run.restart()
    if finished.status == 0:
        finished.check_result(matrix_workflow.EXPECTED)
    else:
        finished.check_refused()
    _check_gone(run, run.clean())


def _check_gone(run: Run, finished: Finished) -> None:
    """The command has removed the store, or there was none any more."""
    gone = "it does not exist" in finished.last
    assert finished.status == (1 if gone else 0), finished.err
    assert not run.place.store.exists()
    run.place.check_clean()


def phase(steps: Sequence[Step]) -> str:
    """Say in which phase of its role the last of these steps is."""
    last = steps[-1]
    if last.role == LEADER:
        return _leader_phase(steps)
    if last.role == HOST:
        return "run" if any(step.path.endswith(".work/jobs") for step in steps) else "start"
    own = [step for step in steps if step.pid == last.pid]
    if any(step.call == "link" and "/jobs/" in step.path and ".work/" not in step.path for step in own[:-1]):
        ends = last.call in ("unlink", "rmdir") and ".work/" in last.path
        return "clean" if ends else "chain"
    return "commit" if "/jobs/" in last.path and ".work/" not in last.path else "run"


def _leader_phase(steps: Sequence[Step]) -> str:
    begun = [number for number, step in enumerate(steps) if step.path.endswith(".jsonl")]
    if not begun:
        return "start"
    ended = [number for number, step in enumerate(steps) if step.path.endswith(".lock") and number > begun[0]]
    if ended:
        return "clean"
    return "issue" if steps[-1].path.endswith((".jsonl", ".log")) else "consequences"
