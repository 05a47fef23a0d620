"""The event journal: one JSON object a line, appended by a run of the leader, replayed for progress and
reports.

Knows lines and their fields. Must not know the graph. Fields: ``t`` seconds since the epoch, ``e`` the event,
``job`` an id; a torn last line is normal after a crash and is skipped. Events: ``begin`` (run, name);
``issue`` (version; name, or ``after``, the job whose process goes on with it, or ``adopted``); ``commit``
(version; in ``next`` the names of the jobs that follow, by id, a map for each phase, the first to run first);
``plan`` (the same of a job that has yet to run, or with ``ran`` has run under an earlier leader); ``fail``
(version, why, left); ``retry`` (seconds); ``give-up`` (why); ``done``; ``progress`` and ``end`` (the
counts)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import IO, Any

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Journal:
    """Writes events; they are in the file when :meth:`flush` returns."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._unwritten = b""

    def note(self, event: str, job: str | None = None, **fields: Any) -> None:
        """Add an event; ``fields`` must be JSON values."""
        about = "" if job is None else f',"job":{_encode(job)}'
        rest = f",{_encode(fields)[1:]}" if fields else "}"
        self._lines.append(f'{{"t":{time.time():.3f},"e":"{event}"{about}{rest}')

    def flush(self) -> None:
        """Hand what was noted to the operating system; what it refuses (OSError) waits for the next call."""
        if self._lines:
            self._unwritten += ("\n".join(self._lines) + "\n").encode()
            self._lines.clear()
        while self._unwritten:
            self._unwritten = self._unwritten[self._stream.write(self._unwritten) :]
            self._stream.flush()

    def close(self, make_room: Callable[[], object] = lambda: None) -> None:
        """Flush, on a full disk after making room, and close the file; what is refused even so is lost."""
        try:
            self.flush()
        except OSError:
            with suppress(OSError):
                make_room()
                self.flush()
        with suppress(OSError):
            self._stream.close()


def replay(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the events of a journal, leaving out what a crash tore."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "e" in event:
            yield event


class Counts:
    """How far a workflow is, in jobs: ``known`` (deleted ones included), ``ran`` (committed), ``done`` (with
    all their successors), ``running``, ``failed`` for good, and attempts ``retried``."""

    def __init__(self) -> None:
        self.known = self.ran = self.done = self.running = self.failed = self.retried = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return dict(vars(self))
