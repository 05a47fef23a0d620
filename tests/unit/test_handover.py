"""The launcher's tokens and the worker's look at them, in one process."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toilcache.errors import CoordinationDirError
from toilcache.node import handover
from toilcache.node.handover import Handover, take


class Stage:
    """Places as a launcher has them, below a directory too deep for the address of a socket."""

    def __init__(self, base: Path) -> None:
        base = base / ("long " * 40) / "a\nb"
        self.coordination, self.store, self.script = (
            base / name for name in ("coordination", "store", "script")
        )
        for place in (self.coordination, self.store, self.script):
            place.mkdir(parents=True)
        self.handover = Handover(str(self.coordination), [("job store", str(self.store))], [str(self.script)])
        self.given: list[bool] = []

    def take(self, content: Any = None) -> tuple[int, Any, str]:
        """What who connects gets."""
        reader, writer = os.pipe()
        thread = threading.Thread(target=lambda: self.given.append(self.handover.give(writer, content)))
        thread.start()
        try:
            return take(self.handover.directory)
        finally:
            thread.join()
            os.close(reader)
            os.close(writer)

    def fault(self) -> str:
        descriptor, _, fault = self.take()
        os.close(descriptor)
        return fault


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.handover.close()
    left = [path for path in made.coordination.parent.rglob("*") if not path.is_dir()]
    assert left == []


def test_the_descriptor_and_the_message_arrive(stage: Stage) -> None:
    descriptor, content, fault = stage.take({"HOME": "/h"})
    try:
        assert (content, fault, stage.given) == ({"HOME": "/h"}, "", [True])
        assert not os.get_inheritable(descriptor)
        assert stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def test_another_directory_at_the_same_path_is_named(stage: Stage) -> None:
    aside = stage.store.rename(stage.store.with_name("aside"))
    stage.store.mkdir()
    fault = stage.fault()
    aside.rename(stage.store.with_name("gone"))
    stage.store.rmdir()
    stage.store.with_name("gone").rename(stage.store)
    assert "cannot use the job store" in fault
    assert "bind the directory at the same path, writable" in fault


def test_a_copy_is_not_the_place_itself(stage: Stage) -> None:
    aside = stage.store.rename(stage.store.with_name("aside"))
    shutil.copytree(aside, stage.store)
    fault = stage.fault()
    shutil.rmtree(stage.store)
    aside.rename(stage.store)
    assert "what is there is a copy" in fault


def test_a_script_that_is_not_seen_is_named(stage: Stage) -> None:
    aside = stage.script.rename(stage.script.with_name("aside"))
    assert "cannot see" in stage.fault()
    stage.script.mkdir()
    assert "as it is outside" in stage.fault()
    stage.script.rmdir()
    aside.rename(stage.script)
    assert stage.fault() == ""


def test_another_boot_is_another_node(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    boots = iter(["a", "b"])
    monkeypatch.setattr(handover, "boot_id", lambda: next(boots))
    assert "another node" in stage.fault()


def test_who_does_not_know_the_token_gets_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_own_token", lambda directory: b"guess")
    with pytest.raises(CoordinationDirError, match="stranger"):
        stage.take()
    assert stage.given == [False]


def test_another_user_gets_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_peer", lambda connection: 12345)
    with pytest.raises(CoordinationDirError, match="stranger"):
        stage.take()
    assert stage.given == [False]


def test_without_the_coordination_directory_that_is_said(stage: Stage) -> None:
    with pytest.raises(CoordinationDirError, match="bind the coordination directory"):
        take(f"{stage.coordination}/launch-none")


def test_nobody_else_may_pass(stage: Stage) -> None:
    assert os.stat(stage.handover.directory).st_mode & 0o777 == 0o700
    (proof,) = stage.store.iterdir()
    assert proof.stat().st_mode & 0o777 == 0o600
