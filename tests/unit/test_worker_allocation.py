"""A host in an allocation: how it cleans its node, and what it does with signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toilcache.config import Config
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.node import remains
from toilcache.node.coordination import NodeDirs, node_dirs
from toilcache.worker import allocation


@pytest.fixture
def store(tmp_path: Path) -> FileJobStore:
    store = FileJobStore(str(tmp_path / "store"))
    store.initialize(Config())
    return store


@pytest.fixture
def dirs(tmp_path: Path) -> NodeDirs:
    places = [tmp_path / "work", tmp_path / "coordination"]
    for place in places:
        place.mkdir()
    return node_dirs("f" * 32, *map(str, places))


@pytest.mark.parametrize(
    ("outcomes", "word"),
    [
        ([True], "clean"),
        ([False, True], "clean"),
        ([FileNotFoundError(2, "gone meanwhile"), False, True], "clean"),
        ([False, False, False], "busy"),
        ([PermissionError(1, "of another user")], "left"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_who_leaves_says_what_came_of_cleaning(
    store: FileJobStore, dirs: NodeDirs, monkeypatch: pytest.MonkeyPatch, outcomes: list[Any], word: str
) -> None:
    """Others who leave at the same moment are in each other's way, but not for long."""
    left = list(outcomes)

    def cleanup(*places: str, run: int) -> bool:
        outcome = left.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return bool(outcome)

    monkeypatch.setattr(remains, "cleanup", cleanup)
    assert allocation._clean_up(store, store.claim_run(), dirs) == word
    assert left == []


def test_a_node_that_somebody_uses_is_left_alone_until_he_goes(store: FileJobStore, dirs: NodeDirs) -> None:
    run = store.claim_run()
    hold = dirs.hold(run)
    assert allocation._clean_up(store, run, dirs) == "busy"
    hold.close()
    assert allocation._clean_up(store, run, dirs) == "clean"
    assert not Path(dirs.work).exists()


def test_the_node_of_a_newer_leader_is_left_alone(store: FileJobStore, dirs: NodeDirs) -> None:
    run = store.claim_run()
    dirs.hold(run).close()
    store.claim_run()
    assert allocation._clean_up(store, run, dirs) == "busy"
    assert Path(dirs.work).exists()


def test_jobs_take_warnings_as_any_program_and_keep_their_own_handlers() -> None:
    program = """
import os, signal
from toilcache.worker.allocation import _heed_warnings

_heed_warnings(print, {"end_variable": "NO_SUCH_VARIABLE", "warning": 60})
if os.fork() == 0:
    print(*[signal.getsignal(number).name for number in (signal.SIGTERM, signal.SIGUSR1)], flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        print(signal.getsignal(signal.SIGTERM).name, flush=True)
        os._exit(0)
    os.wait()
    os._exit(0)
os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["SIG_DFL", "SIG_DFL", "SIG_IGN"]
