"""Container engines by name: our own, and those that a site adds by entry point.

Knows each engine's constructor. An entry point of the group ``toilcache.container_engines`` names a callable
that returns an :class:`toilcache.containers.model.Engine`; its name is what people choose it by.
"""

from __future__ import annotations

from collections.abc import Callable

from toilcache.containers.model import Engine
from toilcache.errors import ConfigError, EngineUnavailableError

ENTRY_POINTS = "toilcache.container_engines"


def _docker() -> Engine:
    from toilcache.containers.docker_engine import DockerEngine

    return DockerEngine()


def _singularity() -> Engine:
    from toilcache.containers.singularity import SingularityEngine

    return SingularityEngine()


def _podman() -> Engine:
    from toilcache.containers.podman import PodmanEngine

    return PodmanEngine()


_OWN: dict[str, Callable[[], Engine]] = {
    "docker": _docker,
    "singularity": _singularity,
    "apptainer": _singularity,
    "podman": _podman,
}
_AUTOMATIC = ("docker", "singularity", "podman")


def engine_names() -> list[str]:
    """Return every name that :func:`make_engine` knows."""
    return sorted({*_OWN, *_added(), "auto"})


def make_engine(name: str) -> Engine:
    """Return the engine of a name; "auto" is the first that answers: Docker, Singularity, Podman.

    :raises ConfigError: there is none of that name.
    :raises EngineUnavailableError: it is not on this node, or does not answer.
    """
    if name == "auto":
        return _first_that_answers()
    maker = _added().get(name) or _OWN.get(name)
    if maker is None:
        known = ", ".join(engine_names())
        raise ConfigError(f"cannot use container engine {name!r}: there is none of that name; choose {known}")
    engine = maker()
    engine.version()
    return engine


def _first_that_answers() -> Engine:
    reasons = []
    for name in _AUTOMATIC:
        try:
            return make_engine(name)
        except EngineUnavailableError as error:
            reasons.append(str(error))
    raise EngineUnavailableError(f"cannot find a container engine: {'; '.join(reasons)}")


def _added() -> dict[str, Callable[[], Engine]]:
    from importlib.metadata import entry_points

    return {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}
