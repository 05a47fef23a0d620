"""What a host in a container is to be made of: the adapter's request, as one word of a command line.

Knows which places a host must see, what a job's own container is limited to, and what the end of a container
means for what ran in it. Must not know engines.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from toilcache.batch.model import JobRequest
from toilcache.containers.model import ATTEMPT_LABEL, BEGAN_LABEL, DEVICES_LABEL, Exit, Mount
from toilcache.errors import ContainerError
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.node.coordination import NodeDirs

HOST_MEMORY = 64 << 20
"""What the worker in a job's container may take beside the job's own memory: bytes."""

PIDS = 4096
"""So many processes and threads a job may have: enough for an honest one, too few to stop the node."""

_LEAST_CORES = 0.01  # engines know no less

BOX_MEMORY = 128 << 20
"""What launcher, engine and host take in an allocation besides what its jobs may have, in bytes."""

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
    host gets, by which its processes are found, ``gpus`` the numbers of its devices. ``per_job``: each job
    has a container of its own. ``cores`` and ``memory`` (bytes) limit a container that is outside of our
    control group, where its engine can do that; with ``pids`` it is that of one job, and its limits are
    enforced or it does not run. ``patience``: seconds to wait for an engine that does not answer, since it
    may be coming back.
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
    per_job: bool = False
    cores: float | None = None
    memory: int | None = None
    pids: int | None = None
    patience: float = 0.0

    @property
    def is_limited(self) -> bool:
        """True for the container of one job and no other."""
        return self.pids is not None

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


def box_for(
    container: HostContainer | None, request: JobRequest, devices: tuple[int, ...]
) -> HostContainer | None:
    """Return the container of the host that runs this attempt; None: it runs in none."""
    if container is None or (request.image or container.image) is None:
        return None
    box = replace(container, image=request.image or container.image, gpus=devices)
    if not container.per_job:
        return box
    told = {
        ATTEMPT_LABEL: f"{request.job_id}:{request.version}",
        BEGAN_LABEL: f"{time.time():.3f}",
        DEVICES_LABEL: ",".join(map(str, devices)),
    }
    return replace(
        box,
        labels=container.labels | told,
        cores=max(_LEAST_CORES, request.cores),
        memory=request.memory + HOST_MEMORY,
        pids=PIDS,
    )


def fate_of(ended: Exit) -> tuple[BatchJobExitReason, str]:
    """Return the reason and a phrase for what ran in a container that ended so."""
    if ended.oom_killed:
        return (
            BatchJobExitReason.MEMLIMIT,
            "was killed because memory ran out in its container; raise its memory requirement",
        )
    if ended.code is None:
        words = "its container is gone"
    elif ended.is_from_outside:
        words = f"its container was killed by signal {ended.code - 128}"
    else:
        words = f"its container ended with status {ended.code}"
    return BatchJobExitReason.LOST, f"was lost: {words}"


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
