"""kill -9 of leader, host and worker at step n of all they do, from the start to the clean-up (I1, I2, I8).

A step is a call that changes a file (tests/fakes/faults). `make test` tries a few steps of each cell, drawn
by a printed seed (KILL_MATRIX_SEED); `make soak` tries them all, and says how many kills each phase survived.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.crash.matrix import CLEAN, END, RESTART, ROLES, START, Case, phase, survive
from tests.fakes.faults import HOST, LEADER, WORKER

pytestmark = pytest.mark.crash

SEED = int(os.environ.get("KILL_MATRIX_SEED", "1"))
SAMPLE = 2
AT_ONCE = int(os.environ.get("KILL_MATRIX_AT_ONCE", "2"))
# In which operation whom is killed at whose steps. No worker lives yet when a host makes its own.
CELLS = [
    *((START, victim, role) for victim in ROLES for role in ROLES if (victim, role) != (WORKER, HOST)),
    *((RESTART, role, role) for role in ROLES),
    *((RESTART, HOST, LEADER), (RESTART, LEADER, WORKER)),
    *((CLEAN, LEADER, LEADER), (END, LEADER, LEADER)),
]


class Result(NamedTuple):
    """What came of one case; without an error everything was as it must be."""

    case: Case
    phase: str
    reached: bool
    killed: bool
    error: str


def result(base: Path, case: Case) -> Result:
    """Try one case; its directory is kept if it fails."""
    try:
        plan = survive(base, case)
    except Exception:  # of whatever kind, the other steps are tried too
        return Result(case, "", True, True, f"{case}\n{traceback.format_exc()}see {base}\n")
    steps = plan.steps()[: case.step]
    place = CLEAN if case.operation == CLEAN else phase(steps) if steps else ""
    seen = Result(case, place, plan.happened, plan.killed, "")
    shutil.rmtree(base)
    return seen


@pytest.fixture(scope="module")
def length(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], int]:
    """How many steps of a role an operation has; a few more or less each time."""

    @functools.cache
    def count(operation: str, role: str) -> int:
        return len(survive(tmp_path_factory.mktemp("count") / "run", Case(operation, role, role, 0)).steps())

    return count


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_kill_at_some_steps(
    tmp_path: Path, cell: tuple[str, str, str], length: Callable[[str, str], int]
) -> None:
    """In each half of the operation one step is drawn."""
    operation, _, role = cell
    count = length(operation, role)
    draw = random.Random(f"{SEED} {cell}")
    bounds = [1 + count * part // SAMPLE for part in range(SAMPLE + 1)]
    cases = [Case(*cell, draw.randrange(low, high)) for low, high in itertools.pairwise(bounds)]
    print(f"seed {SEED}, of {count} steps: {', '.join(map(str, cases))}")
    results = [result(tmp_path / str(case.step), case) for case in cases]
    assert not any(each.error for each in results), "\n".join(each.error for each in results)
    assert any(each.reached for each in results)


def first_of_end(base: Path, caching: bool) -> int:
    """At which step a leader begins to clean up, about; the steps before are those of any run."""
    steps = survive(base, Case(END, LEADER, LEADER, 0, caching)).steps()
    ends = [number for number in range(1, len(steps)) if phase(steps[:number]) == CLEAN]
    return max(1, ends[0] - 5)


def every_step(base: Path, cell: tuple[str, str, str], caching: bool) -> Iterator[Result]:
    """Kill at step 1, 2, ... until the operation completes without reaching it; of the end, its own steps."""
    start = first_of_end(base / "count", caching) if cell[0] == END else 1
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for first in itertools.count(start, 4 * AT_ONCE):
            cases = [Case(*cell, step, caching) for step in range(first, first + 4 * AT_ONCE)]
            results = list(pool.map(lambda case: result(base / str(case.step), case), cases))
            yield from results
            if not all(each.reached for each in results):
                return


@pytest.mark.soak
@pytest.mark.parametrize("caching", [False, True], ids=["plain", "cached"])
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_kill_at_every_step(tmp_path: Path, cell: tuple[str, str, str], caching: bool) -> None:
    results = list(every_step(tmp_path, cell, caching))
    kills = Counter(each.phase for each in results if each.killed and not each.error)
    tried = sum(each.reached for each in results)
    failed = [each.error for each in results if each.error]
    survived = f"{sum(kills.values())} kills survived, {len(failed)} not"
    print(f"\n{'-'.join(cell)}, caching {caching}: {tried} steps, {survived}; {dict(kills)}")
    assert not failed, "\n".join(failed)
    assert kills
