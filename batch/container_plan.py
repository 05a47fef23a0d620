"""What a host in a container is to be made of: the adapter's request, as one word of a command line.

Knows which places a host must see. Must not know engines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from toilcache.containers.model import Mount
from toilcache.errors import ContainerError
from toilcache.node.coordination import NodeDirs

_OF_IMAGES = frozenset(
    {"/", "/home", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var", "/var/tmp"}
    | {f"{top}/{name}" for top in ("", "/usr") for name in ("bin", "lib", "lib64", "sbin", "share")}
    | {"/boot", "/dev", "/etc", "/proc", "/sys", "/usr/local", "/usr/local/bin", "/usr/local/lib"}
)


@dataclass(frozen=True)
class HostContainer:
    """What a host's container is made of; crosses a command line as JSON.

    ``image`` is None where only some jobs ask for one, ``image_cache`` None for the usual place. ``node`` are
    the arguments of ``NodeDirs``, ``stores`` the directory of the job store, if it is one, ``scripts``
    directories of the workflow's code, ``variables`` the names of those in the adapter's environment that the
    host gets, by which its processes are found, ``gpus`` the numbers of its devices. ``cores`` and ``memory``
    (bytes) limit a container that is outside of our control group, where its engine can do that.
    """

    engine: str
    image_cache: str | None
    image: str | None
    stores: tuple[str, ...]
    node: tuple[str, str, str]
    scripts: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    gpus: tuple[int, ...] = ()
    cores: float | None = None
    memory: int | None = None

    def to_json(self) -> str:
        """Return it as one word of an argv."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> HostContainer:
        """Read what :meth:`to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        for name, value in values.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


def container_of(setup: dict[str, Any]) -> HostContainer | None:
    """Return what hosts in allocations run in where they have an image."""
    text = setup["container"]
    return None if text is None else HostContainer.from_json(text)


def mounts_of(container: HostContainer, dirs: NodeDirs, seen: Iterable[str]) -> tuple[Mount, ...]:
    """Return the mounts of a host, each path as outside, parents before what lies in them.

    What jobs write lies under one mount, the work directory: no hard link reaches from one mount to another.
    ``seen`` are files and directories that jobs may read.
    """
    writable = (*container.stores, dirs.work, dirs.coordination, dirs.lock_path)
    mounts = {path: Mount(path, path) for path in (*seen, dirs.engine)}
    mounts |= {path: Mount(path, path, read_only=False) for path in writable}
    return tuple(mounts[path] for path in sorted(mounts, key=lambda path: path.split("/")))


def readable_places(directories: Iterable[str], files: Iterable[str]) -> list[str]:
    """Return what is to be seen inside so that these can be read: directories, or only files.

    A directory that images have themselves would hide theirs: of such a one only the files are taken. Where a
    path leads through links, their ends are to be seen as well.

    :raises ContainerError: a directory of the workflow's code is such a one.
    """
    places = set()
    for directory in directories:
        if directory in _OF_IMAGES:
            raise ContainerError(
                f"cannot show {directory} to containers: images have one of their own; "
                "put the workflow's script into a directory of its own"
            )
        places |= {directory, os.path.realpath(directory)}
    for file in files:
        for path in (file, os.path.realpath(file)):
            parent = os.path.dirname(path)
            places.add(path if parent in _OF_IMAGES else parent)
    return sorted(path for path in places if os.path.exists(path))
