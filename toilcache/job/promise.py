"""The values behind promises, found in the job store.

Knows return values of committed jobs and the promises within them, and follows those without recursion. Must
not know who consumes the values.
"""

from __future__ import annotations

from toilcache.errors import JobException, JobPromiseConstraintError
from toilcache.job.body import loads
from toilcache.job.placeholder import Promise, PromisedRequirement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from toilcache.job.description import JobDescription
    from toilcache.job_store.abstract import AbstractJobStore

__all__ = ["Promise", "PromisedRequirement", "resolve_values"]


def resolve_values(store: AbstractJobStore, ids: Iterable[str]) -> dict[str, Any]:
    """Give the return values of the jobs of these ids, promises within them put in.

    Chains of promises of any length are followed without recursion. Raises JobPromiseConstraintError for
    a job that has not returned, NoSuchJobException for one that is gone.
    """
    values: dict[str, Any] = {}
    open_: dict[str, JobDescription] = {}
    stack = list(ids)
    while stack:
        job_id = stack[-1]
        if job_id in values:
            stack.pop()
            continue
        desc = open_.get(job_id)
        if desc is None:
            desc = open_[job_id] = store.load_job(job_id)
            missing = [ref for ref in desc.result_refs if ref not in values]
            if any(ref in open_ for ref in missing):
                raise JobException(f"cannot resolve the result of {desc}: it contains itself")
            stack.extend(missing)
            if missing:
                continue
        stack.pop()
        values[job_id] = loads(_result_bytes(store, desc), values.__getitem__)
        del open_[job_id]
    return values


def _result_bytes(store: AbstractJobStore, desc: JobDescription) -> bytes:
    file_id = desc.result_file if desc.has_result else desc.published_value(store)
    if file_id is None:
        if not desc.has_result or desc.result is None:
            raise JobPromiseConstraintError(desc)
        return desc.result
    with store.read_file_stream(file_id) as stream:
        data: bytes = stream.read()
    return data
