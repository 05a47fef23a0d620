"""How job bodies, arguments and return values become bytes and back.

Functions and classes travel by reference, those of the main script under a name that every process of the
workflow resolves. Only what has no name (lambdas, closures, an interactive session) travels by value, through
cloudpickle, and then only to the same minor version of Python. Knows pickling and promises; must not know
stores or the shape of graphs.
"""

from __future__ import annotations

import pickle
import sys
from functools import partial
from io import BytesIO
from types import BuiltinFunctionType, FunctionType

from toilcache.errors import JobException, ToilcacheError, one_line
from toilcache.job.module import MAIN_NAME, main_import_name, main_object
from toilcache.job.promise import Promise, fulfil, select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BY_VALUE = b"\x00by value\x00"
_PROTOCOL = 5
_NEVER_IN_BODIES = ("AbstractJobStore", "AbstractFileStore", "Job")
_ADVICE = {
    "Job": "pass its return value with .rv() instead of the job itself",
    "AbstractJobStore": "a job reaches it as job.fileStore.jobStore while it runs",
    "AbstractFileStore": "a job reaches it as job.fileStore while it runs",
}


class _NeedsValue(Exception):
    """Something without an importable name was met."""


class _Reducer:
    """What both picklers do differently from the standard one, and the promises they met."""

    owner: object
    body: object
    refs: dict[str, None]

    def _reduce(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is FunctionType or issubclass(kind, type):
            return _reduce_named(obj)
        if kind is BuiltinFunctionType:
            return NotImplemented
        if kind is Promise:
            reduced = obj.__reduce__()
            self.refs[reduced[1][0]] = None
            return reduced
        if obj is not self.body:
            refuse_engine_object(obj, self.owner)
        return NotImplemented


def refuse_engine_object(obj: Any, owner: object) -> None:
    """Raise JobException for a job or a store, which must not be dragged into a body."""
    for base in type(obj).__mro__:
        if base.__name__ in _NEVER_IN_BODIES and base.__module__.startswith("toilcache."):
            raise JobException(
                f"cannot save {owner}: it holds {obj}, a {base.__name__}; {_ADVICE[base.__name__]}"
            )


class _FastPickler(_Reducer, pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        reduced = self._reduce(obj)
        if reduced is None:
            raise _NeedsValue
        return reduced


def _reduce_named(obj: Any) -> Any:
    """NotImplemented where pickle's own reference will do, a main-script reference, or None: it has no name."""
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


def dumps(obj: object, owner: object) -> tuple[bytes, list[str]]:
    """Pickle an object for the job (or what else) of that name; the ids of promising jobs met come with it.

    Raises JobException that names the owner and the offending part where something cannot be pickled, and
    for jobs and stores within the object.
    """
    try:
        return _dump(obj, owner)
    except ToilcacheError:
        raise
    except Exception as error:  # whatever a foreign __reduce__ raises
        raise _blamed(obj, owner, error) from error


def _dump(obj: object, owner: object) -> tuple[bytes, list[str]]:
    try:
        return _dump_fast(obj, owner)
    except _NeedsValue:
        return _dump_by_value(obj, owner)


def _dump_fast(obj: object, owner: object) -> tuple[bytes, list[str]]:
    stream = BytesIO()
    pickler = _FastPickler(stream, _PROTOCOL)
    pickler.owner, pickler.body, pickler.refs = owner, obj, {}
    pickler.dump(obj)
    return stream.getvalue(), list(pickler.refs)


def _dump_by_value(obj: object, owner: object) -> tuple[bytes, list[str]]:
    stream = BytesIO()
    stream.write(_BY_VALUE + _python().encode() + b"\n")
    pickler = _value_pickler()(stream, _PROTOCOL)
    pickler.owner, pickler.body, pickler.refs = owner, obj, {}
    pickler.dump(obj)
    return stream.getvalue(), list(pickler.refs)


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


def _blamed(obj: object, owner: object, error: Exception) -> JobException:
    from toilcache.job.blame import blame

    where = blame(obj, partial(_fails, owner))
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else one_line(str(error))
    return JobException(f"cannot save {owner}: {where} cannot be pickled: {reason}")


def _fails(owner: object, part: object) -> bool:
    try:
        _dump(part, owner)
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
    """Rebuild what `dumps` wrote; `resolver` gives the return value of a job id, without it promises stay promises.

    Raises JobException for an object pickled by value under another minor version of Python.
    """
    stream = BytesIO(data)
    if data.startswith(_BY_VALUE):
        written = stream.readline()[len(_BY_VALUE) : -1].decode()
        if written != _python():
            raise JobException(
                f"cannot load code without a name: it was pickled by Python {written} and this is Python {_python()}; "
                "use one version, or define the function at the top level of a file"
            )
    unpickler = _Unpickler(stream)
    unpickler.resolver = resolver
    return unpickler.load()
