"""Work that goes on beside the job: items are done by a few threads, in batches, and waited for at the end.

Knows threads and a queue. Must not know what is done with an item. Heavy items are begun at once, several
side by side; light ones wait for company, since threads of many jobs that each do a little only keep the jobs
from running. Where the system has no thread to give, the one who waits does the work.
"""

from __future__ import annotations

import _thread
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_THREADS = 3
_SOME, _BATCH, _COMPANY, _HEAVY = 8, 16, 512, 1 << 20


class WriteBack:
    """A queue and those who empty it."""

    def __init__(self, work: Callable[[list[Any]], dict[Any, BaseException]]) -> None:
        """`work` does a batch and returns what went wrong with which of its items; those are tried again."""
        self._work = work
        self._guard = _thread.allocate_lock()
        self._waiting: deque[tuple[Any, int]] = deque()
        self._running: list[Any] = []
        self._failed: dict[Any, BaseException] = {}
        self._weight = 0

    def add(self, item: Any, weight: int) -> None:
        """Have an item done, sooner or later; `weight` is in bytes."""
        with self._guard:
            self._waiting.append((item, weight))
            self._weight += weight
            if len(self._waiting) < _COMPANY and self._weight < _HEAVY:
                return
        self._start()

    def _start(self) -> None:
        busy = self._enlist()
        if busy is None:
            return
        try:
            _thread.start_new_thread(self._run, (busy,))
        except RuntimeError:
            self._dismiss(busy)  # the one who waits will do the work

    def _enlist(self, *, anyway: bool = False) -> Any:
        """Count one more who works: a lock that is held as long; None if there are enough of them."""
        with self._guard:
            if len(self._running) >= _THREADS and not anyway:
                return None
            busy = _thread.allocate_lock()
            busy.acquire()
            self._running.append(busy)
            return busy

    def _dismiss(self, busy: Any) -> None:
        with self._guard:
            if busy in self._running:
                self._running.remove(busy)
        busy.release()

    def _run(self, busy: Any) -> None:
        try:
            while self._do_a_batch(busy):
                continue
        finally:
            self._dismiss(busy)

    def _do_a_batch(self, busy: Any) -> bool:
        """Do some items; False if there were none, and then the one who asks counts no more as working."""
        with self._guard:
            batch = self._next_batch()
            if not batch:
                self._running.remove(busy)
                return False
        try:
            failed = self._work(batch)
        except BaseException as error:
            # It belongs to the one who waits: raised in a thread it would only be printed.
            failed = dict.fromkeys(batch, error)
        with self._guard:
            self._failed.update(failed)
        return True

    def _next_batch(self) -> list[Any]:
        """Take one's share of light items, or a heavy one."""
        share = min(_BATCH, 1 + len(self._waiting) // len(self._running))
        batch: list[Any] = []
        weight = 0
        while self._waiting and len(batch) < share and weight < _HEAVY:
            item, its_weight = self._waiting.popleft()
            batch.append(item)
            weight += its_weight
        self._weight -= weight
        return batch

    def finish(self) -> None:
        """Help until all is done; raise what went wrong with the first item, which is then tried again.

        Several may ask at once, and none of them is told "done" while another has an item in hand.
        """
        while not self._help():
            continue

    def _help(self) -> bool:
        """Do what waits, and wait for what others do; True if nothing is left then."""
        busy = self._enlist(anyway=True)
        try:
            for _ in range(min(_THREADS - 1, len(self._waiting) // _SOME + self._weight // _HEAVY)):
                self._start()
            while self._do_a_batch(busy):
                continue
        finally:
            self._dismiss(busy)
        self._wait_for_others()
        with self._guard:
            failed, self._failed = self._failed, {}
            self._waiting.extend((item, 0) for item in failed)
            done = not self._waiting and not self._running
        for error in failed.values():
            raise error
        return done

    def _wait_for_others(self) -> None:
        with self._guard:
            others = list(self._running)
        for busy in others:
            with busy:
                pass

    def abandon(self) -> list[Any]:
        """Begin nothing more, wait for what is being done, and return what is left."""
        left = self._take_all()
        self._wait_for_others()
        return left + [item for item in self._take_all() if item not in left]

    def _take_all(self) -> list[Any]:
        with self._guard:
            left = [*(item for item, _ in self._waiting), *self._failed]
            self._waiting.clear()
            self._failed.clear()
            self._weight = 0
            return left
