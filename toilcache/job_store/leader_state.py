"""What the store keeps about leaders, nodes and messages: runs, heartbeats, journals, end marks, logs.

Knows that a run of the leader is an attempt too, numbered by slots as jobs are, and that its slot says which
process leads, from the first moment on. Must not know what a leader does.
"""

from __future__ import annotations

import os
import pickle
import time
from contextlib import suppress

from toilcache.errors import LeaderAliveError, LeaderFencedError
from toilcache.job_store import layout
from toilcache.job_store.core import StoreCore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any, BinaryIO

    from toilcache.job_store.backend import Backend

SILENT_SECONDS = 60.0
"""A leader on another node that has not been heard of for so long counts as gone (it beats every 15 s)."""


class LeaderState(StoreCore):
    """The verbs of a leader that are not about single jobs, and those that meet it."""

    def __init__(self, locator: str, backend: Backend) -> None:
        """Serve the store that the backend keeps."""
        super().__init__(locator, backend)
        self._claims: dict[int, bytes] = {}

    def check_absent(self) -> None:
        """Storage that is not made by `initialize` is never in the way."""

    def reserve(self) -> int:
        """Claim the first run of a store that is to be made, unless somebody leads it."""
        return self.claim_run(after=self.check_unled())

    def check_unled(self) -> int:
        """Raise LeaderAliveError while the newest run's leader is seen alive; return the run's number."""
        from toilcache.node.machine import is_process, node_id

        run = self._newest_run()
        if run == 0 or self.is_ended():
            return run
        pid, start, node = _leader(self._content(layout.run(run)) or b"")
        if node == node_id():
            if is_process(pid, start):
                raise self._led(f"by process {pid} on this machine")
            return run
        beat = self.last_beat()
        if beat is not None and time.time() - beat < SILENT_SECONDS:
            raise self._led(f"from {node or 'an unknown machine'}")
        return run

    def _led(self, where: str) -> LeaderAliveError:
        return LeaderAliveError(
            f"cannot lead the workflow in {self.locator}: it is being led {where}; "
            "wait for it or stop it (toilcache kill), or take over with --forceRestart"
        )

    def claim_run(self, after: int | None = None) -> int:
        """Take the next number for a run of the leader; any run of a smaller number must stop."""
        self._may_write()
        claim = _claim()
        number = self._newest_run() if after is None else after
        while True:
            number += 1
            if self._take_run(number, claim):
                self._claims[number] = claim
                return number
            if after is not None:
                raise self._led("by a process that began at the same time")

    def _take_run(self, number: int, claim: bytes) -> bool:
        try:
            won = self._backend.put_if_absent(layout.run(number), claim)
        except OSError as error:
            if self._content(layout.run(number)) is None:
                raise self._unavailable(error) from error
            won = False
        return won or self._content(layout.run(number)) == claim

    def _newest_run(self) -> int:
        try:
            return self.current_run()
        except FileNotFoundError:
            return 0

    def _content(self, key: str) -> bytes | None:
        try:
            return self._backend.get(key)
        except FileNotFoundError:
            return None

    def current_run(self) -> int:
        """Return the number of the newest run, 0 before the first; lists a directory of a few names."""
        return max(layout.slot_numbers(self._backend.names(layout.LEADER)), default=0)

    def check_run(self, run: int) -> None:
        """Raise LeaderFencedError if a newer run than this has begun."""
        try:
            self._check_run(run)
        except OSError as error:
            raise self._unavailable(error) from error

    def _check_run(self, run: int) -> None:
        newest = self.current_run()
        if newest != run:
            raise LeaderFencedError(
                f"cannot go on as run {run} of {self.locator}: run {newest} has taken over; leave it to that"
            )
        if not self._still_claims(run):
            raise LeaderFencedError(
                f"cannot go on as run {run} of {self.locator}: the job store was removed and made anew"
            )

    def _still_claims(self, run: int) -> bool:
        """Say whether a run that this instance has claimed is the one in the store; True for any other."""
        return self._claims.get(run) in (None, self._content(layout.run(run)))

    def beat(self, run: int) -> None:
        """Show that the leader of this run is alive; LeaderFencedError if a newer run has begun.

        A full store shows it too, but says that it is full.
        """
        self.check_run(run)
        try:
            self._backend.put(layout.run(run, ".beat"), b"%d\n" % run)
        except OSError as error:
            self._beat_without_room(run)
            raise self._unavailable(error) from error

    def _beat_without_room(self, run: int) -> None:
        for part in (".beat", ""):
            with suppress(OSError):
                self._backend.touch(layout.run(run, part))
                return

    def last_beat(self) -> float | None:
        """Return when the newest run last showed life, in seconds since 1970 by the storage's clock.

        None if there is no run.
        """
        run = self._newest_run()
        for part in (".beat", ""):
            try:
                return self._backend.modified(layout.run(run, part))
            except FileNotFoundError:
                continue
        return None

    def note_standing(self, run: int, standing: bytes) -> None:
        """Replace what a run says of attempts that wait; JobStoreUnavailableError if that is refused."""
        try:
            self._backend.put(layout.run(run, ".standing"), standing)
        except OSError as error:
            raise self._unavailable(error) from error

    def standing(self, run: int) -> bytes:
        """Return what `note_standing` wrote last; nothing if it wrote nothing."""
        return self._content(layout.run(run, ".standing")) or b""

    def append_journal(self, run: int) -> BinaryIO:
        """Open the journal of a run so that each write lands whole at its end."""
        try:
            return self._backend.append(layout.journal(run))
        except OSError as error:
            raise self._unavailable(error) from error

    def journals(self) -> list[Callable[[], BinaryIO]]:
        """Return one function for each journal, oldest run first, that opens it for reading."""
        names = [name.partition(".")[0] for name in self._backend.names(layout.JOURNAL)]
        keys = [layout.journal(run) for run in reversed(layout.slot_numbers(names))]
        return [lambda key=key: self._backend.reader(key) for key in keys]  # type: ignore[misc]

    def mark_ended(self, run: int | None = None) -> None:
        """Record that a run, by default the newest, has ended.

        A later run begins without the mark.
        """
        self._may_write()
        try:
            newest = self.current_run()
            run = newest if run is None else run
            if run == newest and self._still_claims(run):
                self._backend.put(layout.run(run, ".ended"), b"")
        except OSError as error:
            raise self._unavailable(error) from error

    def is_ended(self) -> bool:
        """Say whether the newest run has ended; on NFS too, since a directory is opened and listed."""
        names = self._backend.names(layout.LEADER)
        newest = max(layout.slot_numbers(names), default=0)
        return f"{newest}.ended" in names

    def close_run(self, run: int, *, clean: bool) -> None:
        """Record that no worker of a run may begin any more."""
        self._may_write()
        try:
            self._backend.put(layout.run(run, ".closed"), b"clean" if clean else b"keep")
        except OSError as error:
            raise self._unavailable(error) from error

    def closing(self, run: int) -> str:
        """Return "" if workers of a run may begin, else "clean" or "keep"."""
        names = self._backend.names(layout.LEADER)
        if max(layout.slot_numbers(names), default=run) > run:
            return "clean"
        if f"{run}.closed" not in names:
            return ""
        return "keep" if self._content(layout.run(run, ".closed")) == b"keep" else "clean"

    def register_node(self, node_id: str, info: dict[str, Any]) -> None:
        """Record that a node takes part, with what a clean-up of it needs to know."""
        self._may_write()
        try:
            self._backend.put(layout.node(node_id), pickle.dumps((node_id, info), 5))
        except OSError as error:
            raise self._unavailable(error) from error

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return all recorded nodes with their information."""
        keys = (f"{layout.NODES}/{name}" for name in self._backend.names(layout.NODES))
        return dict(pickle.loads(self._backend.get(key)) for key in keys)

    def write_logs(self, msg: str | bytes) -> None:
        """Store a message for whoever reads the logs (specification line 1013)."""
        self._may_write()
        data = msg.encode("utf-8", "surrogateescape") if isinstance(msg, str) else msg
        name = layout.log(time.time_ns())
        try:
            self._backend.put(f"{layout.LOGS_NEW}/{name}", data)
        except OSError as error:
            raise self._unavailable(error) from error

    def read_logs(self, callback: Callable[[IO[bytes]], Any], read_all: bool = False) -> int:
        """Call `callback` with an open binary stream of each unread message, oldest first (line 1021).

        With `read_all` those read before come too, first. A message counts as read once the callback
        returned. Returns the number of messages.
        """
        seen = self._read_messages(layout.LOGS_READ, callback, mark=False) if read_all else 0
        return seen + self._read_messages(layout.LOGS_NEW, callback, mark=True)

    def _read_messages(self, scope: str, callback: Callable[[IO[bytes]], Any], mark: bool) -> int:
        count = 0
        for name in sorted(self._backend.names(scope)):
            try:
                stream = self._backend.reader(f"{scope}/{name}")
            except FileNotFoundError:
                # Another reader was faster.
                continue
            with stream:
                callback(stream)
            if mark:
                with suppress(FileNotFoundError):
                    self._backend.move(f"{scope}/{name}", f"{layout.LOGS_READ}/{name}")
            count += 1
        return count


def _claim() -> bytes:
    """What a slot says about the process that takes it: never the same twice, one line."""
    from toilcache.node.machine import node_id, process_start_time

    pid = os.getpid()
    return f"{layout.new_id()} {pid} {process_start_time(pid) or 0} {node_id()}\n".encode()


def _leader(claim: bytes) -> tuple[int, int, str]:
    """Return pid, start time and node of a claim; no node if a power cut or anything else damaged it."""
    try:
        _, pid, start, node = claim.decode().rstrip("\n").split(" ", 3)
        return int(pid), int(start), node
    except ValueError:
        return 0, 0, ""
