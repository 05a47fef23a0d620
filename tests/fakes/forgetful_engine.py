"""The container engine of a site that leaves a mount out: what lies there instead can be written to."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from toilcache.containers.docker_engine import DockerEngine
from toilcache.containers.engines import make_engine
from toilcache.containers.model import ContainerSpec, Engine, Mount


def make(image_cache: str | None) -> Engine:
    """An engine of the kind that FORGETFUL names, without the mounts below FORGET."""
    name = os.environ["FORGETFUL"]
    engine: Any = DockerEngine() if name == "docker" else make_engine(name, image_cache)
    forgotten = os.environ["FORGET"]
    run = engine.run

    def forgetful(spec: ContainerSpec) -> str:
        kept = [mount for mount in spec.mounts if not is_below(mount.target, forgotten)]
        lost = [mount for mount in spec.mounts if is_below(mount.target, forgotten)]
        mounts = [*kept, *(instead(mount) for mount in lost if os.path.isdir(mount.source))]
        return str(run(replace(spec, mounts=tuple(mounts))))

    engine.run = forgetful
    return engine


def instead(mount: Mount) -> Mount:
    """Another directory at the same path, writable."""
    other = os.path.join(os.environ["TMPDIR"], "instead-" + os.urandom(4).hex())
    os.makedirs(other)
    return Mount(other, mount.target, read_only=False)


def is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")
