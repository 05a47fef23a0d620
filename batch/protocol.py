"""What an adapter and its worker hosts say to each other, one datagram a message.

Knows the message tuples and how they travel over a ``SOCK_SEQPACKET`` unix socket. Must not know what a job
is beyond its id and the version it builds on. Everything is a plain tuple of builtin values, so that leader
and host may run under different Python versions.

Adapter to host:

* ``(SETUP, dict)``: first message; how to reach the job store and the node's directories.
* ``(RUN, job_id, version, shape)``: start this job now; the adapter holds its resources, which are ``shape``
  (to the host: something to compare).
* ``(QUEUE, shape, [(job_id, version), ...])``: start each in the place of a running chain of the same shape
  that ends, in the order of arrival.
* ``(START, job_id)``: start it now if it is still queued; else the host was first, and nothing is to be done.
* ``(CANCEL, job_id, version)``: forget it if queued, kill it if running; ``ENDED`` follows if it was known.
* ``(STOP,)``: kill what runs, then end.

Host (or a job's process, over the same socket) to adapter:

* ``(READY, pid, name)``: the host is up; ``name`` is its process name on the node.
* ``(RECORD, job_id, version)``: slot ``version`` of the job now holds a record of this worker: a hint, never
    evidence.
* ``(ENDED, job_id, version, status, max_rss, log_tail, next_id)``: the chain issued as ``job_id`` at
  ``version`` has no process any more. ``status`` is a wait status, ``CANCELLED`` for one that never started,
  ``NOT_STARTED`` for one that could not be (``log_tail`` says why); ``max_rss`` in bytes; ``log_tail`` the
  last bytes of its output when it did not end with 0; ``next_id`` the queued job that the host starts in its
  place, None if it has none.
* ``(BROKEN, text)``: the host cannot work (the store cannot be reached, the user's module does not import)
  and ends.

Launcher to a host in a container of an allocation:

* ``(WARN, why, seconds)``: the allocation is to be left, in so many seconds; the end of the socket says so
  too, at once.

Launcher of a host in a container to adapter:

* ``(FATE, reason, text)``: the container is over, or could not be had: a ``BatchJobExitReason`` for what ran
  in it, and a phrase. What the host has said itself before counts more."""

from __future__ import annotations

import os
import pickle
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SETUP, RUN, QUEUE, START, CANCEL, STOP = "setup", "run", "queue", "start", "cancel", "stop"
READY, RECORD, ENDED, BROKEN = "ready", "record", "ended", "broken"
WARN, FATE = "warn", "fate"

CANCELLED = -1
NOT_STARTED = -2
LOG_TAIL = 16 * 1024
JOB_MARKER = "TOILCACHE_JOB"
BIND_NOW = {"LD_BIND_NOW": "toilcache"}
"""Has the loader resolve all symbols when a host starts, and not again in each process that it forks."""
_MAX_PACKET = 160 * 1024


def forget_bind_now() -> None:
    """Let programs that jobs start be loaded as usual, unless a person wants it so for them too."""
    for name, value in BIND_NOW.items():
        if os.environ.get(name) == value:
            del os.environ[name]


def job_marker(job_id: str, version: int) -> str:
    """Return the environment entry of all programs that the chain issued as this attempt starts."""
    return f"{JOB_MARKER}={job_id}:{version}"


def send(sock: socket.socket, *message: Any, block: bool = True) -> None:
    """Send one message; waits while the peer's buffer is full.

    :raises BlockingIOError: it is full and ``block`` is False.
    :raises OSError: the peer is gone (``EPIPE``, ``ECONNRESET``) or the message is over 160 KiB.
    """
    sock.send(pickle.dumps(message, 4), 0 if block else socket.MSG_DONTWAIT)


def receive(sock: socket.socket, *, block: bool = True) -> tuple[Any, ...] | None:
    """Return the next message, or None when the peer is gone.

    The socket is a pair made by the adapter or inherited from it, so the pickles come from our own processes.
    Not to block is asked for call by call: a mode of the socket would be shared with every process that
    inherited it.

    :raises BlockingIOError: nothing is there and ``block`` is False.
    """
    flags = 0 if block else socket.MSG_DONTWAIT
    try:
        data = sock.recv(_MAX_PACKET, flags)
    except ConnectionResetError:
        # The peer ended without reading all we sent. The kernel says so once, ahead of what the peer sent.
        data = sock.recv(_MAX_PACKET, flags)
    if not data:
        return None
    message: tuple[Any, ...] = pickle.loads(data)
    return message
