"""How job bodies, arguments and return values become bytes and back.

Functions and classes travel by reference, those of the main script under a name that every process of the
workflow resolves. Only what has no name (lambdas, closures, an interactive session) travels by value, through
cloudpickle, and then only to the same minor version of Python. Knows pickling and promises; must not know
stores or the shape of graphs.
"""

from __future__ import annotations

import pickle
import sys
from functools import cache, partial
from io import BytesIO
from types import FunctionType

from toilcache.errors import JobException, one_line
from toilcache.job.module import MAIN_NAME, main_import_name, main_object
from toilcache.job.placeholder import Promise, fulfil, select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BY_VALUE = b"\x00by value\x00"
_PROTOCOL = 5
_NOTHING = pickle.dumps(None, _PROTOCOL)
_ADVICE = {
    "Job": "pass what the job returns, with .rv()",
    "AbstractJobStore": "a job reaches it as job.fileStore.jobStore while it runs",
    "AbstractFileStore": "a job reaches it as job.fileStore while it runs",
}


class _NeedsValue(Exception):
    """Something without an importable name was met."""


class _Refused(Exception):
    """Something was met that has no place in a body; the text says what to do instead."""


class _Reducer:
    """What both picklers do differently from the standard one, and the promises they met."""

    body: object
    refs: dict[str, None]
    harmless: set[type]

    def _reduce(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is FunctionType or issubclass(kind, type):
            return _reduce_named(obj)
        if kind is Promise:
            return self._reduce_promise(obj)
        if obj is not self.body and kind not in self.harmless:
            _refuse_engine_object(obj)
            self.harmless.add(kind)
        return NotImplemented

    def _reduce_promise(self, promise: Promise) -> Any:
        job_id = promise.job_id
        if not isinstance(job_id, str):
            raise _Refused(
                "promises what a job returns that is not in the workflow; add that job with addChild"
            )
        self.refs[job_id] = None
        return promise.__reduce__()


def _refuse_engine_object(obj: Any) -> None:
    for base in type(obj).__mro__:
        if base.__name__ in _ADVICE and base.__module__.startswith("toilcache."):
            raise _Refused(f"is no data; {_ADVICE[base.__name__]}")


class _FastPickler(_Reducer, pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        reduced = self._reduce(obj)
        if reduced is None:
            raise _NeedsValue
        return reduced


def _reduce_named(obj: Any) -> Any:
    """NotImplemented where pickle's own reference will do, else a main-script reference, else None."""
    module = obj.__module__
    if module == "__main__":
        name = main_import_name()
        if name is None or not _is_found(obj, sys.modules["__main__"]):
            return None
        return main_object, (name, obj.__qualname__)
    owner = sys.modules.get(module)
    return NotImplemented if owner is not None and _is_found(obj, owner) else None


def _is_found(obj: Any, owner: Any) -> bool:
    qualname = obj.__qualname__
    found: Any = owner
    for part in qualname.split(".") if "." in qualname else (qualname,):
        found = getattr(found, part, None)
    return found is obj or _is_builtin_alias(obj)


def _is_builtin_alias(obj: Any) -> bool:
    """Tell whether it is a type that pickle names in its own way, such as NoneType."""
    return obj in (type(None), type(NotImplemented), type(...))


def dumps(obj: object, owner: object, body: object = None) -> tuple[bytes, list[str]]:
    """Pickle an object for the job (or what else) of that name; the ids of promising jobs met come with it.

    A job is pickled only for itself, as `dumps(job, job)`, or where it is given as `body`. Raises
    JobException that names the owner and the offending part where something cannot be pickled, and for other
    jobs and stores within the object.
    """
    if obj is None:
        return _NOTHING, []
    body = obj if obj is owner else body
    try:
        return _dump(obj, body)
    except Exception as error:  # whatever a foreign __reduce__ raises
        raise _blamed(obj, owner, error, body) from error


def _dump(obj: object, body: object) -> tuple[bytes, list[str]]:
    stream = BytesIO()
    try:
        return _dump_with(_FastPickler, stream, obj, body)
    except _NeedsValue:
        stream = BytesIO()
        stream.write(_BY_VALUE + _python().encode() + b"\n")
        return _dump_with(_value_pickler(), stream, obj, body)


def _dump_with(kind: Any, stream: BytesIO, obj: object, body: object) -> tuple[bytes, list[str]]:
    pickler = kind(stream, _PROTOCOL)
    pickler.body, pickler.refs, pickler.harmless = body, {}, set()
    pickler.dump(obj)
    return stream.getvalue(), list(pickler.refs)


@cache
def _value_pickler() -> Any:
    import cloudpickle

    class ValuePickler(_Reducer, cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            reduced = self._reduce(obj)
            if reduced is None or reduced is NotImplemented:
                return super().reducer_override(obj)
            return reduced

    return ValuePickler


def _python() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _blamed(obj: object, owner: object, error: Exception, body: object) -> JobException:
    from toilcache.job.blame import blame

    too_deep = isinstance(error, RecursionError)
    fails = partial(_fails, None if body is obj else body)
    where = blame(obj, fails, depth=1) if too_deep else blame(obj, fails)
    if isinstance(error, _Refused):
        return JobException(f"cannot save {owner}: {where} {error}")
    reason = "it is nested too deeply" if too_deep else one_line(str(error))
    return JobException(f"cannot save {owner}: {where} cannot be pickled: {reason}")


def _fails(body: object, part: object) -> bool:
    try:
        _dump(part, body)
    except Exception:  # the question is only whether it works
        return True
    return False


class _Unpickler(pickle.Unpickler):
    resolver: Callable[[str], Any] | None

    def find_class(self, module: str, name: str) -> Any:
        if self.resolver is not None and name == "fulfil" and module == fulfil.__module__:
            return partial(_fulfilled, self.resolver)
        if module == MAIN_NAME or (module not in sys.modules and module == main_import_name()):
            return main_object(module, name)
        return super().find_class(module, name)


def _fulfilled(resolver: Callable[[str], Any], job_id: str, path: tuple[Any, ...]) -> Any:
    return select(resolver(job_id), path, job_id)


def loads(data: bytes, resolver: Callable[[str], Any] | None = None) -> Any:
    """Rebuild what `dumps` wrote.

    `resolver` gives the return value of a job id; without it promises stay promises.
    Raises JobException for an object pickled by value under another minor version of Python.
    """
    stream = BytesIO(data)
    if data.startswith(_BY_VALUE):
        written = stream.readline()[len(_BY_VALUE) : -1].decode()
        if written != _python():
            raise JobException(
                f"cannot load code without a name: it was pickled by Python {written} and this is Python "
                f"{_python()}; use one version, or define the function at the top level of a file"
            )
    unpickler = _Unpickler(stream)
    unpickler.resolver = resolver
    return unpickler.load()
