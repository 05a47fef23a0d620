"""What a process asks of the kernel to be a good worker: to die with its host, to adopt orphans, to be killed
first.

Knows Linux calls and nothing of jobs.
"""

from __future__ import annotations

import os
import sys
import time

# No stubs; `signal` is made of it, and makes enumerations at each call.
from _signal import SIG_DFL, SIGCHLD, SIGINT, SIGKILL, set_wakeup_fd, signal  # type: ignore[import-not-found]
from contextlib import suppress
from os import dup2, getppid, setsid

from toilcache import vfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OOM_SCORE = b"500"
_PF_EXITING = 4
_ORPHAN_SECONDS = 2.0


class Kernel:
    """Calls for which Python has no function of its own; looked up once, before any fork."""

    def __init__(self) -> None:
        import ctypes  # loaded by the host alone: an import of the worker stays cheap

        self._prctl: Callable[..., int] = ctypes.CDLL(None).prctl

    def adopt_orphans(self) -> None:
        """Become the parent of whatever descendants lose theirs (prctl(2), PR_SET_CHILD_SUBREAPER)."""
        self._prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def die_with(self, parent: int) -> None:
        """Be killed when ``parent`` ends, also when it has ended already."""
        self._prctl(_PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        if getppid() != parent:
            os._exit(1)

    def leave(self, parent: int, log: int) -> None:
        """In a forked child: have session, signals and output of its own, and be killed when ``parent`` ends.

        Done once in each process, so that Python never writes better code for it: what it needs is therefore
        imported by name, which is looked up in one place each.
        """
        setsid()
        self.die_with(parent)
        set_wakeup_fd(-1)
        signal(SIGCHLD, SIG_DFL)
        signal(SIGINT, SIG_DFL)
        dup2(log, 1)
        dup2(log, 2)


def default_signals(*signals: int) -> None:
    """Give these signals their default effect."""
    for number in signals:
        signal(number, SIG_DFL)


def be_killed_first() -> None:
    """Let the kernel take this process and its descendants before the leader when memory runs out.

    Of a host and its jobs it then takes the largest, which is a job.
    """
    try:
        descriptor = vfs.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        vfs.write(descriptor, _OOM_SCORE)
    except OSError:
        pass  # a container may forbid it; then the kernel chooses by size alone
    finally:
        os.close(descriptor)


def reseed() -> None:
    """Give this process random numbers of its own. ``random`` reseeds itself at a fork; numpy's global state
    does not.
    """
    mtrand = sys.modules.get("numpy.random")
    if mtrand is not None:
        mtrand.seed(list(os.urandom(16)))


def unlinked_file(directory: str) -> int:
    """Return a descriptor of a file in ``directory`` that has no name, open for reading and appending."""
    try:
        return vfs.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        path = os.path.join(directory, "log-" + os.urandom(8).hex())
        descriptor = vfs.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        vfs.unlink(path)
        return descriptor


def tail(descriptor: int, limit: int) -> bytes:
    """Return the last ``limit`` bytes of an open file."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, limit, max(0, size - limit))


def empty(descriptor: int) -> bool:
    """Make an open file empty; False if the disk does not let us."""
    try:
        if os.fstat(descriptor).st_size:
            vfs.ftruncate(descriptor, 0)
    except OSError:
        return False
    return True


def flush(*streams: Any) -> None:
    """Flush these; a job may have closed one, filled the disk, or put something of its own in its place."""
    for stream in streams:
        try:
            stream.flush()
        except Exception:  # whatever it is: this process is about to end, and its result stands in the store
            continue


def kill_orphans(marker: bytes, session: int, known: set[int]) -> None:
    """Kill those :func:`orphans_of` finds, and their children, which become ours.

    That happens only when a parent has ended, so each round waits for it; altogether for two seconds, since
    something may hang in the kernel.
    """
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while (orphans := orphans_of(marker, session, known)) and time.monotonic() < deadline:
        for pid in orphans:
            with suppress(PermissionError):  # a program that has become somebody else
                os.kill(pid, SIGKILL)
        for pid in orphans:
            _await_child(pid, deadline)


def orphans_of(marker: bytes, session: int, known: set[int]) -> list[int]:
    """Return our children that are not ``known`` and carry ``marker`` in their environment, belong to
    ``session``, or are ending and show neither any more.
    """
    strangers = children_but(known)
    return [pid for pid in strangers if marker in _environment(pid) or _is_of(pid, session)]


def children_but(known: set[int]) -> list[int]:
    """Return our children but for these; none where the kernel does not tell (CONFIG_PROC_CHILDREN)."""
    tid = os.getpid()
    try:
        with open(f"/proc/{tid}/task/{tid}/children", "rb") as children:
            return [int(pid) for pid in children.read().split() if int(pid) not in known]
    except OSError:
        return []


def _await_child(pid: int, deadline: float) -> None:
    """Reap a child that was killed, unless it takes too long; the host reaps it some time then.

    A process descriptor to wait on could fail for lack of descriptors, in a place where nothing may.
    """
    while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.0005)


def _environment(pid: int) -> list[bytes]:
    return _read(pid, "environ").split(b"\0")


def _is_of(pid: int, session: int) -> bool:
    """True for a process of this session, and for one between its last instruction and its burial by us
    (proc(5), stat: state, session and flags).
    """
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    if len(fields) <= 6:
        return False
    return int(fields[3]) == session or fields[0] == b"Z" or bool(int(fields[6]) & _PF_EXITING)


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""
