"""How jobs get into the job store and out of it.

Knows the order of saving: ids first, so that promises name real ones, then bodies, then records, those of
successors before those that name them. Must not know how a store keeps records.
"""

from __future__ import annotations

from functools import lru_cache

from toilcache.errors import JobException
from toilcache.job.body import dumps, loads
from toilcache.job.functions import FunctionWrappingJob
from toilcache.job.graph import new_jobs
from toilcache.job.job import Job
from toilcache.job.module import ModuleDescriptor, refuse_in_workers
from toilcache.job.promise import resolve_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from toilcache.job.description import JobDescription
    from toilcache.job_store.abstract import AbstractJobStore

INLINE_LIMIT = 64 * 1024
"""Bodies up to this many bytes travel inside the description."""


def save_job_graph(job: Job, store: AbstractJobStore) -> JobDescription:
    """Save the job and every unsaved one below it; gives the job's description.

    The job itself is written last. Raises JobException for a body that cannot be pickled.
    """
    jobs = new_jobs(job)
    _save(jobs, jobs, store)
    return job.description


def save_as_root(job: Job, store: AbstractJobStore) -> JobDescription:
    """Check the graph, save it, and make the job the root of the workflow.

    The name of the root is synced by itself. What it names has to be safe before, or a power cut leaves a
    store that has a workflow and cannot be restarted.
    """
    refuse_in_workers()
    job.checkJobGraphForDeadlocks()
    desc = save_job_graph(job, store)
    store.sync()
    store.set_root_job(str(desc.jobStoreID))
    return desc


def save_new_successors(job: Job, store: AbstractJobStore) -> None:
    """Save what a loaded job has added, and put real ids into its description."""
    jobs = new_jobs(job)
    if len(jobs) == 1:
        return
    job.checkJobGraphForDeadlocks()
    _save(jobs[1:], jobs, store)


def _save(jobs: list[Job], renamed: list[Job], store: AbstractJobStore) -> None:
    renames = {}
    for job in jobs:
        job.check_initialized()
        desc = job.description
        temporary = desc.jobStoreID
        if not isinstance(temporary, str):
            store.assign_job_id(desc)
            renames[temporary] = str(desc.jobStoreID)
    for job in renamed:
        job.description.renameReferences(renames)
        for host in job._services or ():
            host.service.hostID = host.jobStoreID  # type: ignore[attr-defined]
    with store.batch():
        for job in reversed(jobs):
            job.description.onRegistration(store)
            save_body(job, store)
            store.create_job(job.description)
            job._is_saved = True


def save_body(job: Job, store: AbstractJobStore) -> None:
    """Pickle the job into its description, or into a file of the store where it is large."""
    desc = job.description
    if not isinstance(desc.jobStoreID, str):
        raise JobException(
            f"cannot save the body of {job}: no id is assigned to it; call assign_job_id first"
        )
    body, promised = dumps(job, job)
    if promised or "promised" in vars(desc):  # one that is empty is not worth a list for each job
        desc.promised = promised
    if type(job) is FunctionWrappingJob:  # a class of its own may do more than to call the function
        desc.is_bare = True
    module = describe_module(job.body_module())
    if len(body) <= INLINE_LIMIT:
        desc.attach_inline_body(body, module)
        return
    with store.write_file_stream(desc.jobStoreID, cleanup=True, basename="body") as (stream, file_id):
        stream.write(body)
    desc.attach_body(str(file_id), module)


@lru_cache(maxsize=256)
def describe_module(name: str) -> ModuleDescriptor | None:
    """Describe the module of that name; None where it is no file (built in, or an interactive session)."""
    try:
        return ModuleDescriptor.forModule(name)
    except JobException:
        return None


def load_job(store: AbstractJobStore, desc: JobDescription) -> Job:
    """Rebuild the job from its body, promises replaced by the values of the jobs that made them."""
    module = desc.get_body()[1]
    if module is not None:
        module.load()
    values = resolve_values(store, desc.promised) if desc.promised else {}
    body = desc.inline_body
    if body is None:
        with store.read_file_stream(desc.get_body()[0]) as stream:
            body = stream.read()
    job = loads(body, values.__getitem__)
    if not isinstance(job, Job):
        raise JobException(f"cannot load {desc}: its body is a {type(job).__name__}")
    job._description = desc
    job._is_loaded = True
    return job
