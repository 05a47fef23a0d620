"""Having called, by a process of its own, what jobs deferred whose processes are gone.

Knows how that process is started, and whose files it may be given. Must not know how a call is made: the
process is :mod:`toilcache.worker.leftovers`, which is named on a command line and never imported here.
"""

from __future__ import annotations

import os
import sys

from toilcache.errors import CoordinationDirError, ProcessError
from toilcache.node.deferred import files_in

_TIMES = 10


def call_left_behind(directory: str) -> None:
    """Call what the files in a directory hold, as long as that takes, and say what could not be called.

    For whoever holds the workflow's lock exclusively and is about to remove the directory. What another user
    has deferred is only mentioned: it is his code.
    """
    why = _why_not(directory)
    if why is None:
        why = _run(directory)
    if why:
        print(f"toilcache: cannot call what jobs have deferred: {directory!r}: {why}", file=sys.stderr)


def _why_not(directory: str) -> str | None:
    """Say why nothing is called, or nothing ("") if there is nothing to call; None if all is well."""
    try:
        return None if files_in(directory) else ""
    except CoordinationDirError as error:
        return str(error)
    except NotADirectoryError:  # a lock file was asked for what lies in it
        return ""


def _run(directory: str) -> str:
    """Start the program until it has come to its end; what it calls may kill it."""
    from toilcache.process import own_program, spawn

    sys.stderr.flush()
    argv = own_program("toilcache.worker.leftovers", "toilcache.worker.leftovers", directory)
    status = 0
    for _ in range(_TIMES):
        try:
            pid = spawn(argv, pass_fds=[(2, 1), (2, 2)], new_session=True)
        except (OSError, ProcessError) as error:
            return str(error)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            break
    return "" if status == 0 else f"the process for it ended with {os.waitstatus_to_exitcode(status)}"
