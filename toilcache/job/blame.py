"""Finding the part of an object that cannot be pickled, for an error message a person can act on.

Runs only after pickling has failed. Knows containers, attributes and function arguments; must not know jobs
beyond the `body_parts` that they name themselves.
"""

from __future__ import annotations

from toilcache.errors import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

DEPTH = 50
"""So deep is looked for the part at fault."""
_SCALARS = (int, float, complex, str, bytes, bool, type(None))


def blame(obj: object, fails: Callable[[Any], bool], depth: int = DEPTH) -> str:
    """Name the innermost part that fails by itself, such as "argument 2 'conn' ['lock'] (_thread.lock)"."""
    labels: list[str] = []
    culprit: Any = obj
    for _ in range(depth):
        found = next(((label, part) for label, part in _parts(culprit) if _is_suspect(part, fails)), None)
        if found is None:
            break
        labels.append(found[0])
        culprit = found[1]
    kind = type(culprit)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{' '.join(labels) or 'the object'} ({one_line(name, 80)})"


def _is_suspect(part: object, fails: Callable[[Any], bool]) -> bool:
    return not isinstance(part, _SCALARS) and fails(part)


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    named = getattr(type(obj), "body_parts", None)
    if named is not None:
        yield from named(obj)
    elif isinstance(obj, dict):
        for key, value in obj.items():
            yield f"key {one_line(repr(key), 80)}", key
            yield f"[{one_line(repr(key), 80)}]", value
    elif isinstance(obj, (list, tuple, set, frozenset)):
        for index, value in enumerate(obj):
            yield f"item {index}", value
    else:
        yield from _attributes(obj)


def _attributes(obj: Any) -> Iterator[tuple[str, Any]]:
    closure = getattr(obj, "__closure__", None)
    if closure:
        for name, cell in zip(obj.__code__.co_freevars, closure, strict=True):
            yield f"closed-over {name!r}", cell.cell_contents
    if not isinstance(obj, type):
        for name, value in getattr(obj, "__dict__", {}).items():
            yield f"attribute {name!r}", value
