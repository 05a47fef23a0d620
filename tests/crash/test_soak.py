"""Kills at random moments of the workflow of 200 jobs: `make soak`, SOAK_KILLS of them (default 1,000).

A moment is a step, so that a seed names it and the speed of the machine does not matter. SOAK_SEED is
printed, and a failure says which seed repeats it (`SOAK_SEED=... SOAK_KILLS=1`). The victim is drawn too:
several workers or hosts in one run, or the leader, and then mostly the next leaders as well.
"""

from __future__ import annotations

import os
import random
import shutil
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash.test_kills import Workflow
from tests.fakes.faults import ANY, HOST, KILL_BEFORE, LEADER, WORKER, Plan
from tests.runs import DEADLINE
from toilcache.job_store.file_job_store import FileJobStore

KILLS = int(os.environ.get("SOAK_KILLS", "1000"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
AT_ONCE = int(os.environ.get("SOAK_AT_ONCE", "2"))


def kill_at_random(base: Path, seed: int, steps: dict[str, int]) -> Counter[str]:
    """Run the workflow with a kill, or several one after the other; returns who was killed how often."""
    base.mkdir()
    workflow = Workflow(base)
    draw = random.Random(seed)
    victims: Counter[str] = Counter()
    options = ["--retryCount", "20", *(["--shareProcess"] * draw.randrange(2))]
    options += ["--caching", "false"] * draw.randrange(2)
    fresh = list(options)
    while True:
        victim = draw.choice((LEADER, HOST, WORKER))
        role = WORKER if victim == WORKER else ANY
        moments = draw.sample(range(1, steps[role]), 1 if victim == LEADER else 6)
        trace = base / f"trace-{draw.random()}"
        plan = Plan(trace, moments[0], KILL_BEFORE, role, victim=victim, again=moments[1:])
        kills = not victims or draw.random() < 0.9
        leader = workflow.begin(*options, KILL_TEST_PAUSE="0", **(plan.environment() if kills else {}))
        output, errors = leader.communicate(timeout=DEADLINE)
        victims[victim] += plan.kills
        if leader.returncode == 0:
            break
        if plan.killed and victim == LEADER:
            options.append("--restart")
        else:  # there was no workflow yet to restart
            assert "--restart" in options, errors
            assert "start" in errors, errors
            options = list(fresh)
    workflow.check_end(output)
    check_store(workflow.store)
    return +victims


def check_store(path: Path) -> None:
    """In the store are the root, the follow-on whose value is the root's, and nothing else."""
    store = FileJobStore(str(path))
    store.resume()
    store.clean()
    files = Counter(file.relative_to(path).parts[0] for file in path.rglob("*") if file.is_file())
    assert len(list(path.glob("jobs/*/*"))) == 2, files
    assert not files["trash"] + files["free"] + files["linked"], files


def attempt(base: Path, seed: int, steps: dict[str, int]) -> tuple[Counter[str], str]:
    """Try one seed; returns who was killed, and what was wrong then, if anything."""
    try:
        victims = kill_at_random(base, seed, steps)
    except Exception:  # of whatever kind, the other seeds are tried too
        return Counter(), f"SOAK_SEED={seed}: see {base}\n{traceback.format_exc()}"
    shutil.rmtree(base)
    return victims, ""


def count_steps(base: Path) -> dict[str, int]:
    """How many steps the workers make, and all processes together; about."""
    base.mkdir()
    plan = Plan(base / "trace")
    workflow = Workflow(base)
    workflow.check_end(workflow.finish(workflow.begin(KILL_TEST_PAUSE="0", **plan.environment())))
    roles = [step.role for step in plan.steps()]
    return {ANY: len(roles), WORKER: roles.count(WORKER)}


@pytest.mark.soak
@pytest.mark.crash
def test_kills_at_random_moments(tmp_path: Path) -> None:
    steps = count_steps(tmp_path / "count")
    victims: Counter[str] = Counter()
    faults: list[str] = []
    rounds = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while victims.total() < KILLS and len(faults) < 10:
            seeds = range(SEED + rounds, SEED + rounds + 4 * AT_ONCE)
            for seen, fault in pool.map(lambda seed: attempt(tmp_path / str(seed), seed, steps), seeds):
                rounds += 1
                victims += seen
                faults += [fault] * bool(fault)
    print(f"\n{steps[ANY]} steps; {rounds} runs from seed {SEED} on; kills survived: {dict(victims)}")
    assert not faults, "\n".join(faults)
