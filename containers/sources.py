"""Where an image may come from, and which image that is: a file, a registry, an archive, a daemon.

Knows the ways in which people name images, and how each tells the image's digest without fetching it. Must
not know the cache.
"""

from __future__ import annotations

import os

from toilcache.containers import registry
from toilcache.containers.archive import archive_digest
from toilcache.errors import ContainerImageError, EngineUnavailableError, show

_MAGIC, _MAGIC_AT = b"SIF_MAGIC", 32
_ID_AT, _ID_BYTES = 48, 16


class Source:
    """An image as a person names it.

    ``path`` is the file, if it is one that can be run as it is.
    """

    path: str | None = None

    def __init__(self, reference: str) -> None:
        self.reference = reference

    def digest(self) -> str | None:
        """Return the digest of what would be fetched now; None if nobody tells."""
        return None

    def address(self) -> str:
        """Return what the engine is to build from."""
        return self.reference

    def flags(self) -> list[str]:
        """Return what the engine needs to be told about it."""
        return []


class _File(Source):
    def __init__(self, reference: str) -> None:
        super().__init__(reference)
        self.path = os.path.abspath(reference.removeprefix("file://"))


class _Registry(Source):
    def __init__(self, reference: str) -> None:
        super().__init__(reference)
        self._name = registry.parse(reference.removeprefix("docker://"))

    def digest(self) -> str | None:
        return registry.digest(self._name)

    def address(self) -> str:
        return f"docker://{self._name}"

    def flags(self) -> list[str]:
        return ["--no-https"] if self._name.is_local else []


class _Archive(Source):
    def __init__(self, reference: str) -> None:
        super().__init__(reference)
        self._archive = os.path.abspath(reference.removeprefix("docker-archive:").removeprefix("//"))
        if ":" in self._archive:
            raise ContainerImageError(
                f"cannot use image {show(self._archive)}: Singularity and Apptainer take no ':' in the path "
                "of an archive; rename it"
            )

    def digest(self) -> str | None:
        return archive_digest(self._archive)

    def address(self) -> str:
        return f"docker-archive:{self._archive}"


class _Daemon(Source):
    def __init__(self, reference: str) -> None:
        super().__init__(reference)
        self._name = reference.removeprefix("docker-daemon:").removeprefix("//")

    def digest(self) -> str | None:
        """Ask the daemon; ContainerImageError if it has no such image or does not answer."""
        from toilcache.containers.docker_engine import DockerEngine

        engine = DockerEngine()
        try:
            return engine.resolve(f"docker-daemon:{self._name}").digest
        except EngineUnavailableError as error:
            raise ContainerImageError(f"cannot use image {show(self.reference)}: {error}") from None
        finally:
            engine.close()

    def address(self) -> str:
        name = self._name if ":" in self._name.rpartition("/")[2] else f"{self._name}:latest"
        return f"docker-daemon:{name}"


def source_of(reference: str) -> Source:
    """Read how a person names an image.

    :raises ContainerImageError: it is no name of an image.
    """
    kinds = {"docker://": _Registry, "docker-archive:": _Archive, "docker-daemon:": _Daemon, "file://": _File}
    for prefix, kind in kinds.items():
        if reference.startswith(prefix):
            return kind(reference)
    if reference.endswith(".sif") or reference.startswith(("/", "./", "../")):
        return _File(reference)
    return _Registry(reference)


def sif_id(path: str) -> str:
    """Return the identity that an image file carries in its header, and that every build makes anew.

    :raises ContainerImageError: there is no such file, or it is no SIF.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(_ID_AT + _ID_BYTES)
    except OSError as error:
        raise ContainerImageError(
            f"cannot use image {show(path)}: {(error.strerror or str(error)).lower()}"
        ) from None
    if header[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC or len(header) < _ID_AT + _ID_BYTES:
        raise ContainerImageError(
            f"cannot use image {show(path)}: it is no Singularity image file; build one with "
            "'apptainer build', or name its kind, as in docker-archive:FILE"
        )
    return f"sif:{header[_ID_AT:].hex()}"
