"""The file store with a cache: files are shared by all jobs of a node, and go to the job store beside the
job.

Knows the job store, one job, and the node's cache. Must not know other jobs, nor SQL. The cache is opened by
the first call that needs it, so that a job which uses no files pays nothing; where somebody on this node has
used it already, a job takes its place there before it begins (see `open`). Line numbers are those of the
specification.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, contextmanager, suppress
from errno import EINVAL, EISDIR

from toilcache import vfs
from toilcache.cache.database import SQLITE_TIMEOUT_SECS
from toilcache.config import wants_cleaning
from toilcache.errors import CacheError, CacheUnavailableError, IllegalDeletionCacheError, show
from toilcache.file_store.cache_accounts import CacheAccounts
from toilcache.file_store.commit import Commit
from toilcache.file_store.local_names import is_inside
from toilcache.file_store.plain import NonCachingFileStore, file_mode
from toilcache.job_store.file_id import FileID
from toilcache.job_store.files import text_layer
from toilcache.links import link_or_copy
from toilcache.node.coordination import has_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Generator
    from typing import IO, Any

    from toilcache.cache.rows import Payload
    from toilcache.cache.writing import Upload
    from toilcache.file_store.write_back import WriteBack
    from toilcache.job.description import JobDescription
    from toilcache.job_store.abstract import AbstractJobStore

    logger: logging.Logger
else:

    def __getattr__(name):
        if name != "logger":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import logging

        return logging.getLogger(__name__)


__all__ = ["SQLITE_TIMEOUT_SECS", "CachingFileStore", "logger"]

_DEBUG = 10


def preload(jobs_dir: str) -> bool:
    """Import what jobs need of the cache, if any job of this node has used it; say whether that is done now.

    For a host: what it has imported, the processes that it forks need not import again.
    """
    if not has_cache(jobs_dir):
        return False
    import sqlite3  # noqa: F401

    import toilcache.cache.node_cache
    import toilcache.cache.reading
    import toilcache.cache.writing
    import toilcache.file_store.write_back  # noqa: F401

    return True


class CachingFileStore(CacheAccounts, NonCachingFileStore):
    """Gives jobs links into the node's cache where it may, and uploads what they write while they go on."""

    def __init__(
        self,
        jobStore: AbstractJobStore,
        jobDesc: JobDescription,
        file_store_dir: str,
        waitForPreviousCommit: Callable[[], Any],
    ) -> None:
        """Serve one job, as the base class says."""
        super().__init__(jobStore, jobDesc, file_store_dir, waitForPreviousCommit)
        self._uploads: WriteBack | None = None
        self._written: dict[str, Payload] = {}
        self._links: set[str] = set()
        self._has_committed = False

    def _begin(self) -> None:
        """Let the job in when the space that it asks for can be had (line 1200).

        On a node where nobody has used the cache yet there is nothing to be evicted for a job, so that its
        place is taken by the first call that needs the cache. CacheUnbalancedError where the space cannot be
        had.
        """
        self._pid = os.getpid()
        if has_cache(self.file_store_dir):
            self._without_cache(self._place)

    def _end(self, *, is_owner: bool) -> None:
        """Raise ChangedFileError if the job was handed a file which somebody changed meanwhile."""
        if is_owner and not self._has_committed:
            self._check_harm()

    def tidy_up(self, path: str, *, failed: bool) -> None:
        """Tidy up, then give up the place in the cache.

        While a row names the directory, it will go: the row stays where the directory could not be removed.
        """
        super().tidy_up(path, failed=failed)
        self._links.clear()
        if failed and self._uploads is not None:
            self._without_cache(self._abandon_uploads)
        if self._holder is None:
            return
        wanted = wants_cleaning(self.jobStore.config.cleanWorkDir, failed=failed)
        if wanted and os.path.lexists(path):
            self._holder = None
        else:
            self._without_cache(self._leave)

    def writeGlobalFile(self, localFileName: str, cleanup: bool = False, executable: bool = False) -> FileID:
        """Take a file into the cache and return its ID; the upload follows, at the latest with the commit.

        A file outside of the temporary directory, or a symbolic link, is uploaded at once and not cached.
        With `executable` the file is one, whatever it is here. A file must not change once it is written:
        ChangedFileError when it is uploaded (line 1206).
        """
        path = self._local_path(localFileName)
        job_id = self._before_writing()
        status = os.lstat(path)
        is_link = stat.S_ISLNK(status.st_mode)
        if is_link:
            status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            code = EISDIR if stat.S_ISDIR(status.st_mode) else EINVAL
            raise OSError(code, "cannot upload what is not a regular file; pack it into one first", path)
        executable = executable or bool(status.st_mode & stat.S_IXUSR)
        if is_link or not is_inside(self.localTempDir, path):
            return self._upload_now(path, job_id, cleanup, executable)
        upload = self._without_cache(lambda: self._taken_in(path, job_id, cleanup, executable))
        if upload is None:
            file_id = self._upload_now(path, job_id, cleanup, executable)
        else:
            self._upload_later(upload)
            file_id = FileID(upload.file_id, upload.payload.size, executable)
        self._remember(file_id, path)
        return file_id

    def _taken_in(self, path: str, job_id: str, cleanup: bool, executable: bool) -> Upload | None:
        from toilcache.cache.writing import take_in

        file_id = self.jobStore.reserve_file_id(job_id, cleanup, os.path.basename(path))
        cache, holder = self._place()
        return take_in(cache, holder, file_id, path, executable)

    def _upload_now(self, path: str, job_id: str, cleanup: bool, executable: bool) -> FileID:
        if not executable or os.access(path, os.X_OK):
            return self.jobStore.write_file(path, job_id, cleanup)
        copy = self.getLocalTempFileName(suffix="-" + os.path.basename(path)[-100:])
        link_or_copy(path, copy, mode=0o700)
        try:
            return self.jobStore.write_file(copy, job_id, cleanup)
        finally:
            vfs.unlink(copy)

    def _upload_later(self, upload: Upload) -> None:
        if self._uploads is None:
            from toilcache.file_store.write_back import WriteBack

            self._uploads = WriteBack(self._upload)
        self._written[upload.file_id] = upload.payload
        self._uploads.add(upload, upload.payload.size)

    def _upload(self, uploads: list[Upload]) -> dict[Upload, BaseException]:
        """Upload files and say which failed, and why. The cache's notes matter less than the files."""
        from toilcache.cache import writing

        failed: dict[Upload, BaseException] = {}
        with suppress(CacheUnavailableError, OSError):
            writing.begin_uploads(self._node(), uploads)
        for upload in uploads:
            try:
                with writing.as_written(upload) as path:
                    self.jobStore.upload_reserved(upload.file_id, path)
            except BaseException as error:
                # Whatever it is belongs to the one who waits for the commit.
                failed[upload] = error
        with suppress(CacheUnavailableError, OSError):
            writing.end_uploads(self._node(), [one for one in uploads if one not in failed], failed)
        return failed

    def _abandon_uploads(self) -> None:
        from toilcache.cache.writing import abandon

        if self._uploads is not None:
            abandon(self._node(), self._uploads.abandon())

    def _finish_uploads(self) -> None:
        if self._uploads is not None and os.getpid() == self._pid:
            self._uploads.finish()

    def readGlobalFile(
        self,
        fileStoreID: FileID | str,
        userPath: str | None = None,
        cache: bool = True,
        mutable: bool = False,
        symlink: bool = False,
    ) -> str:
        """Give a link to the cached file, or with `mutable` a copy (line 1208); see the base class.

        The first who asks for a file fetches it into the cache, all others wait as long as that takes.
        Without `cache` a file that is not there yet is fetched for this job alone.
        """
        path = self._path_to_read_to(fileStoreID, userPath)
        link = not mutable and is_inside(self.localTempDir, path)
        if not self._without_cache(
            lambda: self._read_cached(fileStoreID, path, cache, mutable, link, symlink)
        ):
            self._finish_uploads()
            self._read_around(fileStoreID, path, mutable, symlink)
        elif link:
            self._links.add(path)
        self._remember(fileStoreID, path)
        self.logAccess(fileStoreID, path)
        return path

    def _read_around(self, file_id: FileID | str, path: str, mutable: bool, symlink: bool) -> None:
        """Fetch a file for this job alone; see the base class.

        A child that the job has forked finds what the job has yet to upload where the cache keeps it.
        """
        payload = self._written.get(str(file_id))
        if payload is None or os.getpid() == self._pid:
            super()._read_around(file_id, path, mutable, symlink)
        else:
            mode = file_mode(mutable, is_inside(self.localTempDir, path))
            link_or_copy(payload.path, path, mode=mode | (0o111 if payload.executable else 0))

    def _read_cached(
        self, file_id: FileID | str, path: str, add: bool, mutable: bool, link: bool, symlink: bool
    ) -> bool:
        from toilcache.cache.reading import Source, Wish, read

        node, holder = self._place()
        executable = getattr(file_id, "executable", False)
        mode = file_mode(mutable, is_inside(self.localTempDir, path))
        wish = Wish(str(file_id), path, mode, link, symlink, executable, add)
        source = Source(
            lambda: self._describe(file_id),
            lambda target: self.jobStore.read_file(file_id, target),
            lambda payload: self._verify(file_id, payload),
        )
        if read(node, holder, wish, source):
            return True
        if add:
            self.log_to_leader(f"read {show(file_id)} around the cache of this node", _DEBUG)
        return False

    def _describe(self, file_id: FileID | str) -> tuple[int, bool]:
        """Say how big a file of the job store is; one of ours that the cache has lost is uploaded first."""
        self._finish_uploads()
        size, executable = self.jobStore.file_status(file_id)
        return size, executable or getattr(file_id, "executable", False)

    def _verify(self, file_id: FileID | str, payload: Payload) -> None:
        """Hold what was fetched against what the job store says."""
        size, _ = self.jobStore.file_status(file_id)
        if payload.size != size:
            raise CacheError(
                f"cannot read {show(file_id)}: {payload.size} bytes came, the job store has {size}; try again"
            )

    @contextmanager
    def readGlobalFileStream(
        self, fileStoreID: FileID | str, encoding: str | None = None, errors: str | None = None
    ) -> Generator[IO[Any], None, None]:
        """Yield a stream from the cache if it has the file, else from the job store; see the base class."""
        self._before_reading(fileStoreID)
        self.logAccess(fileStoreID)
        with ExitStack() as stack:
            if self._uses_cache():
                from toilcache.cache.reading import stream

                found = self._without_cache(
                    lambda: stack.enter_context(stream(self._node(), str(fileStoreID)))
                )
                if found is not None:
                    yield stack.enter_context(text_layer(found, encoding, errors))
                    return
            self._finish_uploads()
            yield stack.enter_context(self.jobStore.read_file_stream(fileStoreID, encoding, errors))

    def deleteLocalFile(self, fileStoreID: FileID | str) -> None:
        """Delete this job's copies and give up its references (line 1231); see the base class.

        IllegalDeletionCacheError, and nothing is deleted, if a link that the job was given is not where it
        was.
        """
        self._check_open()
        paths = self._local_copies.get(str(fileStoreID), [])
        for path in paths:
            if path in self._links and not os.path.lexists(path):
                raise IllegalDeletionCacheError(path)
        try:
            super().deleteLocalFile(fileStoreID)
        finally:
            self._links.difference_update(paths)
            if self._holder is not None:
                self._without_cache(lambda: self._forget(str(fileStoreID), paths))

    def _forget(self, file_id: str, paths: list[str]) -> None:
        from toilcache.cache.reading import forget_local

        cache, holder = self._place()
        forget_local(cache, holder, file_id, paths)

    def deleteGlobalFile(self, fileStoreID: FileID | str) -> None:
        """Delete this job's copies, and the file with the commit (line 1237); see the base class.

        RuntimeError if another job of this node still reads it.
        """
        if self._uses_cache():
            self._without_cache(lambda: self._refuse_while_read(str(fileStoreID)))
        with suppress(FileNotFoundError):
            self.deleteLocalFile(fileStoreID)
        self._mark_deleted(fileStoreID)

    def _refuse_while_read(self, file_id: str) -> None:
        from toilcache.cache.rows import others_reading

        cache, holder = self._place()
        others = others_reading(cache.generation.database.con, file_id, holder)
        if others and cache.adopt_dead():
            others = others_reading(cache.generation.database.con, file_id, holder)
        if others:
            names = ", ".join(show(name) for name in others[:3])
            raise RuntimeError(f"cannot delete file {show(file_id)}: job {names} still reads it on this node")

    def export_file(self, file_id: FileID, dst_uri: str) -> None:
        """Copy a file to a URL, after its own upload (line 1248); see the base class."""
        self._before_reading(file_id)
        self._finish_uploads()
        self.jobStore.export_file(file_id, dst_uri)

    def startCommit(self, jobState: bool = False) -> None:
        """Begin to upload what is left and, with `jobState`, to commit the job as it is now; see the base
        class.
        """
        self._join_earlier_commit()
        state = self._take_state() if jobState else None
        if state is not None:
            self._committed = state
        if state is None and self._uploads is None:
            return
        if self.commits_aside:
            self._commit = Commit(lambda: self.startCommitThread(state))
        else:
            self.startCommitThread(state)

    def startCommitThread(self, state_to_commit: JobDescription | None) -> None:
        """Upload, commit the job, let the cache forget what it deleted: in this order (line 1267)."""
        self._finish_uploads()
        if state_to_commit is None:
            return
        self._check_harm()
        self.waitForPreviousCommit()
        self.jobStore.update_job(state_to_commit)
        self._has_committed = True
        if state_to_commit.filesToDelete and self._uses_cache():
            self._without_cache(lambda: self._drop_deleted(state_to_commit.filesToDelete))

    def _drop_deleted(self, file_ids: list[str]) -> None:
        from toilcache.cache.writing import drop_deleted

        drop_deleted(self._node(), file_ids)

    @classmethod
    def shutdown(cls, shutdown_info: tuple[Any, ...]) -> None:
        """Remove the cache in (coordination directory, work directory) unless somebody uses it (line 1271).

        The temporary directories of the jobs that its database names go with it. Three values are taken as by
        the store without a cache: the workflow's ID and the two options that say where its directories are.
        """
        if len(shutdown_info) == 3:
            super().shutdown(shutdown_info)
            return
        from toilcache.cache.closing import remove_cache

        remove_cache(*shutdown_info)
