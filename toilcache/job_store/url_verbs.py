"""The job store's verbs that take URLs: looking at them, importing from them, exporting to them.

Knows the job store's file verbs and `urls`. `urls`, and with it what it needs, is loaded at the first use.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, overload

    from toilcache.job_store.file_id import FileID


class UrlVerbs:
    """What can be done with files behind `file:` URLs, bare paths, and URLs that fsspec has a plug-in for."""

    if TYPE_CHECKING:

        @overload
        def import_file(
            self, src_uri: str, shared_file_name: str, hardlink: bool = False, symlink: bool = True
        ) -> None: ...

        @overload
        def import_file(
            self, src_uri: str, shared_file_name: None = None, hardlink: bool = False, symlink: bool = True
        ) -> FileID: ...

    def import_file(
        self: Any,
        src_uri: str,
        shared_file_name: str | None = None,
        hardlink: bool = False,
        symlink: bool = True,
    ) -> FileID | None:
        """Bring a file into the store; its id, or None if it gets a shared name (specification line 762).

        A local file with `symlink` stays where it is and must not change until the workflow ends; each read
        looks that it did not. Otherwise it is copied, by reflink where possible. `hardlink` is a permission
        that is never used, since the original could be changed through its own name. FileNotFoundError if
        there is no such file.
        """
        from toilcache.job_store import urls

        path = urls.local_path(src_uri)
        if path is not None and symlink:
            linked: FileID | None = self.import_link(path, shared_file_name)
            return linked
        if path is not None and shared_file_name is None:
            copied: FileID = self.write_file(path)
            return copied
        with urls.open_reader(src_uri) as source:
            return _import_stream(self, source, src_uri, shared_file_name)

    def export_file(self: Any, file_id: str, dst_uri: str) -> None:
        """Copy a file to a URL, executable if it was so when written (specification line 784).

        NoSuchFileException if there is no such file. A local destination is replaced in one step.
        """
        from toilcache.job_store import urls

        executable = self.file_status(file_id)[1] or getattr(file_id, "executable", False)
        with self.read_file_stream(file_id) as stream:
            urls.write_from(stream, dst_uri, executable)

    @classmethod
    def url_exists(cls, src_uri: str) -> bool:
        """Say whether there is a file at a URL (specification line 788)."""
        from toilcache.job_store import urls

        return urls.exists(src_uri)

    @classmethod
    def get_size(cls, src_uri: str) -> int | None:
        """Return the size in bytes of the file at a URL, None if it cannot be told (line 790)."""
        from toilcache.job_store import urls

        return urls.size(src_uri)

    @classmethod
    def get_is_directory(cls, src_uri: str) -> bool:
        """Say whether there is a directory at a URL (specification line 792)."""
        from toilcache.job_store import urls

        return urls.is_directory(src_uri)

    @classmethod
    def list_url(cls, src_uri: str) -> list[str]:
        """List the directory at a URL; names of directories end in `/` (specification line 794)."""
        from toilcache.job_store import urls

        return urls.listing(src_uri)

    @classmethod
    def read_from_url(cls, src_uri: str, writable: IO[bytes]) -> tuple[int, bool]:
        """Copy what is at a URL into a stream (line 800).

        Return its (size in bytes, whether it is executable).
        """
        from toilcache.job_store import urls

        return urls.read_into(src_uri, writable), urls.is_executable(src_uri)

    @classmethod
    def open_url(cls, src_uri: str) -> IO[bytes]:
        """Open a URL for reading (specification line 803); FileNotFoundError if there is no such file."""
        from toilcache.job_store import urls

        return urls.open_reader(src_uri)


def _import_stream(store: Any, source: IO[bytes], uri: str, shared_file_name: str | None) -> FileID | None:
    if shared_file_name is not None:
        with store.write_shared_file_stream(shared_file_name) as target:
            _pour(source, target)
        return None
    with store.write_file_stream(basename=uri.rstrip("/").rpartition("/")[2]) as (target, file_id):
        _pour(source, target)
    result: FileID = file_id
    return result


def _pour(source: IO[bytes], target: IO[bytes]) -> None:
    while chunk := source.read(1 << 20):
        target.write(chunk)
