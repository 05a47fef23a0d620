"""Which Singularity this is, and what it can do: four families of versions with different flags.

Knows the text of ``--version`` and since when each flag exists. Must not run containers. Sources: the release
notes of Apptainer (1.0, 1.1, 1.2), of SingularityCE (3.9, 3.10) and of Singularity 3.x.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from toilcache.containers.model import ContainerSpec, Mount
from toilcache.errors import ContainerError, EngineUnavailableError, ProcessError, one_line, show
from toilcache.process import run

_VERSION = re.compile(r"(apptainer|singularity-ce|singularity|SingularityPRO) (?:version )?v?(\d+)\.(\d+)")
_EVALUATED = re.compile(r"[$`\\\"]")


@dataclass(frozen=True)
class Flavour:
    """A program of this family, with the first two numbers of its version."""

    kind: str
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.kind} {self.major}.{self.minor}"

    def _since(self, apptainer: tuple[int, int], ce: tuple[int, int]) -> bool:
        least = apptainer if self.kind == "apptainer" else ce
        return self.kind != "singularity" and (self.major, self.minor) >= least

    @property
    def literal(self) -> bool:
        """Whether it can leave words and variables as they are, instead of having a shell expand them."""
        return self._since((1, 1), (3, 10))

    @property
    def mounts(self) -> bool:
        """Whether it has ``--mount``, which takes any path, beside ``--bind``."""
        return self._since((1, 0), (3, 9))

    @property
    def limits(self) -> bool:
        """Whether it has flags for cores, memory and processes."""
        return self._since((1, 1), (3, 10))

    @property
    def cwd_flag(self) -> str:
        """The flag of the working directory."""
        return "--cwd" if self._since((1, 2), (4, 0)) else "--pwd"

    @property
    def plain_words(self) -> tuple[str, ...]:
        """The flag that keeps shells away from what we hand over, if there is one."""
        return ("--no-eval",) if self.literal else ()

    def mount_words(self, mount: Mount) -> tuple[str, str]:
        """Return the words that mount a path; :meth:`check` has seen that it can be said."""
        if not self.mounts:
            return "--bind", f"{mount.source}:{mount.target}:{'ro' if mount.read_only else 'rw'}"
        fields = ["type=bind", f"source={mount.source}", f"destination={mount.target}"]
        fields += ["ro"] if mount.read_only else []
        return "--mount", ",".join(map(_csv_field, fields))

    def check(self, spec: ContainerSpec) -> None:
        """Return if this flavour hands over every word of a container as it is.

        :raises ContainerError: it does not; the message names the first that it would change.
        """
        if not self.mounts:
            for path in (path for mount in spec.mounts for path in mount[:2]):
                if set(path) & set(",:\\"):
                    raise ContainerError(
                        f"cannot mount {show(path)}: {self} takes no ',', ':' or '\\' in a path"
                    )
        if not self.literal:
            for name, value in spec.environment.items():
                if _EVALUATED.search(value):
                    raise ContainerError(
                        f"cannot set {name} in a container: {self} would have a shell expand its value; "
                        "update it, or leave out '$', '`', '\"' and '\\'"
                    )


def _csv_field(text: str) -> str:
    """Quote as encoding/csv of Go reads it: the value may then hold anything, newlines included."""
    return '"' + text.replace('"', '""') + '"'


def parse_version(text: str) -> Flavour | None:
    """Read what ``--version`` prints: "apptainer version 1.4.5", "singularity-ce version 3.11.4"."""
    found = _VERSION.search(text)
    if found is None:
        return None
    kind = "singularity-ce" if found[1] == "SingularityPRO" else found[1]
    return Flavour(kind, int(found[2]), int(found[3]))


@functools.cache
def detect(program: str) -> Flavour:
    """Ask a program which it is, once per process.

    :raises EngineUnavailableError: it does not run, or is no Singularity.
    """
    try:
        said = run([program, "--version"], timeout=60).stdout.decode("utf-8", "replace")
    except ProcessError as error:
        raise EngineUnavailableError(f"cannot use {show(program)}: {error}") from None
    flavour = parse_version(said)
    if flavour is None:
        raise EngineUnavailableError(
            f"cannot use {show(program)}: it calls itself {one_line(said, 60)!r}, no version of Singularity"
        )
    return flavour
