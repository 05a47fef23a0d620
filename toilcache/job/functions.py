"""Jobs made of functions, jobs that wait for promised requirements, and jobs that enclose others.

Knows which keywords of addChildFn and its kin are requirements and which belong to the function. Must not
know how any of it is saved.
"""

from __future__ import annotations

from toilcache.errors import JobException
from toilcache.job.job import Job
from toilcache.job.placeholder import Promise, PromisedRequirement
from toilcache.job.requirements import SPELLINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from toilcache.file_store.abstract import AbstractFileStore

_OPTIONS = {"checkpoint": "checkpoint", "local": "local", "name": "unitName", "displayName": "displayName"}
_SMALL = {"memory": "64 MiB", "cores": 0.1, "disk": "1 MiB", "accelerators": [], "preemptible": True}
"""What the engine's own bookkeeping jobs ask for."""


class FunctionWrappingJob(Job):
    """A job that calls a function (specification lines 321, 361).

    Reserved keywords: memory, cores, disk, accelerators, preemptible, checkpoint, local, name, displayName.
    A default of a parameter named like a requirement is the requirement; a function that declares such a
    parameter is also passed the value. The last three keywords belong to the function if it declares them.
    """

    userFunction: Callable[..., Any]

    def __init__(self, userFunction: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Take the function and its arguments, requirements among the keywords."""
        if not callable(userFunction):
            raise JobException(f"cannot make a job of {userFunction!r}: it is no function")
        self.userFunction = userFunction
        self._args = args
        options = _take_options(userFunction, kwargs) if kwargs or _may_have_defaults(userFunction) else {}
        self._kwargs = kwargs
        super().__init__(**options)

    @classmethod
    def create(cls, userFunction: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Wrap the function, with a small job before it where requirements are still promises."""
        required = [kwargs[name] for name in SPELLINGS if name in kwargs]
        if any(isinstance(value, (Promise, PromisedRequirement)) for value in required):
            return EncapsulatedJob(PromisedRequirementJob(cls, userFunction, *args, **kwargs))
        return cls(userFunction, *args, **kwargs)

    def _job_name(self) -> str:
        function = self.userFunction
        name: str | None = getattr(function, "__name__", None)
        return name or getattr(getattr(function, "func", None), "__name__", None) or type(function).__name__

    def body_parts(self) -> list[tuple[str, Any]]:
        """The function and its arguments by position and name."""
        parts: list[tuple[str, Any]] = [("the function", self.userFunction)]
        names = self._parameter_names()
        for index, value in enumerate(self._args):
            name = f" {names[index]!r}" if index < len(names) else ""
            parts.append((f"argument {index + 1}{name}", value))
        parts += [(f"argument {name!r}", value) for name, value in self._kwargs.items()]
        return parts

    def _parameter_names(self) -> tuple[str, ...]:
        code = getattr(self.userFunction, "__code__", None)
        return () if code is None else code.co_varnames[: code.co_argcount]

    def body_module(self) -> str:
        """Name of the module that defines the function."""
        return getattr(self.userFunction, "__module__", None) or type(self).__module__

    def run(self, fileStore: AbstractFileStore) -> Any:
        """Call the function."""
        return self.userFunction(*self._args, **self._kwargs)


class JobFunctionWrappingJob(FunctionWrappingJob):
    """A job that calls a function with the job as its first argument (specification lines 335, 369)."""

    def _parameter_names(self) -> tuple[str, ...]:
        return super()._parameter_names()[1:]

    def run(self, fileStore: AbstractFileStore) -> Any:
        """Call the function with this job first."""
        return self.userFunction(self, *self._args, **self._kwargs)


def _may_have_defaults(function: Any) -> bool:
    return bool(getattr(function, "__defaults__", None) or getattr(function, "__kwdefaults__", None))


def _defaults(function: Any) -> dict[str, Any]:
    code = getattr(function, "__code__", None)
    values = getattr(function, "__defaults__", None) or ()
    names = () if code is None else code.co_varnames[: code.co_argcount]
    return {
        **dict(zip(names[len(names) - len(values) :], values, strict=False)),
        **(function.__kwdefaults__ or {}),
    }


def _declared(function: Any) -> tuple[str, ...]:
    code = getattr(function, "__code__", None)
    return () if code is None else code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _take_options(function: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Move the reserved keywords out of `kwargs`, leaving those that the function itself declares."""
    options: dict[str, Any] = {}
    declared = _declared(function)
    defaults = _defaults(function) if _may_have_defaults(function) else {}
    for name in SPELLINGS:
        if name in kwargs:
            options[name] = kwargs[name] if name in declared else kwargs.pop(name)
        elif name in defaults:
            options[name] = defaults[name]
    for name, option in _OPTIONS.items():
        if name in kwargs and name not in declared:
            options[option] = kwargs.pop(name)
    return options


class PromisedRequirementJob(Job):
    """A small job that learns the requirements and then adds the real job as its child."""

    def __init__(
        self, kind: type[FunctionWrappingJob], userFunction: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Take the kind of job to make, and what to make it of."""
        PromisedRequirement.convertPromises(kwargs)
        self._kind = kind
        self._function = userFunction
        self._args = args
        self._kwargs = kwargs
        name = getattr(userFunction, "__name__", type(userFunction).__name__)
        super().__init__(**_SMALL, displayName=f"requirements of {name}")  # type: ignore[arg-type]

    def body_module(self) -> str:
        """Name of the module that defines the function."""
        return getattr(self._function, "__module__", None) or type(self).__module__

    def run(self, fileStore: AbstractFileStore) -> Promise:
        """Add the real job and promise what it returns."""
        kwargs = {
            name: value.getValue() if isinstance(value, PromisedRequirement) else value
            for name, value in self._kwargs.items()
        }
        return self.addChild(self._kind(self._function, *self._args, **kwargs)).rv()


class EncapsulatedJob(Job):
    """A job and all its successors as one; what is added to it runs after them (specification line 377).

    Its return value is the enclosed job's.
    """

    _promisor: str

    def __init__(self, job: Job | None, unitName: str | None = None) -> None:
        """Enclose the job, whose successors may also be added later."""
        super().__init__(**_SMALL, unitName=unitName)  # type: ignore[arg-type]
        if job is None:
            return
        self._enclosed = job
        self._last = Job(**_SMALL, unitName=unitName)  # type: ignore[arg-type]
        super().addChild(job)
        super().addFollowOn(self._last)

    def __getstate__(self) -> dict[str, Any]:
        """The id of the job it stands for, not a promise: that job runs later than this one."""
        return {"_promisor": self.rv().job_id}

    def run(self, fileStore: AbstractFileStore) -> Promise:
        """Promise what the enclosed job returns."""
        return Promise(self._promisor)

    def body_parts(self) -> list[tuple[str, Any]]:
        """Nothing that could fail to be saved."""
        return []

    def addChild(self, childJob: Job) -> Job:
        """Add a job that runs after the enclosed ones."""
        return self._last.addChild(childJob)

    def addFollowOn(self, followOnJob: Job) -> Job:
        """Add a job that runs after the children added here."""
        return self._last.addFollowOn(followOnJob)

    def addService(self, service: Any, parentService: Any = None) -> Promise:
        """Run a service beside the successors added here."""
        return self._last.addService(service, parentService)

    def hasChild(self, childJob: Job) -> bool:
        """Tell whether that job is the enclosed one or was added as a child."""
        return super().hasChild(childJob) or self._last.hasChild(childJob)

    def hasFollowOn(self, followOnJob: Job) -> bool:
        """Tell whether that job was added as a follow-on."""
        return super().hasFollowOn(followOnJob) or self._last.hasFollowOn(followOnJob)

    def hasService(self, service: Any) -> bool:
        """Tell whether that is a service added here."""
        return self._last.hasService(service)

    def rv(self, *path: Any) -> Promise:
        """Promise what the enclosed job returns."""
        enclosed: Job = self._enclosed
        while isinstance(enclosed, EncapsulatedJob):
            enclosed = enclosed._enclosed
        return enclosed.rv(*path)

    def prepareForPromiseRegistration(self, jobStore: Any) -> None:
        """See that this job and the enclosed one can be named."""
        super().prepareForPromiseRegistration(jobStore)
        self._enclosed.prepareForPromiseRegistration(jobStore)
