"""The disk is full or broken at step n of everything that a worker does with the cache.

The error comes once; what the job gets is either what it asked for or that very error, and nothing is wrong
afterwards: with a worker that lives on, and once it is gone.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.test_cache_kills import LIMIT, MOST_STEPS, OPERATIONS, Operation, look_after, sample
from tests.fakes import faults
from tests.fakes.cache_nodes import BIG, Child, Node, node_in
from toilcache.cache.check import check
from toilcache.errors import JobStoreUnavailableError

pytestmark = pytest.mark.crash

FULL = (errno.ENOSPC, errno.EIO)
AS_EXPECTED, TOLD, WRONG = 0, 3, 4


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path / "node", disk=2 * BIG) as made:
        made.cache.set_limit(LIMIT)
        yield made


def with_fault(node: Node, operation: Operation, plan: faults.Plan) -> int:
    """Do an operation in a child under a plan; it looks at the cache before it ends."""

    def work(child: Child) -> None:
        status = AS_EXPECTED
        try:
            with faults.injected(plan):
                operation()
        except (OSError, JobStoreUnavailableError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            assert isinstance(cause, OSError)
            assert cause.errno in FULL, cause
            status = TOLD
        node.close()  # with connections whose statements are counted
        found = check(node.cache)
        print(*found)
        os._exit(WRONG if found else status)

    return Child(work).end()


def errors_at(node: Node, kind: type[Operation], then: str, steps: Iterator[int]) -> None:
    """Let one step after the other fail until there are no more."""
    tried = told = 0
    for step in steps:
        operation = kind(node)
        plan = faults.Plan(node.where / f"trace-{step}", step, then)
        status = with_fault(node, operation, plan)
        where = plan.steps()[step - 1 : step]
        assert status in (AS_EXPECTED, TOLD), (step, status, where)
        told += status == TOLD
        look_after(node, operation)
        if not plan.happened:
            break
        tried += 1
        assert step < MOST_STEPS
    print(f"{kind.__name__}, {then}: {tried} steps, {told} told to the job")
    assert tried >= 1


@pytest.mark.parametrize("then", [faults.ENOSPC, faults.EIO])
@pytest.mark.parametrize("kind", OPERATIONS, ids=lambda kind: kind.__name__)
def test_an_error_at_some_steps(node: Node, kind: type[Operation], then: str) -> None:
    errors_at(node, kind, then, sample(kind))


@pytest.mark.soak
@pytest.mark.parametrize("then", [faults.ENOSPC, faults.EIO])
@pytest.mark.parametrize("kind", OPERATIONS, ids=lambda kind: kind.__name__)
def test_an_error_at_each_step(node: Node, kind: type[Operation], then: str) -> None:
    errors_at(node, kind, then, itertools.count(1))
