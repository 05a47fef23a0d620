"""Making the calls that a process has promised and not made, because it is gone.

Knows how one child after the other makes them, so that neither a crash nor a hang in one of them is anybody
else's. Must not know hosts or clean-ups: they give it files, and what must be loaded before.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

from toilcache.batch import protocol
from toilcache.errors import CoordinationDirError
from toilcache.node.deferred import CALLED, CallFile, files_in
from toilcache.node.machine import kill_marked_processes
from toilcache.worker import posix
from toilcache.worker.deferred import Surroundings, label_of, read
from toilcache.worker.failures import describe, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from toilcache.worker.posix import Kernel

LIMIT_SECONDS = 30.0
"""So long may a call take; then it is killed, and counts as made."""

MOST_BEGINNINGS = 3
"""A call that was begun so often and has never come to an end is given up: it may kill whoever makes it."""

_LOOK_SECONDS = 0.5
_KILLED = "was killed by somebody and is begun again"


class Caller:
    """Makes calls of the dead. For a process that has nothing else to do: it waits, and forks.

    :param load: loads the script of a call's surroundings, in a child; it may raise or take the child down.
    :param accepts: whether calls of these surroundings can be made here; others are left alone.
    :param limit: seconds that a call may take.
    """

    def __init__(
        self,
        kernel: Kernel,
        load: Callable[[Surroundings], None],
        accepts: Callable[[Surroundings], bool],
        limit: float = LIMIT_SECONDS,
    ) -> None:
        self._kernel = kernel
        self._load = load
        self._accepts = accepts
        self._limit = limit
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})

    def call_all_in(self, directory: str) -> None:
        """Do it for each file in a directory whose process is gone; what is wrong with one is only said."""
        try:
            paths = files_in(directory)
        except CoordinationDirError as error:
            say(str(error))
            return
        for path in paths:
            self.call_all_of(path)

    def call_all_of(self, path: str) -> None:
        """Do it for one file, and remove it when all its calls are made."""
        try:
            file = CallFile.take_over(path)
        except CoordinationDirError as error:
            say(str(error))
            return
        if file is None:
            return
        surroundings = Surroundings.load(file.head)
        if surroundings is not None and not self._accepts(surroundings):
            file.close()
            return
        if surroundings is not None:
            # What it had started may have outlived it, and the attempt is not over before that is gone.
            kill_marked_processes([protocol.job_marker(*surroundings.attempt)])
            self._exhaust(file, surroundings)
        if file.waiting():
            file.close()
        else:
            file.remove()

    def _exhaust(self, file: CallFile, surroundings: Surroundings) -> None:
        """Start children until one has gone over all calls, or ends before it has begun any."""
        while _give_up_deadly_ones(file):
            before = list(file.states)
            how = self._run_child(file, surroundings)
            kill_marked_processes([protocol.job_marker(*surroundings.attempt)])
            unended = [number for number in file.waiting() if file.states[number] != before[number]]
            if not unended:
                return
            for number in unended:
                say(f"deferred function {label_of(file.calls[number])} {how}")
                if how != _KILLED:
                    file.set_state(number, CALLED)

    def _run_child(self, file: CallFile, surroundings: Surroundings) -> str:
        """Have a child make the calls; returns how it ended, to be said of a call that it had begun."""
        posix.flush(sys.stdout, sys.stderr)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_child(parent, file.path, surroundings)
        in_time = self._await(pid, file)
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        file.refresh()
        if not in_time:
            return f"took longer than {self._limit:g} s and was killed"
        code = os.waitstatus_to_exitcode(status)
        return _KILLED if code == -signal.SIGKILL else f"ended its process with {code}"

    def _await(self, pid: int, file: CallFile) -> bool:
        """Wait until a child has ended, but do not reap it; False if it is at one call for too long."""
        states: list[int] = []
        deadline = 0.0
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            file.refresh()
            if states != file.states:
                states, deadline = list(file.states), time.monotonic() + self._limit
            elif time.monotonic() >= deadline:
                return False
            signal.sigtimedwait({signal.SIGCHLD}, _LOOK_SECONDS)
        return True

    def _be_child(self, parent: int, path: str, surroundings: Surroundings) -> None:
        """In the child: take a process group of its own, make the calls, end."""
        status = 1
        try:
            os.setpgid(0, 0)
            self._kernel.die_with(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            os.environ[protocol.JOB_MARKER] = protocol.job_marker(*surroundings.attempt).partition("=")[2]
            self._make_calls(path, surroundings)
            status = 0
        except BaseException as error:
            say(f"cannot make deferred calls: {describe(error)}")
        finally:
            posix.flush(sys.stdout, sys.stderr)
            os._exit(status)

    def _make_calls(self, path: str, surroundings: Surroundings) -> None:
        file = CallFile.read(path)
        self._load(surroundings)
        for number in file.waiting():
            try:
                call = read(file.calls[number])
            except BaseException as error:  # whatever its author's modules do when they are imported
                say(f"cannot load deferred function {label_of(file.calls[number])}: {describe(error)}")
                continue
            with suppress(OSError):  # it is called all the same, once more perhaps
                file.set_state(number, file.states[number] + 1)
            call.make()
            file.set_state(number, CALLED)


def _give_up_deadly_ones(file: CallFile) -> bool:
    """Count calls as made that have been begun too often; True if there are others."""
    for number in file.waiting():
        if file.states[number] >= MOST_BEGINNINGS:
            label, times = label_of(file.calls[number]), file.states[number]
            say(f"deferred function {label} is given up: begun {times} times, ended never")
            file.set_state(number, CALLED)
    return bool(file.waiting())
