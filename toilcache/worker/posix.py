"""What a process asks of the kernel to be a good worker: to die with its host, to adopt orphans, to be killed
first.

Knows Linux calls and nothing of jobs.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OOM_SCORE = b"500"


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
        self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def be_killed_first() -> None:
    """Let the kernel take this process before the host or the leader when memory runs out."""
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, _OOM_SCORE)
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
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        path = os.path.join(directory, "log-" + os.urandom(8).hex())
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        return descriptor


def tail(descriptor: int, limit: int) -> bytes:
    """Return the last ``limit`` bytes of an open file."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, limit, max(0, size - limit))


def orphans_of(marker: bytes, known: set[int]) -> list[int]:
    """Return our children that are not ``known`` and carry ``marker`` in their environment."""
    tid = os.getpid()
    try:
        with open(f"/proc/{tid}/task/{tid}/children", "rb") as children:
            strangers = [int(pid) for pid in children.read().split() if int(pid) not in known]
    except OSError:
        return []
    return [pid for pid in strangers if marker in _environment(pid)]


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            return environ.read().split(b"\0")
    except OSError:
        return []
