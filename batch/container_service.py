"""What a launcher does for the jobs in its container: it runs programs in containers beside it.

Knows connections and threads, one for each program. Must not know what the programs are. A job whose process
ends takes its connection with it, and that ends the program's container.
"""

from __future__ import annotations

import select
import socket
import threading
from contextlib import closing, suppress
from dataclasses import replace

from toilcache.containers.model import Engine
from toilcache.containers.tool import ToolRequest, receive_request, run_tool, send_event
from toilcache.errors import ContainerError, ContainerImageError
from toilcache.node.handover import Handover


class Service:
    """Serves whoever connects, until it is closed.

    :param cores: what a program may have at most, and
    :param memory: in bytes: the limits of the job that asks; None is no limit.

    ``may_be_left`` becomes True where a program's container may not have been removed.
    """

    def __init__(self, cores: float | None = None, memory: int | None = None) -> None:
        self._cores = cores
        self._memory = memory
        self.may_be_left = False
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def admit(self, handover: Handover) -> None:
        """Take who has connected."""
        connection = handover.accept()
        if connection is not None:
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._open.add(connection)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Hang up on everybody, so that their containers end, and wait until these are removed."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _limited(self, request: ToolRequest) -> ToolRequest:
        cores = [limit for limit in (self._cores, request.cores) if limit is not None]
        memory = [limit for limit in (self._memory, request.memory) if limit is not None]
        return replace(request, cores=min(cores, default=None), memory=min(memory, default=None))

    def _serve(self, connection: socket.socket) -> None:
        watch = _Watch(connection)
        try:
            request = receive_request(connection)
            if request is None:
                return
            with closing(run_tool(self._limited(request), begun=watch.begin)) as events:
                for event in events:
                    send_event(connection, event)
        except ContainerError as error:
            # It may as well have come up while the container was being removed.
            self.may_be_left = self.may_be_left or not isinstance(error, ContainerImageError)
            with suppress(OSError):
                send_event(connection, ("failed", error))
        except OSError:
            return  # nobody listens any more
        finally:
            self._open.discard(connection)
            watch.end()
            connection.close()


class _Watch:
    """Kills a container as soon as who asked for it hangs up."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, engine: Engine, container: str) -> None:
        self._thread = threading.Thread(target=self._watch, args=(engine, container), daemon=True)
        self._thread.start()

    def _watch(self, engine: Engine, container: str) -> None:
        poller = select.poll()
        poller.register(self._connection, select.POLLRDHUP)
        poller.poll()
        if not self._over.is_set():
            with suppress(ContainerError):
                engine.kill(container)

    def end(self) -> None:
        """Stop watching; the connection is of no use after this."""
        self._over.set()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join()
