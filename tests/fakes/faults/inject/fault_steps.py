"""Counts the steps by which a process changes files, and makes step n go wrong.

A step is a call of a name of `toilcache.vfs` that changes something, or a statement of SQLite that is no
query. The count goes over all processes of a role and over their forked children: each step is a line of the
same width at the end of one file, so where its line ended up says how many there were before. The calls of
this module itself go past the seam and are not counted.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import io
import json
import os
import signal
import sys
import time
from collections import namedtuple
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

VARIABLE = "TEST_FAULTS"
WIDTH = 240
LEADER, HOST, WORKER, ANY, SELF = "leader", "host", "worker", "any", "self"
KILL_BEFORE, KILL_AFTER, ENOSPC, EIO = "kill-before", "kill-after", "ENOSPC", "EIO"

# The calls that a full disk refuses; a broken one refuses these and the rest. To create is to open what is
# not there yet.
MAKING = {"create", "link", "symlink", "mkdir", "makedirs"}
NEED_SPACE = {
    *(*MAKING, "write", "stream.write", "sendfile", "copy_file_range", "posix_fallocate", "ftruncate"),
    *("rename", "connect", "execute", "ioctl"),
}
NEED_DISK = {*NEED_SPACE, "open", "unlink", "rmdir", "chmod", "fchmod", "utime", "fsync", "sync", "syncfs"}
REFUSED = {ENOSPC: NEED_SPACE, EIO: NEED_DISK}
_CREATING = os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | _CREATING
_TWO_PATHS = frozenset({"link", "rename", "symlink", "copy_file_range"})
_HIGH = 700


class Step(namedtuple("Step", "role pid at call path")):
    """One step: in which process, when (seconds of the monotonic clock), which call, and what path.

    Of a long path it is the end. `role` and `pid` tell the process.
    """


class Plan:
    """What is counted and what goes wrong.

    :param trace: a path; the steps that count stand in the file.
    :param role: whose steps count: those of the leader (and of any other command), of hosts, of workers (the
        children that a host forks), or of any of them.
    :param step: the number of the step that goes wrong, from 1 on; 0 only counts.
    :param again: the numbers of further steps that do.
    :param then: what happens at it: ``kill-before``, ``kill-after``, or an error, ``ENOSPC`` or ``EIO``. With
        an error only those calls count that can fail so.
    :param flag: makes the error last: step n makes this file, and while it is there each call that can fail
        so does, in every role. Without it the error comes once.
    :param victim: whom a kill hits: the process that makes the step, or the leader, the host or a worker that
        belongs to it; nobody, if there is none then. The step goes on when the victim has ended.
    :param under: only what concerns paths that begin so counts, or goes wrong.
    """

    def __init__(
        self,
        trace: object,
        step: int = 0,
        then: str = KILL_BEFORE,
        role: str = ANY,
        flag: object = None,
        victim: str = SELF,
        under: object = "",
        again: Sequence[int] = (),
    ) -> None:
        assert role in (LEADER, HOST, WORKER, ANY), role
        assert then in ((KILL_BEFORE, KILL_AFTER, ENOSPC, EIO) if flag is None else (ENOSPC, EIO)), then
        self.trace = str(trace)
        self.step = step
        self.then = then
        self.role = role
        assert victim in (SELF, LEADER, HOST, WORKER), victim
        self.flag = None if flag is None else str(flag)
        self.victim = victim
        self.under = str(under)
        self.again = list(again)

    def environment(self) -> dict[str, str]:
        """Return what a process and all it starts must have in their environment to follow the plan."""
        here = os.path.dirname(os.path.abspath(__file__))
        paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {VARIABLE: json.dumps(vars(self)), "PYTHONPATH": os.pathsep.join(paths)}

    def steps(self) -> list[Step]:
        """Return the steps so far."""
        try:
            with open(self.trace, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return []
        lines = [data[at : at + WIDTH].decode() for at in range(0, len(data), WIDTH)]
        words = [line.rstrip().split(None, 4) for line in lines]
        return [Step(role, int(pid), float(at), call, path) for role, pid, at, call, path in words]

    @property
    def kills(self) -> int:
        """How many processes were killed."""
        return len(_read(self.trace + ".killed"))

    @property
    def killed(self) -> bool:
        """True if a process was killed."""
        return self.kills > 0

    @property
    def happened(self) -> bool:
        """True if there were as many steps as it takes."""
        try:
            return 0 < self.step * WIDTH <= os.stat(self.trace).st_size
        except FileNotFoundError:
            return False


class Steps:
    """Follows a plan in this process and its forked children."""

    def __init__(self, plan: Plan, role: str) -> None:
        self._plan = plan
        self._role = role
        self._host = 0
        self._first = os.getpid()
        self._pid = 0

    def step(self, call: str, path: str, make: Callable[[], Any]) -> Any:
        """Make a step, unless it is the one that goes wrong."""
        kills_after = self._before(call, path)
        try:
            return make()
        finally:
            if kills_after:
                self._kill()

    def _before(self, call: str, path: str) -> bool:
        """Take note of a step that is about to be made; True if somebody is to be killed after it."""
        plan = self._plan
        if not path.startswith(plan.under) or not self._can_fail(call, path):
            return False
        if plan.flag is not None and os.path.exists(plan.flag):
            self._fail(call, path)
        if self._pid != os.getpid():
            self._begin()
        if plan.role not in (ANY, self._role) or self._count(call, path) not in (plan.step, *plan.again):
            return False
        if plan.then in (KILL_BEFORE, KILL_AFTER):
            if plan.then == KILL_BEFORE:
                self._kill()
            return plan.then == KILL_AFTER
        if plan.flag is not None:
            _touch(plan.flag)
        self._fail(call, path)
        return False

    def _can_fail(self, call: str, path: str) -> bool:
        """True for a step that can go wrong in the way of the plan; what is there needs no space."""
        calls = REFUSED.get(self._plan.then)
        if calls is NEED_SPACE and call in MAKING and os.path.lexists(path):
            return False
        return calls is None or call in calls

    def _kill(self) -> None:
        """Kill the victim as kill -9 does: nothing is flushed and nobody is asked."""
        victim = self._plan.victim
        pid = self._pid if victim in (SELF, self._role) else self._relative(victim)
        if pid is None:
            return
        _touch(self._plan.trace + ".killed", b"k")
        os.kill(pid, signal.SIGKILL)
        while _lives(pid):
            time.sleep(0.0005)

    def _relative(self, role: str) -> int | None:
        """Return the process of a role that this one belongs to, or that belongs to this one."""
        above = {
            (HOST, LEADER): os.getppid,
            (WORKER, HOST): lambda: self._host,
            (WORKER, LEADER): lambda: _parent(self._host),
        }.get((self._role, role))
        if above is not None:
            pid = above()
            return pid if self._is_ours(pid) else None
        found = [self._pid]
        for _ in range(2 if (self._role, role) == (LEADER, WORKER) else 1):
            found = [child for pid in found for child in _children(pid) if self._is_ours(child)]
        return found[-1] if found else None

    def _is_ours(self, pid: int) -> bool:
        """True for a process that follows this plan too."""
        ours = f"{VARIABLE}={os.environ.get(VARIABLE, '')}".encode()
        return ours in _read(f"/proc/{pid}/environ").split(b"\0")

    def _begin(self) -> None:
        """Open the trace in this process; a child does not share its parent's place in the file."""
        if self._first != os.getpid() and self._role == HOST:
            self._role, self._host = WORKER, os.getppid()  # also of what this process forks in its turn
        self._pid = os.getpid()
        self._lock = _thread.allocate_lock()
        low = os.open(self._plan.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._trace = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH)  # out of the way of what a job closes
        os.close(low)

    def close(self) -> None:
        """Close the trace, if this process has opened one."""
        if self._pid == os.getpid():
            os.close(self._trace)
            self._pid = 0

    def _count(self, call: str, path: str) -> int:
        text = f"{self._role} {self._pid} {time.monotonic():.6f} {call} "
        room = WIDTH - 1 - len(text)
        name = path.encode("ascii", "backslashreplace").decode().replace("\n", "\\n")[-room:] or "-"
        with self._lock:
            os.write(self._trace, f"{text + name:{WIDTH - 1}}\n".encode())
            return os.lseek(self._trace, 0, os.SEEK_CUR) // WIDTH

    def _fail(self, call: str, path: str) -> None:
        if call in ("connect", "execute"):
            import sqlite3

            words = {ENOSPC: "database or disk is full", EIO: "disk I/O error"}
            raise sqlite3.OperationalError(words[self._plan.then])
        code = getattr(errno, self._plan.then)
        raise OSError(code, os.strerror(code), path)


def _touch(path: str, mark: bytes = b"") -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, mark)
    os.close(descriptor)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _status(pid: int) -> list[bytes]:
    """The fields of a process from its state on (proc(5), stat); none if there is no such process."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _lives(pid: int) -> bool:
    return _status(pid)[:1] not in ([], [b"Z"], [b"X"])


def _parent(pid: int) -> int:
    return int([*_status(pid), b"0", b"0"][1])


def _children(pid: int) -> list[int]:
    tasks = os.listdir(f"/proc/{pid}/task") if os.path.isdir(f"/proc/{pid}/task") else []
    return [int(word) for task in tasks for word in _read(f"/proc/{pid}/task/{task}/children").split()]


def install_from_environment() -> None:
    """Follow the plan in the environment, if there is one, until this process ends."""
    if VARIABLE in os.environ:
        plan = Plan(**json.loads(os.environ[VARIABLE]))
        install(Steps(plan, _role(sys.orig_argv)))


def _role(argv: list[str]) -> str:
    """Tell a program's role; what is started to call what jobs have deferred is a worker too."""
    names = [word for word in argv if word.startswith("toilcache.worker")]
    return LEADER if not names else HOST if names == ["toilcache.worker"] else WORKER


def install(steps: Steps) -> dict[str, object]:
    """Replace the names of `toilcache.vfs`; returns what they were."""
    from toilcache import vfs

    originals = {name: getattr(vfs, name) for name in vfs.__all__}
    special = {"open": _open, "stream": _stream, "connect": _connect}
    for name, original in originals.items():
        setattr(vfs, name, special.get(name, _counted)(steps, name, original))
    return originals


def uninstall(originals: dict[str, object]) -> None:
    """Put the names back."""
    from toilcache import vfs

    for name, original in originals.items():
        setattr(vfs, name, original)


@contextmanager
def injected(plan: Plan) -> Iterator[Plan]:
    """Follow a plan in this process during the block; yields the plan."""
    steps = Steps(plan, LEADER)
    originals = install(steps)
    try:
        yield plan
    finally:
        uninstall(originals)
        steps.close()


def in_child(plan: Plan, operation: Callable[[], object]) -> int:
    """Follow a plan in a forked child that does one thing; returns how it ended: 0, or -9 if it was killed.

    An error ends it with 1 and its traceback on standard error.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            install(Steps(plan, LEADER))
            operation()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _counted(steps: Steps, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        path = _place(name, arguments, named)
        if path is None:
            return original(*arguments, **named)
        return steps.step(name, path, lambda: original(*arguments, **named))

    return call


def _open(steps: Steps, name: str, original: Callable[..., int]) -> Callable[..., int]:
    opening, creating = (_counted(steps, word, original) for word in ("open", "create"))

    def call(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        chosen = creating if flags & _CREATING else opening if flags & _WRITING else original
        return chosen(path, flags, *arguments, **named)

    return call


def _stream(steps: Steps, name: str, original: object) -> Callable[..., io.FileIO]:
    """The stream of a descriptor, each write of which is a step; making it is none."""

    class Stream(io.FileIO):
        def write(self, data: Any) -> int:
            path = _of_descriptor(self.fileno())
            write = super().write
            return write(data) if path is None else steps.step("stream.write", path, lambda: write(data))

    return lambda descriptor, *, closefd=True: Stream(descriptor, "wb", closefd=closefd)


def _connect(steps: Steps, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """A connection whose statements are steps, also those of its cursors."""

    def connect(path: Any, *arguments: Any, **named: Any) -> Any:
        import importlib
        import sqlite3

        full = os.path.abspath(path)
        usual = sqlite3.connect
        kind = importlib.import_module(__name__.replace("steps", "sqlite")).connection_class(steps, full)
        sqlite3.connect = lambda *args, **words: usual(*args, factory=kind, **words)
        try:
            return steps.step(name, full, lambda: original(path, *arguments, **named))
        finally:
            sqlite3.connect = usual

    return connect


def _place(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> str | None:
    """The path that a call is about, the second one where it has two; None where that is no file."""
    if not arguments:
        return "/"  # sync
    target = arguments[1 if name in _TWO_PATHS else 0]
    if isinstance(target, int):
        return _of_descriptor(target)
    path = os.fsdecode(target)
    if not path.startswith("/"):
        directory = named.get("dst_dir_fd", named.get("dir_fd"))
        path = os.path.join(os.getcwd() if directory is None else _of_descriptor(directory) or "/", path)
    return None if path.startswith("/proc/") else path


def _of_descriptor(descriptor: int) -> str | None:
    """The path of an open file; None for a pipe, a socket, a device, memory, or a wrong descriptor."""
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return None
    return path if path.startswith("/") and not path.startswith(("/proc/", "/memfd:", "/dev/")) else None
