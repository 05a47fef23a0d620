"""Objects whose references nobody counts any more, so that children of a host do not write to them.

Python counts the references to an object in the object itself. A child that calls a function, or looks at a
class, writes to the page it lies on, which the kernel then copies for it. Since Python 3.12 an object may be
immortal (PEP 683): its count says so, and is left alone. `None` is; what the engine and the standard library
have made before the first fork lives as long as the host anyway, so that nothing is lost where that is too. A
third of the pages of a small job are not copied then. Knows the interpreter's memory; must not know of jobs.
"""

from __future__ import annotations

import gc
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def make_all_immortal() -> bool:
    """Make every object that lives now immortal; False, and nothing done, where this Python knows no such.

    Meant for a process in which no code of a user has run yet: what is immortal never frees what it holds,
    and its finalizer never runs (that of a file which `sitecustomize` has left open, say, with text in it).
    """
    if not _counts_can_be_written() or not _is_immortal(None):
        return False
    from ctypes import c_uint32  # loaded by hosts alone

    count_at, count_of, immortal = c_uint32.from_address, sys.getrefcount, sys.getrefcount(None)
    found: list[Any] = gc.get_objects()
    while found:
        mortal = []
        for one in found:
            if count_of(one) != immortal:
                count_at(id(one)).value = immortal
                mortal.append(one)
        found = gc.get_referents(*mortal)
    return True


def _counts_can_be_written() -> bool:
    """True where the first 32 bits of an object are its count, and all that says it is immortal.

    That is CPython for 64 bits, with a global lock, before 3.14, which keeps a flag besides.
    """
    return (
        sys.implementation.name == "cpython"
        and sys.version_info < (3, 14)
        and not hasattr(sys, "getobjects")  # a build that traces references: objects begin otherwise
        and sys.maxsize > 1 << 32
        and sys.byteorder == "little"
        and not set(sys.abiflags) & {"d", "t"}  # debugging and free-threaded builds
    )


def _is_immortal(one: object) -> bool:
    """True if references to it are not counted."""
    before = sys.getrefcount(one)
    more = [one] * 100
    return sys.getrefcount(one) == before and len(more) == 100
