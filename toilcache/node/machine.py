"""How big this machine is, and which processes on it are still whose.

This module knows /proc, cgroups and psutil. It must not know jobs, stores or schedulers: a marker is any
environment entry that the caller gave to what it started.
"""

from __future__ import annotations

import os
import time

from toilcache.node.cgroups import cgroup_cores, cgroup_memory
from toilcache.node.coordination import boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Machine:
    """What jobs may use here: cores (a float), memory in bytes, and the machine's name."""

    __slots__ = ("cores", "hostname", "memory", "node_id")

    def __init__(self, cores: float, memory: int, hostname: str, node_id: str) -> None:
        self.cores = cores
        self.memory = memory
        self.hostname = hostname
        self.node_id = node_id

    def __repr__(self) -> str:
        return f"Machine(cores={self.cores}, memory={self.memory}, hostname={self.hostname!r})"


def machine() -> Machine:
    """Measure this machine as this process may use it: CPU affinity and cgroup limits (v1 and v2) count."""
    import psutil

    cores = min([float(len(os.sched_getaffinity(0))), *cgroup_cores()])
    memory = min([int(psutil.virtual_memory().total), *cgroup_memory()])
    return Machine(cores, memory, os.uname().nodename, node_id())


def node_id() -> str:
    """Return a name for this node and this boot of it: host name, a dash, the boot id.

    A container with a host name of its own gives another first part; the boot id is the kernel's and is the
    same in every container. The machine-id file would not do: images carry copies of it.
    """
    return f"{os.uname().nodename}-{boot_id()}"


def disk_free(path: str) -> int:
    """Return the bytes that a user without privileges may still write on the file system of `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def oom_kills() -> int:
    """Return how often this kernel has killed a process for memory since boot; 0 where it does not tell."""
    try:
        with open("/proc/vmstat", encoding="ascii") as table:
            return parse_oom_kills(table.read())
    except OSError:
        return 0


def parse_oom_kills(vmstat: str) -> int:
    """Find the counter in the text of /proc/vmstat (kernel 4.13 and later)."""
    for line in vmstat.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return 0


def process_start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if there is no such process.

    With the pid it names a process for as long as the node is up. Read from the kernel as it is: a start time
    as a date, which psutil makes of it, moves when the clock is set. A zombie counts as no process.
    """
    found = _stat(pid)
    return None if found is None else found[1]


def process_age(pid: int) -> float:
    """Return the seconds since a process started; 0 if there is none."""
    started = process_start_time(pid)
    if started is None:
        return 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started / ticks)


def is_process(pid: int, start_time: int) -> bool:
    """Tell whether the process that was seen with this pid and start time still runs."""
    return process_start_time(pid) == start_time


def end_marked_processes(marker: str, grace: float = 2.0, session: int | None = None) -> list[int]:
    """End every process started with `marker` ("NAME=value") in its environment; return their pids.

    They get SIGTERM, and SIGKILL after `grace` seconds; what they start meanwhile is found too. A child that
    was forked without an exec shows its parent's environment, so `session` also ends all processes of that
    session: only safe while its leader is a child that is not reaped yet. This process itself and those of
    other users are spared.
    """
    from toilcache.node.ending import end_processes

    return end_processes(lambda: _marked({os.fsencode(marker)}, session), grace)


def kill_marked_processes(markers: Iterable[str]) -> list[int]:
    """Kill every process with one of these in its environment, without asking; return their pids.

    Waits only for the kernel to do it, so that nothing of theirs runs when this returns, but not for long.
    """
    from toilcache.node.ending import end_processes

    wanted = {os.fsencode(marker) for marker in markers}
    return end_processes(lambda: _marked(wanted), grace=0.0)


def _marked(markers: set[bytes], session: int | None = None) -> list[tuple[int, int]]:
    """Find the marked processes as pairs of pid and start time."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            status = _stat(int(entry))
            if status is not None and (status[0] == session or _has_marker(int(entry), markers)):
                found.append((int(entry), status[1]))
    return found


def _has_marker(pid: int, markers: set[bytes]) -> bool:
    return not markers.isdisjoint(_environment(pid))


def environment_entry(pid: int, name: str) -> str | None:
    """Return what a process was started with in this environment variable; None if it is not told."""
    prefix = os.fsencode(name) + b"="
    found = (entry[len(prefix) :] for entry in _environment(pid) if entry.startswith(prefix))
    value = next(found, None)
    return None if value is None else os.fsdecode(value)


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:  # gone, or somebody else's
        return []


def _stat(pid: int) -> tuple[int, int] | None:
    """Return session and start time of a living process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return parse_stat(file.read())
    except OSError:
        return None


def parse_stat(text: bytes) -> tuple[int, int] | None:
    """Read session and start time from /proc/PID/stat (proc(5)); None for a zombie or another shape.

    The program's name stands in parentheses and may itself hold parentheses, spaces and newlines.
    """
    fields = text.rpartition(b")")[2].split()
    if len(fields) < 20 or fields[0] in (b"Z", b"X", b"x"):
        return None
    return int(fields[3]), int(fields[19])


def process_environments(
    name: str, candidates: Iterable[int] | None = None
) -> list[tuple[int, dict[str, str]]]:
    """Return pid and environment of all processes, or `candidates`, that were started with this variable."""
    pids = (
        [int(entry) for entry in os.listdir("/proc") if entry.isdigit()] if candidates is None else candidates
    )
    prefix = os.fsencode(name) + b"="
    found = []
    for pid in pids:
        entries = _environment(pid)
        if any(entry.startswith(prefix) for entry in entries):
            pairs = (os.fsdecode(entry).partition("=") for entry in entries)
            found.append((pid, {key: value for key, _, value in pairs}))
    return found


def session_processes(session: int) -> list[tuple[int, int]]:
    """Return the processes of a session as pairs of pid and start time."""
    return _marked(set(), session)
