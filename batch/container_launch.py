"""Starting a program of the engine in a container, so that it sees the node as a worker host does.

Knows engines, and all that such a container is made of. Must not know what the program is for: who launches
it hands it a descriptor and a message, through the socket of ``toilcache.node.handover``.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import Any, Protocol, TypeVar

from toilcache import vfs
from toilcache.batch.container_plan import HostContainer, mounts_of, readable_places
from toilcache.containers.engines import make_engine, patiently
from toilcache.containers.kit import FIRST, LAST, make_kit
from toilcache.containers.model import ContainerSpec, Engine, Exit
from toilcache.errors import EngineUnavailableError, ToilcacheError, one_line, show
from toilcache.job_store import layout
from toilcache.job_store.directory import DirectoryBackend
from toilcache.job_store.linked import linked_paths
from toilcache.node.coordination import NodeDirs
from toilcache.node.handover import Handover

_START_SECONDS = 120.0
_LOG_BYTES = 64 * 1024
_NOT_FOUND = (126, 127)

T = TypeVar("T")

# Words that every Python 3 understands, so that one too old can be told by its number.
_START = (
    "import os, sys; module, kit, directory = sys.argv[1:]; old = sys.version_info < (3, 10); "
    "old and sys.exit('its Python is %d.%d, and jobs need 3.10 or later' % sys.version_info[:2]); "
    f"os.path.isdir(kit + '/{FIRST}') or sys.exit('the work directory is not in it; bind ' + kit); "
    f"sys.path[:1] = [kit + '/{FIRST}']; sys.path.append(kit + '/{LAST}'); "
    "from importlib import import_module; sys.exit(import_module(module).main([directory]))"
)


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


class Launch:
    """A container in which a module's ``main([DIRECTORY])`` is about to take what ``handover`` gives.

    ``stack`` gets what ends and removes everything of it, and lets go of the node's directories. ``early`` is
    how the container has ended before its program connected, None if it did not. ``fetching`` is entered
    while the image is seen to.

    :raises ContainerError: the engine or the image cannot be used, or nothing could be started.
    :raises OSError: a directory cannot be used.
    """

    def __init__(
        self,
        wanted: HostContainer,
        dirs: NodeDirs,
        module: str,
        stack: ExitStack,
        fetching: AbstractContextManager[None] | None = None,
    ) -> None:
        self._wanted = wanted
        self.dirs = dirs
        self.early: Exit | None = None
        self.engine = self._patiently(lambda: make_engine(wanted.engine, wanted.image_cache))
        stack.callback(self.engine.close)
        with fetching or nullcontext():
            image = self._patiently(lambda: self.engine.resolve(str(wanted.image)))
        stack.enter_context(dirs.hold())
        make_kit(dirs.engine)
        for directory in (dirs.home, os.path.join(dirs.home, "tmp")):
            with suppress(FileExistsError):
                vfs.mkdir(directory, 0o700)
        shared = [*(("job store", path) for path in wanted.stores), ("work directory", dirs.work)]
        originals = [path for store in wanted.stores for path in linked_paths(_backend(store))]
        seen = readable_places(wanted.scripts, originals)
        self.handover = Handover(dirs.coordination, shared, (*seen, dirs.engine))
        stack.callback(self.handover.close)
        spec = ContainerSpec(
            image,
            ("python3", "-c", _START, module, dirs.engine, self.handover.directory),
            f"toilcache-{os.urandom(8).hex()}",
            mounts_of(wanted, dirs, seen),
            environment={name: os.environ[name] for name in wanted.variables if name in os.environ},
            labels=wanted.labels,
            gpus=wanted.gpus,
            **self._patiently(lambda: _limits(wanted, self.engine)),
        )
        stack.callback(self._patiently, lambda: self.engine.remove(spec.name))
        self.container = self._patiently(lambda: self._start(spec))
        self.waiting = _Waiting(self.engine, self.container)
        stack.callback(self.waiting.close)

    def _patiently(self, ask: Callable[[], T]) -> T:
        return patiently(self._wanted.patience, ask)

    def _start(self, spec: ContainerSpec) -> str:
        """Start the container; one of an engine that went away before it could say so is not used."""
        try:
            return self.engine.run(spec)
        except EngineUnavailableError:
            self._patiently(lambda: self.engine.remove(spec.name))
            raise

    def introduce(self, descriptor: int, content: object, hang_up: _HasDescriptor | None = None) -> str:
        """Hand over to the program when it connects; "" if it did, else why it did not, in one line.

        Who waits for the program may be gone meanwhile: then ``hang_up`` is, and nothing is waited for.
        """
        poller = select.poll()
        for expected in (self.waiting.fileno(), self.handover.fileno()):
            poller.register(expected, select.POLLIN)
        if hang_up is not None:
            poller.register(hang_up, 0)  # a hang-up is told without asking
        while found := poller.poll(_START_SECONDS * 1000):
            if self.handover.fileno() not in {ready for ready, _ in found}:
                break
            if self.handover.give(descriptor, content):
                return ""
        words = self.logs()
        self.early = self.waiting.ended
        self.engine.kill(self.container)
        return self._why_not_begun(self.early, words)

    def logs(self) -> bytes:
        """Return the end of what the program printed."""
        return self.engine.logs(self.container, _LOG_BYTES)

    def _why_not_begun(self, ended: Exit | None, words: bytes) -> str:
        begin = f"cannot run jobs in image {show(self._wanted.image)}"
        if ended is None:
            return f"{begin}: no worker came up in {_START_SECONDS:.0f} s"
        lines = words.decode("utf-8", "replace").strip().splitlines()
        if ended.code in _NOT_FOUND:
            return f"{begin}: it has no python3 on its PATH; install Python 3.10 or later in it"
        if ended.oom_killed:
            return f"{begin}: memory ran out while the worker began"
        return (
            f"{begin}: {one_line(lines[-1], 300) if lines else f'its worker ended with status {ended.code}'}"
        )


def _limits(wanted: HostContainer, engine: Engine) -> dict[str, Any]:
    """Return the limits that a container of this engine would not have by itself; of a job's, all."""
    asked: dict[str, Any] = {"cores": wanted.cores, "memory": wanted.memory}
    if wanted.is_limited:
        return asked | {"pids": wanted.pids}
    if not engine.is_outside or asked == dict.fromkeys(asked):
        return {}
    return {name: value for name, value in asked.items() if name in engine.enforces}


def _backend(store: str) -> DirectoryBackend:
    return DirectoryBackend(store, layout.TRASH)


class _Waiting:
    """The end of a container as a descriptor that becomes readable."""

    def __init__(self, engine: Engine, container: str) -> None:
        self.ended: Exit | None = None
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._wait, args=(engine, container), daemon=True)
        self._thread.start()

    def _wait(self, engine: Engine, container: str) -> None:
        try:
            self.ended = engine.wait(container)
        except ToilcacheError as error:
            print(error, file=sys.stderr, flush=True)
            self.ended = Exit(None)
        finally:
            vfs.write(self._writer, b"e")

    def fileno(self) -> int:
        return self._reader

    def join(self) -> None:
        self._thread.join()

    def close(self) -> None:
        if not self._thread.is_alive():
            os.close(self._reader)
            os.close(self._writer)
