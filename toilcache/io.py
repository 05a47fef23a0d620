"""Directories and files, made and replaced so that nothing half-written is ever seen.

Knows system calls only. Must not know what the files mean, nor which directory of a job store or node they
stand in. A worker imports this module, so it uses neither shutil nor tempfile. Linking and copying, removal
and the watched stream have modules of their own; their names are offered here too.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress

from toilcache import vfs
from toilcache.links import copy_bytes, link_or_copy, reflink, write_all
from toilcache.removal import robust_rmtree
from toilcache.streams import WriteWatchingStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Any, TypeAlias

    AnyPath: TypeAlias = str | os.PathLike[str]

__all__ = [
    "WriteWatchingStream",
    "atomic_copy",
    "atomic_copyobj",
    "atomic_create",
    "copy_bytes",
    "create_exclusive",
    "default_temp_dir",
    "getFileSystemSize",
    "link_or_copy",
    "look_at",
    "make_public_dir",
    "mkdtemp",
    "random_name",
    "reflink",
    "rename_onto",
    "robust_rmtree",
    "sync_directory",
    "write_all",
    "write_durable",
]

_SHORTEST_PUBLIC_NAME = 4
_LONGEST_PUBLIC_NAME = 32


def random_name(n: int = 12) -> str:
    """Return `n` random hexadecimal digits, from the kernel, so that forked processes never draw the same."""
    return os.urandom((n + 1) // 2).hex()[:n]


def default_temp_dir() -> str:
    """Return the place for temporary files: TMPDIR, TEMP or TMP if usable, else /tmp, /var/tmp or here."""
    chosen = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    for candidate in (*chosen, "/tmp", "/var/tmp"):
        if candidate and os.path.isdir(candidate) and os.access(candidate, os.W_OK | os.X_OK):
            return os.path.abspath(candidate)
    return os.getcwd()


def mkdtemp(suffix: str | None = None, prefix: str | None = None, dir: AnyPath | None = None) -> str:
    """Make a new directory of mode 0711 and return its absolute path (specification line 1087)."""
    parent = os.path.abspath(default_temp_dir() if dir is None else dir)
    while True:
        path = os.path.join(parent, f"{'tmp' if prefix is None else prefix}{random_name()}{suffix or ''}")
        with suppress(FileExistsError):
            return _make_dir(path, 0o711)


def make_public_dir(in_directory: AnyPath, suggested_name: str | None = None) -> str:
    """Make a directory of mode 0777 and return its path (specification line 1082).

    It gets the suggested name if that is free, else the shortest random one of at least 4 characters.
    """
    names = [] if suggested_name is None else [_plain_name(suggested_name)]
    names += [random_name(n) for n in range(_SHORTEST_PUBLIC_NAME, _LONGEST_PUBLIC_NAME + 1)]
    for name in names:
        with suppress(FileExistsError):
            return _make_dir(os.path.join(in_directory, name), 0o777)
    raise FileExistsError(errno.EEXIST, "cannot find a free name for a directory", os.fspath(in_directory))


def _plain_name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"cannot make a directory named {name!r}; give a name without a path")
    return name


def _make_dir(path: str, mode: int) -> str:
    """Make a directory of exactly this mode, whatever the umask."""
    vfs.mkdir(path, 0o700)
    vfs.chmod(path, mode)
    return path


def getFileSystemSize(dirPath: AnyPath) -> tuple[int, int]:
    """Return (bytes free for us, total bytes) of the file system of a directory (specification line 49)."""
    status = os.statvfs(dirPath)
    return status.f_frsize * status.f_bavail, status.f_frsize * status.f_blocks


def sync_directory(path: AnyPath) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        vfs.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_exclusive(path: AnyPath, data: bytes = b"", mode: int = 0o600, *, sync: bool = False) -> None:
    """Write a file that must not exist yet (FileExistsError); where writing fails none is left."""
    descriptor = vfs.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
            write_all(descriptor, data)
            if sync:
                vfs.fsync(descriptor)
        finally:
            # On NFS it is often only here that a full disk shows.
            os.close(descriptor)
    except BaseException:
        # Also on KeyboardInterrupt: whoever asks for exclusive creation takes an existing file as complete.
        with suppress(OSError):
            vfs.unlink(path)
        raise


@contextmanager
def atomic_create(path: AnyPath, mode: int = 0o600, *, sync: bool = True) -> Iterator[int]:
    """Yield a descriptor to write to; the file stands at `path` after the block, unchanged if that fails.

    The mode is subject to the umask. With `sync` the file and its name survive a power cut.
    """
    parent, _ = os.path.split(os.path.abspath(path))
    temporary = os.path.join(parent, f".tmp-{random_name()}")
    descriptor = vfs.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
            yield descriptor
            if sync:
                vfs.fsync(descriptor)
            status = os.fstat(descriptor)
        finally:
            # On NFS it is often only here that a full disk shows, so the file gets its name afterwards.
            os.close(descriptor)
        rename_onto(temporary, path, status)
    except BaseException:
        # Also on KeyboardInterrupt and GeneratorExit: the temporary file is nobody's afterwards.
        with suppress(OSError):
            vfs.unlink(temporary)
        raise
    if sync:
        sync_directory(parent)


def rename_onto(temporary: AnyPath, path: AnyPath, status: os.stat_result) -> None:
    """Rename a file, whose status is known, onto a path.

    An NFS server that has lost its first answer says of a rename which it did that there is no such file. So
    that error is no answer: what stands at the path now is looked at.
    """
    try:
        vfs.rename(temporary, path)
    except FileNotFoundError:
        if not _is_at(path, status):
            raise


def _is_at(path: AnyPath, status: os.stat_result) -> bool:
    look_at(os.path.dirname(os.path.abspath(path)))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.path.samestat(os.fstat(descriptor), status)
    finally:
        os.close(descriptor)


def look_at(directory: str) -> None:
    """Open a directory and read its beginning: from then on NFS asks its server anew for the names in it.

    Without that a client may go on for a minute to take names as missing that are there. A directory that is
    missing is itself looked for in the one above it. Nothing is raised: what is asked next says how it is.
    """
    try:
        _read_beginning(directory)
    except OSError:
        above = os.path.dirname(directory)
        if above != directory:
            look_at(above)
            with suppress(OSError):
                _read_beginning(directory)


def _read_beginning(directory: str) -> None:
    with os.scandir(directory) as entries:
        next(entries, None)


def write_durable(path: AnyPath, data: bytes, mode: int = 0o600, sync: bool = True) -> None:
    """Replace a file as a whole: readers see the old content or the new one, also after a power cut."""
    with atomic_create(path, mode, sync=sync) as descriptor:
        write_all(descriptor, data)


def atomic_copy(src_path: AnyPath, dest_path: AnyPath, executable: bool | None = None) -> None:
    """Copy a file so that the destination is never seen half-written (specification line 1071).

    `executable` None keeps the source's executable bit. The permissions are otherwise those of a new file.
    """
    source = os.open(src_path, os.O_RDONLY)
    try:
        if executable is None:
            executable = bool(os.fstat(source).st_mode & stat.S_IXUSR)
        with _destination(dest_path, executable) as descriptor:
            copy_bytes(source, descriptor)
    finally:
        os.close(source)


def atomic_copyobj(
    src_fh: IO[Any], dest_path: AnyPath, length: int = 16384, executable: bool = False
) -> None:
    """Copy what an open binary file still holds, `length` bytes at a time (specification line 1073)."""
    with _destination(dest_path, executable) as descriptor:
        while chunk := src_fh.read(length):
            write_all(descriptor, chunk)


@contextmanager
def _destination(path: AnyPath, executable: bool) -> Iterator[int]:
    """Open the target of a copy: a regular file is replaced, a device or pipe (/dev/stdout) is written to."""
    if not _is_special(path):
        with atomic_create(path, 0o777 if executable else 0o666) as descriptor:
            yield descriptor
        return
    descriptor = vfs.open(path, os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_special(path: AnyPath) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or stat.S_ISBLK(mode)
