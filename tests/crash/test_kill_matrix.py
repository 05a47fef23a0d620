"""kill -9 of leader, host and worker at step n of all they do, from the start to the clean-up (I1, I2, I8).

A step is a call that changes a file (tests/fakes/faults). `make test` tries a few steps of each cell, drawn
by a printed seed (KILL_MATRIX_SEED); `make soak` tries them all, and says how many kills each phase survived.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.every_step import NOBODY, Attempt, Tried, check, every_step, once
from tests.crash.matrix import CLEAN, END, MODES, RESTART, ROLES, START, Case, phase, survive
from tests.fakes.faults import HOST, LEADER, WORKER

pytestmark = pytest.mark.crash

SEED = int(os.environ.get("KILL_MATRIX_SEED", "1"))
SAMPLE = 2
# In which operation whom is killed at whose steps. No worker lives yet when a host makes its own.
CELLS = [
    *(
        (operation, victim, role)
        for operation, victim, role in itertools.product((START, RESTART), ROLES, ROLES)
        if (victim, role) != (WORKER, HOST)
    ),
    *((CLEAN, LEADER, LEADER), (END, LEADER, LEADER)),
]


def attempt(cell: tuple[str, str, str], mode: str) -> Attempt:
    """What is tried at each step of a cell."""

    def kill(base: Path, step: int) -> Tried:
        plan = survive(base, Case(*cell, step, mode))
        steps = plan.steps()[:step]
        place = CLEAN if cell[0] == CLEAN else phase(steps) if steps else ""
        return Tried(step, plan.happened, place, "killed" if plan.killed else NOBODY)

    return kill


@pytest.fixture(scope="module")
def length(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], int]:
    """How many steps of a role an operation has; a few more or less each time."""

    @functools.cache
    def count(operation: str, role: str, mode: str) -> int:
        case = Case(operation, role, role, 0, mode)
        return len(survive(tmp_path_factory.mktemp("count") / "run", case).steps())

    return count


# Without a cache, and with a process for each job, hosts commit for functions.
SAMPLED = [(cell, mode) for cell in CELLS for mode in MODES if mode != "plain" or HOST in cell[1:]]


@pytest.mark.parametrize(("cell", "mode"), SAMPLED, ids=["-".join((*cell, mode)) for cell, mode in SAMPLED])
def test_a_kill_at_some_steps(
    tmp_path: Path, cell: tuple[str, str, str], mode: str, length: Callable[[str, str, str], int]
) -> None:
    """In each half of the operation one step is drawn."""
    operation, _, role = cell
    count = length(operation, role, mode)
    draw = random.Random(f"{SEED} {cell} {mode}")
    bounds = [1 + count * part // SAMPLE for part in range(SAMPLE + 1)]
    steps = [draw.randrange(low, high) for low, high in itertools.pairwise(bounds)]
    print(f"seed {SEED}, of {count} steps: {steps}")
    results = [once(tmp_path / "place", "-".join(cell), attempt(cell, mode), step) for step in steps]
    assert not any(each.error for each in results), "\n".join(each.error for each in results)
    assert any(each.reached for each in results)


def first_of_end(base: Path, mode: str) -> int:
    """At which step a leader begins to clean up, about; the steps before are those of any run."""
    steps = survive(base, Case(END, LEADER, LEADER, 0, mode)).steps()
    ends = [number for number in range(1, len(steps)) if phase(steps[:number]) == CLEAN]
    return max(1, ends[0] - 5)


@pytest.mark.soak
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_kill_at_every_step(tmp_path: Path, cell: tuple[str, str, str], mode: str) -> None:
    name = f"{'-'.join(cell)}, {mode}"
    first = first_of_end(tmp_path / "count", mode) if cell[0] == END else 1
    check(name, every_step(tmp_path, name, attempt(cell, mode), first), "kills")
