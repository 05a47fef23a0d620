"""What the store keeps about leaders, nodes and messages: runs, heartbeats, journals, end marks, logs.

Knows that a run of the leader is an attempt too, numbered by slots as jobs are. Must not know what a leader
does.
"""

from __future__ import annotations

import pickle
import time

from toilcache.errors import LeaderFencedError
from toilcache.job_store import layout
from toilcache.job_store.core import StoreCore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any, BinaryIO


class LeaderState(StoreCore):
    """The verbs of a leader that are not about single jobs, and those that meet it."""

    def claim_run(self) -> int:
        """Take the next number for a run of the leader; any run of a smaller number must stop."""
        self._may_write()
        token = layout.new_id().encode()
        number = self.current_run()
        while True:
            number += 1
            try:
                won = self._backend.put_if_absent(layout.run(number), token)
            except OSError as error:
                if self._content(layout.run(number)) is None:
                    raise self._unavailable(error) from error
                won = False
            if won or self._content(layout.run(number)) == token:
                return number

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
        newest = self.current_run()
        if newest != run:
            raise LeaderFencedError(
                f"cannot go on as run {run} of {self.locator}: run {newest} has taken over; leave it to that"
            )

    def beat(self, run: int) -> None:
        """Show that the leader of this run is alive; LeaderFencedError if a newer run has begun."""
        self.check_run(run)
        try:
            self._backend.put(layout.run(run, ".beat"), b"%d\n" % run)
        except OSError as error:
            raise self._unavailable(error) from error

    def last_beat(self) -> float | None:
        """Return when the newest run last showed life, in seconds since 1970 by the storage's clock.

        None if never.
        """
        try:
            return self._backend.modified(layout.run(self.current_run(), ".beat"))
        except FileNotFoundError:
            return None

    def append_journal(self, run: int) -> BinaryIO:
        """Open the journal of a run so that each write lands whole at its end."""
        return self._backend.append(layout.journal(run))

    def journals(self) -> list[Callable[[], BinaryIO]]:
        """Return one function for each journal, oldest run first, that opens it for reading."""
        names = [name.partition(".")[0] for name in self._backend.names(layout.JOURNAL)]
        keys = [layout.journal(run) for run in reversed(layout.slot_numbers(names))]
        return [lambda key=key: self._backend.reader(key) for key in keys]  # type: ignore[misc]

    def mark_ended(self) -> None:
        """Record that the newest run, and with it the workflow, has ended.

        A later run begins without the mark.
        """
        self._may_write()
        self._backend.put(layout.run(self.current_run(), ".ended"), b"")

    def is_ended(self) -> bool:
        """Say whether the newest run has ended; on NFS too, since a directory is opened and listed."""
        names = self._backend.names(layout.LEADER)
        newest = max(layout.slot_numbers(names), default=0)
        return f"{newest}.ended" in names

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
                self._backend.move(f"{scope}/{name}", f"{layout.LOGS_READ}/{name}")
            count += 1
        return count
