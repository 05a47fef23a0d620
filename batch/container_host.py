"""A worker host in a container, as a child process of the adapter like any other host.

The adapter starts this program instead of a host. It has the image fetched, starts the container, and hands
the adapter's socket over to the host inside; from then on adapter and host speak as ever. It ends when the
container has ended, and leaves nothing of it. Knows what a host inside needs. Must not know jobs.

While an image is fetched, which takes minutes, only this process waits; and the container's end is the end of
a child process, whatever the engine.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from contextlib import ExitStack, closing, suppress
from typing import NoReturn

from toilcache import vfs
from toilcache.batch import protocol
from toilcache.batch.container_launch import Launch
from toilcache.batch.container_plan import HostContainer, fate_of
from toilcache.batch.container_service import Service
from toilcache.containers.model import Exit
from toilcache.containers.tool import LAUNCHER_VARIABLE
from toilcache.errors import EngineUnavailableError, ToilcacheError, show
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.node.coordination import NodeDirs

_CANNOT = "cannot be run by its worker: "


def main(arguments: list[str]) -> NoReturn:
    """Serve one host, and exit; the adapter's socket is an inherited descriptor.

    Without taking the interpreter apart: with the SDK of an engine that lasts as long as the engine needs for
    a container.
    """
    status = _serve_host(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve_host(arguments: list[str]) -> int:
    """Serve one host; return the exit status."""
    adapter = socket.socket(fileno=int(arguments[0]))
    adapter.set_inheritable(False)
    container = HostContainer.from_json(arguments[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return _serve(container, adapter)
    except EngineUnavailableError as error:
        _tell(adapter, BatchJobExitReason.LOST, f"was lost: {error}")
        return 1
    except (ToilcacheError, OSError) as error:
        why = str(error) if isinstance(error, ToilcacheError) else f"cannot start a container: {error}"
        _tell(adapter, BatchJobExitReason.ERROR, _CANNOT + why)
        return 1
    finally:
        adapter.close()


def _serve(wanted: HostContainer, adapter: socket.socket) -> int:
    """Start the container, introduce the host in it to the adapter, wait for its end."""
    with ExitStack() as stack:
        launch = Launch(wanted, NodeDirs(*wanted.node), "toilcache.worker.__main__", stack)
        why = launch.introduce(adapter.fileno(), handed(launch), adapter)
        if why:
            _tell(adapter, *_why_not_begun(launch.early, why))
            return 1
        try:
            return attend(launch, wanted)
        finally:
            if launch.waiting.ended is not None:
                _tell(adapter, *fate_of(launch.waiting.ended))


def attend(launch: Launch, wanted: HostContainer) -> int:
    """Serve the host inside until it ends; print what it printed, and return its status.

    Never 0 where a container may be left, so that somebody looks for it.
    """
    limits = (wanted.cores, wanted.memory) if wanted.is_limited else (None, None)
    service = Service(*limits)
    _serve_jobs(launch, service)
    launch.waiting.join()
    sys.stdout.flush()
    vfs.write(1, launch.logs())
    ended = launch.waiting.ended
    if ended is not None and ended.oom_killed:
        print(f"its container of {show(wanted.image)} ran out of memory", flush=True)
    status = ended.code or 0 if ended is not None else 1
    return status or int(service.may_be_left)


def _tell(adapter: socket.socket, reason: BatchJobExitReason, text: str) -> None:
    """Say what ended the host, to the adapter if it is still there, and in the host's log."""
    with suppress(OSError):
        protocol.send(adapter, protocol.FATE, int(reason), text)
    print(text, file=sys.stderr, flush=True)


def _why_not_begun(ended: Exit | None, why: str) -> tuple[BatchJobExitReason, str]:
    if ended is not None and (ended.oom_killed or ended.is_from_outside):
        return fate_of(ended)
    return BatchJobExitReason.ERROR, _CANNOT + why


def _serve_jobs(launch: Launch, service: Service) -> None:
    """Run programs in containers for the jobs inside, until the container ends."""
    poller = select.poll()
    for descriptor in (launch.waiting.fileno(), launch.handover.fileno()):
        poller.register(descriptor, select.POLLIN)
    with closing(service):
        while launch.waiting.fileno() not in {descriptor for descriptor, _ in poller.poll()}:
            service.admit(launch.handover)


def handed(launch: Launch) -> dict[str, str]:
    """Return what a host gets beside the environment that it was started with."""
    return {
        LAUNCHER_VARIABLE: launch.handover.directory,
        "HOME": launch.dirs.home,
        "TMPDIR": os.path.join(launch.dirs.home, "tmp"),
    }
