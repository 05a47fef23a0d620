"""What became of a workflow: told by its job store, and never guessed from one that cannot be seen."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toilcache.config import Config
from toilcache.job_store import liveness
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.job_store.liveness import closing, judge, note_of

HOUR, DAY = 3600.0, 86400.0


class Store:
    """A job store with a run of a leader, on an awkward path."""

    def __init__(self, base: Path) -> None:
        self.path = base / "a 'b\n" / "-store"
        self.path.parent.mkdir()
        self.store = FileJobStore(str(self.path))
        self.run = self.store.reserve()
        self.store.initialize(Config())
        self.store.beat(self.run)
        self.note = list(note_of(self.store.locator))

    def judged(self, used: float = 0.0) -> tuple[bool, str, int | None]:
        """The verdict where the workflow was last used so many seconds ago."""
        verdict = judge(self.note, time.time() - used)
        return verdict.over, verdict.why, verdict.run

    def silent_for(self, seconds: float) -> None:
        then = time.time() - seconds
        for name in os.listdir(self.path / "leader"):
            os.utime(self.path / "leader" / name, (then, then))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_workflow_whose_leader_lives_is_alive(store: Store) -> None:
    over, why, run = store.judged(used=100 * DAY)
    assert (over, run) == (False, 1)
    assert why.startswith("its leader has been silent for ")
    assert why.endswith(" only")


@pytest.mark.parametrize(
    ("silent", "used", "over", "words"),
    [
        (3 * HOUR, 4 * DAY, False, "silent for 3h only"),
        (4 * DAY, 4 * DAY, True, "silent for 4d"),
        (2 * DAY, 4 * DAY, False, "silent for 2d only"),
        (4 * DAY, HOUR, False, "silent for 1h only"),  # its workers went on without it
    ],
)
def test_silence_alone_takes_days(silent: float, used: float, over: bool, words: str, store: Store) -> None:
    store.silent_for(silent)
    assert store.judged(used) == (over, f"its leader has been {words}", 1)


def test_one_that_has_ended_is_over_until_it_is_restarted(store: Store) -> None:
    store.store.mark_ended(1)
    assert store.judged() == (True, "it has ended", 1)
    assert store.store.claim_run() == 2
    assert store.judged()[::2] == (False, 2)


@pytest.mark.parametrize("clean", [True, False])
def test_one_whose_run_is_closed_is_over(clean: bool, store: Store) -> None:
    store.store.close_run(1, clean=clean)
    assert store.judged() == (True, "it has ended", 1)


def removed(path: Path) -> None:
    shutil.rmtree(path)


def removed_with_what_is_above(path: Path) -> None:
    shutil.rmtree(path.parent)


def destroyed(path: Path) -> None:
    FileJobStore(str(path)).destroy()


def replaced_by_a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


def replaced_by_a_directory(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def half_destroyed(path: Path) -> None:
    shutil.rmtree(path / "leader")


WAYS = [
    removed,
    removed_with_what_is_above,
    destroyed,
    replaced_by_a_file,
    replaced_by_a_directory,
    half_destroyed,
]


@pytest.mark.parametrize("go", WAYS)
def test_one_whose_store_is_gone_is_over(go: Callable[[Path], None], store: Store) -> None:
    go(store.path)
    assert store.judged() == (True, "its job store is gone", None)


def test_a_store_that_is_not_mounted_is_not_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    removed(store.path)
    monkeypatch.setattr(liveness, "file_system_type", lambda path: "another")
    over, why, _ = store.judged()
    assert (over, why) == (False, f"its job store {str(store.path)!r} is not mounted here")
    assert store.judged(used=4 * DAY)[:2] == (True, "nobody has used it for 4d")


@pytest.mark.parametrize("number", [13, 5, 116], ids=["EACCES", "EIO", "ESTALE"])
def test_a_store_that_cannot_be_read_is_not_gone(
    number: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstat = os.lstat

    def refuse(path: Any, **more: Any) -> os.stat_result:
        if os.fspath(path) == str(store.path):
            raise OSError(number, os.strerror(number))
        return lstat(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", refuse)
        assert store.judged() == (False, f"its job store cannot be read: {os.strerror(number)}", None)


@pytest.mark.parametrize(
    "note", [[], ["x"], ["s3://bucket/store", "ext4"], ["file:/a", "b", "c"], ["file://h/a", "x"]]
)
def test_without_a_note_age_alone_tells(note: list[str]) -> None:
    fresh = judge(note, time.time() - HOUR)
    assert (fresh.over, fresh.why) == (False, "used 1h ago, by what workflow is not known")
    old = judge(note, time.time() - 4 * DAY)
    assert (old.over, old.why) == (True, "nobody has used it for 4d")


def test_nothing_is_unpickled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    assert not store.judged()[0]
    store.store.mark_ended(1)
    assert store.judged()[0]


# Whether workers may begin


def test_workers_begin_until_their_run_is_closed(store: Store) -> None:
    locator = store.store.locator
    assert closing(locator, 1) == ""
    store.store.close_run(1, clean=False)
    assert closing(locator, 1) == "keep"
    store.store.close_run(1, clean=True)
    assert closing(locator, 1) == "clean"


def test_workers_of_an_earlier_run_do_not_begin(store: Store) -> None:
    store.store.claim_run()
    assert closing(store.store.locator, 1) == "clean"
    assert closing(store.store.locator, 2) == ""


def test_workers_of_a_store_that_is_gone_do_not_begin(store: Store) -> None:
    removed(store.path)
    assert closing(store.store.locator, 1) == "gone"
