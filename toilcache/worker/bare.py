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
from functools import partial

from toilcache.errors import ConcurrentFileModificationException, NoSuchJobException
from toilcache.file_store.scratch import Given, make_scratch, remove_if_empty
from toilcache.job.body import dumps, loads
from toilcache.job.description import JobDescription
from toilcache.job.functions import FunctionWrappingJob
from toilcache.job.module import ModuleDescriptor
from toilcache.node.coordination import has_cache
from toilcache.worker.chain import ENDED, FAILED, REFUSED, run_chain, take_result
from toilcache.worker.runners import ORDER_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from toilcache.worker.context import WorkerContext

_NOTHING = (b"", None)
MOST_BYTES = ORDER_BYTES
"""So large a function with its arguments, or what it returns, may be to be passed on through a pipe."""


def order(context: WorkerContext, job_id: str, version: int) -> tuple[bytes, JobDescription | None]:
    """In the host: what a process needs to run a bare function, and its description; nothing for other jobs.

    On a node with a cache every job takes its place there. Nobody follows a bare function in its process.
    """
    if has_cache(context.jobs_dir):
        return _NOTHING
    try:
        desc = context.store.load_version(job_id, version)
    except Exception:  # its own process meets the same, and says what has to be said
        return _NOTHING
    if not _is_bare(desc) or context.store.config.writeLogsFromAllJobs:
        return _NOTHING
    module = desc.get_body()[1]
    data = pickle.dumps((desc.inline_body, module and tuple(module), None), 5)
    return (data, desc) if len(data) <= MOST_BYTES else _NOTHING


def _is_bare(desc: JobDescription) -> bool:
    return (
        desc.is_bare
        and type(desc) is JobDescription
        and desc.inline_body is not None
        and not desc.promised
        and next(desc.successorsAndServiceHosts(), None) is None
    )


def order_to_commit(result: bytes) -> bytes:
    """In the host, when `commit` has failed: what a process needs to commit it, waiting for room."""
    return pickle.dumps((None, None, result), 5)


def obey(
    context: WorkerContext, job_id: str, version: int, order: bytes, hand_over: Callable[[bytes], bool]
) -> int:
    """In a process of its own: do what was ordered; returns the exit status.

    :param hand_over: gives the host what a function has returned, pickled; False if that cannot be.
    """
    body, module, result = pickle.loads(order)
    if result is not None:
        return run_chain(context, job_id, version, None, partial(loads, result))
    owner = os.getpid()
    try:
        job = _load(context, body, module)
        place = Given(make_scratch(context.jobs_dir))
        place.enter()
    except BaseException:  # as for any other job, which meets the same
        return run_chain(context, job_id, version)
    try:
        value = job.run(None)  # type: ignore[arg-type]  # it is not given to the function
    except BaseException as error:
        outcome: Callable[[], Any] = partial(_fail, error)
    else:
        data = _result(value) if os.getpid() == owner else None
        if data is not None and _is_clean(place) and hand_over(data):
            return ENDED
        outcome = partial(_return, value)
    if os.getpid() != owner:
        return FAILED  # a child that the function has forked, and that has left it: its parent counts
    return run_chain(context, job_id, version, place, outcome)


def _load(context: WorkerContext, body: bytes, module: tuple[Any, ...] | None) -> FunctionWrappingJob:
    if not context.has_main:
        context.load_main()
    if module is not None:
        ModuleDescriptor(*module).load()
    job: FunctionWrappingJob = loads(body)
    return job


def _result(value: object) -> bytes | None:
    """Pickle what a function has returned; None if that has to be done by who can say more of it."""
    try:
        data, promised = dumps(value, "the return value")
    except Exception:
        return None
    return data if not promised and len(data) <= MOST_BYTES else None


def _is_clean(place: Given) -> bool:
    """Remove the directory of the job, if it has left nothing there."""
    try:
        return remove_if_empty(place.path)
    except OSError:
        return False


def _fail(error: BaseException) -> NoReturn:
    raise error


def _return(value: Any) -> Any:
    return value


def commit(context: WorkerContext, desc: JobDescription, result: bytes) -> int:
    """In the host: commit what a function has returned; the exit status of a process that has done so.

    :raises JobStoreUnavailableError: the store is full or fails: nothing is changed.
    """
    job_id, version = str(desc.jobStoreID), desc.version
    desc.attempt = version
    take_result(desc, result, [])
    try:
        context.store.update_job(desc)
    except (ConcurrentFileModificationException, NoSuchJobException):
        return REFUSED
    context.report(job_id, desc.version)
    return ENDED
