"""Programs in containers of their own, run by a job.

Knows engines, and how a job that is itself in a container has its launcher run the program beside it. Must
not know adapters. Every place has the same path inside and outside, so a mount means the same whoever asks.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from toilcache import vfs
from toilcache.containers.engines import make_engine
from toilcache.containers.model import (
    JOB_LABEL,
    RUN_LABEL,
    STORE_LABEL,
    WORKFLOW_LABEL,
    ContainerSpec,
    Engine,
    Exit,
    Mount,
)
from toilcache.errors import ContainerError, ContainerFailedError, show
from toilcache.io import write_all
from toilcache.node.handover import reach

LAUNCHER_VARIABLE = "TOILCACHE_LAUNCHER"

_PACKET = 160 * 1024
_STDERR_BYTES = 64 * 1024
Event = tuple[Any, ...]
Begin = Callable[[Engine, str], None]


def _ignore(engine: Engine, container: str) -> None:
    return


@dataclass(frozen=True)
class ToolRequest:
    """What a job asks for; crosses a socket between processes of one user."""

    engine: str
    image_cache: str | None
    image: str
    argv: tuple[str, ...]
    mounts: tuple[Mount, ...]
    cwd: str
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    network: str = "host"
    cores: float | None = None
    memory: int | None = None


def run_container(
    job: Any,
    image: str,
    argv: Sequence[str],
    *,
    mounts: Iterable[Mount] | Mapping[str, str] = (),
    environment: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdout: str | os.PathLike[str] | None = None,
    network: str = "host",
    cores: float | None = None,
    memory: int | None = None,
    engine: str | None = None,
    check: bool = True,
    defer: bool = True,
) -> bytes:
    """Run a program in a container from inside a job, and return what it wrote to standard output.

    It runs as the job's user, sees the job's temporary directory at its path, writable, which is also its
    working directory, and `mounts`: pairs of a path here and one inside, read-only, or
    `toilcache.containers.model.Mount`. With `stdout` that output goes to a file instead, relative to the
    job's directory. What it writes to standard error appears in the job's log at once, and with the leader
    when the job is done. `memory` is in bytes; an engine that cannot enforce a limit refuses it. `engine` is
    as for `--containerEngine`, which is what None means. With `defer` the container is removed also where
    this job's process is killed; without, it then runs on.

    :raises ContainerFailedError: it ended with another status than 0, unless `check` is False, or nobody
        knows how.
    :raises ContainerError: it cannot be started.
    """
    request = _request(job, image, argv, mounts, environment, cwd, network, cores, memory, engine)
    launcher = os.environ.get(LAUNCHER_VARIABLE)
    with ExitStack() as stack:
        if launcher is not None:
            events = _events_of_launcher(launcher, request, stack)
        else:
            events = run_tool(request, before=_deferring(job) if defer else _ignore)
        ended, printed, errors = _consume(events, _target(job, stdout, stack))
    if errors:
        job.fileStore.log_user_stream(f"{argv[0]} in {image}", BytesIO(errors))
    if ended.code is None or (check and ended.code != 0):
        raise ContainerFailedError(request.argv, image, _why(ended), ended.code, errors)
    return printed


def run_tool(request: ToolRequest, before: Begin = _ignore, begun: Begin = _ignore) -> Generator[Event]:
    """Run a container to its end and yield ("print", 1 or 2, bytes), then ("ended", code, oom_killed).

    `before` is called with engine and name of the container before it is started, `begun` once it runs.
    Closing this ends and removes the container.
    """
    with ExitStack() as stack:
        engine = make_engine(request.engine, request.image_cache)
        stack.callback(engine.close)
        spec = ContainerSpec(
            engine.resolve(request.image),
            request.argv,
            f"toilcache-tool-{os.urandom(8).hex()}",
            mounts=request.mounts,
            environment=request.environment,
            labels=request.labels,
            cwd=request.cwd,
            cores=request.cores,
            memory=request.memory,
            network=request.network,
        )
        before(engine, spec.name)
        container = engine.run(spec)
        stack.callback(engine.remove, container)
        begun(engine, container)
        for number, data in engine.output(container):
            yield "print", number, data
        ended = engine.wait(container) or Exit(None)
        yield "ended", *ended


def send_event(connection: socket.socket, event: Event) -> None:
    """Send one event to who asked, in pieces that a datagram takes; OSError if nobody listens."""
    if event[0] == "print":
        for start in range(0, len(event[2]), _PACKET // 2):
            piece = event[2][start : start + _PACKET // 2]
            connection.send(pickle.dumps(("print", event[1], piece), 4))
    else:
        connection.send(pickle.dumps(event, 4))


def send_request(connection: socket.socket, request: ToolRequest) -> None:
    """Ask for a program: its size, then pieces that a datagram takes, since a command line may be long."""
    data = pickle.dumps(request, 4)
    connection.send(b"%d" % len(data))
    for start in range(0, len(data), _PACKET // 2):
        connection.send(data[start : start + _PACKET // 2])


def receive_request(connection: socket.socket) -> ToolRequest | None:
    """Return what is asked for; None if who connected went away."""
    size = int(connection.recv(_PACKET) or 0)
    data = b""
    while len(data) < size:
        piece = connection.recv(_PACKET)
        if not piece:
            return None
        data += piece
    return pickle.loads(data) if data else None


def _events_of_launcher(launcher: str, request: ToolRequest, stack: ExitStack) -> Iterator[Event]:
    """Have the launcher of this container run it beside this one; it ends when this process does."""
    try:
        connection = stack.enter_context(reach(launcher))
        send_request(connection, request)
        while data := connection.recv(_PACKET):
            event = pickle.loads(data)
            if event[0] == "failed":
                raise event[1]
            yield event
    except OSError as error:
        raise ContainerError(
            f"cannot run {show(request.argv[0])} in {show(request.image)}: "
            f"the launcher of this worker does not answer: {error}"
        ) from None


def _request(
    job: Any,
    image: str,
    argv: Sequence[str],
    mounts: Iterable[Mount] | Mapping[str, str],
    environment: Mapping[str, str] | None,
    cwd: str | None,
    network: str,
    cores: float | None,
    memory: int | None,
    engine: str | None,
) -> ToolRequest:
    config = job.fileStore.jobStore.config
    own = str(job.fileStore.localTempDir)
    pairs = mounts.items() if isinstance(mounts, Mapping) else mounts
    wanted = [pair if isinstance(pair, Mount) else Mount(*map(os.path.abspath, pair)) for pair in pairs]
    workflow, _, run = os.environ.get("TOILCACHE_WORKFLOW", "").rpartition(".")
    chosen = engine or ("auto" if config.containerEngine == "none" else config.containerEngine)
    return ToolRequest(
        engine=chosen,
        image_cache=config.imageCache,
        image=image,
        argv=tuple(map(os.fspath, argv)),
        mounts=(Mount(own, own, read_only=False), *wanted),
        cwd=own if cwd is None else os.fspath(cwd),
        environment=dict(environment or {}),
        labels={
            WORKFLOW_LABEL: workflow,
            RUN_LABEL: run,
            STORE_LABEL: str(getattr(job.fileStore.jobStore, "path", job.fileStore.jobStore.locator)),
            JOB_LABEL: str(job.description.jobStoreID),
        },
        network=network,
        cores=cores,
        memory=memory,
    )


def _target(job: Any, stdout: str | os.PathLike[str] | None, stack: ExitStack) -> int | None:
    """Open the file that takes standard output."""
    if stdout is None:
        return None
    path = os.path.join(job.fileStore.localTempDir, stdout)
    descriptor = vfs.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    stack.callback(os.close, descriptor)
    return descriptor


def _consume(events: Iterator[Event], target: int | None) -> tuple[Exit, bytes, bytes]:
    """Follow a container to its end: how it ended, what it printed, and the last of its errors."""
    printed, errors, ended = [], b"", Exit(None)
    for event in events:
        if event[0] == "ended":
            ended = Exit(*event[1:])
        elif event[1] == 1 and target is None:
            printed.append(event[2])
        elif event[1] == 1:
            assert target is not None
            write_all(target, event[2])
        else:
            write_all(2, event[2])
            errors = (errors + event[2])[-_STDERR_BYTES:]
    return ended, b"".join(printed), errors


def _deferring(job: Any) -> Begin:
    """Return what has a container removed when the job is over, however that ends."""
    return lambda engine, name: job.defer(remove_left, engine.name, name)


def remove_left(engine_name: str, container: str) -> None:
    """Remove a container that a job has started, if it is still there; called when the job is over."""
    with suppress(ContainerError):
        engine = make_engine(engine_name)
        try:
            engine.remove(container)
        finally:
            engine.close()


def _why(ended: Exit) -> str:
    if ended.oom_killed:
        return "memory ran out"
    if ended.code is None:
        return "its container vanished"
    return f"killed by signal {ended.code - 128}" if ended.code > 128 else f"exit code {ended.code}"
