"""Jobs as the person who writes a workflow sees them.

Knows how jobs are linked, named and given requirements. Saving, loading and checking of graphs stand beside
it; must not know how jobs are scheduled.
"""

from __future__ import annotations

from toilcache.errors import JobException
from toilcache.job import graph
from toilcache.job.description import JobDescription
from toilcache.job.graph import CHILD, FOLLOW_ON
from toilcache.job.job_requirements import JobRequirements
from toilcache.job.placeholder import Promise
from toilcache.job.service import Service as _Service
from toilcache.late import LateAttribute, late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from toilcache.config import Config
    from toilcache.file_store.abstract import AbstractFileStore
    from toilcache.job.functions import EncapsulatedJob, FunctionWrappingJob, JobFunctionWrappingJob
    from toilcache.job.identifiers import TemporaryID
    from toilcache.job.requirements import (
        ParseableAcceleratorRequirement,
        ParseableDivisibleResource,
        ParseableFlag,
        ParseableIndivisibleResource,
    )
    from toilcache.job_store.abstract import AbstractJobStore

_NEVER_SAVED = frozenset(
    [
        *("_description", "_children", "_follow_ons", "_predecessors", "_services"),
        *("_file_store", "_defer", "_temp_dir", "_is_saved", "_is_loaded"),
    ]
)


class Job(JobRequirements):
    """A unit of work; subclasses override `run`, or functions are wrapped (specification lines 244-529)."""

    Runner = LateAttribute("toilcache.runner:Runner")
    Service = _Service
    _FunctionJob = LateAttribute("toilcache.job.functions:FunctionWrappingJob")
    _JobFunctionJob = LateAttribute("toilcache.job.functions:JobFunctionWrappingJob")
    _Encapsulated = LateAttribute("toilcache.job.functions:EncapsulatedJob")

    _description: JobDescription
    _children: dict[Job, None] | None = None
    _follow_ons: dict[Job, None] | None = None
    _predecessors: dict[Job, int] | None = None
    _services: dict[Job, None] | None = None
    _file_store: AbstractFileStore | None = None
    _defer: Callable[..., None] | None = None
    _temp_dir: str | None = None
    _is_saved = False
    _is_loaded = False

    def __init__(
        self,
        memory: ParseableIndivisibleResource | None = None,
        cores: ParseableDivisibleResource | None = None,
        disk: ParseableIndivisibleResource | None = None,
        accelerators: ParseableAcceleratorRequirement | None = None,
        preemptible: ParseableFlag | None = None,
        preemptable: ParseableFlag | None = None,
        unitName: str | None = "",
        checkpoint: bool | None = False,
        displayName: str | None = "",
        descriptionClass: type[JobDescription] | None = None,
        local: bool | None = None,
    ) -> None:
        """Take requirements (bytes, cores), names, and whether to restart from here when successors fail."""
        requirements = {
            "memory": memory,
            "cores": cores,
            "disk": disk,
            "accelerators": accelerators,
            "preemptible": preemptable if preemptible is None else preemptible,
        }
        if descriptionClass is None:
            descriptionClass = JobDescription
            if checkpoint:
                from toilcache.job.description_kinds import CheckpointJobDescription

                descriptionClass = CheckpointJobDescription
        self._description = descriptionClass(requirements, self._job_name(), unitName, displayName, local)

    def _job_name(self) -> str:
        return type(self).__name__

    def __str__(self) -> str:
        """Name the job for a person, marked as the job itself (specification line 266)."""
        description = self.__dict__.get("_description")
        return f"job {type(self).__name__ if description is None else description}"

    def __repr__(self) -> str:
        """Show kind and names."""
        return f"<{type(self).__name__}: {self}>"

    def __getstate__(self) -> dict[str, Any]:
        """What makes up the body: attributes, without description, other jobs, and what belongs to a run."""
        return {name: value for name, value in self.__dict__.items() if name not in _NEVER_SAVED}

    def body_parts(self) -> list[tuple[str, Any]]:
        """The parts of the body with the names that an error message gives them."""
        return [(f"attribute {name!r}", value) for name, value in Job.__getstate__(self).items()]

    def body_module(self) -> str:
        """Name of the module that has to be imported to load the body."""
        return type(self).__module__

    def check_initialized(self) -> None:
        """Raise JobException where a subclass did not call Job.__init__ (specification line 268)."""
        if "_description" not in self.__dict__:
            raise JobException(
                f"cannot use {type(self).__name__}: its __init__ did not call Job.__init__; "
                "add super().__init__()"
            )

    @property
    def description(self) -> JobDescription:
        """What the leader knows of this job (specification line 278)."""
        return self._description

    @property
    def jobStoreID(self) -> str | TemporaryID:
        """Id of this job, a placeholder until it is saved (specification line 274)."""
        return self._description.jobStoreID

    @property
    def fileStore(self) -> AbstractFileStore:
        """The file store of the running job; JobException where it does not run."""
        if self._file_store is None:
            raise JobException(f"cannot use the file store of {self}: it is not running")
        return self._file_store

    @property
    def checkpoint(self) -> bool:
        """Whether the workflow goes back to this job when a successor fails for good."""
        return self._description.checkpoint

    def assignConfig(self, config: Config) -> None:
        """Give the configuration that supplies defaults (specification line 287)."""
        self._description.assignConfig(config)

    def run(self, fileStore: AbstractFileStore) -> Any:
        """Do the work; overridden by subclasses, which may add successors here (specification line 294)."""

    # Links

    def addChild(self, childJob: Job) -> Job:
        """Add a job that runs right after this one has returned; gives it back (specification line 302)."""
        return self._link(childJob, CHILD)

    def addFollowOn(self, followOnJob: Job) -> Job:
        """Add a job that runs after the children and all theirs; gives it back (specification line 306)."""
        return self._link(followOnJob, FOLLOW_ON)

    def _link(self, other: Job, kind: int) -> Job:
        if not isinstance(other, Job):
            raise JobException(
                f"cannot add {other!r} to {self}: it is no job; "
                "wrap a function with addChildFn or Job.wrapJobFn"
            )
        self._check_open_for(other)
        linked = self._children if kind == CHILD else self._follow_ons
        if linked is None:
            linked = {}
            if kind == CHILD:
                self._children = linked
            else:
                self._follow_ons = linked
        if other in linked:
            return other
        linked[other] = None
        predecessors = other._predecessors
        if predecessors is None:
            predecessors = other._predecessors = {}
        predecessors[self] = predecessors.get(self, 0) | kind
        other._description.addPredecessor()
        placeholder: Any = other._description.jobStoreID
        if kind == CHILD:
            self._description.addChild(placeholder)
        else:
            self._description.addFollowOn(placeholder)
        return other

    def _check_open_for(self, other: Job) -> None:
        self.check_initialized()
        other.check_initialized()
        if other._is_saved or other._is_loaded:
            raise JobException(f"cannot add {other} to {self}: it is part of the saved workflow already")
        if self._is_saved:
            raise JobException(
                f"cannot add {other} to {self}: that job is saved already; add successors before"
            )

    def hasChild(self, childJob: Job) -> bool:
        """Tell whether that job is a child of this one."""
        return childJob in (self._children or ())

    def hasFollowOn(self, followOnJob: Job) -> bool:
        """Tell whether that job is a follow-on of this one."""
        return followOnJob in (self._follow_ons or ())

    def hasPredecessor(self, job: Job) -> bool:
        """Tell whether this job is a child or follow-on of that one."""
        return job in (self._predecessors or ())

    def addService(self, service: _Service, parentService: _Service | None = None) -> Promise:
        """Run a service beside the successors; gives a promise of its start value (specification line 309).

        Raises JobException where the service belongs to a job already, and for a parent that is no service
        of this job.
        """
        promise: Promise = late("toilcache.job.service_host:add_service")(self, service, parentService)
        return promise

    def hasService(self, service: _Service) -> bool:
        """Tell whether that is a service of this job (specification line 319)."""
        return service.hostID is not None and self._description.hasServiceHostJob(service.hostID)

    def addChildFn(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Job:
        """Add a function as a child; FunctionWrappingJob has reserved keywords (specification line 321)."""
        return self.addChild(self.wrapFn(fn, *args, **kwargs))

    def addFollowOnFn(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Job:
        """Add a function as a follow-on (specification line 328)."""
        return self.addFollowOn(self.wrapFn(fn, *args, **kwargs))

    def addChildJobFn(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Job:
        """Add a function that takes its job first as a child (specification line 335)."""
        return self.addChild(self.wrapJobFn(fn, *args, **kwargs))

    def addFollowOnJobFn(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Job:
        """Add a function that takes its job first as a follow-on (specification line 343)."""
        return self.addFollowOn(self.wrapJobFn(fn, *args, **kwargs))

    @staticmethod
    def wrapFn(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> FunctionWrappingJob | EncapsulatedJob:
        """Make a job of a function (specification line 361)."""
        job: FunctionWrappingJob | EncapsulatedJob = Job._FunctionJob.create(fn, *args, **kwargs)
        return job

    @staticmethod
    def wrapJobFn(
        fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> JobFunctionWrappingJob | EncapsulatedJob:
        """Make a job of a function that takes its job first (specification line 369)."""
        job: JobFunctionWrappingJob | EncapsulatedJob = Job._JobFunctionJob.create(fn, *args, **kwargs)
        return job

    def encapsulate(self, name: str | None = None) -> EncapsulatedJob:
        """Make this job and all its successors look like one job (specification line 377)."""
        encapsulated: EncapsulatedJob = Job._Encapsulated(self, name)
        return encapsulated

    def rv(self, *path: Any) -> Promise:
        """Promise the return value, or what keys and slices select of it (specification line 384)."""
        return Promise(self, path)

    def prepareForPromiseRegistration(self, jobStore: AbstractJobStore) -> None:
        """See that promises of this job can name it: it has a real id (specification line 392)."""
        if not isinstance(self.jobStoreID, str):
            jobStore.assign_job_id(self._description)

    # Graph

    def getRootJobs(self) -> set[Job]:
        """The jobs without predecessors that are linked with this one (specification line 405)."""
        return graph.root_jobs(graph.component(self))

    def checkJobGraphForDeadlocks(self) -> None:
        """Raise JobGraphDeadlockException for a graph that cannot finish (specification line 399)."""
        graph.check(self)

    def checkJobGraphConnected(self) -> None:
        """Raise JobGraphDeadlockException unless there is exactly one root (specification line 411)."""
        graph.check_one_root(graph.component(self))

    def checkJobGraphAcylic(self) -> None:
        """Raise JobGraphDeadlockException for a cycle, implied edges included (specification line 417)."""
        graph.check_acyclic(graph.component(self))

    def checkNewCheckpointsAreLeafVertices(self) -> None:
        """Raise JobGraphDeadlockException for a checkpoint with successors (specification line 423)."""
        graph.check_checkpoints(graph.component(self))

    def getTopologicalOrderingOfJobs(self) -> list[Job]:
        """The new jobs from here on, each after all that must run before it (specification line 491)."""
        return graph.topological_order(self)

    # Saving and loading

    def saveBody(self, jobStore: AbstractJobStore) -> None:
        """Save what is needed to run this job; its id must be assigned (specification line 498)."""
        late("toilcache.job.saving:save_body")(self, jobStore)

    def saveAsRootJob(self, jobStore: AbstractJobStore) -> JobDescription:
        """Save this job and all from here on, as the root of the workflow (specification line 506)."""
        description: JobDescription = late("toilcache.job.saving:save_as_root")(self, jobStore)
        return description

    def save_new_successors(self, store: AbstractJobStore) -> None:
        """Save what was added below this loaded job while it ran; its description is left to the caller."""
        late("toilcache.job.saving:save_new_successors")(self, store)

    @classmethod
    def loadJob(cls, job_store: AbstractJobStore, job_description: JobDescription) -> Job:
        """Load the job that the description describes, its promises resolved (specification line 512)."""
        job: Job = late("toilcache.job.saving:load_job")(job_store, job_description)
        return job

    # While running

    @property
    def tempDir(self) -> str:
        """A local temporary directory, made at the first use (specification line 351)."""
        if self._temp_dir is None:
            self._temp_dir = self.fileStore.getLocalTempDir()
        return self._temp_dir

    def log(self, text: str, level: int = 20) -> None:
        """Send a message to the leader's log; levels are those of `logging` (specification line 355)."""
        self.fileStore.log_to_leader(text, level)

    def defer(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Have a function called on this node once this attempt is over (specification line 432).

        Raises JobException where the job is not running.
        """
        if self._defer is None:
            raise JobException(
                f"cannot defer a function for {self}: it is not running; call defer inside run"
            )
        self._defer(function, *args, **kwargs)

    def set_debug_flag(self, flag: str) -> None:
        """Turn a debug option of the job on (specification line 520)."""
        self.__dict__.setdefault("_debug_flags", set()).add(flag)

    def has_debug_flag(self, flag: str) -> bool:
        """Tell whether a debug option is on."""
        return flag in self.__dict__.get("_debug_flags", ())

    def files_downloaded_hook(self, host_and_job_paths: list[tuple[str, str]] | None = None) -> None:
        """Ends the job if only its inputs, which are here now, were wanted (specification line 526)."""
        if self.has_debug_flag("download_only"):
            from toilcache.job.debugging import FilesDownloadedStoppingPointReached

            raise FilesDownloadedStoppingPointReached(host_and_job_paths)


def run_job(job: Job, file_store: AbstractFileStore) -> Any:
    """Run a loaded job in a file store and give what it returns."""
    job._file_store = file_store
    try:
        return job.run(file_store)
    finally:
        job._file_store = None
