"""A job's place in the node's cache, and what the specification lets one ask about it.

Knows when the cache is opened, who has joined it, and what is done when it cannot be used. Must not know
files. Line numbers are those of the specification.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager

from toilcache.config import wants_cleaning
from toilcache.errors import (
    CacheDamagedError,
    CacheError,
    CacheUnavailableError,
    ChangedFileError,
    JobException,
)
from toilcache.file_store.abstract import AbstractFileStore
from toilcache.node.coordination import NodeDirs, dirs_of, has_cache, node_dirs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator
    from typing import Any, TypeVar

    from toilcache.cache.node_cache import NodeCache
    from toilcache.cache.place import Generation
    from toilcache.cache.rows import Holder
    from toilcache.cache.space import Space
    from toilcache.job.description import JobDescription
    from toilcache.job_store.abstract import AbstractJobStore

    T = TypeVar("T")

_WARNING = 30
_MOST_BYTES = (1 << 63) - 1
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})


class CacheAccounts(AbstractFileStore):
    """The part of the caching file store that knows the cache as a whole."""

    def __init__(
        self,
        jobStore: AbstractJobStore,
        jobDesc: JobDescription,
        file_store_dir: str,
        waitForPreviousCommit: Callable[[], Any],
    ) -> None:
        """Open nothing yet."""
        super().__init__(jobStore, jobDesc, file_store_dir, waitForPreviousCommit)
        self._pid = os.getpid()
        """The process that runs the job, once the store is open."""
        self._cache: NodeCache | None = None
        self._holder: Holder | None = None
        self._warned = False

    # How the cache is come by

    def _node(self) -> NodeCache:
        """Return this process's cache, opened at the first call; CacheUnavailableError if it cannot be."""
        if self._cache is None or self._cache.closed:
            from toilcache.cache.node_cache import node_cache

            keeps_dirs = not wants_cleaning(self.jobStore.config.cleanWorkDir, failed=True)
            self._cache = node_cache(self._dirs(), self.jobStore.gives_freely, keeps_dirs)
        return self._cache

    def _dirs(self) -> NodeDirs:
        """Find this node's directories by that of the jobs, else as the configuration says."""
        dirs = dirs_of(self.file_store_dir)
        if dirs is not None:
            return dirs
        config = self.jobStore.config
        if config.workflowID is None:
            raise CacheError("cannot use a cache: the configuration names no workflow; set its workflowID")
        return node_dirs(str(config.workflowID), config.workDir, config.coordinationDir)

    def _place(self) -> tuple[NodeCache, Holder]:
        """Return the cache and this job's place in it, taken at the first call.

        Only by the process that runs the job: a child that it forks has no life that a place could depend on.
        """
        if os.getpid() != self._pid:
            raise CacheUnavailableError("cannot use the cache in a process that a job has forked")
        cache = self._node()
        if self._holder is None:
            from toilcache.cache.rows import Holder

            tempdir = self._check_open()
            holder = Holder(
                str(self.jobDesc.jobStoreID),
                self.jobDesc.version,
                self.jobName,
                tempdir,
                self._disk_asked_for(),
            )
            cache.join(holder)
            self._holder = holder
        return cache, self._holder

    def _disk_asked_for(self) -> int:
        try:
            return self.jobDesc.disk
        except JobException:
            return 0  # without a configuration and a requirement of its own

    def _uses_cache(self) -> bool:
        """Tell whether there is a cache to look into; if not, none needs to be made for that."""
        return self._cache is not None or has_cache(self.file_store_dir)

    def _without_cache(self, call: Callable[[], T]) -> T | None:
        """Return what a call gives, None where the cache cannot be used: a job then does without it.

        A damaged database is replaced first.
        """
        try:
            return self._undamaged(call)
        except (CacheUnavailableError, OSError) as error:
            if isinstance(error, OSError) and not (error.errno in _FULL or self._is_of_the_cache(error)):
                raise
            if not self._warned:
                self._warned = True
                self.log_to_leader(f"job {self.jobName} does without the cache: {error}", _WARNING)
            return None

    def _is_of_the_cache(self, error: OSError) -> bool:
        """Tell whether something is missing where nobody but the cache has files: somebody removed it.

        Where two paths are named, as of a link, the other one is the job's.
        """
        if error.errno != errno.ENOENT or error.filename2 is not None:
            return False
        dirs, parent = self._dirs(), os.path.dirname(str(error.filename)) + "/"
        return parent.startswith((f"{dirs.coordination}/", f"{dirs.payloads}/"))

    def _undamaged(self, call: Callable[[], T]) -> T:
        """Return what a call gives, made again if the database was damaged and this or another thread has
        replaced it.
        """
        used = None if self._cache is None else self._cache.generation
        try:
            return self._translating(call)
        except CacheDamagedError:
            self._renew(used)
            return self._translating(call)

    def _translating(self, call: Callable[[], T]) -> T:
        """Return what a call gives; what SQLite raises outside of a transaction is said in the engine's
        words.
        """
        try:
            return call()
        except Exception as error:
            from toilcache.cache.database import passed_on

            known = passed_on(error, "" if self._cache is None else self._cache.generation.database.path)
            if known is error:
                raise
            raise known from error

    def _renew(self, damaged: Generation | None) -> None:
        cache = self._node()
        cache.renew(damaged or cache.generation)
        if self._holder is not None:
            cache.join(self._holder)

    def _leave(self) -> None:
        """Give up the place, with all references."""
        if self._holder is not None:
            cache, holder = self._node(), self._holder
            self._holder = None
            cache.leave(holder)

    def _check_harm(self) -> None:
        """Raise ChangedFileError if a file that this job was handed was changed: it must be run again."""
        if self._holder is None:
            return
        holder = self._holder
        harm = self._without_cache(lambda: self._node().harm(holder))
        if harm is not None:
            raise ChangedFileError(f"cannot trust what job {self.jobName} did: {harm}; it is to be run again")

    # What may be asked

    @contextmanager
    def as_process(self) -> Generator[str, None, None]:
        """Yield this process's name in the cache, and keep its other threads out meanwhile (line 1158)."""
        cache = self._node()
        with cache.generation.database.mutex:
            yield cache.owner

    @property
    def con(self) -> sqlite3.Connection:
        """The database connection of this thread (line 1163)."""
        return self._node().generation.database.con

    @property
    def cur(self) -> sqlite3.Cursor:
        """A cursor of this thread (line 1166)."""
        return self.con.cursor()

    def _asked_about(self) -> NodeCache:
        """Return the cache, in which a job that runs has its place: it is among those that are counted."""
        runs = self._scratch is not None and os.getpid() == self._pid
        return self._place()[0] if runs else self._node()

    def _space(self) -> Space:
        return self._undamaged(lambda: self._asked_about().space())

    def getCacheLimit(self) -> int:
        """Return how many bytes the cache and all jobs may take together (line 1169)."""
        return self._space().limit

    def getCacheUsed(self) -> int:
        """Return the bytes of all files in the cache, 0 where caching is free (line 1172)."""
        from toilcache.cache.space import used

        return used(self._space())

    def getCacheExtraJobSpace(self) -> int:
        """Return the bytes that jobs asked for and do not use through links into the cache (line 1175)."""
        from toilcache.cache.space import extra_job_space

        return extra_job_space(self._space())

    def getCacheAvailable(self) -> int:
        """Return the bytes free for caching; negative: those to be evicted for the jobs (line 1179)."""
        from toilcache.cache.space import available

        return available(self._space())

    def getSpaceUsableForJobs(self) -> int:
        """Return the bytes that no job has asked for, files of the cache left aside (line 1182)."""
        from toilcache.cache.space import usable_for_jobs

        return usable_for_jobs(self._space())

    def getCacheUnusedJobRequirement(self) -> int:
        """Return the bytes that this job asked for and does not use through the cache (line 1185)."""
        from toilcache.cache.space import unused_requirement

        def ask() -> int:
            cache, holder = self._place()
            return unused_requirement(cache.generation.database.con, holder)

        return self._undamaged(ask)

    def adjustCacheLimit(self, newTotalBytes: float) -> None:
        """Set the limit to exactly so many bytes, and evict what is too much for it (line 1189).

        ValueError for what is no size.
        """
        if not 0 <= newTotalBytes <= _MOST_BYTES:
            raise ValueError(
                f"cannot limit the cache to {newTotalBytes} bytes; give a size from 0 to {_MOST_BYTES}"
            )
        limit = int(newTotalBytes)
        self._undamaged(lambda: self._asked_about().set_limit(limit))

    def fileIsCached(self, fileID: str) -> bool:
        """Tell whether the cache has a file, uploaded yet or not; that may change at once (line 1191)."""
        from toilcache.cache.reading import is_cached

        return self._uses_cache() and self._undamaged(lambda: is_cached(self._node(), str(fileID)))

    def getFileReaderCount(self, fileID: str) -> int:
        """Count the references of all jobs of this node to a file, copies included (line 1194)."""
        from toilcache.cache.rows import readers

        return self._undamaged(lambda: readers(self.con, str(fileID))) if self._uses_cache() else 0

    def cachingIsFree(self) -> bool:
        """Tell whether files come into the cache without taking space (line 1197)."""
        return self._node().is_free
