"""The job store takes no writes for longer than a leader may be silent, and all that live wait it out.

A minute is the limit after which another machine may take a leader for dead, and half a minute the longest
pause between two tries; so a store that fails for 70 s has every process beyond both.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.crash import full_store_workflow
from tests.crash.store_tree import tree
from tests.crash.suspended import LED, end_what_is_left, family
from tests.crash.test_full_store import FullStore, Refusing
from tests.fakes.faults import EIO, ENOSPC
from toilcache.job_store.leader_state import SILENT_SECONDS

pytestmark = [pytest.mark.crash, pytest.mark.soak]

LONG_SECONDS = SILENT_SECONDS + 10
UNUSABLE = "cannot use job store"
ELSEWHERE = """
import os, runpy, sys
from toilcache.node import machine
machine.node_id = lambda: "elsewhere-1"
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("then", [ENOSPC, EIO])
def test_a_store_that_takes_no_writes_for_more_than_a_minute(tmp_path: Path, then: str) -> None:
    place = Refusing(tmp_path, then)
    try:
        leader = place.begin_all()
        place.fill()
        place.end_all()
        end = time.monotonic() + LONG_SECONDS
        place.wait_for(place.all_wait, leader)
        alive = family(leader)
        check_second_leaders(place, "early", LED)
        place.wait_for(lambda: time.monotonic() > end, leader)
        # A disk that fails does not take a sign of life either; whoever comes then cannot claim it.
        check_second_leaders(place, "late", LED if then == ENOSPC else UNUSABLE)
        assert family(leader) == alive
        place.free()
        place.finish(leader).check_result(full_store_workflow.EXPECTED)
        place.check_waited()
        print(place.log.splitlines()[-1])
    finally:
        end_what_is_left(place)


def check_second_leaders(place: FullStore, name: str, told_elsewhere: str) -> None:
    """Whoever would lead as well is told so in one line and changes nothing, here and on another machine."""
    here, there = place.argv("--restart"), other_directories(place, name)
    elsewhere = [sys.executable, "-c", ELSEWHERE, *place.argv("--restart", *there)[1:]]
    for argv, word in ((here, LED), (place.argv(), "--restart"), (elsewhere, told_elsewhere)):
        before = tree(place.store), os.listdir(place.work)
        second = place.finish(place.spawn(argv))
        second.check_refused(word)
        assert len(second.err.splitlines()) == 1, second.err
        assert (tree(place.store), os.listdir(place.work)) == before


def other_directories(place: FullStore, name: str) -> list[str]:
    """Options of a node of its own, so that no lock of this one is in the way."""
    directories = {kind: place.base / f"{name} {kind}" for kind in ("work", "coordination")}
    for directory in directories.values():
        directory.mkdir()
    return [word for kind, path in directories.items() for word in (f"--{kind}Dir", str(path))]
