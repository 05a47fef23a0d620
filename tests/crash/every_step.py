"""A fault at step 1, 2, ... of an operation, until the operation completes without reaching it.

Knows the directories in which some steps are tried at a time (SOAK_AT_ONCE), and the file (SOAK_STATE) by
which a run that was stopped goes on where it was. The directories are used again: what it takes a run of its
own to prepare can be kept beside (`prepared`) and has the same path each time. Must not know what the faults
are.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

AT_ONCE = int(os.environ.get("SOAK_AT_ONCE", "2"))
STATE = os.environ.get("SOAK_STATE", "")
NOBODY = "nobody was there"
"""The outcome of a step at which there was nobody to be hit."""


class Tried(NamedTuple):
    """What came of a fault at a step; without an error everything was as it must be."""

    step: int
    reached: bool
    phase: str
    outcome: str
    error: str = ""


Attempt = Callable[[Path, int], Tried]


def prepared(base: Path, make: Callable[[], None]) -> None:
    """Have a directory as ``make`` leaves it, which is called only when there is no copy beside it yet."""
    copy = base.with_name("prepared")
    if copy.exists():
        subprocess.run(["cp", "-aT", copy, base], check=True)
    else:
        make()
        subprocess.run(["cp", "-a", base, copy], check=True)


def once(base: Path, name: str, attempt: Attempt, step: int) -> Tried:
    """Try one step in a directory that is made for it, and kept if it fails."""
    place = base / "run"
    try:
        tried = attempt(place, step)
    except Exception:  # of whatever kind, the other steps are tried too
        kept = base.with_name(f"failed-{step}")
        place.rename(kept)
        return Tried(step, True, "", "", f"{name} at step {step}\n{traceback.format_exc()}see {kept}\n")
    shutil.rmtree(place)
    return tried


class State:
    """What earlier runs have tried; what failed is forgotten, so that it is tried again."""

    def __init__(self, name: str) -> None:
        self._name = name
        lines = Path(STATE).read_text("utf-8").splitlines() if STATE and os.path.exists(STATE) else []
        rows = [row for owner, *row in map(json.loads, lines) if owner == name]
        self.known = {tried.step: tried for tried in itertools.starmap(Tried, rows) if not tried.error}

    def add(self, tried: Tried) -> None:
        """Take note."""
        if STATE:
            with open(STATE, "a", encoding="utf-8") as file:
                file.write(json.dumps([self._name, *tried]) + "\n")


def every_step(base: Path, name: str, attempt: Attempt, first: int = 1) -> list[Tried]:
    """Try all steps from the first one on; which step is the last one varies a little from run to run."""
    state = State(name)
    places: SimpleQueue[Path] = SimpleQueue()
    for number in range(AT_ONCE):
        place = base / f"place-{number}"
        place.mkdir()
        places.put(place)

    def try_step(step: int) -> Tried:
        if step in state.known:
            return state.known[step]
        place = places.get()
        try:
            tried = once(place, name, attempt, step)
        finally:
            places.put(place)
        state.add(tried)
        return tried

    results: list[Tried] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for begin in itertools.count(first, 4 * AT_ONCE):
            batch = list(pool.map(try_step, range(begin, begin + 4 * AT_ONCE)))
            results += batch
            if not any(tried.reached for tried in batch):
                return results


def check(name: str, results: list[Tried], what: str) -> None:
    """Say what came of all, and that nothing was wrong; ``what`` are the faults."""
    failed = [tried.error for tried in results if tried.error]
    reached = [tried for tried in results if tried.reached and not tried.error]
    kinds = Counter((tried.phase, tried.outcome) for tried in reached)
    survived = sum(tried.outcome != NOBODY for tried in reached)
    steps = max((tried.step for tried in results if tried.reached), default=0)
    print(f"\n{name}: {steps} steps, {survived} {what} survived, {len(failed)} not; {dict(kinds)}")
    assert not failed, "\n".join(failed)
    assert survived
