"""What waits for a sync: order, groups, failures. The sync is a fake that the test lets go step by step."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from toilcache.leader import durability
from toilcache.leader.durability import SyncGate


class Disk:
    """A sync that begins and ends when the test says so."""

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.may_end: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.woken: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.renewed: list[tuple[str, int]] = []
        self.gate = SyncGate(
            self.sync,
            lambda: self.woken.put(None),
            lambda job_id, version: self.renewed.append((job_id, version)),
        )

    def sync(self) -> None:
        self.begun.put(None)
        error = self.may_end.get(timeout=60)
        if error is not None:
            raise error

    def finish(self, error: BaseException | None = None) -> None:
        """Let the sync that is under way end, and wait until the gate says so."""
        self.begun.get(timeout=60)
        self.may_end.put(error)
        self.woken.get(timeout=60)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    for _ in range(3):
        disk.may_end.put(None)
    disk.gate.close()


def test_nothing_to_sync_starts_no_sync(disk: Disk) -> None:
    assert disk.gate.due_in() is None
    assert disk.gate.poll(now=True) == []
    assert disk.gate.empty
    assert disk.begun.empty()


def test_a_consequence_is_let_go_by_a_sync_that_began_after_it(disk: Disk) -> None:
    disk.gate.add("a")
    assert disk.gate.poll(now=True) == []
    disk.gate.add("b")  # the sync under way may have passed b's record by
    assert disk.gate.due_in() is None
    assert disk.gate.poll(now=True) == []
    disk.finish()
    assert disk.gate.poll(now=True) == ["a"]
    assert not disk.gate.empty
    disk.finish()
    assert disk.gate.poll() == ["b"]
    assert disk.gate.empty


def test_a_group_waits_for_its_time(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(durability.time, "monotonic", lambda: clock[0])
    disk.gate.add("a")
    clock[0] += durability.GROUP_SECONDS / 2
    disk.gate.add("b")
    assert disk.gate.poll() == []
    assert disk.gate.due_in() == pytest.approx(durability.GROUP_SECONDS / 2)
    assert disk.begun.empty()
    clock[0] += durability.GROUP_SECONDS
    assert disk.gate.due_in() == 0
    assert disk.gate.poll() == []
    disk.finish()
    assert disk.gate.poll() == ["a", "b"]


def test_a_full_group_waits_for_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durability.time, "monotonic", lambda: 100.0)
    for number in range(durability.GROUP_SIZE):
        assert disk.gate.due_in() != 0
        disk.gate.add(number)
    assert disk.gate.due_in() == 0
    disk.gate.poll()
    disk.finish()
    assert disk.gate.poll() == list(range(durability.GROUP_SIZE))


def test_an_error_of_ours_lets_nothing_go(disk: Disk) -> None:
    disk.gate.add("a")
    disk.gate.poll(now=True)
    disk.finish(RuntimeError("a fault of ours"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a fault of ours"):
            disk.gate.poll()
    assert not disk.gate.empty


def test_a_failed_sync_is_tried_again_over_records_written_again(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "FIRST_PAUSE", 0.0001)
    disk.gate.rests_on("of a", 2)
    disk.gate.add("a")
    disk.gate.poll(now=True)
    disk.gate.rests_on("of b", 1)
    disk.gate.add("b")
    error = OSError(5, "broken disk")
    disk.finish(error)
    assert disk.gate.trouble is error
    assert disk.gate.poll(now=True) == []
    disk.finish()
    assert disk.gate.poll(now=True) == ["a"]
    assert disk.gate.trouble is None
    assert disk.renewed == [("of a", 2)]
    disk.finish()
    assert disk.gate.poll() == ["b"]
    assert disk.renewed == [("of a", 2), ("of b", 1)], "what was written before the failure is in doubt"


def test_without_a_failure_nothing_is_written_again(disk: Disk) -> None:
    disk.gate.rests_on("of a", 2)
    disk.gate.add("a")
    disk.gate.poll(now=True)
    disk.finish()
    assert disk.gate.poll() == ["a"]
    assert disk.renewed == []


def test_a_gate_in_trouble_can_be_closed(disk: Disk) -> None:
    disk.gate.add("a")
    disk.gate.poll(now=True)
    disk.finish(OSError(28, "No space left on device"))
    disk.gate.close()
    assert not disk.gate.empty


def test_closing_an_unused_gate_starts_no_thread() -> None:
    def never() -> None:
        raise AssertionError("nothing was queued")

    SyncGate(never, never, lambda job_id, version: never()).close()
