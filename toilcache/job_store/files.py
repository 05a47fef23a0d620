"""The files of a job store: those with ids, those with names, and imported originals.

Knows which attempt of which job a file belongs to. Must not know records of jobs, nor paths.
"""

from __future__ import annotations

import io
from contextlib import contextmanager, suppress
from errno import ENOTDIR, ESTALE

from toilcache.errors import NoSuchFileException, NoSuchJobException
from toilcache.job_store import layout, originals, urls
from toilcache.job_store.core import DISK_ERRORS, StoreCore
from toilcache.job_store.file_id import FileID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import IO, Any

    from toilcache.job_store.layout import FilePlace


class Files(StoreCore):
    """The verbs for files.

    A file written for a job belongs to the attempt that this process does (`begin_attempt`), or to attempt 0,
    which is never given up, where it does none.
    """

    def write_file(self, local_path: str, job_id: str | None = None, cleanup: bool = False) -> FileID:
        """Take a local file in and return its id (specification line 899)."""
        original = originals.remember(local_path)
        file_id, place = self._new_file(job_id, cleanup, original.path.rpartition("/")[2])
        with self._writing(place):
            size, executable = self._backend.upload(local_path, place.key, place.base)
        return FileID(file_id, size, executable)

    def reserve_file_id(
        self, job_id: str | None = None, cleanup: bool = False, basename: str | None = None
    ) -> str:
        """Draw an id, and neither write nor look at anything: the upload tells whether the job is known."""
        self._may_write(job_id)
        attempt = 0 if job_id is None else self._attempts.get(job_id, 0)
        return layout.new_file_id(job_id, attempt, cleanup, basename)

    def upload_reserved(self, file_id: str, local_path: str) -> None:
        """Take a local file in under an id that was drawn earlier."""
        place = self._place(file_id)
        self._may_write(place.job_id)
        originals.remember(local_path)
        with self._writing(place):
            self._backend.upload(local_path, place.key, place.base)

    @contextmanager
    def write_file_stream(
        self,
        job_id: str | None = None,
        cleanup: bool = False,
        basename: str | None = None,
        encoding: str | None = None,
        errors: str | None = None,
    ) -> Generator[tuple[IO[Any], FileID], None, None]:
        """Yield (stream, id); the file is there when the block ends, its id then has its size (line 910)."""
        text, place = self._new_file(job_id, cleanup, basename)
        file_id = FileID(text, 0)
        with self._stream(place, encoding, errors, file_id) as stream:
            yield stream, file_id

    def get_empty_file_store_id(
        self, job_id: str | None = None, cleanup: bool = False, basename: str | None = None
    ) -> FileID:
        """Make an empty file and return its id (specification line 927)."""
        with self.write_file_stream(job_id, cleanup, basename) as (_, file_id):
            pass
        return file_id

    def read_file(self, file_id: str, local_path: str, symlink: bool = False) -> None:
        """Put a file's content at a local path in one step (specification line 936).

        It is a file of its own, or a link through which the store cannot be changed. NoSuchFileException if
        there is no such file; ChangedOriginalError if it was imported by link and has changed.
        """
        place = self._place(file_id)
        wanted = getattr(file_id, "executable", False)
        try:
            _, executable = self._backend.status(place.key)
            self._backend.download(place.key, local_path, executable or wanted, symlink)
        except FileNotFoundError:
            if self._backend.has(place.key):
                raise
            original = self._original(place, file_id)
            originals.copy_out(original, local_path, original.executable or wanted)

    @contextmanager
    def read_file_stream(
        self, file_id: FileID | str, encoding: str | None = None, errors: str | None = None
    ) -> Generator[IO[Any], None, None]:
        """Yield a stream that reads a file, or a job's inline body (specification line 946)."""
        job_id = layout.body_job(file_id)
        if job_id is not None:
            stream: IO[bytes] = io.BytesIO(self._inline_body(job_id, file_id))
            with text_layer(stream, encoding, errors) as layered:
                yield layered
            return
        with self._reading(self._place(file_id), file_id, encoding, errors) as layered:
            yield layered

    def _inline_body(self, job_id: str, file_id: str) -> bytes:
        body = self.load_job(job_id).inline_body
        if body is None:
            raise NoSuchFileException(file_id)
        return body

    def file_exists(self, file_id: str) -> bool:
        """Say whether there is such a file."""
        place = layout.file_place(file_id)
        return place is not None and (
            self._backend.has(place.key) or (place.link is not None and self._backend.has(place.link))
        )

    def get_file_size(self, file_id: str) -> int:
        """Return the size in bytes, 0 if there is no such file (specification line 962)."""
        try:
            return self.file_status(file_id)[0]
        except NoSuchFileException:
            return 0

    def file_status(self, file_id: str) -> tuple[int, bool]:
        """Return (size in bytes, executable); NoSuchFileException if there is no such file."""
        place = self._place(file_id)
        try:
            return self._backend.status(place.key)
        except FileNotFoundError:
            original = self._original(place, file_id)
        return original.size, original.executable

    def delete_file(self, file_id: str) -> None:
        """Remove a file; absent is fine (specification line 956)."""
        place = layout.file_place(file_id)
        if place is None:
            return
        self._may_write(place.job_id)
        self._backend.delete(place.key)
        if place.link is not None:
            self._backend.delete(place.link)
        for scope in place.emptied:
            self._backend.drop_empty(scope)

    def update_file(self, file_id: str, local_path: str) -> None:
        """Replace a file's content with that of a local file (specification line 967)."""
        originals.remember(local_path)
        place = self._place_to_update(file_id)
        with self._writing(place, file_id):
            self._backend.upload(local_path, place.key, place.base, replace=place.link is None)
        self._unlink(place)

    @contextmanager
    def update_file_stream(
        self, file_id: str, encoding: str | None = None, errors: str | None = None
    ) -> Generator[IO[Any], None, None]:
        """Yield a stream whose content replaces a file's when the block ends (specification line 976)."""
        place = self._place_to_update(file_id)
        with self._stream(place, encoding, errors, file_id, replace=place.link is None) as stream:
            yield stream
        self._unlink(place)

    @contextmanager
    def write_shared_file_stream(
        self,
        shared_file_name: str,
        encrypted: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
    ) -> Generator[IO[Any], None, None]:
        """Yield a stream that becomes the file of that name when the block ends (specification line 985).

        ValueError if `encrypted` is True: all files are kept in the clear, readable by their owner only.
        """
        if encrypted:
            raise ValueError(
                f"cannot write {shared_file_name!r} encrypted: this job store keeps all files in the clear"
            )
        self._may_write()
        place = self._shared_place(shared_file_name)
        with self._stream(place, encoding, errors) as stream:
            yield stream
        self._unlink(place)

    @contextmanager
    def read_shared_file_stream(
        self, shared_file_name: str, encoding: str | None = None, errors: str | None = None
    ) -> Generator[IO[Any], None, None]:
        """Yield a stream that reads the file of that name (specification line 998).

        NoSuchFileException if none.
        """
        place = self._shared_place(shared_file_name)
        with self._reading(place, shared_file_name, encoding, errors) as stream:
            yield stream

    def _shared_place(self, name: str) -> FilePlace:
        place = layout.shared_place(name)
        if place is None:
            raise ValueError(
                f"cannot use {name!r} as the name of a shared file; "
                "take up to 200 letters, digits, '.', '_' and '-', not beginning with '.'"
            )
        return place

    def import_link(self, path: str, shared_file_name: str | None = None) -> FileID | None:
        """Make a file, or shared file, whose content stays in a local file that must not change."""
        self._may_write()
        original = originals.remember(path)
        if shared_file_name is not None:
            place = self._shared_place(shared_file_name)
            self._put_link(place, original)
            self._backend.delete(place.key)
            return None
        file_id = layout.new_file_id(None, 0, False, original.path.rpartition("/")[2], linked=True)
        self._put_link(self._place(file_id), original)
        return FileID(file_id, original.size, original.executable)

    def _put_link(self, place: FilePlace, original: originals.Original) -> None:
        assert place.link is not None
        with self._writing(place), self._backend.writer(place.link, place.link.partition("/")[0]) as stream:
            stream.write(originals.encode(original))

    def get_public_url(self, file_name: str) -> str:
        """Return a URL of a file (specification line 851); NoSuchFileException if there is none."""
        return self._url(self._place(file_name), file_name)

    def get_shared_public_url(self, shared_file_name: str) -> str:
        """Return a URL of a shared file (specification line 850); NoSuchFileException if there is none."""
        return self._url(self._shared_place(shared_file_name), shared_file_name)

    def _url(self, place: FilePlace, name: str) -> str:
        if self._backend.has(place.key):
            return self._backend.url(place.key)
        return urls.file_url(self._original(place, name).path)

    def discard_attempts(self, job_id: str, keep: int | None) -> None:
        """Remove the files that attempts of a job wrote, but for attempt `keep` and for none (0)."""
        self._may_write(job_id)
        if layout.is_job_id(job_id):
            self._discard(job_id, set() if keep is None else {keep})
            self._close_attempts(job_id, range(1, keep or 0))

    def _close_attempts(self, job_id: str, attempts: range) -> None:
        """Put a file in the place of each attempt's directory of files that outlive the job.

        So an attempt that still lives finds no room for them, also when the job is gone and nobody looks.
        """
        if attempts and not self._backend.has(layout.kept_files(job_id)):
            self._backend.make_scope(layout.kept_files(job_id))
        for attempt in attempts:
            key = layout.kept_files(job_id, attempt)
            if not self._backend.put_if_absent(key, b"", fresh=True):
                self._backend.drop_scope(key)  # made just now, or closed before
                self._backend.put_if_absent(key, b"", fresh=True)

    def _discard(self, job_id: str, keep: set[int]) -> None:
        own = self._names(layout.job_scope(job_id))
        kept = self._names(layout.kept_files(job_id))
        for attempt in layout.attempt_numbers(own, kept) - keep - {0}:
            self._backend.drop_scope(layout.own_files(job_id, attempt))
            self._backend.drop_scope(layout.kept_files(job_id, attempt))

    def _names(self, scope: str) -> list[str]:
        try:
            return self._backend.names(scope)
        except FileNotFoundError:
            return []

    def _new_file(self, job_id: str | None, cleanup: bool, name: str | None) -> tuple[str, FilePlace]:
        """Draw an id and find its place; NoSuchJobException for a job that the store does not know."""
        self._may_write(job_id)
        attempt = 0
        if job_id is not None:
            if not (layout.is_job_id(job_id) and self._backend.has(layout.job_scope(job_id))):
                self._end_attempt(job_id)
                raise NoSuchJobException(job_id)
            attempt = self._attempts.get(job_id, 0)
        file_id = layout.new_file_id(job_id, attempt, cleanup, name)
        return file_id, self._place(file_id)

    def _place(self, file_id: str) -> FilePlace:
        place = layout.file_place(file_id)
        if place is None:
            raise NoSuchFileException(file_id)
        return place

    def _place_to_update(self, file_id: str) -> FilePlace:
        place = self._place(file_id)
        self._may_write(place.job_id)
        if not self.file_exists(file_id):
            raise NoSuchFileException(file_id)
        return place

    def _original(self, place: FilePlace, file_id: str) -> originals.Original:
        """The original that stands for a file's content; NoSuchFileException if there is none either."""
        if place.link is not None:
            try:
                return originals.decode(self._backend.get(place.link), self._backend.where(place.link))
            except FileNotFoundError:
                pass
        raise NoSuchFileException(file_id)

    def _unlink(self, place: FilePlace) -> None:
        """Forget the original of a file that has content of its own now."""
        if place.link is not None:
            self._backend.delete(place.link)

    @contextmanager
    def _writing(self, place: FilePlace, file_id: str | None = None) -> Generator[None, None, None]:
        """Turn the backend's errors into those of the specification."""
        try:
            yield
        except OSError as error:
            # What another client has removed is stale on NFS; an attempt that was given up finds a file.
            missing = isinstance(error, FileNotFoundError) or error.errno in (ESTALE, ENOTDIR)
            if missing and file_id is not None:
                raise NoSuchFileException(file_id) from error
            if missing and place.job_id is not None:
                self._end_attempt(place.job_id)
                raise NoSuchJobException(place.job_id) from error
            raise self._unavailable(error) from error

    @contextmanager
    def _stream(
        self,
        place: FilePlace,
        encoding: str | None,
        errors: str | None,
        file_id: str = "",
        replace: bool = False,
    ) -> Generator[IO[Any], None, None]:
        name = file_id if replace else None
        with self._writing(place, name):
            writer = self._backend.writer(place.key, place.base, replace=replace)
            raw = writer.__enter__()
        try:
            with text_layer(raw, encoding, errors) as stream:
                yield stream
            if isinstance(file_id, FileID):
                file_id.size = raw.seek(0, io.SEEK_END)
        except BaseException as error:
            # The stream's own cleaning up may meet the full disk again; what counts is the first error.
            with suppress(OSError):
                writer.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, OSError) and error.errno in DISK_ERRORS and error.filename is None:
                raise self._unavailable(error) from error
            raise
        with self._writing(place, name):
            writer.__exit__(None, None, None)

    @contextmanager
    def _reading(
        self, place: FilePlace, file_id: str, encoding: str | None, errors: str | None
    ) -> Generator[IO[Any], None, None]:
        try:
            opened = self._backend.reader(place.key)
        except FileNotFoundError:
            opened = None
        if opened is None:
            with (
                originals.reading(self._original(place, file_id)) as stream,
                text_layer(stream, encoding, errors) as layered,
            ):
                yield layered
            return
        with opened, text_layer(opened, encoding, errors) as layered:
            yield layered


@contextmanager
def text_layer(stream: IO[bytes], encoding: str | None, errors: str | None) -> Generator[IO[Any], None, None]:
    """Yield the stream itself, or with an encoding a text stream over it, flushed at the end."""
    if encoding is None:
        yield stream
        return
    text = io.TextIOWrapper(stream, encoding, errors, newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach()
