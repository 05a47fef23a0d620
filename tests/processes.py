"""Whether a process that a test knows of still runs, whenever it ends."""

from __future__ import annotations

import psutil


def runs(process: psutil.Process) -> bool:
    """Whether a process runs or is stopped; it may end, and be buried, in the middle of the question."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_runs(pid: int) -> bool:
    """The same for who is known by number only."""
    try:
        return runs(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False
