"""Children of a host that do for it what may crash, hang, or need much memory.

Knows deferred calls whose process is gone, and the sweeping of the node. Must not know jobs that run, nor who
gives them to the host. What a helper imports stays out of the host, which is to be small.
"""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import suppress

from toilcache.late import late
from toilcache.worker import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from toilcache.node.coordination import NodeDirs
    from toilcache.worker.caller import Caller
    from toilcache.worker.context import WorkerContext

MOST_CALLERS = 10
"""So many children are forked for the same calls, when what they call kills them."""

FIRST_SECONDS = 5.0
"""So long does a host that begins wait for calls of the dead: what they clean up may be in its jobs' way."""


class Helpers:
    """The helpers of one host.

    :param leave: makes a forked child a process of its own, with its output in the file of this descriptor.
    """

    def __init__(
        self, kernel: posix.Kernel, context: WorkerContext, dirs: NodeDirs, leave: Callable[[int], None]
    ) -> None:
        self._kernel = kernel
        self._context = context
        self._dirs = dirs
        self._leave = leave
        self._callers: dict[int, int] = {}
        self._sweeper = 0

    @property
    def pids(self) -> set[int]:
        """The processes that are no part of any attempt."""
        return {*self._callers, self._sweeper}

    @property
    def are_calling(self) -> bool:
        """True while calls are being made that are no longer part of an attempt."""
        return bool(self._callers)

    def sweep(self) -> None:
        """Have what dead workflows have left on this node removed, if others have left anything."""
        from toilcache.node.remains import others_are_here

        if others_are_here(self._dirs):
            with suppress(OSError):
                self._sweeper = self._fork(
                    1, lambda: late("toilcache.worker.sweep:sweep_besides")(self._dirs)
                )

    def call_left_by(self, attempt: tuple[str, int], log: int) -> int | None:
        """Have called what this attempt has deferred and not called itself; returns the pid of who does.

        None if there is nothing; also without a process to spare: the next host finds it, or the clean-up.
        """
        path = self._dirs.call_file(attempt)
        if os.path.lexists(path):
            with suppress(OSError):
                return self._fork(log, lambda: self._caller().call_all_of(path))
        return None

    def call_for_the_dead(self, tries: int = MOST_CALLERS) -> None:
        """Have called what any process of this workflow has deferred that is gone, as part of no attempt."""
        if os.path.lexists(self._dirs.deferred):
            with suppress(OSError):
                pid = self._fork(1, lambda: self._caller().call_all_in(self._dirs.deferred))
                self._callers[pid] = tries - 1

    def set_aside(self, pid: int) -> None:
        """Take note that a caller is no longer part of an attempt."""
        self._callers[pid] = 0

    def ended(self, pid: int, status: int) -> None:
        """Take note of the end of a child; one that was killed by what it called is followed by another."""
        if pid == self._sweeper:
            self._sweeper = 0
        tries = self._callers.pop(pid, 0)
        if status != 0 and tries > 0:
            self.call_for_the_dead(tries)

    def wait(self, wake: socket.socket, reap: Callable[[], None]) -> None:
        """Wait for all callers, but not for long."""
        deadline = time.monotonic() + FIRST_SECONDS
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        while self._callers and (left := deadline - time.monotonic()) > 0:
            poll.poll(1000 * left)
            with suppress(BlockingIOError):
                wake.recv(4096)
            reap()

    def _caller(self) -> Caller:
        here = self._context.surroundings()
        caller: Caller = late("toilcache.worker.caller:Caller")(
            self._kernel, lambda _: self._context.load_main(), here.are_like
        )
        return caller

    def _fork(self, log: int, help_out: Callable[[], object]) -> int:
        pid = os.fork()
        if pid != 0:
            return pid
        status = 1
        try:
            self._leave(log)
            help_out()
            status = 0
        except BaseException:
            sys.__excepthook__(*sys.exc_info())
        finally:
            posix.flush(sys.stdout, sys.stderr)
            os._exit(status)
