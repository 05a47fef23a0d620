"""What a job's process does: load the record, run the job, commit, go on with the successor if it may.

Knows job descriptions, file stores and commits. Must not know who started the process or how the leader
schedules. A process that is refused once writes nothing more and ends."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import partial

from toilcache.errors import (
    ConcurrentFileModificationException,
    JobException,
    JobStoreUnavailableError,
    NoSuchJobException,
)
from toilcache.file_store.abstract import AbstractFileStore
from toilcache.job.body import dumps
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job.graph import new_jobs
from toilcache.job.identifiers import TemporaryID
from toilcache.job.job import Job, run_job
from toilcache.worker.commit import is_full
from toilcache.worker.deferred import Deferred
from toilcache.worker.failures import describe, print_traceback, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from toilcache.file_store.scratch import Spare
    from toilcache.job.description import JobDescription
    from toilcache.worker.context import WorkerContext

INLINE_RESULT = 64 * 1024
LOG_LIMIT = 4 * 1024 * 1024

ENDED, FAILED, REFUSED = 0, 1, 75


class Outcome:
    """What has come of a function that has run already, without a file store.

    :param scratch: the directory that it had, if that is still there.
    :param error: what it raised.
    :param value: what it returned.
    :param pickled: the same as `dumps` gives it, if that has been asked already: some things can be pickled
        once only.
    """

    __slots__ = ("error", "pickled", "scratch", "value")

    def __init__(
        self,
        scratch: str | None = None,
        error: BaseException | None = None,
        value: Any = None,
        pickled: tuple[bytes, list[str]] | None = None,
    ) -> None:
        self.scratch = scratch
        self.error = error
        self.value = value
        self.pickled = pickled


def run_chain(
    context: WorkerContext,
    job_id: str,
    version: int,
    spare: Spare | None = None,
    outcome: Outcome | None = None,
) -> int:
    """Run a job at a version, then its successors as long as they may follow in this process.

    Where the first has run already, `outcome` says what came of it.

    Returns 0 when every job run here has its record, be it of a success or of a failure; 75 (EX_TEMPFAIL)
    when the store refused us because a newer attempt exists. Only the first may have the spare directory:
    what that leaves running goes on beside its successors, and may know the place."""
    if not context.has_main:
        context.load_main()
    context.attempt = (job_id, version)
    reserved = None
    next_id: str | None = job_id
    wait: Callable[[], Any] = _nothing_to_wait_for
    while next_id is not None:
        try:
            # A disk that fails for a moment is not the job's fault, which has not even begun.
            desc = context.write(partial(context.store.load_version, next_id, version))
        except NoSuchJobException:
            return REFUSED
        reserved = reserved or desc
        run = _Run(context, desc, version, reserved, spare, outcome)
        status = run.execute(wait)
        if status != ENDED:
            return status
        next_id, version, wait, spare = run.successor, 1, _nothing_to_wait_for, None
        outcome = None
    return ENDED


def _nothing_to_wait_for() -> bool:
    return True


class _Run:
    """One attempt at one job in this process."""

    def __init__(
        self,
        context: WorkerContext,
        desc: JobDescription,
        version: int,
        reserved: JobDescription,
        spare: Spare | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        self._context = context
        self._store = context.store
        self._desc = desc
        self._version = version
        self._reserved = reserved
        self._spare = spare
        self._outcome = outcome
        self._id = str(desc.jobStoreID)
        self._committed = False
        self.successor: str | None = None

    def execute(self, wait: Callable[[], Any]) -> int:
        self._store.begin_attempt(self._id, self._version)
        file_store: AbstractFileStore | None = None
        try:
            file_store = AbstractFileStore.createFileStore(
                self._store, self._desc, self._context.jobs_dir, wait, self._store.config.caching
            )
            file_store.commits_aside = False
            file_store.spare = self._spare
            if self._outcome is None:
                self._run(file_store)
            else:
                self._finish(file_store, self._outcome)
        except BaseException as error:  # sys.exit and Ctrl-C in a job are failures of that job like any other
            if self._committed:
                self._stop_after_commit(error)
                return ENDED
            if isinstance(error, ConcurrentFileModificationException):
                say(f"refused: {error}")
                return REFUSED
            return self._fail(error, file_store)
        return ENDED

    def _run(self, file_store: AbstractFileStore) -> None:
        job = Job.loadJob(self._store, self._desc)
        deferred = Deferred(self._context, self._desc, job)
        job._defer = deferred.add
        try:
            with file_store.open(job):
                value = run_job(job, file_store)
                self._save_successors(job)
                self._commit(file_store, value)
        finally:
            job._defer = None  # the attempt is over
            deferred.make_calls()

    def _finish(self, file_store: AbstractFileStore, outcome: Outcome) -> None:
        """Commit what a function has come to that has run already, and tidy up where it ran."""
        failed = True
        try:
            if outcome.error is not None:
                raise outcome.error
            self._commit(file_store, outcome.value, outcome.pickled)
            failed = False
        finally:
            if outcome.scratch is not None:
                file_store.tidy_up(outcome.scratch, failed=failed)

    def _save_successors(self, job: Job) -> None:
        """Save what the job added; while the store is full, each try goes on where the last one stopped."""
        new = new_jobs(job)
        if len(new) == 1:
            return
        ids = {one: one.jobStoreID for one in new}

        def save() -> None:
            # An id that an earlier try has assigned may be known to its own job only.
            renames = {
                old: str(one.jobStoreID)
                for one, old in ids.items()
                if isinstance(old, TemporaryID) and one.jobStoreID is not old
            }
            if renames:
                for one in ids:
                    one.description.renameReferences(renames)
            job.save_new_successors(self._store)

        self._context.write(save)

    def _commit(
        self, file_store: AbstractFileStore, value: Any, pickled: tuple[bytes, list[str]] | None = None
    ) -> None:
        desc = self._desc
        if desc.services:
            raise JobException(
                f"cannot run the services of job {desc}: they can be described, but nothing starts them yet; "
                "start and stop what you need inside the jobs that use it"
            )
        data, refs = pickled or dumps(value, _ReturnValue(desc))
        if len(data) <= INLINE_RESULT:
            take_result(desc, data, refs)
        else:
            take_result(desc, None, refs, self._context.write(lambda: self._write_file("result", data)))
        desc.chained_to = successor = self._choose_successor()
        if self._store.config.writeLogsFromAllJobs:
            desc.logJobStoreFileID = self._context.write(self._save_log)

        def commit() -> None:
            file_store.startCommit(jobState=True)
            file_store.waitForCommit()

        self._context.write(commit)
        self._committed = True
        self.successor = successor
        self._context.report(self._id, self._version + 1)

    def _write_file(self, name: str, data: bytes) -> str:
        with self._store.write_file_stream(job_id=self._id, cleanup=True, basename=name) as (stream, file_id):
            stream.write(data)
        return str(file_id)

    def _choose_successor(self) -> str | None:
        """Return the only ready successor if it fits into what is reserved for this process, else None."""
        if self._store.config.disableChaining or self._desc.services:
            return None
        ready = self._desc.nextSuccessors()
        if not ready or len(ready) != 1:
            return None
        successor = next(iter(ready))
        candidate = self._store.load_version(successor, 1)
        return successor if _may_follow(candidate, self._reserved) else None

    def _stop_after_commit(self, error: BaseException) -> None:
        """End the chain: the job has succeeded, but this process is not fit to run another one.

        The commit announced that the successor runs here. A record of it that is as it was gives it back to
        the leader without costing it a try."""
        say(f"after the job was committed: {describe(error)}")
        successor, self.successor = self.successor, None
        if successor is None:
            return

        def give_back() -> None:
            desc = self._store.load_version(successor, 1)
            desc.failure = "was not begun: the worker that was to go on with it had to end"
            self._store.update_job(desc)

        try:
            self._context.write(give_back)
            self._context.report(successor, 2)
        except Exception as another:  # then the leader finds no record when this process has ended
            say(f"cannot give the next job back: {describe(another)}")

    def _fail(self, error: BaseException, file_store: AbstractFileStore | None) -> int:
        """Write the failure as a record of its own, so that the leader learns it from the store."""
        print_traceback(error)
        if file_store is not None and file_store.accesses:
            say(file_store.describe_accesses())
        try:
            self._record_failure(describe(error), file_store)
        except (ConcurrentFileModificationException, NoSuchJobException):
            return REFUSED
        self._context.report(self._id, self._version + 1)
        return FAILED

    def _record_failure(self, failure: str, file_store: AbstractFileStore | None) -> None:
        """Write the record, with the log if there is room for it; without it the record waits for room."""
        log_id: str | None = None
        try:
            log_id = self._save_log()
            self._write_failure(failure, file_store, log_id)
        except (OSError, JobStoreUnavailableError) as error:
            if not is_full(error):
                raise
            if log_id is not None:
                # What cannot be removed now goes with what losers have written.
                with suppress(OSError, JobStoreUnavailableError):
                    self._store.delete_file(log_id)
            self._context.write(lambda: self._write_failure(failure, file_store, None))

    def _write_failure(self, failure: str, file_store: AbstractFileStore | None, log_id: str | None) -> None:
        desc = self._store.load_version(self._id, self._version)
        desc.setupJobAfterFailure(exit_status=1, exit_reason=BatchJobExitReason.FAILED)
        desc.failure = failure
        desc.logJobStoreFileID = log_id
        if file_store is not None:
            desc.messages = list(file_store.messages)
            desc.user_streams = list(file_store.user_streams)
        self._store.update_job(desc)

    def _save_log(self) -> str:
        """Copy what this process has printed so far into the store, its last 4 MiB at most; return its id."""
        text = b""
        with suppress(OSError, ValueError):  # the job may have closed its output
            sys.stdout.flush()
            size = os.fstat(1).st_size
            text = os.pread(1, LOG_LIMIT, max(0, size - LOG_LIMIT))
        return self._write_file("log", text)


class _ReturnValue:
    """What is to be pickled, in words; they are wanted only where that fails."""

    def __init__(self, desc: JobDescription) -> None:
        self._desc = desc

    def __str__(self) -> str:
        return f"the return value of job {self._desc}"


def take_result(desc: JobDescription, data: bytes | None, refs: list[str], file: str | None = None) -> None:
    """Note in a description that its job has returned: the pickled value or its file, and whose promises that
    holds.
    """
    desc.has_result = True
    desc.result, desc.result_file, desc.result_refs = data, file, refs
    desc.detach_body()
    desc.failure = None


def _may_follow(candidate: JobDescription, reserved: JobDescription) -> bool:
    return (
        candidate.predecessorNumber <= 1
        and not candidate.checkpoint
        and candidate.cores <= reserved.cores
        and candidate.memory <= reserved.memory
        and candidate.disk <= reserved.disk
        and candidate.accelerators == reserved.accelerators
        and candidate.preemptible == reserved.preemptible
        and candidate.image == reserved.image
    )
