"""What every job store can do: the verbs of the specification and those that the engine adds.

Contracts stand here, at the verbs. Must not know how or where anything is kept. Lines: the specification's.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from contextlib import contextmanager
from errno import ESTALE

from toilcache.errors import (
    JobException,
    NoSuchFileException,
    NoSuchJobException,
    NoSuchJobStoreException,
    ToilcacheError,
)
from toilcache.job_store.leader_notes import LeaderNotes, write_shared
from toilcache.job_store.leader_verbs import LeaderVerbs
from toilcache.job_store.twins import DeprecatedNames
from toilcache.job_store.url_verbs import UrlVerbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator
    from contextlib import AbstractContextManager
    from datetime import timedelta
    from typing import IO, Any, Literal, overload

    from toilcache.config import Config
    from toilcache.job.description import JobDescription
    from toilcache.job_store.file_id import FileID


class _OneYear:
    """A duration that is made when it is asked for, since workers do without datetime."""

    def __get__(self, instance: object, owner: type | None = None) -> timedelta:
        from datetime import timedelta

        return timedelta(days=365)


class AbstractJobStore(UrlVerbs, LeaderNotes, LeaderVerbs, DeprecatedNames, ABC):
    """Where a workflow's jobs, files, messages and leader state are kept (line 693)."""

    rootJobStoreIDFileName = "rootJobStoreID"
    configFileName = "config.pickle"
    sharedFileNameRegex = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$")
    publicUrlExpiration = _OneYear()

    def __init__(self, locator: str) -> None:
        """Name the storage; nothing is looked at before `initialize` or `resume`."""
        self._locator = locator
        self._config: Config | None = None

    # The store as a whole

    def initialize(self, config: Config) -> None:
        """Persist a configuration in a new store, with the workflow id that this draws (line 701).

        JobStoreExistsException if the storage exists. One whose root job was never set counts as empty and is
        taken over, unless its leader is seen alive: LeaderAliveError. A leader that is to lead the new store
        has called `reserve` before. What makes the storage itself comes first, in the store that overrides
        this.
        """
        config.workflowID = os.urandom(16).hex()
        config.workflowAttemptNumber = 0
        config.jobStore = self.locator
        self._config = config
        self.write_config()

    def write_config(self) -> None:
        """Persist the configuration so that other processes can `resume` with it (line 710)."""
        import pickle

        write_shared(self, self.configFileName, pickle.dumps(self.config, 5))

    def resume(self) -> None:
        """Connect to an existing store and load its configuration (line 714).

        NoSuchJobStoreException if absent or half removed, CorruptRecordError if damaged.
        """
        from toilcache.job_store.records import unpickle

        try:
            data = self.read_shared(self.configFileName)
        except NoSuchFileException:
            raise NoSuchJobStoreException(self.locator) from None
        self._config = unpickle(data, f"{self.configFileName} of {self.locator}")

    @property
    def config(self) -> Config:
        """The workflow's configuration (line 720); ToilcacheError before `initialize` or `resume`."""
        if self._config is None:
            raise ToilcacheError(
                f"cannot give the configuration of job store {self.locator}: it is not open; "
                "call initialize() or resume() first"
            )
        return self._config

    @property
    def locator(self) -> str:
        """What names this store to another process (line 723)."""
        return self._locator

    @abstractmethod
    def destroy(self) -> None:
        """Remove the storage and everything in it; may be repeated, absent is fine (line 808)."""

    def get_env(self) -> dict[str, str]:
        """Return the environment variables that a worker needs to reach this store (line 812)."""
        return {}

    @abstractmethod
    def clean(self, jobCache: dict[Any, JobDescription] | None = None) -> JobDescription:
        """Put the store in order for a restart; return the root's description (line 814)."""

    @abstractmethod
    def roll_back(self, job_id: str, without: Collection[str]) -> JobDescription:
        """Make the newest whole state of a job that refers to none of the jobs `without` its newest.

        Passes over what a power cut has torn; CorruptRecordError if no such state is left.
        """

    def keep_reserve(self) -> None:
        """Set a little space aside for the case that the storage fills up; nothing where it cannot."""

    def release_reserve(self) -> None:
        """Give that space back, so that a leader can still say why it stops."""

    @abstractmethod
    def sync(self) -> None:
        """Make everything written so far survive a power cut.

        JobStoreUnavailableError if the storage could not take it. What was written before such an error may
        be lost even if the next call succeeds, unless `renew_record` has written it again.
        """

    @abstractmethod
    def renew_record(self, job_id: str, version: int) -> None:
        """Write a record once more, as it is, so that the next `sync` speaks for it; absent is fine.

        CorruptRecordError if it is damaged already.
        """

    def default_caching(self) -> bool:
        """Say whether jobs are better off with a cache on their node (line 1062)."""
        return True

    # The root job

    def set_root_job(self, job_id: str) -> None:
        """Make a job the root of the workflow (line 733)."""
        write_shared(self, self.rootJobStoreIDFileName, str(job_id).encode())

    def root_job_id(self) -> str:
        """Return the id of the root; JobException if none was set."""
        try:
            return str(self.read_shared(self.rootJobStoreIDFileName), "utf-8", "replace")
        except NoSuchFileException:
            raise JobException(
                f"cannot load the root job of {self.locator}: none was ever set; start the workflow anew"
            ) from None

    def load_root_job(self) -> JobDescription:
        """Return the root's description (line 739); JobException if none was set or it is gone."""
        job_id = self.root_job_id()
        try:
            return self.load_job(job_id)
        except NoSuchJobException:
            raise JobException(
                f"cannot load the root job of {self.locator}: job {job_id} is gone; start anew"
            ) from None

    def create_root_job(self, job_description: JobDescription) -> JobDescription:
        """Create a job and make it the root (line 750)."""
        self.create_job(job_description)
        self.set_root_job(str(job_description.jobStoreID))
        return job_description

    def get_root_job_return_value(self) -> Any:
        """Return what the root job returned (line 755); JobException while it has not."""
        from toilcache.job.promise import resolve_values

        root = self.load_root_job()
        if not root.has_result:
            raise JobException(
                f"cannot give the return value of {root}: it has not returned yet; run the workflow"
            )
        job_id = str(root.jobStoreID)
        return resolve_values(self, [job_id])[job_id]

    # Jobs

    @abstractmethod
    def assign_job_id(self, job_description: JobDescription) -> None:
        """Give the description a fresh id, for which files are accepted from now on (line 825)."""

    @contextmanager
    def batch(self) -> Generator[None, None, None]:
        """Let jobs created in the block be written together, at its end at the latest (line 832)."""
        yield

    @abstractmethod
    def create_job(self, job_description: JobDescription) -> JobDescription:
        """Write the first state of a job that has an id; return the description (line 840)."""

    @abstractmethod
    def job_exists(self, job_id: str) -> bool:
        """Say whether a description of the job is in the store (line 848)."""

    @abstractmethod
    def load_job(self, job_id: str) -> JobDescription:
        """Return the newest state of a job (line 865); NoSuchJobException if there is none."""

    @abstractmethod
    def load_version(self, job_id: str, version: int) -> JobDescription:
        """Return one state of a job, found without listing; NoSuchJobException if there is none."""

    @abstractmethod
    def update_job(self, job_description: JobDescription) -> None:
        """Write the next state of a job, all or nothing (line 878).

        ConcurrentFileModificationException if another writer was first, NoSuchJobException if the job was
        deleted: this process must write nothing more. JobStoreUnavailableError if the store is full or out of
        order: nothing is half-written, and updating the same description may be repeated.
        """

    @abstractmethod
    def delete_job(self, job_id: str) -> None:
        """Remove a job, its states and the files that go with it; absent is fine (line 886)."""

    @abstractmethod
    def jobs(self) -> Iterator[JobDescription]:
        """Iterate over the jobs that can be read, orphans included; reads the whole store (line 893)."""

    @abstractmethod
    def begin_attempt(self, job_id: str, attempt: int) -> None:
        """Let files that this process writes for a job belong to an attempt: the version that it builds on.

        From now on a refusal for this job ends all writing of this instance.
        """

    @abstractmethod
    def discard_attempts(self, job_id: str, keep: int | None) -> None:
        """Remove what attempts of a job other than `keep` uploaded; files of no attempt stay.

        Those before `keep` can upload nothing more that outlives the job.
        """

    # Files

    @abstractmethod
    def get_public_url(self, file_name: str) -> str:
        """Return a URL of a file (line 851); NoSuchFileException if there is none."""

    @abstractmethod
    def get_shared_public_url(self, shared_file_name: str) -> str:
        """Return a URL of a shared file (line 850); NoSuchFileException if there is none."""

    @abstractmethod
    def write_file(self, local_path: str, job_id: str | None = None, cleanup: bool = False) -> FileID:
        """Take a local file in and return its id (line 899).

        With `job_id` and `cleanup` it goes when that job is deleted. NoSuchJobException for an unknown job.
        """

    @abstractmethod
    def write_file_stream(
        self,
        job_id: str | None = None,
        cleanup: bool = False,
        basename: str | None = None,
        encoding: str | None = None,
        errors: str | None = None,
    ) -> AbstractContextManager[tuple[IO[Any], FileID]]:
        """Yield (stream, id); there is a file of that id when the block ends without an error (line 910)."""

    @abstractmethod
    def get_empty_file_store_id(
        self, job_id: str | None = None, cleanup: bool = False, basename: str | None = None
    ) -> FileID:
        """Make an empty file and return its id (line 927)."""

    def reserve_file_id(
        self, job_id: str | None = None, cleanup: bool = False, basename: str | None = None
    ) -> str:
        """Return the ID of a file whose content `upload_reserved` brings; before that there may be none."""
        return self.get_empty_file_store_id(job_id, cleanup, basename)

    def upload_reserved(self, file_id: str, local_path: str) -> None:
        """Take a local file in, with its executability, under a reserved ID; it may be done again."""
        self.update_file(file_id, local_path)

    def gives_freely(self, directory: str) -> bool:
        """Say whether `read_file` can put files into a local directory without taking space there."""
        return False

    @abstractmethod
    def read_file(self, file_id: str, local_path: str, symlink: bool = False) -> None:
        """Put a file's content at a local path in one step, executable if it was so when written (line 936).

        Through what is put there the store cannot be changed. With `symlink` it may be a symbolic link.
        NoSuchFileException if there is no such file.
        """

    if TYPE_CHECKING:

        @overload
        def read_file_stream(
            self, file_id: FileID | str, encoding: Literal[None] = None, errors: str | None = None
        ) -> AbstractContextManager[IO[bytes]]: ...

        @overload
        def read_file_stream(
            self, file_id: FileID | str, encoding: str, errors: str | None = None
        ) -> AbstractContextManager[IO[str]]: ...

    @abstractmethod
    def read_file_stream(
        self, file_id: FileID | str, encoding: str | None = None, errors: str | None = None
    ) -> AbstractContextManager[IO[Any]]:
        """Yield a stream that reads a file, or the body that `get_body` names (line 946)."""

    @abstractmethod
    def file_exists(self, file_id: str) -> bool:
        """Say whether there is such a file."""

    @abstractmethod
    def file_status(self, file_id: str) -> tuple[int, bool]:
        """Return (size in bytes, executable); NoSuchFileException if there is no such file."""

    @abstractmethod
    def get_file_size(self, file_id: str) -> int:
        """Return the size in bytes, 0 if there is no such file (line 962)."""

    @abstractmethod
    def delete_file(self, file_id: str) -> None:
        """Remove a file; absent is fine (line 956)."""

    @abstractmethod
    def update_file(self, file_id: str, local_path: str) -> None:
        """Replace a file's content with that of a local file (line 967).

        NoSuchFileException if there is none.
        """

    @abstractmethod
    def update_file_stream(
        self, file_id: str, encoding: str | None = None, errors: str | None = None
    ) -> AbstractContextManager[IO[Any]]:
        """Yield a stream whose content replaces a file's when the block ends (line 976)."""

    @abstractmethod
    def write_shared_file_stream(
        self,
        shared_file_name: str,
        encrypted: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
    ) -> AbstractContextManager[IO[Any]]:
        """Yield a stream that becomes the file of that name when the block ends (line 985)."""

    @abstractmethod
    def read_shared_file_stream(
        self, shared_file_name: str, encoding: str | None = None, errors: str | None = None
    ) -> AbstractContextManager[IO[Any]]:
        """Yield a stream that reads the file of that name (line 998).

        NoSuchFileException if there is none.
        """

    def read_shared(self, shared_file_name: str) -> bytes:
        """Return the whole content of a small shared file, which others may replace meanwhile."""
        for again in (True, False):
            try:
                with self.read_shared_file_stream(shared_file_name) as stream:
                    content: bytes = stream.read()
                break
            except OSError as error:
                if error.errno != ESTALE or not again:  # on NFS: another client has replaced it
                    raise
        return content

    # Messages

    @abstractmethod
    def write_logs(self, msg: str | bytes) -> None:
        """Store a message for whoever reads the logs (line 1013)."""

    @abstractmethod
    def read_logs(self, callback: Callable[[IO[bytes]], Any], read_all: bool = False) -> int:
        """Hand each unread message, or all, to `callback` as an open stream.

        Return their number (line 1021).
        """
