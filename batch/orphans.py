"""Worker hosts of an earlier leader: which attempts still run there, and when they end.

Knows the notes that hosts leave on the node (``NAME.note``: a word, then a line ``JOB VERSION`` for each
attempt) and the locks that tell whether a host lives. Must not know the store. A host that lost its leader
starts nothing new and rewrites its note whenever a chain ends; since a note can only be looked at, it is
looked at four times a second, and only while such hosts live."""

from __future__ import annotations

import os
import time

from toilcache.node.identity import process_name_exists

LOOK_SECONDS = 0.25
NOTICE_SECONDS = 10.0
"""How long a host may take to notice that its leader is gone."""

Attempt = tuple[str, int]


class Orphans:
    """The abandoned hosts of this node."""

    def __init__(self, notes_dir: str, names_base: str) -> None:
        self._notes_dir = notes_dir
        self._names_base = names_base
        self._hosts: dict[str, set[Attempt]] = {}
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
            left = (self._read(name) or (False, set()))[1] if alive else set()
            gone += self._hosts[name] - left
            self._hosts[name] &= left
            if not self._hosts[name]:
                del self._hosts[name]
        return gone

    def _await_notice(self, name: str, deadline: float) -> set[Attempt]:
        while process_name_exists(self._names_base, name):
            note = self._read(name)
            if note is None:
                return set()
            abandoned, attempts = note
            if abandoned or time.monotonic() > deadline:
                return attempts
            time.sleep(0.02)  # the host is between the end of its socket and its note; nothing announces it
        return set()

    def _read(self, name: str) -> tuple[bool, set[Attempt]] | None:
        try:
            with open(os.path.join(self._notes_dir, name + ".note"), encoding="ascii") as note:
                word, *lines = note.read().splitlines()
            attempts = {(job_id, int(version)) for job_id, version in map(str.split, lines)}
        except (OSError, ValueError):
            return None
        return word == "abandoned", attempts
