"""What is said about a job that failed: a line for the record, the user's part of the traceback for the log.

Knows exceptions. Must not know jobs or stores.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from toilcache import errors
from toilcache.errors import ToilcacheError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceback import FrameSummary

_ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def describe(error: BaseException) -> str:
    """Say in one line what went wrong in a job."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r}); a job must return"
    if isinstance(error, KeyboardInterrupt):
        return "was interrupted (SIGINT)"
    text = errors.one_line(_text(error))
    if isinstance(error, ToilcacheError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # __str__ is the user's too; what the job failed of must be told all the same
        return ""


def say(text: str) -> None:
    """Print to the log of the job if that can be written: nothing else may depend on it."""
    with suppress(Exception):  # its disk may be full, and the job may have closed or replaced sys.stderr
        print(text, file=sys.stderr, flush=True)


def print_traceback(error: BaseException) -> None:
    """Print the traceback of a job's error without the engine's frames, which mean nothing to its author."""
    from traceback import TracebackException

    report = TracebackException.from_exception(error)
    seen: TracebackException | None = report
    while seen is not None:
        kept = [frame for frame in seen.stack if not _is_engine(frame)]
        if kept or isinstance(error, ToilcacheError):
            seen.stack[:] = kept
        seen = seen.__cause__ or seen.__context__
    if isinstance(error, ToilcacheError):
        report.__cause__ = report.__context__ = None
    say("".join(report.format()).rstrip("\n"))


def _is_engine(frame: FrameSummary) -> bool:
    return frame.filename.startswith(_ENGINE)
