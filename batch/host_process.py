"""One worker host of the local adapter: the process, its socket, and what it is believed to run.

Knows how a host is started and spoken to. Must not know why a job is given to which host.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

from toilcache import vfs
from toilcache.batch import protocol
from toilcache.batch.container_plan import HostContainer
from toilcache.batch.model import JobRequest
from toilcache.batch.resources import Shape
from toilcache.batch.status import explain
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.node.machine import environment_entry
from toilcache.process import own_program, spawn

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
WORKFLOW_MARKER = "TOILCACHE_WORKFLOW"
HOST_MARKER = "TOILCACHE_HOST"
HOST_VARIABLES = (WORKFLOW_MARKER, HOST_MARKER, *THREAD_VARIABLES, *_DEVICE_VARIABLES)


def run_marker(workflow_id: str, run: int) -> str:
    """Return what marks the processes of one run of a leader, so that its end does not hit a newer run's."""
    return f"{WORKFLOW_MARKER}={workflow_id}.{run}"


def host_environment(marker: str, threads: int, devices: tuple[int, ...]) -> dict[str, str]:
    """Return the leader's environment with a host's marker, number of threads and visible devices."""
    environment = protocol.BIND_NOW | os.environ
    environment[WORKFLOW_MARKER] = marker.partition("=")[2]
    environment.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if devices:
        environment.update(dict.fromkeys(_DEVICE_VARIABLES, ",".join(map(str, devices))))
    return environment


def visible_devices(pid: int) -> tuple[int, ...]:
    """Return the accelerators that a process of a host was given; none if it does not tell."""
    words = (environment_entry(pid, _DEVICE_VARIABLES[0]) or "").split(",")
    return tuple(int(word) for word in words if word.isdigit())


def host_program(box: HostContainer | None) -> list[str]:
    """Return the argv of a host, in a container if there is one; its descriptor 3 is our socket."""
    if box is None:
        return own_program("toilcache.worker", "toilcache.worker.__main__", "3")
    return own_program("toilcache.container", "toilcache.batch.container_host", "3", box.to_json())


def _spawn_host(program: list[str], environment: dict[str, str], theirs: socket.socket, log_path: str) -> int:
    log = vfs.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return spawn(
            program,
            env=environment,
            pass_fds=[(theirs.fileno(), 3), (log, 1), (log, 2)],
            new_session=True,
        )
    finally:
        os.close(log)


def _end_child(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class HostProcess:
    """A started worker host.

    Its end is told by ``pidfd``, not by the end of the socket: what a job leaves behind may hold that open.
    ``running`` are the attempts that hold room, ``queued`` those the host starts by itself in the place of
    one of the same shape that ends, in this order. ``asked``: since when (monotonic clock) it has been asked
    to end which attempts. ``ready`` since it said so, ``silent`` after the last message. ``marker`` is an
    entry in the environment of all that descends from this host and no other. ``fate`` is what host or
    launcher said of the end of both, ``held`` the end of its job, which is told when the host has ended.
    ``is_boxed``: the program is the launcher of a container, of which nothing is left if it ``ended_well``.

    :raises OSError: no sockets or no log can be made, or the process cannot be watched.
    :raises ProcessError: the process cannot be started.
    """

    def __init__(
        self,
        program: list[str],
        environment: dict[str, str],
        setup: dict[str, Any],
        log_path: str,
        is_boxed: bool = False,
    ) -> None:
        self._forget_everything()
        self.is_boxed = is_boxed
        self.log_path = log_path
        self.marker = f"{HOST_MARKER}={os.urandom(8).hex()}"
        name, _, value = self.marker.partition("=")
        with ExitStack() as on_failure:
            self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            on_failure.callback(self.socket.close)
            with theirs:
                self.pid = _spawn_host(program, environment | {name: value}, theirs, log_path)
            on_failure.callback(_end_child, self.pid)
            self.pidfd = os.pidfd_open(self.pid)
            on_failure.pop_all()
        self._send(protocol.SETUP, setup)

    def _forget_everything(self) -> None:
        self.running: dict[str, JobRequest] = {}
        self.queued: deque[JobRequest] = deque()
        self.asked: dict[str, float] = {}
        self.fate: tuple[BatchJobExitReason, str] | None = None
        self.held: tuple[JobRequest, int, int, bytes] | None = None
        self.ended_well = False
        self.ready = False
        self.silent = False
        self._outbox: deque[tuple[Any, ...]] = deque()

    def fileno(self) -> int:
        """The socket's descriptor, for poll."""
        return self.socket.fileno()

    def run(self, request: JobRequest) -> None:
        """Have the host start this attempt now."""
        self.running[request.job_id] = request
        self._send(protocol.RUN, request.job_id, request.version, request.shape)

    def queue(self, shape: Shape, requests: Sequence[JobRequest]) -> None:
        """Have the host start these attempts, all of a shape, one by one when a running one of it ends."""
        self.queued.extend(requests)
        if requests:
            self._send(protocol.QUEUE, shape, [(request.job_id, request.version) for request in requests])

    def cancel(self, job_id: str) -> bool:
        """Have the host kill or forget this job; False if it has none of that id."""
        for request in (self.running.get(job_id), *self.queued):
            if request is not None and request.job_id == job_id:
                if job_id not in self.asked:
                    self.asked[job_id] = time.monotonic()
                    self._send(protocol.CANCEL, job_id, request.version)
                return True
        return False

    def ended(self, job_id: str, next_id: str | None) -> tuple[JobRequest | None, JobRequest | None]:
        """Take note that a running attempt ended and that the host started ``next_id`` in its place.

        Returns what ended and what has its room now. If the host had nothing to start because a queued one
        was still under way to it, it is told to start that; and if it has itself started one that it was
        told to, the next queued one has the room.
        """
        self.asked.pop(job_id, None)
        request = self.running.pop(job_id, None)
        if request is None:
            return None, None
        started = None if next_id is None else self.forgotten(next_id)
        if started is None and self.queued and self.queued[0].shape == request.shape:
            started = self.queued.popleft()
            self._send(protocol.START, started.job_id)
        if started is not None:
            self.running[started.job_id] = started
        return request, started

    def forgotten(self, job_id: str) -> JobRequest | None:
        """Take note that an attempt is not queued any more; returns it if it was."""
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

    def stop_with(self, request: JobRequest, status: int, max_rss: int, log_tail: bytes) -> None:
        """Ask the host to end after its only job, whose end is to be told when it has."""
        self.held = (request, status, max_rss, log_tail)
        self.asked[request.job_id] = time.monotonic()
        self.stop()

    def doom(self, reason: BatchJobExitReason, text: str) -> None:
        """Take note why the host ends; the first to say so knows best."""
        self.fate = self.fate or (reason, text)

    def fate_of(self, request: JobRequest) -> tuple[BatchJobExitReason, str]:
        """Return a reason and a phrase for an attempt that ran when the host ended."""
        if request.job_id in self.asked:
            return explain(protocol.CANCELLED)
        return self.fate or (BatchJobExitReason.LOST, f"was lost: {self.last_words()}")

    @property
    def ran_out_of_memory(self) -> bool | None:
        """Whether memory ran out in its container; None where no engine has told."""
        return None if self.fate is None else self.fate[0] == BatchJobExitReason.MEMLIMIT

    def kill(self) -> None:
        """Kill the host, which takes its jobs along; `pidfd` tells when it has ended."""
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Wait for the process, which has been told to end or was seen to have ended, and let go of it."""
        with suppress(ChildProcessError):
            self.ended_well = os.waitpid(self.pid, 0)[1] == 0
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
