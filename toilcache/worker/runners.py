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

from toilcache.file_store.scratch import Spare, fresh_scratch, is_alone
from toilcache.worker import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOST_AHEAD = 8
"""So many are forked at once in a host that has been busy; first it is one, then twice as many each time."""


class Runner:
    """A forked process and the file that takes its output. It ends with its pipe or with its work.

    One that does several pieces of work has a spare directory for them.
    """

    __slots__ = ("_pipe", "log", "pid", "spare")

    def __init__(self, pid: int, log: int, pipe: int, spare: Spare | None = None) -> None:
        self.pid = pid
        self.log = log
        self._pipe = pipe
        self.spare = spare

    def give(self, job_id: str, version: int) -> bool:
        """Let it begin an attempt; False if it is dead."""
        try:
            os.write(self._pipe, f"{job_id} {version}".encode("ascii"))
        except BrokenPipeError:
            return False
        return True

    def close(self) -> None:
        """Give it nothing more."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def drop_spare(self) -> None:
        """Remove its spare directory, if it has one that is empty."""
        if self.spare is not None:
            self.spare.remove()


class Runners:
    """The runners of one host that have no work.

    :param jobs_dir: where directories for jobs are made, and files for their output, which have no names.
    :param become: called in a new process with its output file, to make it a process of its own.
    :param run: called there with job id, version and the spare directory, if the process takes more than one
        attempt; returns the exit status.
    :param wake: where a runner writes a byte when it has done its work and takes more; -1: each takes one.
    """

    def __init__(
        self,
        jobs_dir: str,
        become: Callable[[int], None],
        run: Callable[[str, int, Spare | None], int],
        wake: int = -1,
    ) -> None:
        self._jobs_dir = jobs_dir
        self._become = become
        self._run = run
        self._wake = wake
        self._done = _nonblocking_pipe() if wake >= 0 else (-1, -1)
        self._logs: list[int] = []
        self._waiting: dict[int, Runner] = {}
        self._ahead = 1

    @property
    def pids(self) -> Iterable[int]:
        """The processes that wait."""
        return self._waiting.keys()

    def start(self, job_id: str, version: int) -> Runner:
        """Have an attempt run by a process that has nothing else to do.

        :raises OSError: there is no process to be had, or no room for its output.
        """
        while True:
            if not self._waiting:
                self._fork_several()
            _, runner = self._waiting.popitem()
            if runner.give(job_id, version):
                if self._wake < 0:
                    runner.close()
                return runner
            self.bury(runner)

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
        try:
            reading, writing = os.pipe()
            try:
                pid = os.fork()
            except OSError:
                os.close(reading)
                os.close(writing)
                raise
        except OSError:
            self._logs.append(log)
            raise
        if pid == 0:
            self._live(log, reading, writing, spare)
        os.close(reading)
        self._waiting[pid] = Runner(pid, log, writing, spare)

    def _live(self, log: int, reading: int, writing: int, spare: Spare | None) -> None:
        """In the child: take a life of its own, do what it is given, end without unwinding the host."""
        status = 1
        try:
            try:
                self._become(log)
                os.close(writing)
                for runner in self._waiting.values():
                    runner.close()
                status = self._work(reading, spare)
            except BaseException:
                sys.__excepthook__(*sys.exc_info())
            posix.flush(sys.stdout, sys.stderr)
        finally:
            os._exit(status)

    def _work(self, reading: int, spare: Spare | None) -> int:
        """Do one piece of work, or all there is as long as nothing goes wrong; returns the exit status.

        What a piece of work leaves running goes with its process.
        """
        while words := os.read(reading, 4096).decode("ascii").split():
            status = self._run(words[0], int(words[1]), spare)
            if status or self._wake < 0 or not is_alone():
                return status
            posix.flush(sys.stdout, sys.stderr)
            os.write(self._done[1], f"{os.getpid()} ".encode("ascii"))
            with suppress(BlockingIOError):  # then the host is awake
                os.write(self._wake, b"\0")
        return 0


def _nonblocking_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    return reading, writing
