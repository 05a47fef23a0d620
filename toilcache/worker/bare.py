"""Bare functions, those that are not given their job: their process runs them and no more, the host does the
rest.

A fresh process copies each page of memory that it writes to, and Python writes to all that it looks at. So
loading a record, opening a file store and committing cost such a process several times what they cost the
host, which has done all that before. A function that is not given its job can ask nothing of the engine: the
host loads its record, and commits what it has returned. Whatever turns out otherwise (it fails, it leaves
files, it returns a lot) is done by its process as for any other job, by :mod:`toilcache.worker.chain`, from
what the function returned or raised.
"""

from __future__ import annotations

import os
import pickle
import time

from toilcache.errors import ConcurrentFileModificationException, NoSuchJobException
from toilcache.file_store.scratch import make_scratch, remove_if_empty
from toilcache.job.body import dumps, loads
from toilcache.job.description import JobDescription
from toilcache.job.functions import FunctionWrappingJob
from toilcache.job.module import ModuleDescriptor
from toilcache.node.coordination import has_cache
from toilcache.worker.chain import ENDED, FAILED, REFUSED, Outcome, run_chain, take_result
from toilcache.worker.runners import ORDER_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from toilcache.worker.context import WorkerContext

MOST_BYTES = ORDER_BYTES
"""So large a function with its arguments, or what it returns, may be to be passed on through a pipe."""

SLOW_SECONDS = 0.005
PAUSES = 10
"""A host that has waited longer than so for the store leaves the store to its jobs for ten times as long."""


class BareFunctions:
    """What a host does for bare functions."""

    def __init__(self) -> None:
        self._not_before = 0.0

    def order(
        self, context: WorkerContext, job_id: str, version: int, is_alone: bool
    ) -> tuple[bytes, JobDescription | None]:
        """Give what a process needs to run a bare function, and its description; nothing for other jobs.

        On a node with a cache every job takes its place there. Nobody follows a bare function in its process.

        :param is_alone: whether no other job of the host is kept waiting while this is done.
        """
        if self.leaves_the_store(is_alone) or has_cache(context.jobs_dir):
            return b"", None
        began = time.monotonic()
        try:
            desc = context.store.load_version(job_id, version)
        except Exception:  # its own process meets the same, and says what has to be said
            return b"", None
        finally:
            self._has_waited_since(began)
        if not _is_bare(desc) or context.store.config.writeLogsFromAllJobs:
            return b"", None
        module = desc.get_body()[1]
        order = pickle.dumps((desc.inline_body, module and tuple(module), None), 5)
        return (order, desc) if len(order) <= MOST_BYTES else (b"", None)

    def leaves_the_store(self, is_alone: bool) -> bool:
        """Tell whether jobs are to wait for the store by themselves, and not a host that others need."""
        return not is_alone and time.monotonic() < self._not_before

    def commit(self, context: WorkerContext, desc: JobDescription, result: bytes) -> int:
        """Commit what a function has returned; gives the exit status of a process that has done so.

        :raises JobStoreUnavailableError: the store is full or fails: nothing is changed.
        """
        began = time.monotonic()
        try:
            return _commit(context, desc, result)
        finally:
            self._has_waited_since(began)

    def _has_waited_since(self, began: float) -> None:
        """Where a store is far away, jobs wait for it side by side in their processes; a host cannot."""
        now = time.monotonic()
        if now - began > SLOW_SECONDS:
            self._not_before = now + PAUSES * (now - began)


def _is_bare(desc: JobDescription) -> bool:
    return (
        desc.is_bare
        and type(desc) is JobDescription
        and desc.inline_body is not None
        and not desc.promised
        and next(desc.successorsAndServiceHosts(), None) is None
    )


def _commit(context: WorkerContext, desc: JobDescription, result: bytes) -> int:
    desc.attempt = desc.version
    take_result(desc, result, [])
    try:
        context.store.update_job(desc)
    except (ConcurrentFileModificationException, NoSuchJobException):
        return REFUSED
    context.report(str(desc.jobStoreID), desc.version)
    return ENDED


def order_to_commit(result: bytes) -> bytes:
    """What a process needs to commit a result where the host has failed to."""
    return pickle.dumps((None, None, result), 5)


def obey(
    context: WorkerContext, job_id: str, version: int, order: bytes, hand_over: Callable[[bytes], bool]
) -> int:
    """In a process of its own: do what was ordered; returns the exit status.

    :param hand_over: gives the host what a function has returned, pickled; False if that cannot be.
    """
    body, module, result = pickle.loads(order)
    if result is not None:
        return _commit_patiently(context, job_id, version, result)
    if not context.has_main:
        context.load_main()
    owner = os.getpid()
    outcome = _outcome(context, body, module, owner)
    if os.getpid() != owner:
        return FAILED  # a child that the function has forked, and that has left it: its parent counts
    if outcome.pickled is not None and outcome.scratch is None:
        result, promised = outcome.pickled
        if not promised and len(result) <= MOST_BYTES and hand_over(result):
            return ENDED
    return run_chain(context, job_id, version, None, outcome)


def _outcome(context: WorkerContext, body: bytes, module: tuple[Any, ...] | None, owner: int) -> Outcome:
    """Run a function in a directory of its own, and remove that if nothing is left in it.

    What it has forked, and has left it before `owner`, changes nothing.
    """
    scratch = None
    try:
        if module is not None:
            ModuleDescriptor(*module).load()
        job: FunctionWrappingJob = loads(body)
        scratch = make_scratch(context.jobs_dir)
        os.chdir(scratch)
        value = job.run(None)  # type: ignore[arg-type]  # it is not given to the function
    except BaseException as error:
        return Outcome(scratch, error)
    if os.getpid() != owner:
        return Outcome(scratch)
    try:
        pickled = dumps(value, "what a function has returned")
    except Exception:  # who commits it can say more of it
        return Outcome(scratch, value=value)
    return Outcome(None if _is_clean(scratch) else scratch, pickled=pickled)


def _is_clean(scratch: str) -> bool:
    try:
        return remove_if_empty(scratch)
    except OSError:
        return False


def _commit_patiently(context: WorkerContext, job_id: str, version: int, result: bytes) -> int:
    """Do what the host has failed to, waiting for room."""

    def load_and_commit() -> int:
        return _commit(context, context.store.load_version(job_id, version), result)

    try:
        return context.write(load_and_commit)
    except NoSuchJobException:
        return REFUSED
