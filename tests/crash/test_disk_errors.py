"""ENOSPC and EIO at step n in the leader, hosts and workers: once, and until the disk is freed (I1, I2, I8).

The workflow ends right, or the leader ends with one line for a person and `--restart` finishes it. What a
worker cannot write when its job ends costs no try. `make test` tries a few steps, drawn by a printed seed
(DISK_ERRORS_SEED); `make soak` tries them all.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.crash import matrix_workflow
from tests.crash.every_step import Tried, check, every_step, once
from tests.crash.matrix import ROLES, Run, phase
from tests.fakes.faults import EIO, ENOSPC, LEADER, WORKER, Plan

pytestmark = pytest.mark.crash

SEED = int(os.environ.get("DISK_ERRORS_SEED", "1"))
SAMPLE = 2
FULL_SECONDS = 0.2
ONCE, LASTING = "once", "lasting"
CELLS = list(itertools.product((ENOSPC, EIO), (ONCE, LASTING), ROLES))


@contextmanager
def freed(flag: Path) -> Iterator[None]:
    """Free the disk a moment after it was full, as often as it is in the block."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            if flag.exists():
                time.sleep(FULL_SECONDS)
                flag.unlink()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def survive(cell: tuple[str, str, str], base: Path, step: int) -> Tried:
    """Have an error at a step; returns what came of it."""
    then, how, role = cell
    run = Run(base)
    flag = base / "full"
    plan = Plan(base / "trace", step, then, role, flag=flag if how == LASTING else None, under=run.place.base)
    with freed(flag):
        finished = run.start(**plan.environment())
    where = phase(plan.steps()[:step]) if plan.happened else ""
    outcome = "went on"
    if finished.status != 0:
        finished.check_refused()
        outcome = "restarted"
        finished = run.go_on()
    elif "cannot remove what the workflow has left on this node" in finished.err:
        outcome = "told what is left"
        finished.check_result(matrix_workflow.EXPECTED)
        finished = run.restart()
    finished.check_result(matrix_workflow.EXPECTED)
    if (role, where) == (WORKER, "commit"):
        # While the disk fails, another job may fail at its own directory, like any program.
        assert (outcome, run.failures(but="/jobs/job-")) == ("went on", 1)
    run.check_end()
    return Tried(step, plan.happened, where, outcome)


@pytest.fixture(scope="module")
def length(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], int]:
    """How many steps of a role can fail in a way; a few more or less each time."""

    @functools.cache
    def count(then: str, role: str) -> int:
        run = Run(tmp_path_factory.mktemp("count") / "run")
        plan = Plan(run.base / "trace", 0, then, role, under=run.place.base)
        run.start(**plan.environment()).check_result(matrix_workflow.EXPECTED)
        return len(plan.steps())

    return count


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_an_error_at_some_steps(
    tmp_path: Path, cell: tuple[str, str, str], length: Callable[[str, str], int]
) -> None:
    count = length(cell[0], cell[2])
    draw = random.Random(f"{SEED} {cell}")
    bounds = [1 + count * part // SAMPLE for part in range(SAMPLE + 1)]
    steps = [draw.randrange(low, high) for low, high in itertools.pairwise(bounds)]
    print(f"seed {SEED}, of {count} steps: {steps}")
    results = [once(tmp_path / "place", "-".join(cell), partial(survive, cell), step) for step in steps]
    assert not any(each.error for each in results), "\n".join(each.error for each in results)
    assert any(each.reached for each in results)


@pytest.mark.soak
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_an_error_at_every_step(tmp_path: Path, cell: tuple[str, str, str]) -> None:
    name = "-".join(cell)
    check(name, every_step(tmp_path, name, partial(survive, cell)), "errors")


@pytest.mark.parametrize("call", ["mkdir", "unlink"])
def test_a_node_that_refuses_is_told_in_one_line(tmp_path: Path, call: str) -> None:
    counting = Run(tmp_path / "count")
    plan = Plan(tmp_path / "trace", 0, EIO, LEADER, under=counting.place.coordination / "toilcache-")
    counting.start(**plan.environment())
    number = [step.call for step in plan.steps()].index(call) + 1
    run = Run(tmp_path / "run")
    plan = Plan(tmp_path / "again", number, EIO, LEADER, under=run.place.coordination / "toilcache-")
    finished = run.start(**plan.environment())
    finished.check_refused("cannot use", "coordination/toilcache-", "Input/output", "--coordinationDir")
    run.go_on().check_result(matrix_workflow.EXPECTED)
    run.check_end()


def test_what_cannot_be_removed_from_a_node_hides_no_result(tmp_path: Path) -> None:
    counting = Run(tmp_path / "count")
    plan = Plan(tmp_path / "trace", 0, EIO, LEADER, under=counting.place.work)
    counting.start(**plan.environment())
    calls = [step.call for step in plan.steps()]
    run = Run(tmp_path / "run")
    first = calls.index("rename", calls.index("rename") + 1) + 1
    plan = Plan(tmp_path / "again", first, EIO, LEADER, flag=tmp_path / "broken", under=run.place.work)
    finished = run.start(**plan.environment())
    finished.check_result(matrix_workflow.EXPECTED)
    assert "cannot remove what the workflow has left on this node" in finished.err
    assert str(run.place.work) in finished.err
    (tmp_path / "broken").unlink()
    run.restart().check_result(matrix_workflow.EXPECTED)
    run.check_end()


def test_a_lock_file_that_cannot_be_removed_hides_no_result(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    lock = run.place.coordination / "toilcache-leader-"
    run.start(**Plan(tmp_path / "trace", 1, EIO, LEADER, under=lock).environment()).check_result(
        matrix_workflow.EXPECTED
    )
    assert len(list(run.place.coordination.glob("toilcache-leader-*.lock"))) == 1
    run.restart().check_result(matrix_workflow.EXPECTED)
    run.check_end()


@pytest.mark.parametrize("name", ["pid.log", "leader_node_id.log", "rootJobStoreID", "config.pickle"])
def test_a_store_that_refuses_a_note_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    counting = Run(tmp_path / "count")
    plan = Plan(tmp_path / "trace", 0, ENOSPC, LEADER, under=counting.place.store / "shared")
    counting.start(**plan.environment())
    number = [os.path.basename(step.path) for step in plan.steps()].index(name)
    run = Run(tmp_path / "run")
    again = Plan(tmp_path / "again", number, ENOSPC, LEADER, under=run.place.store / "shared")
    finished = run.start(**again.environment())
    assert again.steps()[-1].call == "stream.write"
    finished.check_refused("cannot use job store", "No space left", "free some space")
    run.go_on().check_result(matrix_workflow.EXPECTED)
    run.check_end()
