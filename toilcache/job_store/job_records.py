"""The jobs of a job store: numbered records that are taken one after the other, each by exactly one writer.

Knows the protocol that makes a put-if-absent a compare-and-swap (invariant I2). Must not know what a
description holds beyond its id, version and token, nor how the backend keeps bytes.

* A record never changes and its number never becomes free while the job exists.
* A writer looks that the record it builds on is still the one it loaded, then takes the next number.
* An error of the backend is no answer: the writer reads the slot, and its own token there means that it won.
* A job disappears with its scope in one step, so that a late writer finds no place for its record.
"""

from __future__ import annotations

import pickle

from toilcache.errors import (
    ConcurrentFileModificationException,
    CorruptRecordError,
    JobStoreUnavailableError,
    NoSuchJobException,
)
from toilcache.job_store import layout, records
from toilcache.job_store.core import StoreCore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from toilcache.job.description import JobDescription
    from toilcache.job_store.backend import Backend


class JobRecords(StoreCore):
    """The verbs for jobs."""

    def __init__(self, locator: str, backend: Backend) -> None:
        """Serve the jobs that the backend keeps."""
        super().__init__(locator, backend)
        self._uncertain: dict[tuple[str, int], bytes] = {}

    def assign_job_id(self, job_description: JobDescription) -> None:
        """Give the description a fresh id, for which files are accepted from now on (line 825)."""
        self._may_write()
        job_id = layout.new_id()
        try:
            self._backend.make_scope(layout.job_scope(job_id))
        except OSError as error:
            raise self._unavailable(error) from error
        job_description.jobStoreID = job_id

    def create_job(self, job_description: JobDescription) -> JobDescription:
        """Write the first record of a job that has an id (specification line 840)."""
        job_id = self._known_id(job_description)
        self._may_write(job_id)
        job_description.pre_update_hook()
        earlier = self._uncertain.get((job_id, 0))
        token = earlier or records.new_token()
        data = self._encode(job_description, token)
        # Nobody can know of this job before its parent's commit names it, so the record is written in place.
        # A power cut can tear it; the parent's commit is then not durable either and is rolled back.
        try:
            self._take(job_id, 1, data, token, first=True, again=earlier is not None)
        except JobStoreUnavailableError:
            self._uncertain[job_id, 0] = token
            raise
        self._uncertain.pop((job_id, 0), None)
        job_description.version, job_description.token = 1, token.hex()
        return job_description

    def update_job(self, job_description: JobDescription) -> None:
        """Write the next record of a job, all or nothing (specification line 878).

        ConcurrentFileModificationException if another writer was first: then nothing of this description is
        kept, and this process must end. NoSuchJobException if the job was deleted. JobStoreUnavailableError
        if the store is full or out of order: nothing is half-written, and the same description may be updated
        again later.
        """
        job_id = self._known_id(job_description)
        self._may_write(job_id)
        job_description.pre_update_hook()
        version = job_description.version
        if job_id in self._attempts:
            job_description.attempt = self._attempts[job_id]
        # A repetition uses the token of the first time, whose record may have arrived although it seemed to
        # fail.
        token = self._uncertain.get((job_id, version)) or records.new_token()
        data = self._encode(job_description, token)
        self._check_base(job_id, version, job_description.token)
        self._uncertain[job_id, version] = token
        self._take(job_id, version + 1, data, token)
        del self._uncertain[job_id, version]
        job_description.version, job_description.token = version + 1, token.hex()

    def _encode(self, description: JobDescription, token: bytes) -> bytes:
        return records.encode(pickle.dumps(description, 5), token)

    def _known_id(self, description: JobDescription) -> str:
        job_id = description.jobStoreID
        if not isinstance(job_id, str) or not layout.is_job_id(job_id):
            raise NoSuchJobException(job_id)
        return job_id

    def _check_base(self, job_id: str, version: int, token: str) -> None:
        """Look that the record which a description was loaded from is the one in the store."""
        found = self._token_at(job_id, version)
        if found is None:
            self._end_attempt(job_id)
            raise NoSuchJobException(job_id)
        if found.hex() != token:
            self._refuse(job_id)
            raise ConcurrentFileModificationException(job_id)

    def _token_at(self, job_id: str, version: int) -> bytes | None:
        """The token in a slot; None if the slot is free."""
        try:
            head = self._backend.head(layout.slot(job_id, version), records.HEADER_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unavailable(error) from error
        return records.token_of(head) or b""

    def _take(
        self,
        job_id: str,
        version: int,
        data: bytes,
        token: bytes,
        *,
        first: bool = False,
        again: bool = False,
    ) -> None:
        """Take a slot with a record, or raise.

        The `first` of a job is written in place, so that a failure may leave a part of it. That is ours, and
        is written over when it is done `again`.
        """
        failure: OSError | None = None
        slot = layout.slot(job_id, version)
        try:
            if again:
                self._backend.put(slot, data)
                return
            if self._backend.put_if_absent(slot, data, first):
                return
        except FileNotFoundError as error:
            self._end_attempt(job_id)
            raise NoSuchJobException(job_id) from error
        except OSError as error:
            if first and not self._holds(slot, data):
                raise self._unavailable(error) from error
            failure = error
        found = self._token_at(job_id, version)
        if found == token:
            return
        if found is None and failure is not None:
            raise self._unavailable(failure) from failure
        self._refuse(job_id)
        raise ConcurrentFileModificationException(job_id)

    def _holds(self, key: str, data: bytes) -> bool:
        """Tell whether all of this has arrived, whatever the backend said."""
        try:
            return self._backend.get(key) == data
        except OSError:
            return False

    def load_job(self, job_id: str) -> JobDescription:
        """Return the newest state of a job (specification line 865).

        NoSuchJobException at once if there is none.
        """
        versions = self._versions(job_id)
        if not versions:
            raise NoSuchJobException(job_id)
        return self.load_version(job_id, versions[0])

    def load_version(self, job_id: str, version: int) -> JobDescription:
        """Return one state of a job, found without listing anything.

        NoSuchJobException if it does not exist.
        """
        if not layout.is_job_id(job_id):
            raise NoSuchJobException(job_id)
        key = layout.slot(job_id, version)
        try:
            data = self._backend.get(key)
        except FileNotFoundError:
            raise NoSuchJobException(job_id) from None
        except OSError as error:
            raise self._unavailable(error) from error
        path = self._backend.where(key)
        token, state = records.decode(data, path)
        description: JobDescription = records.unpickle(state, path)
        description.version, description.token = version, token.hex()
        # Who loads anew may try again, as each write looks at what it builds on; a refused attempt may not.
        self._refused.discard(job_id)
        if self._config is not None:
            description.assignConfig(self._config)
        return description

    def _versions(self, job_id: str) -> list[int]:
        """The versions of a job, newest first; none if there is no such job."""
        if not layout.is_job_id(job_id):
            return []
        try:
            return layout.slot_numbers(self._backend.names(layout.job_scope(job_id)))
        except FileNotFoundError:
            return []

    def job_exists(self, job_id: str) -> bool:
        """Say whether a description of the job is in the store (specification line 848)."""
        return bool(self._versions(job_id))

    def renew_record(self, job_id: str, version: int) -> None:
        """Write a record once more, as it is; one that is not there any more needs it no longer."""
        key = layout.slot(job_id, version)
        try:
            data = self._backend.get(key)
            records.decode(data, self._backend.where(key))
            self._backend.renew(key, data)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unavailable(error) from error

    def delete_job(self, job_id: str) -> None:
        """Remove a job, all its records and the files that go with it.

        Absent is fine (specification line 886).
        """
        self._may_write(job_id)
        if layout.is_job_id(job_id):
            try:
                self._backend.drop_scope(layout.job_scope(job_id))
            except OSError as error:
                raise self._unavailable(error) from error

    def job_ids(self) -> Iterator[str]:
        """Iterate over the ids of all jobs, assigned ones included; lists the whole store."""
        for shard in self._backend.names(layout.JOBS):
            yield from filter(layout.is_job_id, self._backend.names(f"{layout.JOBS}/{shard}"))

    def jobs(self) -> Iterator[JobDescription]:
        """Iterate over the jobs that can be read (specification line 893); lists the whole store."""
        for job_id in self.job_ids():
            try:
                yield self.load_job(job_id)
            except (NoSuchJobException, CorruptRecordError):
                continue
