"""A backend in a directory of a shared file system: local disk, NFS, Lustre and their like.

Knows what such file systems promise and what they do not: `link` is the one atomic put-if-absent that all of
them have, names are news only after opening, and an error may hide a success. Must not know what a key means.

A client of NFS remembers for up to a minute what a name is, or that it is missing. So whatever is looked for
is opened, and where it is missing it is looked for once more after its directory was opened and its beginning
read. A server of NFS whose answer is lost is asked again, and says that a name exists already, or no more.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from errno import ENOENT, ENOTDIR, ESTALE
from io import BufferedWriter

from toilcache import vfs
from toilcache.io import (
    atomic_create,
    look_at,
    random_name,
    rename_onto,
    sync_directory,
    write_all,
    write_durable,
)
from toilcache.job_store.backend import Backend
from toilcache.job_store.transfer import hand_out, is_executable, take_in
from toilcache.job_store.urls import file_url
from toilcache.removal import robust_rmtree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from typing import BinaryIO, TypeVar

    T = TypeVar("T")

_MISSING = (FileNotFoundError, NotADirectoryError)
_LOOK_AGAIN = (ENOENT, ENOTDIR, ESTALE)


class DirectoryBackend(Backend):
    """Bytes in files below `root`; scopes are directories.

    Files are 0600, uploaded ones 0400, directories 0700.
    """

    def __init__(self, root: str, trash: str, sync_files: bool = True) -> None:
        """Serve an absolute path. With `sync_files` every uploaded file survives a power cut at once."""
        self.root = root
        self._prefix = root.rstrip("/") + "/"
        self._trash = self._prefix + trash + "/"
        self._sync_files = sync_files
        self._watched: int | None = None

    def where(self, key: str) -> str:
        """Give the absolute path."""
        return self._prefix + key

    def _sure(self, key: str, call: Callable[[], T]) -> T:
        """Do a call; where it misses a name, once more after a look at the directory of the key."""
        try:
            return call()
        except OSError as error:
            self._look_for(key, error)
        return call()

    def _look_for(self, key: str, error: OSError) -> None:
        """Look at the directory of a key whose name was missed; any other error is raised."""
        if error.errno not in _LOOK_AGAIN:
            raise error
        look_at(os.path.dirname(self._prefix + key))

    def _open(self, key: str) -> int:
        path = self._prefix + key
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as error:
            self._look_for(key, error)
        return os.open(path, os.O_RDONLY)

    def make_scope(self, scope: str) -> None:
        """Make a directory, and the one above it when this is the first there."""
        path = self._prefix + scope
        # What is there already is ours: nobody else can know the name.
        with suppress(FileExistsError):
            try:
                vfs.mkdir(path, 0o700)
            except FileNotFoundError:
                with suppress(FileExistsError):
                    vfs.mkdir(os.path.dirname(path), 0o700)
                vfs.mkdir(path, 0o700)

    def drop_scope(self, scope: str) -> None:
        """Rename the directory away, so that a late link finds none, then remove it."""
        grave = self._trash + random_name(16)
        # Absent is fine, and may only seem so: an empty grave costs nothing.
        with suppress(*_MISSING):
            self._sure(scope, lambda: vfs.rename(self._prefix + scope, grave))
        # What a reader on NFS still holds open stays as .nfs* until it closes; `sweep` removes it later.
        with suppress(OSError):
            _remove(grave)

    def sweep(self) -> None:
        """Empty the trash."""
        for name in os.listdir(self._trash):
            with suppress(OSError):
                robust_rmtree(self._trash + name)

    def drop_empty(self, scope: str) -> None:
        """Remove the directory if it is empty."""
        with suppress(OSError):
            vfs.rmdir(self._prefix + scope)

    def has(self, key: str) -> bool:
        """Open it."""
        try:
            os.close(self._open(key))
        except OSError as error:
            if error.errno not in _LOOK_AGAIN:
                raise
            return False
        return True

    def put_if_absent(self, key: str, data: bytes, fresh: bool = False) -> bool:
        """Write a temporary file in the same directory and link it to its name."""
        path = self._prefix + key
        write = _write_new if fresh else _link_new
        try:
            try:
                write(path, data)
            except OSError as error:
                self._look_for(key, error)
                write(path, data)
        except FileExistsError:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        """Write a temporary file and rename it; a power cut may bring the old content back."""
        write_durable(self._prefix + key, data, sync=False)

    def get(self, key: str) -> bytes:
        """Open and read; an opened file is the newest on NFS too."""
        return self._read(key)

    def head(self, key: str, count: int) -> bytes:
        """Read the beginning only."""
        return self._read(key, count)

    def tail(self, key: str, offset: int) -> bytes:
        """Open, go there and read."""
        descriptor = self._open(key)
        os.lseek(descriptor, offset, os.SEEK_SET)
        return _content(descriptor, None)

    def _read(self, key: str, count: int | None = None) -> bytes:
        """Read a whole file, or its first `count` bytes; anew if it is replaced meanwhile."""
        try:
            return _content(self._open(key), count)
        except OSError as error:
            if error.errno != ESTALE:
                raise
        return _content(self._open(key), count)

    def names(self, scope: str) -> list[str]:
        """List the directory without temporary files and what NFS keeps for open ones."""
        found = self._sure(scope, lambda: os.listdir(self._prefix + scope))
        return [name for name in found if not name.startswith(".")]

    def delete(self, key: str) -> None:
        """Unlink the file."""
        with suppress(*_MISSING):
            self._sure(key, lambda: vfs.unlink(self._prefix + key))

    def move(self, key: str, new_key: str) -> None:
        """Rename."""
        try:
            self._sure(key, lambda: vfs.rename(self._prefix + key, self._prefix + new_key))
        except FileNotFoundError:
            if not self.has(new_key):
                raise

    def _stat(self, key: str) -> os.stat_result:
        """Open the file, which makes NFS ask the server, and give its status."""
        descriptor = self._open(key)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def modified(self, key: str) -> float:
        """Give the time of the file."""
        return self._stat(key).st_mtime

    def touch(self, key: str) -> None:
        """Set the file's time, by the clock of its server."""
        vfs.utime(self._prefix + key)

    def renew(self, key: str, data: bytes) -> None:
        """Write the file over in place: whoever reads it meanwhile sees the same bytes."""
        descriptor = vfs.open(self._prefix + key, os.O_WRONLY)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)

    def status(self, key: str) -> tuple[int, bool]:
        """Give size and mode."""
        status = self._stat(key)
        return status.st_size, is_executable(status)

    @contextmanager
    def writer(
        self, key: str, base: str, executable: bool = False, replace: bool = False
    ) -> Generator[BinaryIO, None, None]:
        """Write a temporary file in the same directory, then rename it."""
        path = self._prefix + key
        with ExitStack() as stack:
            try:
                descriptor = stack.enter_context(self._create(path, executable))
            except FileNotFoundError:
                self._make_parents(key, base)
                descriptor = stack.enter_context(self._create(path, executable))
            with BufferedWriter(vfs.stream(descriptor, closefd=False)) as stream:
                yield stream
            if replace:
                self._stat(key)

    def _create(self, path: str, executable: bool) -> AbstractContextManager[int]:
        return atomic_create(path, 0o500 if executable else 0o400, sync=self._sync_files)

    def reader(self, key: str) -> BinaryIO:
        """Open the file."""
        return os.fdopen(self._open(key), "rb")

    def upload(self, local_path: str, key: str, base: str, replace: bool = False) -> tuple[int, bool]:
        """Reflink or copy, sync, rename. The store never shares an inode with a file that a job can write."""
        path = self._prefix + key
        temporary = f"{os.path.dirname(path)}/.tmp-{random_name()}"
        try:
            status = take_in(local_path, temporary, self._sync_files)
        except FileNotFoundError:
            self._make_parents(key, base)
            status = take_in(local_path, temporary, self._sync_files)
        try:
            if replace:
                self._stat(key)
            rename_onto(temporary, path, status)
        except OSError:
            with suppress(OSError):
                vfs.unlink(temporary)
            raise
        if self._sync_files:
            sync_directory(os.path.dirname(path))
        return status.st_size, is_executable(status)

    def _make_parents(self, key: str, base: str) -> None:
        """Make the directories between `base` and the key; FileNotFoundError if `base` is gone."""
        parts = key[len(base) + 1 :].split("/")[:-1]
        path = self._prefix + base
        for part in parts:
            path = f"{path}/{part}"
            with suppress(FileExistsError):
                vfs.mkdir(path, 0o700)

    def download(self, key: str, local_path: str, executable: bool, symlink: bool) -> None:
        """Give a reflink, else a read-only link where that is safe, else a copy."""
        path = self._prefix + key
        self._sure(key, lambda: hand_out(path, local_path, executable, symlink))

    def append(self, key: str) -> BinaryIO:
        """Open for appending, without a buffer."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        return vfs.stream(vfs.open(self._prefix + key, flags, 0o600))

    def url(self, key: str) -> str:
        """Give a `file:` URL."""
        return file_url(self._prefix + key)

    def sync(self) -> None:
        """Sync the file system; OSError if the disk could not take it.

        Each descriptor is told of an error once, and a new one only of those that nobody was told of. So one
        descriptor is kept for all calls (https://man7.org/linux/man-pages/man2/syncfs.2.html).
        """
        if self._watched is None:
            import weakref

            self._watched = os.open(self.root, os.O_RDONLY)
            weakref.finalize(self, os.close, self._watched)
        try:
            vfs.syncfs(self._watched)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.root) from None


def _write_new(path: str, data: bytes) -> None:
    """Make a file with its whole content, or none."""
    descriptor = vfs.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            written = vfs.write(descriptor, data)
            if written < len(data):
                write_all(descriptor, data[written:])
        finally:
            # On NFS it is often only here that a full disk shows.
            os.close(descriptor)
    except BaseException:
        # Also on KeyboardInterrupt: a part of a record must not stand in its slot.
        with suppress(FileNotFoundError):
            vfs.unlink(path)
        raise


def _link_new(path: str, data: bytes) -> None:
    temporary = f"{path[: path.rindex('/')]}/.tmp-{os.urandom(6).hex()}"
    _write_new(temporary, data)
    try:
        vfs.link(temporary, path)
    finally:
        # The directory may have been renamed away meanwhile; then the temporary file goes with it.
        with suppress(OSError):
            vfs.unlink(temporary)


def _content(descriptor: int, count: int | None) -> bytes:
    """Read an open file, and close it."""
    try:
        if count is not None:
            return os.read(descriptor, count)
        pieces = []
        while piece := os.read(descriptor, 1 << 17):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    """Remove a directory of few files at little cost, any other tree thoroughly.

    Numbers go in their order, so that none is free while a lower one is there: an NFS client may still know
    the directory by the name that it had.
    """
    if _remove_usual(path):
        return
    try:
        for name in sorted(os.listdir(path), key=_by_number):
            with suppress(FileNotFoundError):
                vfs.unlink(f"{path}/{name}")
        vfs.rmdir(path)
    except OSError:
        robust_rmtree(path)


def _remove_usual(path: str) -> bool:
    """Remove a directory that holds 1 and 2, as most do, without looking; say whether it is gone."""
    try:
        vfs.unlink(f"{path}/1")
        vfs.unlink(f"{path}/2")
        vfs.rmdir(path)
    except OSError:
        return False
    return True


def _by_number(name: str) -> tuple[int, str]:
    return (len(name), name) if name.isdecimal() else (255, name)
