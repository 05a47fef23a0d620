"""What a job defers: kept by its process, and written down for whoever finds that process gone.

Knows how a call is pickled, and in what surroundings it can be made. Must not know who makes the calls of the
dead: that is :mod:`toilcache.worker.caller`. A job that defers nothing touches no file.
"""

from __future__ import annotations

import os
from contextlib import suppress

from toilcache.errors import JobException, one_line
from toilcache.io import random_name
from toilcache.job.body import dumps, loads
from toilcache.node.deferred import CALLED, CallFile
from toilcache.worker.failures import describe, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from toilcache.job.description import JobDescription
    from toilcache.worker.context import WorkerContext


class Surroundings:
    """Where a call can be made: the attempt (job id, version) whose process had promised it, the fields of
    the script's ``ModuleDescriptor`` or None, entries of the import path, and the container image or None.
    """

    __slots__ = ("attempt", "image", "main", "sys_path")

    def __init__(
        self,
        attempt: tuple[str, int],
        main: tuple[Any, ...] | None,
        sys_path: list[str],
        image: str | None,
    ) -> None:
        self.attempt = attempt
        self.main = main
        self.sys_path = sys_path
        self.image = image

    def dump(self) -> bytes:
        """Return them as text, which can be read without trusting it."""
        return ascii((self.attempt, self.main, self.sys_path, self.image)).encode("ascii")

    @classmethod
    def load(cls, head: bytes) -> Surroundings | None:
        """Read what `dump` returned; None where a power cut has left nothing of it."""
        from ast import literal_eval

        try:
            return cls(*literal_eval(head.decode("ascii")))
        except (ValueError, SyntaxError, TypeError):
            return None

    def are_like(self, other: Surroundings) -> bool:
        """Tell whether what can be called in the one can be called in the other."""
        return (self.main, self.image) == (other.main, other.image)


class Call:
    """A function with its arguments."""

    __slots__ = ("args", "function", "kwargs")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (self.function, self.args, self.kwargs)

    def body_parts(self) -> list[tuple[str, Any]]:
        """The parts with the names that an error message gives them."""
        parts = [("the function", self.function)]
        parts += [(f"argument {number}", value) for number, value in enumerate(self.args, 1)]
        return parts + [(f"argument {name!r}", value) for name, value in self.kwargs.items()]

    def __str__(self) -> str:
        return str(getattr(self.function, "__qualname__", type(self.function).__qualname__))

    def make(self) -> None:
        """Call it; what it raises is only said."""
        try:
            self.function(*self.args, **self.kwargs)
        except BaseException as error:  # it is the user's; not even sys.exit may undo the job
            say(f"deferred function {self} failed: {describe(error)}")


def written(call: Call, desc: object, job: object) -> bytes:
    """Return a call as a line that tells it to a person, and its pickle; JobException if there is none."""
    label = one_line(f"{call} of job {desc}").encode("utf-8", "backslashreplace")
    return label + b"\n" + dumps(call, f"what job {desc} defers", body=job)[0]


def label_of(data: bytes) -> str:
    """Return the line."""
    return data.partition(b"\n")[0].decode("utf-8")


def read(data: bytes) -> Call:
    """Return the call; raises whatever the code of its author does while it is loaded."""
    call: Call = loads(data.partition(b"\n")[2])
    return call


class Deferred:
    """The calls that one attempt has promised, in its own process."""

    __slots__ = ("_calls", "_context", "_desc", "_file", "_job", "_pid")

    def __init__(self, context: WorkerContext, desc: JobDescription, job: object) -> None:
        self._context = context
        self._desc = desc
        self._job = job
        self._calls: list[tuple[int, Call]] = []
        self._file: CallFile | None = None
        self._pid = os.getpid()

    def add(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Promise a call; it is written down, with its arguments as they are now, when this returns.

        JobException if it cannot be pickled, OSError if it cannot be written.
        """
        call = Call(function, args, kwargs)
        if not callable(function):
            raise JobException(f"cannot defer {one_line(repr(function), 80)}: it cannot be called")
        if os.getpid() != self._pid:
            raise JobException(
                f"cannot defer {call}: this process was forked by the job {self._desc}; "
                "call defer in the job's own process"
            )
        data = written(call, self._desc, self._job)
        if self._file is None:
            self._file = self._new_file()
        self._calls.append((self._file.append(data), call))

    def _new_file(self) -> CallFile:
        path, head = self._context.call_file(), self._context.surroundings().dump()
        try:
            return CallFile.create(path, head)
        except (
            FileExistsError
        ):  # of a process that had the same attempt; its calls are left to those who adopt
            return CallFile.create(f"{path}.{random_name()}", head)

    def make_calls(self) -> None:
        """Make them, the last promise first, and remove the file; nothing is raised."""
        if self._file is None or os.getpid() != self._pid:
            return
        while self._calls:
            number, call = self._calls.pop()
            call.make()
            with suppress(OSError):  # whoever finds the file calls once more
                if self._calls:
                    self._file.set_state(number, CALLED)
                else:
                    self._file.remove()
