"""The image cache of Singularity: a file per image, named by its digest, for a node or a whole cluster.

Knows where images come from and how a file comes to stand in the cache. Must not know who runs them. Whoever
fetches an image holds the kernel lock of its key, so that a crash frees it; writes below that key's own
temporary name, which the next holder removes; and renames. So a file with a final name is whole, whatever
happened. flock works between the clients of one NFS server and between the processes of one node.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress

from toilcache import vfs
from toilcache.containers.model import Image
from toilcache.containers.sources import Source, sif_id, source_of
from toilcache.errors import ContainerError, ContainerImageError, ProcessError, one_line, show
from toilcache.io import robust_rmtree, sync_directory, write_durable
from toilcache.node.locks import NO_LOCKS, acquire
from toilcache.process import run

DIRECTORY_VARIABLE = "TOILCACHE_IMAGE_CACHE"
FAILED_SECONDS = 60.0
"""So long nobody asks again for an image that could not be fetched."""

NAME_SECONDS = 600.0
"""So long a name counts as naming the image that it named when it was last asked for."""

_FETCH_SECONDS = 3600.0


class ImageCache:
    """A directory of images.

    :param program: Singularity or Apptainer.
    :param directory: where; None: ``TOILCACHE_IMAGE_CACHE``, else below the person's cache directory. A
        cluster may share it.
    """

    def __init__(self, program: str, directory: str | None = None) -> None:
        self._program = program
        self.directory = os.path.abspath(directory or os.environ.get(DIRECTORY_VARIABLE) or _usual_place())

    def resolve(self, reference: str) -> Image:
        """Return an image that stands in a file, fetching or building it first if nobody has.

        :raises ContainerImageError: it cannot be had; says why, and for a minute to everybody who asks.
        """
        source = source_of(reference)
        if source.path is not None:
            return Image(reference, sif_id(source.path), source.path)
        try:
            return self._cached(source)
        except OSError as error:
            if error.errno in NO_LOCKS:
                why = "its file system has no kernel locks"
            else:
                why = (error.strerror or str(error)).lower()
            raise ContainerImageError(
                f"cannot use the image cache {show(self.directory)}: {why}; "
                f"set --imageCache or {DIRECTORY_VARIABLE} to another directory"
            ) from None

    def _cached(self, source: Source) -> Image:
        noted = self._noted(source)
        if noted is not None and time.time() - noted[1] < NAME_SECONDS:
            return self._image(source, noted[0])
        digest = source.digest()
        if digest is None and noted is not None:
            return self._image(source, noted[0])  # nobody can be asked: what the name meant last will do
        if digest is None or not os.path.exists(self._file(digest)):
            digest = self._fetch(source, digest)
        self._note(source, digest)
        return self._image(source, digest)

    def _image(self, source: Source, digest: str) -> Image:
        return Image(source.reference, digest, self._file(digest))

    def _fetch(self, source: Source, digest: str | None) -> str:
        """Build the file under the lock of its key; who waited for the lock finds it there."""
        self._refuse_place()
        key = _key(digest or source.reference)
        vfs.makedirs(self.directory, 0o711, exist_ok=True)
        lock = acquire(self._at(key + ".lock"), shared=False)
        assert lock is not None  # it waited
        with lock:
            try:
                return self._fetch_locked(source, digest, key)
            finally:
                lock.unlink()

    def _refuse_place(self) -> None:
        """Refuse a directory below which images can be run but not made: what makes them splits its path."""
        split = next(filter(self.directory.__contains__, _SPLIT), None)
        if split is not None:
            raise ContainerImageError(
                f"cannot fetch images into {show(self.directory)}: Singularity and Apptainer make none below "
                f"a path with {split!r}; set --imageCache or {DIRECTORY_VARIABLE} to another directory"
            )

    def _fetch_locked(self, source: Source, digest: str | None, key: str) -> str:
        if digest is not None and os.path.exists(self._file(digest)):
            return digest
        if digest is None:
            noted = self._noted(source)
            if noted is not None:
                return noted[0]
        failed = self._at(_key(source.reference) + ".failed")  # another name may be another way to have it
        self._refuse_again(source, failed)
        work = self._at(key + ".part")
        robust_rmtree(work)  # left by one who died
        vfs.mkdir(work, 0o700)
        try:
            made = self._build(source, work)
            found = digest or sif_id(made)
            _sync(made)
            vfs.rename(made, self._file(found))
            sync_directory(self.directory)
        except ContainerError as error:
            record = {"time": time.time(), "why": str(error)}
            write_durable(failed, json.dumps(record).encode(), 0o644, sync=False)
            raise
        finally:
            robust_rmtree(work)
        with suppress(FileNotFoundError):
            vfs.unlink(failed)
        if digest is None:
            self._note(source, found)  # before the lock goes: who waits for it has no other way to know
        return found

    def _refuse_again(self, source: Source, path: str) -> None:
        """Raise what the last try raised, unless that is long ago."""
        record = _read_json(path)
        age = time.time() - float(record.get("time", 0))
        if 0 <= age < FAILED_SECONDS:
            raise ContainerImageError(
                f"{record.get('why', 'cannot fetch the image')} (tried {age:.0f} s ago, "
                f"not again for {FAILED_SECONDS - age:.0f} s; remove {show(path)} to try at once)"
            )

    def _build(self, source: Source, work: str) -> str:
        """Have the engine make the file; its own cache, which is not safe to share, is a new directory."""
        made = os.path.join(work, "image.sif")
        own = {f"{flavour}_{what}": work for flavour in ("APPTAINER", "SINGULARITY") for what in _PLACES}
        argv = [self._program, "--quiet", "build", *source.flags(), made, source.address()]
        try:
            run(argv, env={**os.environ, **own}, timeout=_FETCH_SECONDS)
            sif_id(made)
        except ProcessError as error:
            said = (error.stderr or error.stdout).decode("utf-8", "replace").strip().splitlines()
            why = one_line(said[-1].split("FATAL:")[-1] if said else str(error), 250)
            raise ContainerImageError(
                f"cannot fetch image {show(source.reference)}: {why}; check its name and the network"
            ) from None
        vfs.chmod(made, 0o444)
        return made

    def _noted(self, source: Source) -> tuple[str, float] | None:
        """Return the digest that a name last meant and when that was; None if its file is gone."""
        record = _read_json(self._name_note(source))
        digest = record.get("digest")
        if not isinstance(digest, str) or not os.path.exists(self._file(digest)):
            return None
        return digest, float(record.get("time", 0))

    def _note(self, source: Source, digest: str) -> None:
        record = {"reference": source.reference, "digest": digest, "time": time.time()}
        vfs.makedirs(self.directory, 0o711, exist_ok=True)
        write_durable(self._name_note(source), json.dumps(record).encode(), 0o644, sync=False)

    def _name_note(self, source: Source) -> str:
        return self._at(_key(source.reference) + ".name")

    def _file(self, digest: str) -> str:
        return self._at(digest.replace(":", "-") + ".sif")

    def _at(self, name: str) -> str:
        return os.path.join(self.directory, name)


_SPLIT = ":;'\"\n"
_PLACES = ("CACHEDIR", "TMPDIR")


def _usual_place() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "toilcache", "images")


def _key(text: str) -> str:
    """Return a file name for any text."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


def _read_json(path: str) -> dict[str, str]:
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        vfs.fsync(descriptor)
    finally:
        os.close(descriptor)
