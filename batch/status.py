"""What a wait status means, in words and as a reason. Pure."""

from __future__ import annotations

import os
import signal

from toilcache.batch import protocol
from toilcache.job.exit_reason import BatchJobExitReason


def explain(status: int, *, oom_killed: bool = False) -> tuple[BatchJobExitReason, str]:
    """Return the reason and a phrase for a wait status (wait(2)); ``oom_killed``: the kernel killed for
    memory.
    """
    if status == protocol.CANCELLED:
        return BatchJobExitReason.KILLED, "was cancelled"
    if status == protocol.NOT_STARTED:
        return BatchJobExitReason.LOST, "could not be started"
    if os.WIFSIGNALED(status):
        return _explain_signal(os.WTERMSIG(status), oom_killed)
    code = os.WEXITSTATUS(status)
    if code == 0:
        return BatchJobExitReason.FINISHED, "ended"
    return BatchJobExitReason.FAILED, f"exited with status {code} without a result"


def _explain_signal(number: int, oom_killed: bool) -> tuple[BatchJobExitReason, str]:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL and oom_killed:
        return BatchJobExitReason.MEMLIMIT, "was killed because memory ran out; raise its memory requirement"
    if number == signal.SIGKILL:
        return BatchJobExitReason.KILLED, "was killed (SIGKILL)"
    return BatchJobExitReason.FAILED, f"crashed ({name})"
