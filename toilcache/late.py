"""Names that are resolved at first use, where the public API hangs an upper class on a lower one.

Knows only how to import "package.module:attribute". It keeps the layers one-way at import time: a lower
module names the upper one by a string and never imports it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_found: dict[str, Any] = {}


def late(target: str) -> Any:
    """Import "package.module:attribute" and return the attribute (ImportError, AttributeError)."""
    if target not in _found:
        _found[target] = _import(target)
    return _found[target]


def _import(target: str) -> Any:
    module, _, attribute = target.partition(":")
    __import__(module)
    value: Any = sys.modules[module]
    for name in attribute.split("."):
        value = getattr(value, name)
    return value


class LateAttribute:
    """A class attribute whose value is imported when it is first looked at."""

    def __init__(self, target: str) -> None:
        """Take the target as `late` does."""
        self._target = target
        self._value: Any = None

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Return the imported value itself, never bound to an instance."""
        if self._value is None:
            self._value = late(self._target)
        return self._value
