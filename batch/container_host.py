"""A worker host in a container, as a child process of the adapter like any other host.

The adapter starts this program instead of a host. It has the image fetched, starts the container, and hands
the adapter's socket over to the host inside; from then on adapter and host speak as ever. It ends when the
container has ended, and leaves nothing of it. Knows engines and what a host must see. Must not know jobs.

While an image is fetched, which takes minutes, only this process waits; and the container's end is the end of
a child process, whatever the engine.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from contextlib import ExitStack, closing, suppress

from toilcache import vfs
from toilcache.batch import protocol
from toilcache.batch.container_plan import HostContainer, mounts_of, readable_places
from toilcache.batch.container_service import Service
from toilcache.containers.engines import make_engine
from toilcache.containers.kit import FIRST, LAST, make_kit
from toilcache.containers.model import ContainerSpec, Engine, Exit
from toilcache.containers.tool import LAUNCHER_VARIABLE
from toilcache.errors import ContainerError, ToilcacheError, one_line, show
from toilcache.job_store import layout
from toilcache.job_store.directory import DirectoryBackend
from toilcache.job_store.linked import linked_paths
from toilcache.node.coordination import NodeDirs
from toilcache.node.handover import Handover

_START_SECONDS = 120.0
_LOG_BYTES = 64 * 1024
_NOT_FOUND = (126, 127)

# Words that every Python 3 understands, so that one too old can be told by its number.
_START = (
    "import os, sys; kit, directory = sys.argv[1:]; old = sys.version_info < (3, 10); "
    "old and sys.exit('its Python is %d.%d, and jobs need 3.10 or later' % sys.version_info[:2]); "
    f"os.path.isdir(kit + '/{FIRST}') or sys.exit('the work directory is not in it; bind ' + kit); "
    f"sys.path[:1] = [kit + '/{FIRST}']; sys.path.append(kit + '/{LAST}'); "
    "from toilcache.worker.__main__ import main; sys.exit(main([directory]))"
)


def main(arguments: list[str]) -> int:
    """Serve one host; the adapter's socket is an inherited descriptor. Returns the exit status."""
    adapter = socket.socket(fileno=int(arguments[0]))
    adapter.set_inheritable(False)
    container = HostContainer.from_json(arguments[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    attendant = _Attendant(container, adapter)
    try:
        return attendant.serve()
    except (ToilcacheError, OSError) as error:
        why = str(error) if isinstance(error, ToilcacheError) else f"cannot start a container: {error}"
        print(why, file=sys.stderr)
        with suppress(OSError):  # the adapter is gone, or the host has its socket already
            protocol.send(adapter, protocol.BROKEN, why)
        return 1
    finally:
        adapter.close()


class _Attendant:
    """Starts a container, introduces the host in it to the adapter, waits for its end."""

    def __init__(self, container: HostContainer, adapter: socket.socket) -> None:
        self._wanted = container
        self._adapter = adapter
        self._dirs = NodeDirs(*container.node)

    def serve(self) -> int:
        wanted, dirs = self._wanted, self._dirs
        with ExitStack() as stack:
            engine = make_engine(wanted.engine, wanted.image_cache)
            stack.callback(engine.close)
            image = engine.resolve(str(wanted.image))
            stack.enter_context(dirs.hold())
            make_kit(dirs.engine)
            for directory in (dirs.home, os.path.join(dirs.home, "tmp")):
                with suppress(FileExistsError):
                    vfs.mkdir(directory, 0o700)
            shared = [*(("job store", path) for path in wanted.stores), ("work directory", dirs.work)]
            originals = [path for store in wanted.stores for path in linked_paths(_backend(store))]
            seen = readable_places(wanted.scripts, originals)
            handover = Handover(dirs.coordination, shared, (*seen, dirs.engine))
            stack.callback(handover.close)
            spec = ContainerSpec(
                image,
                ("python3", "-c", _START, dirs.engine, handover.directory),
                f"toilcache-{os.urandom(8).hex()}",
                mounts_of(wanted, dirs, seen),
                environment={name: os.environ[name] for name in wanted.variables if name in os.environ},
                labels=wanted.labels,
                gpus=wanted.gpus,
            )
            container = engine.run(spec)
            stack.callback(engine.remove, container)
            return self._attend(engine, container, handover, stack)

    def _attend(self, engine: Engine, container: str, handover: Handover, stack: ExitStack) -> int:
        waiting = _Waiting(engine, container)
        stack.callback(waiting.close)
        if not self._introduce(waiting, handover):
            words = engine.logs(container, _LOG_BYTES)
            engine.kill(container)
            raise ContainerError(self._why_not_begun(waiting.ended, words))
        self._adapter.close()
        self._serve_jobs(waiting, handover)
        waiting.join()
        sys.stdout.flush()
        vfs.write(1, engine.logs(container, _LOG_BYTES))
        if waiting.ended is not None and waiting.ended.oom_killed:
            print(f"its container of {show(self._wanted.image)} ran out of memory", flush=True)
        return waiting.ended.code or 0 if waiting.ended is not None else 1

    def _serve_jobs(self, waiting: _Waiting, handover: Handover) -> None:
        """Run programs in containers for the jobs inside, until the container ends."""
        poller = select.poll()
        for descriptor in (waiting.fileno(), handover.fileno()):
            poller.register(descriptor, select.POLLIN)
        with closing(Service()) as service:
            while waiting.fileno() not in {descriptor for descriptor, _ in poller.poll()}:
                service.admit(handover)

    def _introduce(self, waiting: _Waiting, handover: Handover) -> bool:
        """Wait for the host to connect, and hand over; False if the container ended or nobody came."""
        poller = select.poll()
        for descriptor in (waiting.fileno(), handover.fileno()):
            poller.register(descriptor, select.POLLIN)
        poller.register(self._adapter, 0)  # its hang-up is told without asking
        while found := poller.poll(_START_SECONDS * 1000):
            ready = {descriptor for descriptor, _ in found}
            if handover.fileno() in ready:
                if handover.give(self._adapter.fileno(), self._handed(handover)):
                    return True
            else:
                return False
        return False

    def _handed(self, handover: Handover) -> dict[str, str]:
        """Return what a host gets beside the environment that it was started with."""
        return {
            LAUNCHER_VARIABLE: handover.directory,
            "HOME": self._dirs.home,
            "TMPDIR": os.path.join(self._dirs.home, "tmp"),
        }

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
