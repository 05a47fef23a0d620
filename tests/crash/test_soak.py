"""The kills of test_kills.py at ever new moments: `make soak`, for SOAK_SECONDS (default 600)."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.crash import test_kills
from tests.crash.test_kills import Workflow

KILLS = {
    "worker": test_kills.test_killed_worker,
    "host": test_kills.test_killed_host,
    "leader": test_kills.test_killed_leader,
}


@pytest.mark.soak
@pytest.mark.crash
def test_kills_at_ever_new_moments(tmp_path: Path) -> None:
    end = time.monotonic() + float(os.environ.get("SOAK_SECONDS", "600"))
    rounds = 0
    while rounds == 0 or time.monotonic() < end:
        victim, seed = random.SystemRandom().choice(sorted(KILLS)), random.SystemRandom().randrange(2**32)
        (tmp_path / str(rounds)).mkdir()
        KILLS[victim](Workflow(tmp_path / str(rounds)), seed)
        rounds += 1
    print(f"{rounds} kills survived")
