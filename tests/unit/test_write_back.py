"""Work beside the job: who waits for it is told "done" when it is done, and not before."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest

from tests.runs import DEADLINE
from toilcache.file_store.write_back import WriteBack


@pytest.mark.parametrize("failures", [0, 1])
def test_nobody_is_told_done_while_another_has_an_item_in_hand(failures: int) -> None:
    begun, go_on = threading.Event(), threading.Event()
    tries: list[str] = []
    done: list[str] = []
    told: list[list[str]] = []

    def work(batch: list[Any]) -> dict[Any, BaseException]:
        tries.extend(batch)
        begun.set()
        assert go_on.wait(DEADLINE)
        if len(tries) <= failures:
            return {item: OSError("no room") for item in batch}
        done.extend(batch)
        return {}

    def ask() -> None:
        with suppress(OSError):
            queue.finish()
            told.append(list(done))

    queue = WriteBack(work)
    queue.add("a file", 1)
    first, second = (threading.Thread(target=ask) for _ in range(2))
    first.start()
    assert begun.wait(DEADLINE)
    second.start()
    second.join(0.2)  # one that does not wait has returned by then
    go_on.set()
    for thread in (first, second):
        thread.join()
    assert told
    assert all(what == ["a file"] for what in told)


def test_what_is_given_up_comes_back_to_who_gives_it_up() -> None:
    """Also an item that failed while it was waited for, and was to be tried again."""

    def work(batch: list[Any]) -> dict[Any, BaseException]:
        return {item: OSError("no room") for item in batch}

    queue = WriteBack(work)
    for name in "abc":
        queue.add(name, 1)
    with pytest.raises(OSError, match="no room"):
        queue.finish()
    assert sorted(queue.abandon()) == ["a", "b", "c"]
    queue.finish()
