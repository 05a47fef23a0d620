"""What every job of a host shares: the job store, the configuration, where things are on this node.

Made once in the host, before any fork; the children use it as it is. Must not hold a connection, a lock or a
thread."""

from __future__ import annotations

import sys
from copy import copy

import toilcache.job.functions
import toilcache.job.saving  # noqa: F401  what every job needs is imported once, before any fork
from toilcache.file_store.caching import preload
from toilcache.job.module import ModuleDescriptor
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.node.coordination import NodeDirs
from toilcache.worker.commit import patiently
from toilcache.worker.deferred import Surroundings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from toilcache.job_store.abstract import AbstractJobStore

    T = TypeVar("T")


class WorkerContext:
    """The surroundings of a job.

    :param setup: the message that an adapter sends first: ``locator`` of the store, ``jobs_dir`` for
        temporary directories, ``sys_path`` entries to put first, ``main``: the fields of the script's
        ``ModuleDescriptor`` or None, ``preload``: import it once, for all jobs; ``node``: what
        ``NodeDirs`` is made of; ``image``, where there is one: the container image of this host's jobs.
    :param report: called with (job id, version) after a record was written.
    """

    def __init__(self, setup: dict[str, Any], report: Callable[[str, int], None]) -> None:
        self.report = report
        self.write = patiently
        """How to call what writes to the store."""
        self.jobs_dir: str = setup["jobs_dir"]
        self.main: tuple[str, str, bool, str] | None = setup["main"]
        self.has_main = self.main is None
        """True when what stands in the user's script can be found by name in this process."""
        sys.path[:0] = [entry for entry in setup["sys_path"] if entry not in sys.path]
        self.store: AbstractJobStore = FileJobStore(setup["locator"])
        self.store.resume()
        self.attempt = ("", 0)
        """The attempt (job id, version) with which the chain of this process began."""
        self._node = setup["node"]
        self._sys_path: list[str] = setup["sys_path"]
        self._image: str | None = setup.get("image")
        self._preloads_main: bool = setup["preload"]
        self._has_preloaded = False

    def on(self, store: AbstractJobStore, jobs_dir: str) -> WorkerContext:
        """Return the same surroundings over another store and directory, of which nobody hears."""
        other = copy(self)
        other.jobs_dir = jobs_dir
        other.store, other.report, other.write = store, _unheard, _once
        other.main, other.has_main = None, True
        return other

    def prepare(self) -> None:
        """Import what jobs need on this node as it is by now, so that no child has to."""
        self._has_preloaded = self._has_preloaded or preload(self.jobs_dir)

    def preload_main(self) -> None:
        """Import the user's script once for all jobs, where that is wanted."""
        if self._preloads_main:
            self.load_main()

    def load_main(self) -> None:
        """Import the user's script, so that functions defined in it can be found by name."""
        if self.main is not None:
            ModuleDescriptor(*self.main).load()
        self.has_main = True

    def call_file(self) -> str:
        """Return where this process writes what its jobs defer."""
        return NodeDirs(*self._node).call_file(self.attempt)

    def surroundings(self) -> Surroundings:
        """Return where such calls can be made when this process is gone."""
        return Surroundings(self.attempt, self.main, self._sys_path, self._image)


def _once(write: Callable[[], T]) -> T:
    """Call what writes; whatever it raises is raised."""
    return write()


def _unheard(job_id: str, version: int) -> None:
    """Take a report that nobody waits for."""
