"""Worker hosts of an earlier leader: which attempts still run there, and when they end.

Knows the notes that hosts leave on the node (``NAME.note``: a word and the namespace of its process ids, then
a line ``JOB VERSION PID`` for each attempt) and the locks that tell whether a host lives. Must not know the
store. A host that lost its leader starts nothing new and rewrites its note whenever a chain ends; since a
note can only be looked at, it is looked at four times a second, and only while such hosts live."""

from __future__ import annotations

import os
import time

from toilcache.batch.host_process import WORKFLOW_MARKER, visible_devices
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.node.ending import end_processes
from toilcache.node.identity import process_name_exists
from toilcache.node.machine import environment_entry, process_age, process_start_time
from toilcache.node.namespaces import pid_here

LOOK_SECONDS = 0.25
NOTICE_SECONDS = 10.0
"""How long a host may take to notice that its leader is gone."""

Attempt = tuple[str, int]
_Noted = dict[Attempt, int]


class Orphans:
    """The abandoned hosts of this node, left by the runs of a workflow before ``run``."""

    def __init__(self, notes_dir: str, names_base: str, workflow_id: str, run: int) -> None:
        self._notes_dir = notes_dir
        self._names_base = names_base
        self._workflow_id = workflow_id
        self._run = run
        self._hosts: dict[str, _Noted] = {}
        self._next_look = 0.0

    def find(self) -> list[Attempt]:
        """Look for hosts that an earlier leader left behind and return what they still run.

        A host whose leader was killed a moment ago may not have noticed yet; it is given ten seconds.
        """
        deadline = time.monotonic() + NOTICE_SECONDS
        for entry in os.listdir(self._notes_dir):
            name, extension = os.path.splitext(entry)
            if extension != ".note":
                continue
            attempts = self._await_notice(name, deadline)
            if attempts:
                self._hosts[name] = attempts
        return [attempt for attempts in self._hosts.values() for attempt in attempts]

    def pid(self, attempt: Attempt) -> int | None:
        """Return the process that works on an attempt, None if none is known to."""
        return next((noted[attempt] for noted in self._hosts.values() if attempt in noted), None)

    def facts(self, attempt: Attempt) -> tuple[float, tuple[int, ...]] | None:
        """Return for how long its process has been running, and the devices that it was given."""
        pid = self.pid(attempt)
        return None if pid is None else (process_age(pid), visible_devices(pid))

    def fate(self, attempt: Attempt) -> tuple[BatchJobExitReason, str]:
        """Nobody has seen how it ended."""
        return BatchJobExitReason.LOST, "ended under an earlier leader"

    def kill(self, attempt: Attempt) -> None:
        """Kill the process that works on an attempt; its host does the rest, and :meth:`ended` will tell.

        Its pid may be another's by now. One that began with the name of an earlier run of this workflow is
        still the same: no process with that name is started any more but by hosts that have not gone on.
        """
        end_processes(lambda: self._processes(attempt), grace=0.0)

    def _processes(self, attempt: Attempt) -> list[tuple[int, int]]:
        pid = self.pid(attempt)
        started = None if pid is None else process_start_time(pid)
        if pid is None or started is None or not self._is_of_an_earlier_run(pid):
            return []
        return [(pid, started)]

    def _is_of_an_earlier_run(self, pid: int) -> bool:
        workflow_id, _, run = (environment_entry(pid, WORKFLOW_MARKER) or "").rpartition(".")
        return workflow_id == self._workflow_id and run.isdigit() and int(run) < self._run

    def limit(self, timeout: float | None) -> float | None:
        """Shorten a time-out while there is something to look at."""
        if not self._hosts:
            return timeout
        return LOOK_SECONDS if timeout is None else min(timeout, LOOK_SECONDS)

    def ended(self) -> list[Attempt]:
        """Return the attempts that have ended since the last call."""
        now = time.monotonic()
        if not self._hosts or now < self._next_look:
            return []
        self._next_look = now + LOOK_SECONDS
        gone: list[Attempt] = []
        for name in list(self._hosts):
            alive = process_name_exists(self._names_base, name)
            noted = self._read(name) if alive else None
            left = {} if noted is None else noted[1]
            gone += self._hosts[name].keys() - left.keys()
            self._hosts[name] = {key: pid for key, pid in self._hosts[name].items() if key in left}
            if not self._hosts[name]:
                del self._hosts[name]
        return gone

    def _await_notice(self, name: str, deadline: float) -> _Noted:
        while process_name_exists(self._names_base, name):
            note = self._read(name)
            if note is None:
                return {}
            abandoned, attempts = note
            if abandoned or time.monotonic() > deadline:
                return attempts
            time.sleep(0.02)  # the host is between the end of its socket and its note; nothing announces it
        return {}

    def _read(self, name: str) -> tuple[bool, _Noted] | None:
        try:
            with open(os.path.join(self._notes_dir, name + ".note"), encoding="ascii") as note:
                header, *lines = note.read().splitlines()
            word, _, namespace = header.partition(" ")
            attempts = {
                (job_id, int(version)): pid_here(int(pid), namespace)
                for job_id, version, pid in map(str.split, lines)
            }
        except (OSError, ValueError):
            return None
        return word == "abandoned", attempts
