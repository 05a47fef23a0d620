"""Promises: stand-ins for return values of jobs that have yet to run.

Knows how a promise names its job and how it is selected from. Must not know how values are found or pickled.
"""

from __future__ import annotations

from toilcache.errors import JobException
from toilcache.job.requirements import SPELLINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from toilcache.job.identifiers import TemporaryID
    from toilcache.job.job import Job


class Promise:
    """The return value of a job, or a part of it, to be put in by the time a consumer runs.

    May be passed as an argument, in containers too, and be returned (specification line 384).
    """

    __slots__ = ("_job", "_path")

    def __init__(self, job: Job | str, path: tuple[Any, ...] = ()) -> None:
        """Promise what the job (or the job of that id) returns, followed by the selections of the path."""
        self._job = job
        self._path = path

    @property
    def job_id(self) -> str | TemporaryID:
        """Id of the promising job."""
        return self._job if isinstance(self._job, str) else self._job.jobStoreID

    @property
    def path(self) -> tuple[Any, ...]:
        """Keys, indices and slices that are applied in turn."""
        return self._path

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as id and path; `toilcache.job.body.loads` puts the value in its place."""
        job_id = self.job_id
        if not isinstance(job_id, str):
            raise JobException(
                f"cannot use the promise of {self._job}: that job was never added to the workflow; "
                "add it with addChild or addFollowOn"
            )
        return fulfil, (job_id, self._path)

    def __bool__(self) -> bool:
        """True, so that `promise or default` keeps the promise."""
        return True

    def __repr__(self) -> str:
        """Show job and path."""
        return f"Promise({self._job}{''.join(f', {key!r}' for key in self._path)})"


def _refuse(self: Promise, *_: object) -> Any:
    raise JobException(
        f"cannot use the promise of {self._job} before it ran; "
        "pass the promise on as an argument of another job"
    )


for _operation in (
    *("getitem", "len", "iter", "next", "contains", "int", "float", "index", "fspath", "bytes"),
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "mod", "neg"),
    *("lt", "le", "gt", "ge"),
):
    setattr(Promise, f"__{_operation}__", _refuse)


class PromisedRequirement:
    """A requirement that is computed when the promises it depends on are fulfilled.

    Takes a promise alone, or a function and the arguments, promises among them, that give the value.
    """

    def __init__(self, valueOrCallable: Any, *args: Any) -> None:
        """Keep the value or the function with its arguments."""
        if args and not callable(valueOrCallable):
            raise JobException(f"cannot compute a requirement with {valueOrCallable!r}: it is no function")
        self._value = valueOrCallable
        self._args = args

    def getValue(self) -> Any:
        """The requirement, once the promises within are fulfilled."""
        return self._value(*self._args) if callable(self._value) else self._value

    @staticmethod
    def convertPromises(kwargs: dict[str, Any]) -> bool:
        """Wrap promises that stand for requirements, in place; tell whether any requirement is promised."""
        found = False
        for name in SPELLINGS:
            if isinstance(kwargs.get(name), Promise):
                kwargs[name] = PromisedRequirement(kwargs[name])
            found = found or isinstance(kwargs.get(name), PromisedRequirement)
        return found


def fulfil(job_id: str, path: tuple[Any, ...]) -> Any:
    """Rebuild a promise where nobody resolves it."""
    return Promise(job_id, path)


def select(value: Any, path: tuple[Any, ...], job_id: str) -> Any:
    """Apply the selections of a promise to the whole return value; JobException where one does not fit."""
    for key in path:
        try:
            value = value[key]
        except (LookupError, TypeError) as error:
            raise JobException(
                f"cannot take {key!r} from what job {job_id} returned, a {type(value).__name__}: {error}"
            ) from error
    return value
