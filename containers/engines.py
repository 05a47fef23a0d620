"""Container engines by name: our own, and those that a site adds by entry point.

Knows each engine's constructor. An entry point of the group ``toilcache.container_engines`` names a callable
that takes the directory of the image cache, or None, and returns an engine (``toilcache.containers.model``);
the name of the entry point is what people choose it by.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from toilcache.containers.model import Engine
from toilcache.errors import ConfigError, EngineUnavailableError

T = TypeVar("T")
_LOOK_SECONDS = 0.2
ENTRY_POINTS = "toilcache.container_engines"


def patiently(seconds: float, ask: Callable[[], T]) -> T:
    """Return what ``ask`` returns; while no engine answers, ask again for so long: it may be coming back."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except EngineUnavailableError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK_SECONDS)  # nothing announces the return of an engine


def _docker(image_cache: str | None) -> Engine:
    from toilcache.containers.docker_engine import DockerEngine

    return DockerEngine()


def _singularity(image_cache: str | None) -> Engine:
    from toilcache.containers.singularity import SingularityEngine

    return SingularityEngine(image_cache=image_cache)


def _podman(image_cache: str | None) -> Engine:
    from toilcache.containers.podman import PodmanEngine

    return PodmanEngine()


_Maker = Callable[[str | None], Engine]
_OWN: dict[str, _Maker] = {
    "docker": _docker,
    "singularity": _singularity,
    "apptainer": _singularity,
    "podman": _podman,
}
AUTOMATIC = ("docker", "singularity", "podman")


def engine_names() -> list[str]:
    """Return every name that :func:`make_engine` knows."""
    return sorted({*_OWN, *_added(), "auto"})


def make_engine(name: str, image_cache: str | None = None) -> Engine:
    """Return the engine of a name; "auto" is the first that answers: Docker, Singularity, Podman.

    ``image_cache`` is the directory for images of engines without a store of their own, None for the usual.

    :raises ConfigError: there is none of that name.
    :raises EngineUnavailableError: it is not on this node, or does not answer.
    """
    if name == "auto":
        return _first_that_answers(image_cache)
    maker = _added().get(name) or _OWN.get(name)
    if maker is None:
        known = ", ".join(engine_names())
        raise ConfigError(f"cannot use container engine {name!r}: there is none of that name; choose {known}")
    engine = maker(image_cache)
    engine.version()
    return engine


def _first_that_answers(image_cache: str | None) -> Engine:
    reasons = []
    for name in AUTOMATIC:
        try:
            return make_engine(name, image_cache)
        except EngineUnavailableError as error:
            reasons.append(str(error))
    raise EngineUnavailableError(f"cannot find a container engine: {'; '.join(reasons)}")


def _added() -> dict[str, _Maker]:
    from importlib.metadata import entry_points

    return {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}
