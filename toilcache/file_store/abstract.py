"""The file store as a job sees it: its temporary directory, its files, its messages, its commit.

Knows what every file store shares. Must not know how files are kept on the node (plain.py does), nor who runs
the job. Line numbers in docstrings are those of the specification.
"""

from __future__ import annotations

import os
import pickle
from abc import ABC, abstractmethod
from contextlib import contextmanager
from errno import ENOENT

from toilcache.config import wants_cleaning
from toilcache.errors import JobException, NoSuchFileException
from toilcache.file_store.access import AccessLog
from toilcache.file_store.local_names import fresh_path
from toilcache.file_store.scratch import make_scratch, remove_if_empty, used_bytes
from toilcache.file_store.user_stream import read_user_stream
from toilcache.file_store.worker_log import worker_log
from toilcache.io import WriteWatchingStream, create_exclusive, mkdtemp, robust_rmtree
from toilcache.job_store.file_id import FileID
from toilcache.late import late
from toilcache.retry import deprecated
from toilcache.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from typing import IO, Any, Literal, overload

    from toilcache.file_store.scratch import Spare
    from toilcache.job.description import JobDescription
    from toilcache.job.job import Job
    from toilcache.job_store.abstract import AbstractJobStore

_INFO = 20
_WARNING = 30


class AbstractFileStore(ABC):
    """What a running job reads, writes and says through (line 60).

    Files may be touched only inside the block of `open`; RuntimeError elsewhere.
    """

    def __init__(
        self,
        jobStore: AbstractJobStore,
        jobDesc: JobDescription,
        file_store_dir: str,
        waitForPreviousCommit: Callable[[], Any],
    ) -> None:
        """Serve one job. `file_store_dir` is where temporary directories of jobs stand on this node.

        `waitForPreviousCommit` blocks until the job before this one in the same worker is committed, and
        raises what became of it; it is called before this store changes anything in the job store.
        """
        self.jobStore = jobStore
        self.jobDesc = jobDesc
        self.commits_aside = True
        """Whether a commit runs in a thread; one who waits for it at once does without."""
        self.spare: Spare | None = None
        """What the job is to have as its directory, if other jobs of the process are to have it as well."""
        self.jobName = str(jobDesc)
        self.file_store_dir = file_store_dir
        self.waitForPreviousCommit = waitForPreviousCommit
        self.messages: list[tuple[int, str]] = []
        self.user_streams: list[tuple[str, str]] = []
        self._access_log = AccessLog()
        self._deleted: dict[str, None] = {}
        self._scratch: str | None = None
        self._disk_used: int | None = None

    @staticmethod
    def createFileStore(
        jobStore: AbstractJobStore,
        jobDesc: JobDescription,
        file_store_dir: str,
        waitForPreviousCommit: Callable[[], Any],
        caching: bool | None,
    ) -> AbstractFileStore:
        """Return the file store for a job (line 75).

        With `caching` it shares files between the jobs of a node, without it keeps the same promises with one
        copy for each read; None leaves that to the job store.
        """
        wanted = jobStore.default_caching() if caching is None else caching
        home = "caching:CachingFileStore" if wanted else "plain:NonCachingFileStore"
        kind = late(f"toilcache.file_store.{home}")
        store: AbstractFileStore = kind(jobStore, jobDesc, file_store_dir, waitForPreviousCommit)
        return store

    @staticmethod
    def shutdownFileStore(
        workflowID: str,
        config_work_dir: str | None,
        config_coordination_dir: str | None,
        run: int | None = None,
    ) -> None:
        """Remove what a workflow left on this node; nobody may be using it any more (line 84).

        `run` is the leader's for which that is done: nothing happens if a later one has used the node.
        """
        info = (workflowID, config_work_dir, config_coordination_dir, run)
        late("toilcache.file_store.plain:NonCachingFileStore").shutdown(info)

    @contextmanager
    def open(self, job: Job) -> Generator[None, None, None]:
        """Give the job a temporary directory as its working directory, for one block (line 88).

        After the block the old working directory is back, the disk usage measured and the directory removed
        if ``--cleanWorkDir`` says so. A forked child that leaves the block changes nothing.
        """
        if self._scratch is not None:
            raise RuntimeError(f"cannot open the file store of {self.jobName}: it is open; close it first")
        owner = os.getpid()
        failed = True
        home = os.open(".", os.O_PATH | os.O_DIRECTORY)
        try:
            if self.spare is not None:
                self.spare.enter()
            else:
                os.chdir(make_scratch(self.file_store_dir))
            self._scratch = os.getcwd()
            try:
                self._begin()
                yield
                self._end(is_owner=os.getpid() == owner)
                failed = False
            finally:
                if os.getpid() == owner:
                    os.fchdir(home)
                    self.tidy_up(self._scratch, failed=failed)
        finally:
            os.close(home)

    def _begin(self) -> None:  # noqa: B027  most stores have nothing to do
        """Called in the block of `open` before the job's turn."""

    def _end(self, *, is_owner: bool) -> None:  # noqa: B027
        """Called there when the job has not failed, in a forked child too; raises if it has after all."""

    def tidy_up(self, path: str, *, failed: bool) -> None:
        """Measure and tidy up; what cannot be removed fails no job: the node's clean-up will have it."""
        self._scratch = None
        self._disk_used = 0
        try:
            if self.spare is not None and self.spare.is_untouched(path):
                return
            if remove_if_empty(path):
                return
            self._disk_used = used_bytes(path)
            if wants_cleaning(self.jobStore.config.cleanWorkDir, failed=failed):
                robust_rmtree(path)
        except OSError as error:
            self.log_to_leader(f"cannot remove the temporary directory of {self.jobName}: {error}", _WARNING)
        self._warn_of_disk(self._disk_used)

    def _warn_of_disk(self, used: int) -> None:
        try:
            asked = self.jobDesc.disk
        except JobException:
            # Without a configuration and a requirement of its own the job has promised nothing.
            return
        if used > asked:
            sizes = f"{format_size(used)} of disk but asked for {format_size(asked)}"
            advice = "give it a larger disk requirement"
            self.log_to_leader(f"job {self.jobName} used {sizes}; {advice}", _WARNING)

    @property
    def localTempDir(self) -> str:
        """The job's temporary directory, absolute; RuntimeError outside the block of `open`."""
        return self._check_open()

    def get_disk_usage(self) -> int | None:
        """Return the bytes of disk that the last job under `open` held at its end; None before (line 96)."""
        return self._disk_used

    def getLocalTempDir(self) -> str:
        """Make a directory (0711) that goes when the job ends; return its absolute path (line 101)."""
        return mkdtemp(dir=self.localTempDir)

    def getLocalTempFile(self, suffix: str | None = None, prefix: str | None = None) -> str:
        """Make an empty file (0600) that goes when the job ends; return its absolute path (line 107)."""
        path = self.getLocalTempFileName(suffix, prefix)
        create_exclusive(path)
        return path

    def getLocalTempFileName(self, suffix: str | None = None, prefix: str | None = None) -> str:
        """Return an absolute path in the temporary directory at which nothing stands yet (line 113).

        ValueError where suffix or prefix would lead elsewhere, OSError where the name is too long.
        """
        return fresh_path(self.localTempDir, suffix, prefix)

    @abstractmethod
    def writeGlobalFile(self, localFileName: str, cleanup: bool = False) -> FileID:
        """Upload a file and return its ID; a relative name is under the temporary directory (line 119).

        With `cleanup` the uploaded file goes when this job and all its successors are done.
        """

    @contextmanager
    def writeGlobalFileStream(
        self,
        cleanup: bool = False,
        basename: str | None = None,
        encoding: str | None = None,
        errors: str | None = None,
    ) -> Generator[tuple[WriteWatchingStream, FileID], None, None]:
        """Yield a stream to write and the ID of the file it becomes when the block ends (line 129).

        `FileID.size` grows with what is written and is exact after the block. If the block raises, there is
        no file. Binary without `encoding`.
        """
        job_id = self._before_writing()
        with self.jobStore.write_file_stream(job_id, cleanup, basename, encoding, errors) as (stream, stored):
            file_id = FileID(str(stored), 0)
            watched = WriteWatchingStream(stream)

            def grow(count: int) -> None:
                file_id.size += count

            watched.onWrite(grow)
            yield watched, file_id
        # What was written by seek() or truncate() no count can tell.
        file_id.size = self.jobStore.get_file_size(str(file_id))

    def logAccess(self, fileStoreID: FileID | str, destination: str | None = None) -> None:
        """Remember a read, to a path or else as a stream, to be told if the job fails (line 140)."""
        self._access_log.add(fileStoreID, destination)

    @property
    def accesses(self) -> list[tuple[str, str | None]]:
        """The reads so far, in order: (file ID, path or None for a stream)."""
        return self._access_log.entries

    def describe_accesses(self) -> str:
        """Return the reads so far as lines for a person; empty where there were none."""
        return self._access_log.describe()

    @abstractmethod
    def readGlobalFile(
        self,
        fileStoreID: FileID | str,
        userPath: str | None = None,
        cache: bool = True,
        mutable: bool = False,
        symlink: bool = False,
    ) -> str:
        """Make a file available at a local path and return that, absolute (line 150).

        A relative `userPath` is under the temporary directory; nothing may stand there: FileExistsError.
        Without one the file gets a name of its own in the temporary directory. Only with `mutable` may the
        job change what it gets, and only with `symlink` may that be a symbolic link.
        """

    if TYPE_CHECKING:

        @overload
        def readGlobalFileStream(
            self, fileStoreID: FileID | str, encoding: Literal[None] = None, errors: str | None = None
        ) -> AbstractContextManager[IO[bytes]]: ...

        @overload
        def readGlobalFileStream(
            self, fileStoreID: FileID | str, encoding: str, errors: str | None = None
        ) -> AbstractContextManager[IO[str]]: ...

    @contextmanager
    def readGlobalFileStream(
        self, fileStoreID: FileID | str, encoding: str | None = None, errors: str | None = None
    ) -> Generator[IO[Any], None, None]:
        """Yield a stream that reads a file: bytes, or text with `encoding` (line 165)."""
        self._before_reading(fileStoreID)
        self.logAccess(fileStoreID)
        with self.jobStore.read_file_stream(fileStoreID, encoding, errors) as stream:
            yield stream

    def getGlobalFileSize(self, fileStoreID: FileID | str) -> int:
        """Return a file's size in bytes: what the ID says, else what the job store says (line 175)."""
        size: int | None = getattr(fileStoreID, "size", None)
        return self.jobStore.get_file_size(fileStoreID) if size is None else size

    @abstractmethod
    def deleteLocalFile(self, fileStoreID: FileID | str) -> None:
        """Delete this job's copies of a file in its temporary directory (line 185).

        OSError (ENOENT) where there are none; copies elsewhere stay.
        """

    @abstractmethod
    def deleteGlobalFile(self, fileStoreID: FileID | str) -> None:
        """Delete this job's copies, and have the file deleted once the job is committed (line 193).

        Reading it again in this job is a FileNotFoundError.
        """

    def importFile(self, srcUrl: str, sharedFileName: str | None = None) -> FileID | None:
        """Import under the older name."""
        return self.import_file(srcUrl, sharedFileName)

    importFile = deprecated("import_file")(importFile)

    def import_file(self, src_uri: str, shared_file_name: str | None = None) -> FileID | None:
        """Copy the file at a URL into the job store; its ID, or None where it gets a shared name (line 204).

        Always a copy, never a link to the original: other nodes may not see what this one does, and the job's
        own files go with it.
        """
        self._before_writing()
        if shared_file_name is not None:
            self.jobStore.import_file(src_uri, shared_file_name, symlink=False)
            return None
        return self.jobStore.import_file(src_uri, symlink=False)

    def exportFile(self, jobStoreFileID: FileID, dstUrl: str) -> None:
        """Export under the older name."""
        self.export_file(jobStoreFileID, dstUrl)

    exportFile = deprecated("export_file")(exportFile)

    @abstractmethod
    def export_file(self, file_id: FileID, dst_uri: str) -> None:
        """Copy a file of the workflow to a URL, after its own upload if that still runs (line 214)."""

    def log_to_leader(self, text: str, level: int = _INFO) -> None:
        """Log a message here, and at the leader once the job's state is committed (line 220)."""
        worker_log(level, text)
        self.messages.append((level, text))

    def log_user_stream(self, name: str, stream: IO[bytes]) -> None:
        """Send the (last 16 MiB of) UTF-8 text that a stream holds to the leader as a log (line 222)."""
        self.user_streams.append((name, read_user_stream(stream)))

    @abstractmethod
    def startCommit(self, jobState: bool = False) -> None:
        """Begin to commit, perhaps beside this thread; `waitForCommit` tells the outcome (line 225).

        With `jobState` the job's description is committed as it is now, with its messages and file deletions;
        without, only that the files it wrote are in the job store.
        """

    @abstractmethod
    def waitForCommit(self) -> bool:
        """Block until the commit that was started is done, and return True, also where none was (line 233).

        A refused or failed commit is raised, at each call.
        """

    @classmethod
    @abstractmethod
    def shutdown(cls, shutdown_info: Any) -> None:
        """Remove this kind of file store, and all jobs' temporary directories, from this node (line 240)."""

    def _check_open(self) -> str:
        if self._scratch is None:
            raise RuntimeError(f"cannot use the file store of {self.jobName}: it is open only while it runs")
        return self._scratch

    def _before_writing(self) -> str:
        """Check that something may be written now, and return the ID of the job that writes."""
        self._check_open()
        self.waitForPreviousCommit()
        return str(self.jobDesc.jobStoreID)

    def _before_reading(self, file_id: str) -> None:
        """Check that a file may be read now."""
        self._check_open()
        if str(file_id) in self._deleted:
            raise FileNotFoundError(ENOENT, "cannot read a file that this job has deleted", str(file_id))
        try:
            str(file_id).encode()
        except UnicodeEncodeError:  # no ID is such a text, and no database takes it
            raise NoSuchFileException(file_id) from None

    def _mark_deleted(self, file_id: str) -> None:
        """Have the file deleted with the commit, and refuse to read it from now on."""
        self._deleted[str(file_id)] = None

    def _take_state(self) -> JobDescription:
        """Hand what was collected to the description and return it as it is to be committed.

        For a commit beside this thread a copy, which later changes do not reach.
        """
        description = self.jobDesc
        if self.messages or self.user_streams:
            description.messages += self.messages
            description.user_streams += self.user_streams
            self.messages, self.user_streams = [], []
        if self._deleted:
            known = set(description.filesToDelete)
            description.filesToDelete += [file_id for file_id in self._deleted if file_id not in known]
        if not self.commits_aside:
            return description
        copy: JobDescription = pickle.loads(pickle.dumps(description, pickle.HIGHEST_PROTOCOL))
        return copy
