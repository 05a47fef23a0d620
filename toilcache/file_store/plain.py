"""The file store without a cache: each read is a file of its own, each write goes to the job store at once.

Knows the job store and one job's temporary directory. Must not know other jobs of the node, nor keep anything
beyond the job.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from errno import EEXIST, EINVAL, EISDIR, ENOENT

from toilcache import vfs
from toilcache.errors import ConcurrentFileModificationException
from toilcache.file_store.abstract import AbstractFileStore
from toilcache.file_store.commit import Commit
from toilcache.file_store.local_names import encoded_name, is_inside
from toilcache.file_store.private_copy import make_private
from toilcache.job_store.file_id import FileID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from toilcache.job.description import JobDescription
    from toilcache.job_store.abstract import AbstractJobStore

_MUTABLE = 0o644
_IMMUTABLE = 0o444


class NonCachingFileStore(AbstractFileStore):
    """Gives each job private copies, or links where the job cannot write through them."""

    def __init__(
        self,
        jobStore: AbstractJobStore,
        jobDesc: JobDescription,
        file_store_dir: str,
        waitForPreviousCommit: Callable[[], Any],
    ) -> None:
        """Serve one job, as the base class says."""
        super().__init__(jobStore, jobDesc, file_store_dir, waitForPreviousCommit)
        self._local_copies: dict[str, list[str]] = {}
        self._commit: Commit | None = None
        self._committed: JobDescription = jobDesc

    def writeGlobalFile(self, localFileName: str, cleanup: bool = False) -> FileID:
        """Upload a file before returning; see the base class."""
        path = self._local_path(localFileName)
        job_id = self._before_writing()
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            code = EISDIR if stat.S_ISDIR(status.st_mode) else EINVAL
            raise OSError(code, "cannot upload what is not a regular file; pack it into one first", path)
        file_id = self.jobStore.write_file(path, job_id, cleanup)
        if not os.path.islink(path):
            self._remember(file_id, path)
        return file_id

    def readGlobalFile(
        self,
        fileStoreID: FileID | str,
        userPath: str | None = None,
        cache: bool = True,
        mutable: bool = False,
        symlink: bool = False,
    ) -> str:
        """Fetch a file, a copy of its own for each read; `cache` means nothing here; see the base class."""
        path = self._path_to_read_to(fileStoreID, userPath)
        self._read_around(fileStoreID, path, mutable, symlink)
        self._remember(fileStoreID, path)
        self.logAccess(fileStoreID, path)
        return path

    def _path_to_read_to(self, file_id: FileID | str, user_path: str | None) -> str:
        """Begin to read a file: return where it goes to; FileExistsError if something is there."""
        self._before_reading(file_id)
        path = self._local_path(encoded_name(file_id) if user_path is None else user_path)
        if os.path.lexists(path):
            raise FileExistsError(EEXIST, "cannot read a file to a path that exists; give a new one", path)
        return path

    def _read_around(self, file_id: FileID | str, path: str, mutable: bool, symlink: bool) -> None:
        """Fetch a file from the job store for this job alone."""
        self.jobStore.read_file(file_id, path, symlink=symlink and not mutable)
        try:
            make_private(path, file_mode(mutable, is_inside(self.localTempDir, path)))
        except BaseException:
            # Also on KeyboardInterrupt: what may be the job store's own file is never left with the job.
            vfs.unlink(path)
            raise

    def deleteLocalFile(self, fileStoreID: FileID | str) -> None:
        """Delete the copies that this job read or wrote here; see the base class."""
        self._check_open()
        found = False
        for path in self._local_copies.pop(str(fileStoreID), ()):
            with suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                vfs.unlink(path)
                found = True
        if not found:
            raise FileNotFoundError(ENOENT, "cannot delete local copies: this job has none", str(fileStoreID))

    def deleteGlobalFile(self, fileStoreID: FileID | str) -> None:
        """Delete the copies, and the file with the commit; see the base class."""
        with suppress(FileNotFoundError):
            self.deleteLocalFile(fileStoreID)
        self._mark_deleted(fileStoreID)

    def export_file(self, file_id: FileID, dst_uri: str) -> None:
        """Copy a file to a URL; uploads are always over here; see the base class."""
        self._before_reading(file_id)
        self.jobStore.export_file(file_id, dst_uri)

    def startCommit(self, jobState: bool = False) -> None:
        """Write the description, in a thread if `commits_aside`; files were written as they came.

        ConcurrentFileModificationException where an earlier commit was refused: nobody commits twice then.
        """
        self._join_earlier_commit()
        if jobState:
            self._committed = self._take_state()
            if self.commits_aside:
                self._commit = Commit(self._write_state)
            else:
                self._write_state()

    def _join_earlier_commit(self) -> None:
        """Wait for what was started before; what failed may be tried again, what was refused may not."""
        try:
            self.waitForCommit()
        except ConcurrentFileModificationException:
            raise
        except Exception:
            # Its waiter has been told, or is not interested; the state that is taken next replaces it.
            self._commit = None

    def _write_state(self) -> None:
        self.waitForPreviousCommit()
        self.jobStore.update_job(self._committed)

    def waitForCommit(self) -> bool:
        """Wait for the thread; the description then has its new version; see the base class."""
        if self._commit is not None:
            self._commit.wait()
            self.jobDesc.version, self.jobDesc.token = self._committed.version, self._committed.token
        return True

    @classmethod
    def shutdown(cls, shutdown_info: tuple[Any, ...]) -> None:
        """Clean this node of (workflow ID, work directory or None, coordination directory or None).

        The run of the leader may come fourth, see `AbstractFileStore.shutdownFileStore`.
        """
        from toilcache.node.remains import cleanup

        workflow_id, work_dir, coordination_dir, *run = shutdown_info
        cleanup(workflow_id, work_dir, coordination_dir, run=run[0] if run else None)

    def _local_path(self, name: str) -> str:
        """Make a path absolute, from the temporary directory and not from wherever the job went meanwhile."""
        return os.path.normpath(os.path.join(self.localTempDir, name))

    def _remember(self, file_id: str, path: str) -> None:
        if is_inside(self.localTempDir, path):
            self._local_copies.setdefault(str(file_id), []).append(path)


def file_mode(mutable: bool, inside: bool) -> int:
    """The permissions of a fetched file: in the temporary directory any uid of a container may read it."""
    mode = _MUTABLE if mutable else _IMMUTABLE
    if inside:
        return mode
    # The umask can only be read by setting it; for that moment the stricter one holds.
    umask = os.umask(0o077)
    os.umask(umask)
    return mode & ~umask
