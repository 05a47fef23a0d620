"""Notes of hosts that an earlier leader left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from toilcache.batch import orphans as module
from toilcache.batch.orphans import LOOK_SECONDS, Orphans


class Node:
    """A directory of notes, and who is alive."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.alive: set[str] = set()
        self.now = 1000.0
        self.orphans = Orphans(str(directory), "names", "wf", 2)

    def note(self, name: str, text: str, alive: bool = True) -> None:
        (self.directory / f"{name}.note").write_text(text)
        if alive:
            self.alive.add(name)

    def exists(self, base: str, name: str) -> bool:
        assert base == "names"
        return name in self.alive

    def later(self) -> list[tuple[str, int]]:
        self.now += LOOK_SECONDS
        return sorted(self.orphans.ended())


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    directory = tmp_path / "it's the\n'notes'"
    directory.mkdir()
    node = Node(directory)
    monkeypatch.setattr(module, "process_name_exists", node.exists)
    monkeypatch.setattr(module.time, "monotonic", lambda: node.now)
    return node


def test_no_notes(node: Node) -> None:
    (node.directory / "host-17.log").write_text("abandoned\njob 1\n")
    assert node.orphans.find() == []
    assert node.orphans.ended() == []
    assert node.orphans.limit(None) is None
    assert node.orphans.limit(7.0) == 7.0


def test_what_abandoned_hosts_run_and_when_it_ends(node: Node) -> None:
    node.note("a", "abandoned\njob1 1 77\njob2 17 77\n")
    node.note("b", "abandoned\njob3 2 77\n")
    node.note("dead", "abandoned\njob4 1 77\n", alive=False)
    node.note("idle", "abandoned\n")
    assert sorted(node.orphans.find()) == [("job1", 1), ("job2", 17), ("job3", 2)]
    assert node.orphans.limit(None) == LOOK_SECONDS
    assert node.orphans.limit(0.001) == 0.001
    assert node.later() == []
    node.note("a", "abandoned\njob2 17 77\n")
    assert node.later() == [("job1", 1)]
    assert node.later() == []
    node.alive.discard("b")
    assert node.later() == [("job3", 2)]
    node.note("a", "abandoned\n")
    assert node.later() == [("job2", 17)]
    assert node.orphans.limit(None) is None


def test_a_host_that_ended_and_took_its_note_along(node: Node) -> None:
    node.note("a", "abandoned\njob1 1 77\n")
    node.orphans.find()
    (node.directory / "a.note").unlink()
    assert node.later() == [("job1", 1)]


def test_looking_is_not_done_more_often_than_needed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.note("a", "abandoned\njob1 1 77\n")
    node.orphans.find()
    node.later()
    node.alive.clear()
    node.now += LOOK_SECONDS / 2
    assert node.orphans.ended() == []
    node.now += LOOK_SECONDS / 2
    assert node.orphans.ended() == [("job1", 1)]


def test_a_host_is_given_time_to_notice(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.note("a", "serving\n")
    looks: list[float] = []

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            node.note("a", "abandoned\njob1 1 77\n")

    monkeypatch.setattr(module.time, "sleep", wait)
    assert node.orphans.find() == [("job1", 1)]
    assert len(looks) == 3


def test_a_host_that_never_notices_is_taken_at_its_word_in_the_end(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.note("a", "serving\njob1 1 77\n")

    def wait(seconds: float) -> None:
        node.now += 1

    monkeypatch.setattr(module.time, "sleep", wait)
    assert node.orphans.find() == [("job1", 1)]


def test_the_process_of_an_attempt(node: Node) -> None:
    node.note("a", "abandoned\njob1 1 71\n")
    node.note("b", "abandoned\njob2 3 72\n")
    node.orphans.find()
    assert node.orphans.pid(("job1", 1)) == 71
    assert node.orphans.pid(("job2", 3)) == 72
    assert node.orphans.pid(("job2", 4)) is None
    node.note("a", "abandoned\n")
    node.later()
    assert node.orphans.pid(("job1", 1)) is None


@pytest.mark.parametrize(
    ("environment", "killed"),
    [
        ("wf.1", True),
        ("wf.2", False),  # of this run: its pid was given to another process
        ("other.1", False),
        ("wf.x", False),
        ("wf", False),
        (None, False),
    ],
)
def test_only_a_process_of_an_earlier_run_is_killed(
    node: Node, monkeypatch: pytest.MonkeyPatch, environment: str | None, killed: bool
) -> None:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "end_processes", lambda find, grace: found.extend(find()))
    monkeypatch.setattr(module, "environment_entry", lambda pid, name: environment)
    monkeypatch.setattr(module, "process_start_time", {71: 1234}.get)
    node.note("a", "abandoned\njob1 1 71\njob2 1 72\n")
    node.orphans.find()
    node.orphans.kill(("job1", 1))
    assert found == ([(71, 1234)] if killed else [])
    node.orphans.kill(("job2", 1))  # has ended
    node.orphans.kill(("unknown", 1))
    assert len(found) == killed


def test_a_note_that_cannot_be_read(node: Node) -> None:
    node.note("empty", "")
    node.note("torn", "abandoned\njob1 x")
    (node.directory / "bytes.note").write_bytes(b"\xff\xfe\n")
    node.alive.add("bytes")
    node.note("words", "abandoned\none two three four\n")
    assert node.orphans.find() == []
