"""What the leader knows of one job: requirements, successors, services, tries, result and where its body is.

Names other jobs by id only and never holds a job, a store or a configuration when it is pickled. The job
store fills in `version` and `token`; the file store fills in what a commit carries. Must not know how records
are written or how bodies are pickled.
"""

from __future__ import annotations

from itertools import chain

from toilcache.errors import JobException, show
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job.identifiers import Names, TemporaryID
from toilcache.job.requirements import Requirer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from typing import IO, Any

    from toilcache.job.module import ModuleDescriptor
    from toilcache.job_store.abstract import AbstractJobStore

INLINE_BODY = "body:"
"""Prefix of the file id that `get_body` gives for a body that travels inside the description."""

_OMITTED_IF_EMPTY = (
    *("unitName", "serviceTree", "predecessorsFinished", "result_refs", "promised", "messages"),
    *("user_streams", "filesToDelete", "jobsToDelete", "_chain", "_requirements"),
)


class _OwnContainer:
    """A container of each object's own, made when it is first looked at.

    Most descriptions never need most of theirs. A job that adds 100,000 others holds as many descriptions,
    and Python's search for garbage visits all their containers again and again meanwhile.
    """

    def __init__(self, kind: type) -> None:
        """Take what makes an empty one."""
        self._kind = kind

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else instance.__dict__.setdefault(self._name, self._kind())


def _own(kind: type) -> Any:
    return _OwnContainer(kind)


class JobDescription(Requirer):
    """Everything about a job that is decided without running it (specification lines 530-692)."""

    checkpoint = False
    version: int = 0
    """Number of the slot that this state was read from or written to; 0 before birth."""
    token: str = ""
    """Token of the record in that slot."""
    attempt: int = 0
    """The version that the running attempt builds on."""
    jobStoreID: str | TemporaryID
    predecessorNumber: int = 0
    result: bytes | None = None
    """The pickled return value where it is small."""
    result_file: str | None = None
    """The file that holds the pickled return value where it is large."""
    has_result: bool = False
    """Whether the job ran and returned."""
    local: bool = False
    """Whether it runs on the leader's machine."""
    is_bare: bool = False
    """Whether it is a function that is not given its job: it can ask nothing of the engine."""
    image: str | None = None
    """The container image that it runs in; None for the workflow's."""
    times: int = 1
    """How many times the usual time an allocation is to last for it: more once a time limit has ended it."""
    chained_to: str | None = None
    """Id of the successor that the same worker goes on with."""
    failure: str | None = None
    """One line about the last failure."""
    logJobStoreFileID: str | None = None
    inline_body: bytes | None = None
    _body_file: str | None = None
    _body_module: ModuleDescriptor | None = None
    _remaining_tries: int | None = None
    predecessorsFinished: set[str] = _own(set)
    result_refs: list[str] = _own(list)
    promised: list[str] = _own(list)
    messages: list[Any] = _own(list)
    user_streams: list[Any] = _own(list)
    filesToDelete: list[str] = _own(list)
    jobsToDelete: list[str] = _own(list)
    _chain: list[Names] = _own(list)

    def __init__(
        self,
        requirements: Mapping[str, Any],
        jobName: str,
        unitName: str | None = "",
        displayName: str | None = "",
        local: bool | None = None,
    ) -> None:
        """Describe a job of the given requirements and names; a local one runs on the leader's machine."""
        self.__setstate__({})
        super().__init__(requirements)
        self.jobStoreID = TemporaryID()
        self.jobName = jobName
        self.unitName = unitName or ""
        self.displayName = displayName or jobName
        if local:
            self.local = True

    def __getstate__(self) -> dict[str, Any]:
        """All that differs from a fresh description, so that small jobs make small records."""
        state = self.__dict__.copy()
        state.pop("_config", None)
        for name in _OMITTED_IF_EMPTY:
            if not state.get(name, True):
                del state[name]
        if not any(self._phases):
            del state["_phases"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the saved attributes; lists left out are empty."""
        self._requirements = {}
        self.unitName = ""
        self._phases: list[dict[Any, None]] = [{}, {}]
        self.serviceTree: dict[Any, list[Any]] = {}
        self.__dict__.update(state)

    def __str__(self) -> str:
        """Name the job for a person, with its id and version."""
        unit = f" {show(self.unitName)}" if self.unitName else ""
        return f"{self.displayName!r}{unit} {self.jobStoreID} v{self.version}"

    def __repr__(self) -> str:
        """Show kind and names."""
        return f"{type(self).__name__}({self})"

    # Names and chains

    def get_names(self) -> Names:
        """The names of this job alone."""
        stats_name = (
            self.jobName if self.displayName == self.jobName else f"{self.jobName} {self.displayName}"
        )
        return Names(self.jobName, self.unitName, self.displayName, stats_name, str(self.jobStoreID))

    def get_chain(self) -> list[Names]:
        """The names of all jobs that ran in this job's chain, first to last (specification line 541)."""
        return list(self._chain) or [self.get_names()]

    # Successors

    @property
    def childIDs(self) -> set[str]:
        """Ids of the children."""
        return set(self._phases[-1])

    @property
    def followOnIDs(self) -> set[str]:
        """Ids of the follow-ons."""
        return set(self._phases[-2])

    def addChild(self, childID: str) -> None:
        """Make that job a child (specification line 632)."""
        self._phases[-1][childID] = None

    def addFollowOn(self, followOnID: str) -> None:
        """Make that job a follow-on (specification line 638)."""
        self._phases[-2][followOnID] = None

    def hasChild(self, childID: str) -> bool:
        """Tell whether that job is a child (specification line 647)."""
        return childID in self._phases[-1]

    def hasFollowOn(self, followOnID: str) -> bool:
        """Tell whether that job is a follow-on (specification line 649)."""
        return followOnID in self._phases[-2]

    def allSuccessors(self) -> Iterator[str]:
        """Ids of follow-ons, children and inherited successors, last phase first (specification line 556)."""
        return chain.from_iterable(self._phases)

    def successors_by_phase(self) -> Iterator[tuple[int, str]]:
        """Pairs of phase number and id; higher numbers run first (specification line 561)."""
        return ((number, job) for number, phase in enumerate(self._phases) for job in phase)

    def successorsAndServiceHosts(self) -> Iterator[str]:
        """Ids of all successors and services (specification line 552)."""
        return chain(self.allSuccessors(), self.serviceTree)

    def nextSuccessors(self) -> set[str] | None:
        """Ids of the phase that may run now (specification line 586).

        None where nothing is left; empty where the job itself has yet to run.
        """
        if self.has_body():
            return set()
        return next((set(phase) for phase in reversed(self._phases) if phase), None)

    def filterSuccessors(self, predicate: Callable[[str], bool]) -> None:
        """Forget the successors that the predicate does not approve of (specification line 592)."""
        kept = [{job: None for job in phase if predicate(job)} for phase in self._phases]
        self._phases = [phase for phase in kept[:-2] if phase] + kept[-2:]

    def addPredecessor(self) -> None:
        """Count one more predecessor (specification line 661)."""
        self.predecessorNumber += 1

    # Services

    @property
    def services(self) -> list[str]:
        """Ids of the unfinished service hosts (specification line 564)."""
        return list(self.serviceTree)

    def addServiceHostJob(self, serviceID: str, parentServiceID: str | None = None) -> None:
        """Make that job a service, to be started after its parent service (specification line 644).

        Raises JobException for a parent that is no service of this job.
        """
        if parentServiceID is not None and parentServiceID not in self.serviceTree:
            raise JobException(
                f"cannot start service {serviceID} after {parentServiceID}: that is no service of {self}; "
                "add it first"
            )
        self.serviceTree.setdefault(serviceID, [])
        if parentServiceID is not None:
            self.serviceTree[parentServiceID].append(serviceID)

    def hasServiceHostJob(self, serviceID: str) -> bool:
        """Tell whether that job is a service of this one (specification line 651)."""
        return serviceID in self.serviceTree

    def serviceHostIDsInBatches(self) -> Iterator[list[str]]:
        """Lists of services that can start together, in the order of starting (specification line 547)."""
        later = set(chain.from_iterable(self.serviceTree.values()))
        batch = [service for service in self.serviceTree if service not in later]
        while batch:
            yield batch
            batch = [service for parent in batch for service in self.serviceTree[parent]]

    def filterServiceHosts(self, predicate: Callable[[str], bool]) -> None:
        """Forget the services that the predicate does not approve of (specification line 596)."""
        kept = {service for service in self.serviceTree if predicate(service)}
        self.serviceTree = {
            service: [child for child in children if child in kept]
            for service, children in self.serviceTree.items()
            if service in kept
        }

    # State

    def clear_nonexistent_dependents(self, job_store: AbstractJobStore) -> None:
        """Forget successors and services that the store no longer has (specification line 600)."""
        self.filterSuccessors(job_store.job_exists)
        self.filterServiceHosts(job_store.job_exists)

    def is_subtree_done(self) -> bool:
        """Tell whether the job ran and nothing below it is left (specification line 607)."""
        return not self.has_body() and next(self.successorsAndServiceHosts(), None) is None

    def replace(self, other: JobDescription) -> None:
        """Take the other's id and place, keeping one's own state (specification line 612).

        The other's successors, this job left aside, come after one's own; what it had to clean up is
        inherited. The next update is written over the other's record.
        """
        own = self.jobStoreID
        self._chain = [*other.get_chain(), *self.get_chain()]
        inherited = [{job: None for job in phase if job != own} for phase in other._phases]
        self._phases = [phase for phase in inherited if phase] + self._phases
        self.filesToDelete = [*other.filesToDelete, *self.filesToDelete]
        self.jobsToDelete = [*other.jobsToDelete, str(own), *self.jobsToDelete]
        self.jobStoreID, self.version, self.token = other.jobStoreID, other.version, other.token
        self.predecessorNumber = other.predecessorNumber
        self.predecessorsFinished = set(other.predecessorsFinished)

    def assert_is_not_newer_than(self, other: JobDescription) -> None:
        """Raise RuntimeError where the other is an older version of this job (specification line 621)."""
        if other.is_updated_by(self):
            raise RuntimeError(f"cannot go back from {self} to {other}: that version is older")

    def is_updated_by(self, other: JobDescription) -> bool:
        """Tell whether the other is a later version of this job (specification line 627)."""
        return self.jobStoreID == other.jobStoreID and other.version > self.version

    def renameReferences(self, renames: Mapping[TemporaryID, str]) -> None:
        """Put real ids for placeholders of successors and services (specification line 654)."""
        get: Any = renames.get
        self._phases = [{get(job, job): None for job in phase} for phase in self._phases]
        if self.serviceTree:
            self.serviceTree = {
                get(service, service): [get(child, child) for child in children]
                for service, children in self.serviceTree.items()
            }

    def onRegistration(self, jobStore: AbstractJobStore) -> None:
        """Do what needs the store once the id is assigned; nothing here (specification line 665)."""

    def pre_update_hook(self) -> None:
        """Called by the store right before this state is written; nothing for a plain job."""

    def published_value(self, store: AbstractJobStore) -> str | None:
        """The file with a value that may be read before the job has returned; None for a plain job."""
        return None

    # Body

    def has_body(self) -> bool:
        """Tell whether the job has yet to run (specification line 567)."""
        return self.inline_body is not None or self._body_file is not None

    def attach_body(self, file_store_id: str, user_script: ModuleDescriptor | None) -> None:
        """Name the file that holds the body and the module it needs (specification line 570)."""
        self._body_file = file_store_id
        self._body_module = user_script

    def attach_inline_body(self, body: bytes, user_script: ModuleDescriptor | None) -> None:
        """Carry the body in the description itself."""
        self.inline_body = body
        self._body_module = user_script

    def detach_body(self) -> None:
        """Forget the body, and the promises that it held: the job has run."""
        self.inline_body = self._body_file = self._body_module = None
        self.promised = []

    def get_body(self) -> tuple[str, ModuleDescriptor | None]:
        """File id of the body and the module it needs (specification line 579); JobException without body."""
        if self._body_file is not None:
            return self._body_file, self._body_module
        if self.inline_body is not None:
            return f"{INLINE_BODY}{self.jobStoreID}", self._body_module
        raise JobException(f"cannot load the body of {self}: it has run already; ask has_body() first")

    # Failures

    @property
    def remainingTryCount(self) -> int:
        """Tries left; one more than the configured retries before the first (specification line 685)."""
        if self._remaining_tries is not None:
            return self._remaining_tries
        return int(self._needed_config().retryCount) + 1

    @remainingTryCount.setter
    def remainingTryCount(self, value: int) -> None:
        self._remaining_tries = value

    def clearRemainingTryCount(self) -> bool:
        """Go back to the configured tries; True if that changed anything (specification line 688)."""
        changed = self._remaining_tries is not None
        self._remaining_tries = None
        return changed

    def setupJobAfterFailure(
        self, exit_status: int | None = None, exit_reason: BatchJobExitReason | None = None
    ) -> None:
        """Take one try away and see that memory suffices next time (specification line 673).

        Memory becomes the default at least, and after an end for lack of it is doubled where the
        configuration says so; so is the time after an end by a time limit.
        """
        config = self._needed_config()
        self.remainingTryCount = max(0, self.remainingTryCount - 1)
        if exit_reason == BatchJobExitReason.MEMLIMIT and config.doubleMem:
            self.memory = self.memory * 2
        if exit_reason == BatchJobExitReason.MAXJOBDURATION and config.doubleTime:
            self.times *= 2
        if self.memory < config.defaultMemory:
            self.memory = config.defaultMemory

    def getLogFileHandle(self, jobStore: AbstractJobStore) -> AbstractContextManager[IO[bytes]]:
        """Open the log of the last failure for reading (specification line 682)."""
        if self.logJobStoreFileID is None:
            raise JobException(f"cannot open the log of {self}: it has none")
        handle: AbstractContextManager[IO[bytes]] = jobStore.read_file_stream(self.logJobStoreFileID)
        return handle

    def _needed_config(self) -> Any:
        if self._config is None:
            raise JobException(
                f"cannot count the tries of {self}: no configuration is assigned; call assignConfig"
            )
        return self._config
