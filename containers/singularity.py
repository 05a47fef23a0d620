"""Singularity and Apptainer: containers without a daemon, each a child of who started it.

Knows the command lines of both flavours and how to find such containers again. Must not know what runs in
them. A container is a process tree: the program ``apptainer``, which becomes a small parent process,
and below it, in a namespace of process ids of its own, the container. Its name and labels stand in the
environment inside, where any process of the same user reads them. To end it, what runs inside is killed: the
parent then unmounts the image and ends with the status, which it could not do if it were killed itself.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress

from toilcache import vfs
from toilcache.containers.flavour import Flavour, detect
from toilcache.containers.images import ImageCache
from toilcache.containers.model import Container, ContainerSpec, Engine, Exit, Image
from toilcache.errors import ContainerError, ContainerImageError, EngineUnavailableError, one_line, show
from toilcache.io import default_temp_dir
from toilcache.node.ending import end_processes
from toilcache.node.machine import oom_kills, process_environments, process_start_time, session_processes
from toilcache.process import spawn

NAME_VARIABLE = "TOILCACHE_CONTAINER_NAME"
LABEL_VARIABLE = "TOILCACHE_LABEL_"
PROGRAMS = ("apptainer", "singularity")

_START_SECONDS = 120.0
_LOOK_SECONDS = 0.002
_PRINT_SECONDS = 0.05
_CHUNK = 64 * 1024
_OURS = ("APPTAINERENV_", "SINGULARITYENV_")
_OWN_MEMORY = "/dev/shm/"
_SYS_RESOURCE = 24
_LIMIT_FLAGS = {"cores": "--cpus", "memory": "--memory", "pids": "--pids-limit"}
_GONE = Exit(None)


class _Child:
    """A container that this process started: its parent process, its output, and how it ended."""

    def __init__(self, pid: int, outputs: tuple[int, int]) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.outputs = outputs
        self.exit: Exit | None = None
        self.burial = threading.Lock()
        self.oom_kills = oom_kills()

    def close(self) -> None:
        for descriptor in (self.pidfd, *self.outputs):
            os.close(descriptor)


class SingularityEngine(Engine):
    """Apptainer if it is installed, else Singularity.

    :param program: the command; None: the first of both on PATH.
    :param image_cache: its directory; None: as :class:`ImageCache` says.
    """

    name = "singularity"

    def __init__(self, program: str | None = None, image_cache: str | None = None) -> None:
        found = program or next(filter(None, map(shutil.which, PROGRAMS)), None)
        if found is None:
            raise EngineUnavailableError(
                "cannot use Singularity or Apptainer: neither is on PATH; install one, or load its module"
            )
        self._program = found
        self._images = ImageCache(found, image_cache)
        self._known: Flavour | None = None
        self._children: dict[str, _Child] = {}

    @property
    def _flavour(self) -> Flavour:
        if self._known is None:
            self._known = detect(self._program)
        return self._known

    def version(self) -> str:
        return str(self._flavour)

    @property
    def enforces(self) -> frozenset[str]:
        # Without root it needs cgroups v2 handed down to the user, and says so only when it fails.
        if os.geteuid() != 0 or not self._flavour.limits or not os.path.exists("/sys/fs/cgroup"):
            return frozenset()
        return frozenset(_LIMIT_FLAGS)

    def resolve(self, reference: str) -> Image:
        return self._images.resolve(reference)

    def run(self, spec: ContainerSpec) -> str:
        spec.check()
        self._refuse(spec)
        argv = command_line(spec, self._program, self._flavour, lacks_sys_resource())
        with ExitStack() as on_failure:
            outputs = (_unnamed_file(), _unnamed_file())
            for descriptor in outputs:
                on_failure.callback(os.close, descriptor)
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                descriptors = [(null, 0), (outputs[0], 1), (outputs[1], 2)]
                pid = spawn(argv, env=outer_environment(spec), pass_fds=descriptors, new_session=True)
            finally:
                os.close(null)
            on_failure.pop_all()
        child = self._children[spec.name] = _Child(pid, outputs)
        if not self._await_start(spec.name, child):
            words = self.logs(spec.name, 4096)
            self.remove(spec.name)
            raise _not_run(spec, words)
        return spec.name

    def _refuse(self, spec: ContainerSpec) -> None:
        asked = {name for name in _LIMIT_FLAGS if getattr(spec, name) is not None}
        if asked - self.enforces:
            raise ContainerError(
                f"cannot limit {' and '.join(sorted(asked - self.enforces))} of "
                f"{show(spec.image.reference)}: {self._flavour} enforces no such limit here; run it without"
            )
        if spec.user not in (None, (os.geteuid(), os.getegid())):
            raise ContainerError(f"cannot run as user {spec.user}: with {self._flavour} you stay who you are")
        for mount in spec.mounts:
            if mount.target.startswith(_OWN_MEMORY):
                raise ContainerError(
                    f"cannot mount {show(mount.target)} in {self._flavour}: a container has "
                    f"an empty {_OWN_MEMORY} of its own; take another directory"
                )
            if not os.path.lexists(mount.source):
                raise ContainerError(f"cannot mount {show(mount.source)}: there is no such path")
        if spec.name in self._children or self._inside(spec.name):
            raise ContainerError(f"cannot start container {spec.name}: there is one of that name")
        self._flavour.check(spec)

    def _await_start(self, name: str, child: _Child) -> bool:
        """Wait until the program runs; False if the parent process ended and nothing had been started.

        What ended so quickly that it was never seen has run if its parent says nothing of its own.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._inside(name, child.pid):
                return True
            if self.wait(name, _LOOK_SECONDS) is not None:
                return not _is_complaint(self.logs(name, 4096), child.exit)
        return False

    def wait(self, container: str, timeout: float | None = None) -> Exit | None:
        child = self._children.get(container)
        if child is None:
            return self._watch(container, timeout)
        if child.exit is None and _has_ended(child.pidfd, timeout):
            with child.burial:  # one thread may wait while another one ends the container
                child.exit = child.exit or self._bury(child)
        return child.exit

    def _bury(self, child: _Child) -> Exit:
        """Take the status of a parent process that has ended.

        One that was killed has left the program that served its image, which is found by its session as long
        as the session's leader is not reaped.
        """
        end_processes(lambda: _others_of(child.pid), grace=0.0)
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        code = 128 - status if status < 0 else status
        killed = code == 128 + signal.SIGKILL
        return Exit(code, oom_killed=killed and oom_kills() > child.oom_kills)

    def _watch(self, container: str, timeout: float | None) -> Exit | None:
        """Wait for a container of another process, of whose end nobody tells us."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._inside(container):
            if deadline is not None and time.monotonic() >= deadline:
                return None
            time.sleep(0.05)
        return _GONE

    def logs(self, container: str, limit: int) -> bytes:
        child = self._children.get(container)
        if child is None:
            return b""
        tails = b""
        for descriptor in child.outputs:
            size = os.fstat(descriptor).st_size
            tails += os.pread(descriptor, limit, max(0, size - limit))
        return tails[-limit:]

    def output(self, container: str) -> Iterator[tuple[int, bytes]]:
        child = self._children.get(container)
        if child is None:
            return
        at = [0, 0]
        ended: Exit | None = None
        while ended is None:
            ended = self.wait(container, _PRINT_SECONDS)  # a file that grows cannot be waited for
            for number, descriptor in enumerate(child.outputs):
                while chunk := os.pread(descriptor, _CHUNK, at[number]):
                    at[number] += len(chunk)
                    yield number + 1, chunk

    def stop(self, container: str, grace: float) -> None:
        self._end(container, grace)

    def kill(self, container: str) -> None:
        self._end(container, 0.0)

    def _end(self, container: str, grace: float) -> None:
        end_processes(lambda: self._inside(container), grace)
        child = self._children.get(container)
        if child is not None and self.wait(container, _START_SECONDS) is None:
            with suppress(ProcessLookupError):  # it hangs: better a program left than a wait without an end
                os.kill(child.pid, signal.SIGKILL)
            self.wait(container)

    def find(self, labels: Mapping[str, str]) -> list[Container]:
        found: dict[str, Container] = {}
        for _, variables in process_environments(NAME_VARIABLE):
            own = {
                name.removeprefix(LABEL_VARIABLE).replace("__", "."): value
                for name, value in variables.items()
                if name.startswith(LABEL_VARIABLE)
            }
            name = variables[NAME_VARIABLE]
            if labels.items() <= own.items():
                found[name] = Container(name, name, own, True)
        return list(found.values())

    def remove(self, container: str) -> None:
        self.kill(container)
        child = self._children.pop(container, None)
        if child is not None:
            child.close()

    def close(self) -> None:
        for child in self._children.values():
            child.close()
        self._children.clear()

    def _inside(self, name: str, parent: int | None = None) -> list[tuple[int, int]]:
        """Return the processes in a container as (pid, start time)."""
        candidates = None if parent is None else _descendants(parent)
        return [
            (pid, started)
            for pid, variables in process_environments(NAME_VARIABLE, candidates)
            if variables[NAME_VARIABLE] == name and (started := process_start_time(pid)) is not None
        ]


def command_line(
    spec: ContainerSpec, program: str, flavour: Flavour, drop_sys_resource: bool = False
) -> list[str]:
    """Return the argv that starts a container; pure. Values of variables never stand in it, but for HOME.

    HOME is set by a program inside: the engine lets nobody else set it.
    """
    argv = [program, "--quiet", "exec", "--containall", "--no-home", *flavour.plain_words]
    argv += [flavour.cwd_flag, spec.cwd]
    if drop_sys_resource:
        argv += ["--drop-caps", "CAP_SYS_RESOURCE"]
    if spec.network == "none":
        argv += ["--net", "--network", "none"]
    if spec.gpus:
        argv.append("--nv")
    for limit, flag in _LIMIT_FLAGS.items():
        value = getattr(spec, limit)
        if value is not None:
            argv += [flag, f"{value:g}" if limit == "cores" else str(value)]
    for mount in spec.mounts:
        argv += flavour.mount_words(mount)
    home = spec.environment.get("HOME")
    inside = spec.argv if home is None else ("env", f"HOME={home}", *spec.argv)
    return [*argv, spec.image.handle, *inside]


def outer_environment(spec: ContainerSpec) -> dict[str, str]:
    """Return the environment of the engine's own program: ours, and what it is to set inside."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    inside = {name: value for name, value in spec.environment.items() if name != "HOME"}
    inside[NAME_VARIABLE] = spec.name
    for label, value in spec.labels.items():
        inside[LABEL_VARIABLE + label.replace(".", "__")] = value
    for prefix in _OURS:
        outside.update({prefix + name: value for name, value in inside.items()})
    return outside


def lacks_sys_resource() -> bool:
    """Tell whether this is a root who may not raise limits: the engine would fail to give that to others."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("CapEff:"))
    return not int(line.split()[1], 16) >> _SYS_RESOURCE & 1


def _unnamed_file() -> int:
    place = default_temp_dir()
    try:
        return vfs.open(place, os.O_TMPFILE | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.memfd_create("container", os.MFD_CLOEXEC)


def _has_ended(pidfd: int, timeout: float | None) -> bool:
    """Wait for the end of a child without reaping it."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))


def _others_of(session: int) -> list[tuple[int, int]]:
    return [found for found in session_processes(session) if found[0] != session]


def _descendants(pid: int) -> Iterator[int]:
    with suppress(OSError):
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            found = [int(child) for child in children.read().split()]
        for child in found:
            yield child
            yield from _descendants(child)


def _is_complaint(words: bytes, ended: Exit | None) -> bool:
    return ended is not None and ended.code == 255 and b"FATAL" in words


def _not_run(spec: ContainerSpec, words: bytes) -> ContainerError:
    lines = words.decode("utf-8", "replace").replace("\x1b[31m", "").replace("\x1b[0m", "").splitlines()
    said = [one_line(line.split("FATAL:")[-1]) for line in lines if "FATAL" in line] or ["it did not begin"]
    kind = ContainerImageError if "image" in said[0] else ContainerError
    return kind(f"cannot start a container of {show(spec.image.reference)}: {said[0]}")
