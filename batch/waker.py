"""Waking whoever waits in an adapter's poll, from any thread.

Knows a pipe. Must not know who waits, nor for what else. The pipe is closed with the last reference and not
before: threads of the leader may wake an adapter that has been shut down.
"""

from __future__ import annotations

import os
import select
import weakref

from toilcache import vfs


class Waker:
    """One end to poll, the other to write to."""

    def __init__(self, poll: select.poll) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        weakref.finalize(self, _close, self._reader, self._writer)
        poll.register(self._reader, select.POLLIN)

    def is_at(self, descriptor: int) -> bool:
        """Tell whether what the poll found is this."""
        return descriptor == self._reader

    def wake(self) -> None:
        """Have the poll return, now or the next time."""
        try:
            vfs.write(self._writer, b"w")
        except BlockingIOError:
            return  # the pipe is full of earlier calls: it wakes anyway

    def hear(self) -> None:
        """Take all calls so far for heard; there has been one at least."""
        os.read(self._reader, 65536)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
