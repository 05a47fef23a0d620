"""The notes about the leader that the specification keeps in shared files: pid, node, kill flag.

Knows the names of those files, and how the engine writes a shared file of its own. Must not know how shared
files are kept.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PID, _NODE, _KILL = "pid.log", "leader_node_id.log", "kill_flag"


class LeaderNotes:
    """Verbs over `write_shared_file_stream` and `read_shared`."""

    def write_leader_pid(self) -> None:
        """Record the process id of the leader, this process (specification line 1032)."""
        write_shared(self, _PID, b"%d" % os.getpid())

    def read_leader_pid(self) -> int:
        """Return the process id of the leader (line 1037); NoSuchFileException before one was written."""
        return int(_read(self, _PID))

    def write_leader_node_id(self) -> None:
        """Record the node of the leader, this one (specification line 1042)."""
        from toilcache.node.machine import node_id

        write_shared(self, _NODE, node_id().encode())

    def read_leader_node_id(self) -> str:
        """Return the node of the leader (line 1046); NoSuchFileException before one was written."""
        return _read(self, _NODE)

    def write_kill_flag(self, kill: bool = False) -> None:
        """Ask the leader to end, or take that back (specification line 1051)."""
        write_shared(self, _KILL, b"YES" if kill else b"NO")

    def read_kill_flag(self) -> bool:
        """Say whether the leader was asked to end (specification line 1059)."""
        return _read(self, _KILL) == "YES"


def write_shared(store: Any, name: str, data: bytes) -> None:
    """Replace a small shared file of the engine's own.

    JobStoreUnavailableError if the storage does not take it.
    """
    try:
        with store.write_shared_file_stream(name) as stream:
            stream.write(data)
    except OSError as error:
        raise store._unavailable(error) from error


def _read(store: Any, name: str) -> str:
    return str(store.read_shared(name), "utf-8")
