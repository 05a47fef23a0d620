"""Putting a job store in order after its leader or its machine died.

Knows how jobs refer to each other and what a power cut does to records. Must not know the backend.
"""

from __future__ import annotations

from itertools import chain

from toilcache.errors import ConcurrentFileModificationException, CorruptRecordError, NoSuchJobException
from toilcache.job_store import layout, records
from toilcache.job_store.files import Files
from toilcache.job_store.job_records import JobRecords

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from typing import Any

    from toilcache.job.description import JobDescription


def references(description: JobDescription) -> Iterator[str]:
    """The ids of all jobs that one needs: successors, services and those whose values it uses."""
    return chain(description.successorsAndServiceHosts(), description.promised, description.result_refs)


class NeverWrittenError(CorruptRecordError):
    """No state of a job ever arrived whole: the commit that made the job did not last."""


class Recovery(JobRecords, Files):
    """The verb `clean`, and `roll_back`."""

    def clean(self, jobCache: dict[Any, JobDescription] | None = None) -> JobDescription:
        """Mend jobs, reset their tries, remove what the root does not lead to; return the root (line 814).

        Jobs that have run need no tries and keep the record of their commit. A job whose newest
        record a power cut has torn goes back to the state before, and so does a job that refers to one that
        was never completely written. CorruptRecordError names a record that was damaged in another way, or
        that has no state to go back to. If there are jobs to remove, every job that has yet to run is fenced
        first, so that no attempt which still runs can commit successors that were removed.
        """
        cache = dict(jobCache or {})
        while True:
            try:
                return self._clean_once(cache)
            except ConcurrentFileModificationException:
                if self._fenced is not None:
                    raise
                # A worker has committed meanwhile: what it made is part of the workflow now, so look again.
                cache.clear()

    def _clean_once(self, cache: dict[Any, JobDescription]) -> JobDescription:
        root_id = self.root_job_id()
        reached = self._walk(root_id, cache)
        orphans = [job_id for job_id in self.job_ids() if job_id not in reached]
        for description in (job for job in reached.values() if job.has_body()):
            if description.clearRemainingTryCount() or orphans:
                self.update_job(description)
        self._delete_files(reached.values())
        for job_id in orphans:
            self._remove_orphan(job_id)
        self._backend.sweep()
        return reached[root_id]

    def _walk(self, root_id: str, cache: dict[Any, JobDescription]) -> dict[str, JobDescription]:
        """All jobs that the root leads to and that still exist, mended."""
        reached: dict[str, JobDescription] = {}
        waiting: list[tuple[str, str | None]] = [(root_id, None)]
        while waiting:
            job_id, referrer = waiting.pop()
            if job_id in reached:
                continue
            try:
                reached[job_id] = cache.get(job_id) or self._mended(job_id)
            except NoSuchJobException:
                if referrer is None:
                    raise
                # It has finished: its directory goes last.
                continue
            except NeverWrittenError:
                if referrer is None:
                    raise
                # All is walked anew, since the commit that made the job may have led to others as well.
                self.roll_back(referrer, {job_id})
                reached.clear()
                cache.clear()
                waiting = [(root_id, None)]
                continue
            waiting.extend((other, job_id) for other in references(reached[job_id]))
        return reached

    def _mended(self, job_id: str) -> JobDescription:
        """The newest state of a job, after going back where its record is torn."""
        try:
            return self.load_job(job_id)
        except (CorruptRecordError, NoSuchJobException):
            return self.roll_back(job_id, ())

    def _is_torn(self, job_id: str, version: int) -> bool:
        return records.is_torn(self._backend.get(layout.slot(job_id, version)))

    def roll_back(self, job_id: str, without: Collection[str]) -> JobDescription:
        """Make the newest whole state that refers to no job in `without` the newest of all; return it.

        States that a power cut has torn are passed over. NeverWrittenError if no such state is left,
        CorruptRecordError if one was damaged in another way, NoSuchJobException if there is no job. Numbers
        never go back: the old state is written again under the next number.
        """
        self._may_write(job_id)
        versions = self._versions(job_id)
        if not versions and not (layout.is_job_id(job_id) and self._backend.has(layout.job_scope(job_id))):
            raise NoSuchJobException(job_id)
        for version in versions:
            try:
                description = self.load_version(job_id, version)
            except CorruptRecordError:
                if not self._is_torn(job_id, version):
                    raise
                continue
            if set(without).isdisjoint(references(description)):
                if version != versions[0]:
                    self._write_again(description, versions[0] + 1)
                return description
        path = self._backend.where(layout.slot(job_id, versions[0] if versions else 1))
        raise NeverWrittenError(path, "it was not completely written and no earlier state is left")

    def _write_again(self, description: JobDescription, version: int) -> None:
        token = records.new_token()
        data = self._encode(description, token)
        self._take(str(description.jobStoreID), version, data, token)
        description.version, description.token = version, token.hex()

    def _delete_files(self, descriptions: Iterable[JobDescription]) -> None:
        """Delete what commits wanted deleted and what given-up attempts uploaded."""
        descriptions = list(descriptions)
        if self.is_in_doubt():
            for description in descriptions:
                self.renew_record(str(description.jobStoreID), description.version)
        self.sync()
        self._backend.delete(layout.DOUBT)
        for description in descriptions:
            waiting = description.has_body()
            if not waiting:
                for file_id in description.filesToDelete:
                    self.delete_file(file_id)
            # The attempt that wrote the newest state left its log or its results; one that builds on that
            # state may still run, and win.
            keep = {description.attempt, description.version} if waiting else {description.attempt}
            self._discard(str(description.jobStoreID), keep)

    def _remove_orphan(self, job_id: str) -> None:
        """Remove a job that nothing leads to; what a finished one wrote to outlive it stays."""
        try:
            unfinished = self.load_job(job_id).has_body()
        except (NoSuchJobException, CorruptRecordError):
            unfinished = True
        if unfinished:
            self.discard_attempts(job_id, None)
        self.delete_job(job_id)
