"""Processes that a host has forked ahead, each to run one chain of jobs.

What parent and child share after a fork is copied page by page when either of them writes to it. A host that
forks between any two jobs copies the same pages again and again; one that forks several children at once
copies them once, and then has children ready when it needs them. Each waits at a pipe for its attempt; where
a person wants it so, it takes another after that. Knows processes and pipes; must not know what a job is, nor
whose turn it is.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from select import PIPE_BUF

from toilcache.file_store.scratch import Spare, fresh_scratch, is_alone
from toilcache.worker import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOST_AHEAD = 8
"""So many are forked at once in a host that has been busy; first it is one, then twice as many each time."""


ORDER_BYTES = PIPE_BUF - 64
"""So much can be given besides an attempt, or be handed over: nobody waits for who reads, however few pages
the kernel grants to the pipes of a person who has many (pipe(7)).
"""


class Runner:
    """A forked process and the file that takes its output. It ends with its pipe or with its work.

    One that does several pieces of work has a spare directory for them.
    """

    __slots__ = ("_handed_over", "_pipe", "log", "pid", "spare")

    def __init__(
        self, pid: int, log: int, pipe: int, handed_over: int = -1, spare: Spare | None = None
    ) -> None:
        self.pid = pid
        self.log = log
        self._pipe = pipe
        self._handed_over = handed_over
        self.spare = spare

    def give(self, job_id: str, version: int, order: bytes = b"") -> bool:
        """Let it begin an attempt; False if it is dead."""
        try:
            os.write(self._pipe, b"%s %d %s" % (job_id.encode("ascii"), version, order))
        except BrokenPipeError:
            return False
        return True

    def handed_over(self) -> bytes:
        """What it has handed over before it ended."""
        try:
            return os.read(self._handed_over, PIPE_BUF)
        except BlockingIOError:  # nothing, and something that it has started still could
            return b""

    def expect_nothing(self) -> None:
        """It will hand nothing over: of descriptors there are not so many."""
        if self._handed_over >= 0:
            os.close(self._handed_over)
            self._handed_over = -1

    def give_nothing_more(self) -> None:
        """Let it end when it has done its work."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def close(self) -> None:
        """Have nothing more to do with it."""
        self.give_nothing_more()
        self.expect_nothing()

    def drop_spare(self) -> None:
        """Remove its spare directory, if it has one that is empty."""
        if self.spare is not None:
            self.spare.remove()


class Runners:
    """The runners of one host that have no work.

    :param jobs_dir: where directories for jobs are made, and files for their output, which have no names.
    :param become: called in a new process with its output file, to make it a process of its own.
    :param run: called there with job id, version, what was given besides, and the spare directory, if the
        process takes more than one attempt; returns the exit status.
    :param wake: where a runner writes a byte when it has done its work and takes more; -1: each takes one.
    """

    def __init__(
        self,
        jobs_dir: str,
        become: Callable[[int], None],
        run: Callable[[str, int, bytes, Spare | None], int],
        wake: int = -1,
    ) -> None:
        self._jobs_dir = jobs_dir
        self._become = become
        self._run = run
        self._wake = wake
        self._done = _nonblocking_pipe() if wake >= 0 else (-1, -1)
        self._to_host = -1
        self._inode: tuple[int, ...] = ()
        self._logs: list[int] = []
        self._waiting: dict[int, Runner] = {}
        self._ahead = 1

    @property
    def are_shared(self) -> bool:
        """Whether each takes more than one attempt."""
        return self._wake >= 0

    @property
    def pids(self) -> Iterable[int]:
        """The processes that wait."""
        return self._waiting.keys()

    def start(self, job_id: str, version: int, order: bytes = b"") -> Runner:
        """Have an attempt run by a process that has nothing else to do, and that may get an order besides.

        :raises OSError: there is no process to be had, or no room for its output.
        """
        while True:
            if not self._waiting:
                self._fork_several()
            _, runner = self._waiting.popitem()
            if runner.give(job_id, version, order):
                if not order:
                    runner.expect_nothing()
                if self._wake < 0:
                    runner.give_nothing_more()
                return runner
            self.bury(runner)

    def rehearse(self, job_id: str, version: int, order: bytes = b"") -> bytes:
        """Do a piece of work in the host itself as a runner does it, but for what makes that a process of its
        own; returns what it hands over.
        """
        reading, writing = os.pipe()
        results, self._to_host = _nonblocking_pipe()
        self._inode = os.fstat(results)[1:3]
        runner = Runner(0, -1, writing, results)
        try:
            runner.give(job_id, version, order)
            self._take(reading, None)
            return runner.handed_over()
        finally:
            runner.close()
            os.close(reading)
            os.close(self._to_host)
            self._to_host = -1

    def hand_over(self, data: bytes) -> bool:
        """In a runner: give something, `ORDER_BYTES` at most, to the host; False if that cannot be.

        Who closes descriptors that are not his may have a file of his own in the place of this one.
        """
        try:
            if os.fstat(self._to_host)[1:3] != self._inode:
                return False
            os.write(self._to_host, data)
        except OSError:
            return False
        return True

    def finished(self) -> list[int]:
        """The processes that have done their work since this was asked last, and can do more."""
        if self._wake < 0:
            return []
        try:
            return [int(pid) for pid in os.read(self._done[0], 1 << 16).split()]
        except BlockingIOError:
            return []

    def wait_again(self, runner: Runner) -> None:
        """Give a runner that has finished to the next who needs one."""
        self._waiting[runner.pid] = runner

    def bury(self, runner: Runner) -> None:
        """Take note that its process has ended and its output was read; another one gets its file, if a disk
        that fails lets us empty it.
        """
        runner.close()
        runner.drop_spare()
        if posix.empty(runner.log):
            self._logs.append(runner.log)
        else:
            os.close(runner.log)

    def ended(self, pid: int) -> bool:
        """Take note of the end of a process; False if it was none of those that wait."""
        runner = self._waiting.pop(pid, None)
        if runner is not None:
            self.bury(runner)
        return runner is not None

    def dismiss(self) -> None:
        """End all that wait."""
        for pid, runner in self._waiting.items():
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            self.bury(runner)
        self._waiting.clear()

    def _fork_several(self) -> None:
        """Fork as many as the host may soon need, one at least."""
        for _ in range(self._ahead):
            try:
                self._fork()
            except OSError:
                if not self._waiting:
                    raise
                break
        if self._wake < 0:
            self._ahead = min(2 * self._ahead, MOST_AHEAD)

    def _fork(self) -> None:
        log = self._logs.pop() if self._logs else posix.unlinked_file(self._jobs_dir)
        spare = Spare(fresh_scratch(self._jobs_dir)) if self._wake >= 0 else None
        pipes: list[int] = []
        try:
            pipes += os.pipe()
            pipes += _nonblocking_pipe()
            pid = os.fork()
        except OSError:
            for descriptor in pipes:
                os.close(descriptor)
            self._logs.append(log)
            raise
        reading, writing, results, self._to_host = pipes
        runner = Runner(pid, log, writing, results, spare)
        if pid == 0:
            self._live(runner, reading)
        os.close(reading)
        os.close(self._to_host)
        self._waiting[pid] = runner

    def _live(self, me: Runner, reading: int) -> None:
        """In the child: take a life of its own, do what it is given, end without unwinding the host."""
        status = 1
        try:
            try:
                self._become(me.log)
                for runner in (me, *self._waiting.values()):
                    runner.close()
                self._inode = os.fstat(self._to_host)[1:3]
                status = self._work(reading, me.spare)
            except BaseException:
                sys.__excepthook__(*sys.exc_info())
            posix.flush(sys.stdout, sys.stderr)
        finally:
            os._exit(status)

    def _work(self, reading: int, spare: Spare | None) -> int:
        """Do one piece of work, or all there is as long as nothing goes wrong; returns the exit status.

        What a piece of work leaves running goes with its process.
        """
        while (status := self._take(reading, spare)) == 0 and self._wake >= 0 and is_alone():
            posix.flush(sys.stdout, sys.stderr)
            os.write(self._done[1], f"{os.getpid()} ".encode("ascii"))
            with suppress(BlockingIOError):  # then the host is awake
                os.write(self._wake, b"\0")
        return status or 0

    def _take(self, reading: int, spare: Spare | None) -> int | None:
        """Do a piece of work when it comes; returns the exit status, None if nothing comes any more."""
        given = os.read(reading, PIPE_BUF)
        if not given:
            return None
        job_id, version, order = given.split(b" ", 2)
        return self._run(job_id.decode("ascii"), int(version), order, spare)


def _nonblocking_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    return reading, writing
