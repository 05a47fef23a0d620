"""Processes of containers as this process sees them: their ids inside are other numbers than here.

Knows namespaces of process ids (pid_namespaces(7)). Must not know what the processes do.
"""

from __future__ import annotations

import os


def pid_namespace(pid: int | str = "self") -> str:
    """Return what names the namespace that a process's id belongs to; "" if that is not told."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def pid_here(pid: int, namespace: str) -> int:
    """Return the id here of the process that has the id `pid` in a namespace; 0 if it is not seen."""
    if namespace in ("", pid_namespace()):
        return pid
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _inner_pid(entry) == pid and pid_namespace(entry) == namespace:
            return int(entry)
    return 0


def _inner_pid(pid: str) -> int:
    """Return a process's id in the innermost namespace that it is in."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            line = next((line for line in status if line.startswith(b"NSpid:")), b"")
    except OSError:  # it has ended meanwhile
        return 0
    numbers = line.split()[1:]
    return int(numbers[-1]) if numbers else 0
