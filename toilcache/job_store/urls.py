"""Files behind URLs: local ones by themselves, all others through fsspec and its plug-ins.

Knows URLs. Must not know job stores. `file:/p`, `file:///p`, `FILE://localhost/p` and a bare path are the
same.
"""

from __future__ import annotations

import os
import re

from toilcache.errors import ToilcacheError, one_line, show
from toilcache.io import atomic_copyobj, atomic_create, reflink, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, BinaryIO, NoReturn

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_FILE = re.compile(r"file:(?://(?P<host>[^/]*)(?=/)|(?!//))(?P<path>/.*)", re.IGNORECASE | re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9/._~-]*")
_PLUGINS = {
    "s3": "toilcache[s3]",
    "gs": "toilcache[gs]",
    "gcs": "toilcache[gs]",
    "http": "toilcache[http]",
    "https": "toilcache[http]",
}
_CHUNK = 1 << 20


class UrlError(ToilcacheError):
    """A URL cannot be understood, or nothing installed can reach it."""


def local_path(uri: str) -> str | None:
    """Return the absolute local path that a URI names; None if it names something elsewhere."""
    if _is_url(uri):
        return _path_of(uri)
    return None if _SCHEME.match(uri) else os.path.abspath(uri)


def _path_of(uri: str) -> str:
    match = _FILE.fullmatch(uri)
    if match is None or (match["host"] or "localhost").lower() != "localhost":
        raise UrlError(f"cannot use {show(uri)}: a file on this machine is written file:/path or /path")
    path = match["path"]
    if "%" in path:
        from urllib.parse import unquote_to_bytes

        path = os.fsdecode(unquote_to_bytes(os.fsencode(path)))
    return os.path.abspath(path)


def file_url(path: str) -> str:
    """Return the `file:` URL of an absolute path."""
    return "file://" + quoted(path)


def quoted(path: str) -> str:
    """Return a path as it stands in a URL."""
    if _PLAIN.fullmatch(path):
        return path
    from urllib.parse import quote

    return quote(os.fsencode(path))


def exists(uri: str) -> bool:
    """Say whether there is a file or directory at a URL."""
    path = local_path(uri)
    if path is not None:
        return os.path.exists(path)
    system, name = _remote(uri)
    return bool(_ask(uri, system.exists, name))


def size(uri: str) -> int | None:
    """Return the size in bytes, None if it cannot be told; FileNotFoundError if there is no such file."""
    path = local_path(uri)
    if path is not None:
        return os.stat(path).st_size
    system, name = _remote(uri)
    answer = _ask(uri, system.size, name)
    return None if answer is None else int(answer)


def is_executable(uri: str) -> bool:
    """Say whether a URL names a local file that its owner may execute."""
    path = local_path(uri)
    return path is not None and bool(os.stat(path).st_mode & 0o100)


def is_directory(uri: str) -> bool:
    """Say whether there is a directory at a URL, which may end in `/`."""
    path = local_path(uri)
    if path is not None:
        return os.path.isdir(path)
    system, name = _remote(uri)
    return bool(_ask(uri, system.isdir, name))


def listing(uri: str) -> list[str]:
    """Return the quoted names in the directory at a URL, sorted, those of directories ending in `/`."""
    path = local_path(uri)
    if path is not None:
        with os.scandir(path) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries]
        return sorted(_component(name, is_dir, _is_url(uri)) for name, is_dir in found)
    system, name = _remote(uri)
    entries = _ask(uri, system.ls, name, detail=True)
    pairs = [
        (entry["name"].rstrip("/").rpartition("/")[2], entry["type"] == "directory") for entry in entries
    ]
    return sorted(_component(name, is_dir, False) for name, is_dir in pairs)


def _component(name: str, is_dir: bool, quote: bool) -> str:
    return (quoted(name) if quote else name) + ("/" if is_dir else "")


def _is_url(uri: str) -> bool:
    return uri[:5].lower() == "file:"


def open_reader(uri: str) -> IO[bytes]:
    """Open a URL for reading bytes; FileNotFoundError if there is no such file."""
    path = local_path(uri)
    if path is not None:
        return open(path, "rb")
    system, name = _remote(uri)
    stream: IO[bytes] = _ask(uri, system.open, name, "rb")
    return stream


def read_into(uri: str, writable: IO[bytes]) -> int:
    """Copy what is at a URL into a stream and return how many bytes that were."""
    total = 0
    with open_reader(uri) as stream:
        while chunk := stream.read(_CHUNK):
            writable.write(chunk)
            total += len(chunk)
    return total


def write_from(readable: BinaryIO | IO[bytes], uri: str, executable: bool) -> None:
    """Copy a stream to a URL, in one step where that is local."""
    path = local_path(uri)
    if path is not None:
        _write_local(readable, path, executable)
        return
    system, name = _remote(uri)
    with _ask(uri, system.open, name, "wb") as target:
        while chunk := readable.read(_CHUNK):
            target.write(chunk)


def _write_local(readable: BinaryIO | IO[bytes], path: str, executable: bool) -> None:
    """Copy a stream to a local path, by reflink where both are files of one file system that has it."""
    if os.path.exists(path) and not os.path.isfile(path):
        atomic_copyobj(readable, path, _CHUNK, executable)
        return
    with atomic_create(path, 0o777 if executable else 0o666) as target:
        try:
            reflink(readable.fileno(), target)
        except OSError:
            while chunk := readable.read(_CHUNK):
                write_all(target, chunk)


def _remote(uri: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the URL's name in it."""
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else ""
    from fsspec.core import url_to_fs

    try:
        system, name = url_to_fs(uri)
    except ImportError as error:
        package = _PLUGINS.get(scheme)
        advice = f"pip install '{package}'" if package else "install the fsspec plug-in that serves it"
        raise UrlError(f"cannot open {show(uri)}: {one_line(str(error))}; {advice}") from error
    except ValueError as error:
        raise UrlError(
            f"cannot open {show(uri)}: {one_line(str(error))}; install the fsspec plug-in that serves it"
        ) from error
    return system, name


def _ask(uri: str, verb: Any, *arguments: Any, **options: Any) -> Any:
    """Call a verb of fsspec; what a plug-in raises beyond OSError becomes an error for a person."""
    try:
        return verb(*arguments, **options)
    except OSError:
        raise
    except Exception as error:
        # Plug-ins raise whatever their cloud's library raises; no common class exists.
        _fail(uri, error)


def _fail(uri: str, error: Exception) -> NoReturn:
    raise UrlError(f"cannot reach {show(uri)}: {type(error).__name__}: {one_line(str(error))}") from error
