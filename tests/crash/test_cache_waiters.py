"""Others wait for a download while its process is killed at each step that it makes from then on.

The waiters stand in the kernel before the downloader goes on. They must have the file, whoever fetches it in
the end, and nothing may be wrong. How long they waited after the death is printed; what is asserted is that
they were woken by it: a wait that only an interval ended would be as long as `downloads.STALL_SECS`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_cache_waiting import fetched, fetches, reader, until, waits_for_lock
from tests.fakes import faults
from tests.fakes.cache_nodes import BIG, Child, Node, node_in
from toilcache.cache import downloads

pytestmark = pytest.mark.crash

WAITERS = 2
STRIDE = 7
MOST_STEPS = 200


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path / "node", disk=2 * BIG) as made:
        yield made


def downloader(node: Node, file_id: str, plan: faults.Plan, step: int) -> Child:
    """A process that stops when it fetches, and is killed at a step from there on."""

    def work(child: Child) -> None:
        fetch = fetches(node)

        def stops(*arguments: str) -> None:
            child.reach("fetching")
            plan.step = len(plan.steps()) + step
            fetch(*arguments)

        node.store.read_file = stops  # type: ignore[method-assign]
        with faults.injected(plan), node.job() as fs:
            assert Path(fs.readGlobalFile(file_id)).read_bytes() == b"x" * BIG

    return Child(work)


def waited_after(node: Node, plan: faults.Plan, step: int) -> float:
    """Let a downloader die with others waiting; return for how many seconds they were held up by that."""
    file_id = node.uploaded(b"x" * BIG)
    (node.where / "fetched").unlink(missing_ok=True)
    victim = downloader(node, file_id, plan, step)
    assert victim.hear() == "fetching"
    waiters = [Child(reader(node, file_id)) for _ in range(WAITERS)]
    until(lambda: all(waits_for_lock(child.pid) for child in waiters))
    victim.go_on()
    assert victim.end() == (-9 if plan.killed else 0)
    died = time.monotonic()
    assert [child.end() for child in waiters] == [0] * WAITERS
    waited = time.monotonic() - died
    assert fetched(node) in (1, 2)
    assert node.findings() == []
    assert node.states() == {"cached": len(node.payloads())}
    node.close()
    return waited


def kill_with_waiters(node: Node, then: str, stride: int) -> None:
    waits: list[float] = []
    for step in itertools.count(1, stride):
        plan = faults.Plan(node.where / f"trace-{step}", 0, then)
        waits.append(waited_after(node, plan, step))
        if not plan.killed:
            break
        assert step < MOST_STEPS
    kills, longest = len(waits) - 1, max(waits)
    print(f"{then}: killed at {kills} steps with {WAITERS} waiting each, {longest:.3f} s at most")
    assert kills > 0
    assert longest < downloads.STALL_SECS


@pytest.mark.parametrize("then", [faults.KILL_BEFORE, faults.KILL_AFTER])
def test_waiters_of_a_downloader_killed_at_some_steps(node: Node, then: str) -> None:
    kill_with_waiters(node, then, STRIDE)


@pytest.mark.soak
@pytest.mark.parametrize("then", [faults.KILL_BEFORE, faults.KILL_AFTER])
def test_waiters_of_a_downloader_killed_at_each_step(node: Node, then: str) -> None:
    kill_with_waiters(node, then, 1)
