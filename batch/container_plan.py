"""What a host in a container is to be made of: the adapter's request, as one word of a command line.

Knows which places a host must see. Must not know engines.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from toilcache.containers.model import Mount
from toilcache.node.coordination import NodeDirs

WORKFLOW_LABEL, RUN_LABEL = "toilcache.workflow", "toilcache.run"


@dataclass(frozen=True)
class HostContainer:
    """What a host's container is made of; crosses a command line as JSON.

    ``image`` is None where only some jobs ask for one, ``image_cache`` None for the usual place. ``node`` are
    the arguments of ``NodeDirs``, ``stores`` the directory of the job store, if it is one, ``read_only``
    paths that jobs may read, ``markers`` the names of variables by which the host's processes are found,
    ``handed`` those of variables that the host gets beside them, ``gpus`` the numbers of its devices.
    """

    engine: str
    image_cache: str | None
    image: str | None
    stores: tuple[str, ...]
    node: tuple[str, str, str]
    read_only: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    markers: tuple[str, ...] = ()
    handed: tuple[str, ...] = ()
    gpus: tuple[int, ...] = ()

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


def mounts_of(container: HostContainer, dirs: NodeDirs) -> tuple[Mount, ...]:
    """Return what the host sees of this node, each path as outside, parents before what lies in them.

    What jobs write lies under one mount, the work directory: no hard link reaches from one mount to another.
    """
    writable = (*container.stores, dirs.work, dirs.coordination, dirs.lock_path)
    mounts = {path: Mount(path, path) for path in (*container.read_only, dirs.engine)}
    mounts |= {path: Mount(path, path, read_only=False) for path in writable}
    return tuple(mounts[path] for path in sorted(mounts, key=lambda path: path.split("/")))
