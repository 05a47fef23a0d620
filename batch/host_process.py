"""One worker host of the local adapter: the process, its socket, and what it is believed to run.

Knows how a host is started and spoken to. Must not know why a job is given to which host.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections import deque
from contextlib import suppress
from typing import Any

from toilcache.batch import protocol
from toilcache.batch.model import JobRequest
from toilcache.batch.resources import Shape
from toilcache.process import spawn

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# As -m would, but without modules of the current directory, which may have the names of Python's own.
_START = (
    "import sys; sys.path[:1] = filter(None, sys.path[:1]); "
    "from toilcache.worker.__main__ import main; sys.exit(main(sys.argv[2:]))"
)
WORKFLOW_MARKER = "TOILCACHE_WORKFLOW"


def run_marker(workflow_id: str, run: int) -> str:
    """Return what marks the processes of one run of a leader, so that its end does not hit a newer run's."""
    return f"{WORKFLOW_MARKER}={workflow_id}.{run}"


def host_environment(marker: str, threads: int, devices: tuple[int, ...]) -> dict[str, str]:
    """Return the leader's environment with a host's marker, number of threads and visible devices."""
    environment = dict(os.environ)
    environment[WORKFLOW_MARKER] = marker.partition("=")[2]
    environment.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    if devices:
        environment.update(dict.fromkeys(_DEVICE_VARIABLES, ",".join(map(str, devices))))
    return environment


class HostProcess:
    """A started worker host.

    Its end is told by ``pidfd``, not by the end of the socket: what a job leaves behind may hold that open.
    ``running`` are the attempts that have a process, ``queued`` those the host starts by itself, one for each
    that ends, in this order: so the adapter always knows what runs without being told. ``silent`` after the
    last message.
    """

    def __init__(self, environment: dict[str, str], setup: dict[str, Any], log_path: str) -> None:
        self._forget_everything()
        self.log_path = log_path
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket = ours
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self.pid = spawn(
                [sys.executable, "-c", _START, "toilcache.worker", "3"],
                env=environment,
                pass_fds=[(theirs.fileno(), 3), (log, 1), (log, 2)],
                new_session=True,
            )
        finally:
            theirs.close()
            os.close(log)
        self.pidfd = os.pidfd_open(self.pid)
        self._send(protocol.SETUP, setup)

    def _forget_everything(self) -> None:
        self.running: dict[str, JobRequest] = {}
        self.queued: deque[JobRequest] = deque()
        self.broken: str | None = None
        self.silent = False
        self._outbox: deque[tuple[Any, ...]] = deque()
        self._ends = 0

    def fileno(self) -> int:
        """The socket's descriptor, for poll."""
        return self.socket.fileno()

    def run(self, request: JobRequest) -> None:
        """Have the host start this attempt now."""
        self.running[request.job_id] = request
        self._send(protocol.RUN, request.job_id, request.version, self._ends)

    def queue(self, request: JobRequest) -> None:
        """Have the host start this attempt when a running one ends."""
        self.queued.append(request)
        self._send(protocol.QUEUE, request.job_id, request.version, self._ends)

    def cancel(self, job_id: str) -> bool:
        """Have the host kill or forget this job; False if it has none of that id."""
        for request in (self.running.get(job_id), *self.queued):
            if request is not None and request.job_id == job_id:
                self._send(protocol.CANCEL, job_id, request.version)
                return True
        return False

    def ended(self, job_id: str) -> tuple[JobRequest | None, JobRequest | None]:
        """Take note that a running attempt ended: returns it, and what the host has started in its place."""
        request = self.running.pop(job_id, None)
        self._ends += request is not None
        started = self.queued.popleft() if request is not None and self.queued else None
        if started is not None:
            self.running[started.job_id] = started
        return request, started

    def forgotten(self, job_id: str) -> JobRequest | None:
        """Take note that a queued attempt was cancelled before it started; returns it."""
        queued = next((request for request in self.queued if request.job_id == job_id), None)
        if queued is not None:
            self.queued.remove(queued)
        return queued

    def runs_only(self, shape: Shape) -> bool:
        """True if everything that runs here has this shape, so that a queued request of it can take over its
        room.
        """
        return all(request.shape == shape for request in self.running.values())

    def stop(self) -> None:
        """Ask the host to kill what it runs and to end."""
        self._send(protocol.STOP)

    def close(self) -> None:
        """Wait for the process, which has been told to end or was seen to have ended, and let go of it."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.socket.close()

    def last_words(self) -> str:
        """Say why the host ended, as far as it printed it."""
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                lines = log.read().strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "its host was killed"

    def _send(self, *message: Any) -> None:
        self._outbox.append(message)
        self.flush()

    def flush(self) -> None:
        """Send as much as the socket takes without waiting: the host may be waiting for us to read."""
        try:
            while self._outbox:
                protocol.send(self.socket, *self._outbox[0], block=False)
                self._outbox.popleft()
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            # Poll sees the end of the socket, and what the host had is accounted for there.
            self._outbox.clear()

    @property
    def events(self) -> int:
        """What to poll its socket for."""
        return select.POLLIN | select.POLLOUT if self._outbox else select.POLLIN
