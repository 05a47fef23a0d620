"""The contract between toilcache and whatever runs containers.

Knows what a container is asked to be, and the verbs of an engine with what each guarantees. Must not know any
particular engine, nor why something runs in a container.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from toilcache.errors import ContainerError, show

# What the containers of a workflow can be found by.
WORKFLOW_LABEL, RUN_LABEL, STORE_LABEL = "toilcache.workflow", "toilcache.run", "toilcache.store"
JOB_LABEL, HOST_LABEL = "toilcache.job", "toilcache.host"
# What else the container of a single attempt tells: JOB:VERSION, when it began (time(2)), its devices.
ATTEMPT_LABEL, BEGAN_LABEL, DEVICES_LABEL = "toilcache.attempt", "toilcache.began", "toilcache.devices"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Mount(NamedTuple):
    """A file or directory of this node that a container sees at the absolute path ``target``."""

    source: str
    target: str
    read_only: bool = True


class Image(NamedTuple):
    """An image that the engine can start from at once.

    ``digest`` names its content: equal digests, equal images. ``handle`` is what the engine calls it: an id,
    or the path of a file.
    """

    reference: str
    digest: str
    handle: str


class Container(NamedTuple):
    """A container as an engine lists it. ``running`` is False once its program has ended."""

    id: str
    name: str
    labels: dict[str, str]
    running: bool


class Exit(NamedTuple):
    """How a container's program ended.

    ``code`` is the exit status, 128 plus the number of a signal that ended it, None where nobody could tell:
    the container is gone. ``oom_killed``: the engine, or the kernel, ended it for lack of memory.
    """

    code: int | None
    oom_killed: bool = False

    @property
    def is_from_outside(self) -> bool:
        """True if a signal ended it, or nobody could tell: the program may have done nothing wrong."""
        return self.code is None or self.code > 128


@dataclass(frozen=True)
class ContainerSpec:
    """What to run, and in which surroundings. All paths are absolute.

    The root file system is read-only; /tmp is a small file system of the container's own. ``user`` is (uid,
    gid), None for the caller's. ``cores`` is a number of processors, ``memory`` bytes, ``pids`` a number of
    processes; None is no limit. ``gpus`` are the numbers of devices. ``network`` is "host" or "none".
    ``labels`` are what :meth:`Engine.find` finds a container by; ``name`` is unique on this node.
    """

    image: Image
    argv: tuple[str, ...]
    name: str
    mounts: tuple[Mount, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    user: tuple[int, int] | None = None
    cwd: str = "/"
    cores: float | None = None
    memory: int | None = None
    pids: int | None = None
    gpus: tuple[int, ...] = ()
    network: str = "host"

    def check(self) -> None:
        """Return if this can be asked of an engine.

        :raises ContainerError: it cannot; the message names the value.
        """
        if not self.argv:
            raise ContainerError(f"cannot run {show(self.image.reference)}: there is no command; give one")
        if _NAME.fullmatch(self.name) is None:
            raise ContainerError(
                f"cannot name a container {self.name!r}: use letters, digits, '.', '_' and '-', 100 at most"
            )
        if self.network not in ("host", "none"):
            raise ContainerError(f"cannot use {self.network!r} as a network; choose host or none")
        for word in (*self.argv, *self.environment.values(), *self.labels.values()):
            if "\0" in word:
                raise ContainerError(f"cannot hand {word!r} to a container: it has a null character")
        for name in (*self.environment, *self.labels):
            if _VARIABLE.fullmatch(name.replace(".", "_")) is None:
                raise ContainerError(f"cannot use {name!r} as the name of a variable or label")
        for path in (self.cwd, *(path for mount in self.mounts for path in mount[:2])):
            if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
                raise ContainerError(f"cannot mount {path!r}: give an absolute path without '..'")


class Engine(ABC):
    """Runs containers on this node.

    No verb asks a shell or joins words into a line. Every verb raises EngineUnavailableError if the engine
    does not answer; what it does when it has not succeeded stands at each.
    """

    name: str
    """The name by which people choose it."""

    is_outside = False
    """Whether its containers are outside of the control group of who starts them, with none of its limits."""

    @abstractmethod
    def version(self) -> str:
        """Return which engine this is, with its version, for people: "docker 20.10.24"."""

    @property
    @abstractmethod
    def enforces(self) -> frozenset[str]:
        """Which limits it enforces here: "cores", "memory", "pids"; :meth:`run` refuses the others."""

    @abstractmethod
    def resolve(self, reference: str) -> Image:
        """Make an image usable on this node, fetching or building it once if need be, and say which it is.

        Any number of processes may ask for the same image: one fetches it, the others wait. What a fetch
        that failed has written is gone or is never taken for an image.

        :raises ContainerImageError: there is none, or it cannot be fetched; says why.
        """

    @abstractmethod
    def run(self, spec: ContainerSpec) -> str:
        """Start a container and return its id.

        When this returns, the program has been started, and its labels can be found; when it raises, no
        container is left. The program's end does not remove the container: :meth:`remove` does.

        A program that is not in the image is an error here, or ends at once with code 127.

        :raises ContainerError: a mount is not there, the name is taken, or a limit cannot be enforced;
            nothing was run.
        """

    @abstractmethod
    def wait(self, container: str, timeout: float | None = None) -> Exit | None:
        """Block until the program has ended and say how; None if ``timeout`` seconds pass before.

        May be asked again and again. Of a container that is gone, or of one that another process started and
        the engine keeps no account of, the code is None.
        """

    @abstractmethod
    def logs(self, container: str, limit: int) -> bytes:
        """Return the last ``limit`` bytes, at most, of what it printed; empty if nobody has kept it.

        An engine that keeps standard output and error apart gives the errors last.
        """

    @abstractmethod
    def output(self, container: str) -> Iterator[tuple[int, bytes]]:
        """Yield what it prints from its beginning to its end, as it comes: (1, bytes) and (2, bytes).

        Blocks in between; ends with the program. Of a container that another process started this may be
        nothing.
        """

    @abstractmethod
    def stop(self, container: str, grace: float) -> None:
        """Ask it to end, by SIGTERM, and kill the container if it has not ended ``grace`` seconds later.

        When this returns nothing runs in it. A container that has ended, or is gone, is fine.
        """

    @abstractmethod
    def kill(self, container: str) -> None:
        """End everything in the container at once; when this returns nothing runs in it. As :meth:`stop`."""

    @abstractmethod
    def find(self, labels: Mapping[str, str]) -> list[Container]:
        """Return the containers of this node that have all these labels, whoever started them."""

    @abstractmethod
    def remove(self, container: str) -> None:
        """Leave nothing of a container, killing it first if it runs. One that is gone is fine."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections and outputs; the containers stay."""
