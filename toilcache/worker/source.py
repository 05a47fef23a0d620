"""Where a worker host gets its work from.

Knows the contract of a source and the one that is pushed over a socket by an adapter on this machine. Must
not know jobs or processes. A source that claims work from the job store (for schedulers that cannot be
reached by a socket) has the same face."""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod

from toilcache.batch import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class WorkSource(ABC):
    """Gives commands to a host and takes its reports."""

    lost = False
    """True once nobody listens any more."""

    @abstractmethod
    def setup(self) -> dict[str, Any] | None:
        """Block for the first message, which says where everything is; None if nobody sent one."""

    @abstractmethod
    def wait(self, wake: socket.socket) -> list[tuple[Any, ...]]:
        """Block until commands come, ``wake`` is readable or the source is lost; returns the commands."""

    @abstractmethod
    def ready(self, pid: int, name: str) -> None:
        """Report that the host is up."""

    @abstractmethod
    def broken(self, text: str) -> None:
        """Report that the host cannot work, and why."""

    @abstractmethod
    def record(self, job_id: str, version: int) -> None:
        """Report a record written to the job store; called in a job's process or the host."""

    @abstractmethod
    def ended(
        self, job_id: str, version: int, status: int, max_rss: int, log_tail: bytes, next_id: str | None
    ) -> None:
        """Report that the chain issued as this attempt has no process any more, and what starts instead."""


class SocketSource(WorkSource):
    """Work pushed over a socket that the adapter made and this process inherited."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)  # programs that jobs start must not keep it open
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._watching: int | None = None

    def setup(self) -> dict[str, Any] | None:
        message = protocol.receive(self._socket)
        if message is None or message[0] != protocol.SETUP:
            return None
        content: dict[str, Any] = message[1]
        return content

    def wait(self, wake: socket.socket) -> list[tuple[Any, ...]]:
        if self._watching is None:
            self._watching = wake.fileno()
            self._poll.register(wake, select.POLLIN)
        ready = self._poll.poll()
        if any(descriptor != self._watching for descriptor, _ in ready):
            return self._receive_all()
        return []

    def _receive_all(self) -> list[tuple[Any, ...]]:
        commands = []
        try:
            while True:
                message = protocol.receive(self._socket, block=False)
                if message is None:
                    self._lose()
                    break
                commands.append(message)
        except BlockingIOError:
            pass  # all that had come was read
        return commands

    def _lose(self) -> None:
        self.lost = True
        self._poll.unregister(self._socket)

    def _send(self, *message: Any) -> None:
        if self.lost:
            return
        try:
            protocol.send(self._socket, *message)
        except (BrokenPipeError, ConnectionResetError):
            self.lost = True  # poll tells it too; what is in the store counts, not the message

    def ready(self, pid: int, name: str) -> None:
        self._send(protocol.READY, pid, name)

    def broken(self, text: str) -> None:
        self._send(protocol.BROKEN, text)

    def record(self, job_id: str, version: int) -> None:
        self._send(protocol.RECORD, job_id, version)

    def ended(
        self, job_id: str, version: int, status: int, max_rss: int, log_tail: bytes, next_id: str | None
    ) -> None:
        self._send(protocol.ENDED, job_id, version, status, max_rss, log_tail, next_id)
