"""The cache of a node as one process uses it: the generation, this process's name and payloads, jobs coming
and going.

Knows transactions over rows, and what must happen on the disk around them: files before their row, rows
before files go. Must not know a job store; reading and writing are in modules of their own.
"""

from __future__ import annotations

import _thread
import os

from toilcache.cache import adoption, payloads, rows
from toilcache.cache import space as spaces
from toilcache.cache.database import passed_on
from toilcache.cache.place import Generation, open_generation
from toilcache.cache.schema import CACHED, UPLOADABLE, UPLOADING
from toilcache.errors import CacheUnbalancedError, ChangedFileError
from toilcache.node.identity import get_process_name, process_name_exists, remove_some_dead_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable
    from typing import Any

    from toilcache.cache.database import Transaction
    from toilcache.cache.rows import FileRow, Holder
    from toilcache.cache.space import Space
    from toilcache.node.coordination import NodeDirs

_opening = _thread.RLock()
_open: dict[str, NodeCache] = {}


class NodeCache:
    """One process's use of the cache of a workflow on this node; any number of threads may share it."""

    def __init__(self, dirs: NodeDirs, is_free: Callable[[str], bool], keeps_dirs: bool = False) -> None:
        """Open the newest generation.

        `is_free` tells for a directory whether files come there without taking space; `keeps_dirs` that a
        person wants to look at the directories of jobs that died.
        """
        self.dirs = dirs
        self.closed = False
        self.keeps_dirs = keeps_dirs
        self._is_free = is_free
        self._limit: int | None = None
        self.generation = open_generation(dirs, self._properties)
        self._begin()

    def _begin(self) -> None:
        con = self.generation.database.con
        self.reflinks = bool(rows.get_property(con, "reflinks"))
        self.is_free = bool(rows.get_property(con, "free"))
        self.adopt_dead()
        remove_some_dead_names(self.dirs.names_base)

    def _properties(self, directory: str) -> dict[str, Any]:
        free, reflinks = self._is_free(directory), payloads.has_reflinks(directory)
        return spaces.first_properties(directory, free, reflinks, self._limit)

    def renew(self, damaged: Generation) -> None:
        """Go over to a new generation; the damaged one stays held, for its payloads are in jobs' hands."""
        with damaged.database.mutex:
            if self.generation is not damaged:
                return
            adoption.keep(damaged)
            self.generation = open_generation(self.dirs, self._properties, after=damaged.number)
        self._begin()

    @property
    def owner(self) -> str:
        """The name of this process."""
        return get_process_name(self.dirs.names_base)

    def transaction(self) -> Transaction:
        """Begin a step; see `Database.transaction`."""
        return self.generation.database.transaction()

    def payload_directory(self, owner: str) -> str:
        """Return where a process keeps the payloads that it makes."""
        return os.path.join(self.generation.payloads, owner)

    def new_payload(self, owner: str) -> str:
        """Return the path for a payload of this process, which is called so."""
        return payloads.new_path(self.payload_directory(owner))

    def space(self) -> Space:
        """Measure the space now."""
        return self.measure(self.generation.database.con)

    def measure(self, con: sqlite3.Connection) -> Space:
        """Measure the space within a transaction. A limit that was set outlives the database."""
        now = spaces.measure(con, self.generation.payloads)
        self._limit = None if now.automatic else now.limit
        return now

    def join(self, holder: Holder) -> None:
        """Let a job in, when the space that it asks for can be had; CacheUnbalancedError where it cannot."""
        owner, adopted = self.owner, False
        while True:
            with self.transaction() as con:
                rows.add_job(con, holder, owner)
                now = self.measure(con)
                lacking = -spaces.available(now)
                if lacking <= 0:
                    return
                victims = self.choose(con, lacking, now)
                if not victims:
                    report = spaces.table(con, now)
                    rows.drop_job(con, holder.id, holder.attempt)
            if victims:
                self.remove(victims)
            elif adopted or not self.adopt_dead():
                raise CacheUnbalancedError(report)
            else:
                adopted = True

    def set_limit(self, limit: int) -> None:
        """Set the limit to a number of bytes, and evict what is too much for it as far as that can go."""
        with self.transaction() as con:
            rows.set_property(con, "limit", limit)
            now = self.measure(con)
            lacking = -spaces.available(now)
            victims = self.choose(con, lacking, now, all_or_none=False) if lacking > 0 else []
        self.remove(victims)

    def choose(
        self, con: sqlite3.Connection, need: int, now: Space, *, all_or_none: bool = True
    ) -> list[FileRow]:
        """Take enough files for eviction, in the transaction; none if all there are would not be enough."""
        victims = rows.evictable(con, need + spaces.margin(now))
        if all_or_none and sum(row.size for row in victims) < need:
            return []
        owner = self.owner
        for row in victims:
            rows.begin_deleting(con, row, owner)
        rows.count(con, "evictions", len(victims))
        return victims

    def remove(self, doomed: Iterable[FileRow]) -> None:
        """Remove the payloads of files that this process has taken for deletion, then their rows."""
        doomed, owner = list(doomed), self.owner
        for row in doomed:
            payloads.remove(row.path)
        with self.transaction() as con:
            for row in doomed:
                rows.end_deleting(con, row.id, row.path, owner)
        for directory in {os.path.dirname(row.path) for row in doomed}:
            # Who lives may be about to make a payload in its directory.
            if not process_name_exists(self.dirs.names_base, os.path.basename(directory)):
                payloads.remove_directory_if_empty(directory)

    def leave(self, holder: Holder) -> str | None:
        """Let a job go, with its references; return what was changed under it, if anything was."""
        self.check_held(holder)
        with self.transaction() as con:
            harm = rows.harm_of(con, holder)
            rows.drop_job(con, holder.id, holder.attempt)
        payloads.remove_directory_if_empty(self.payload_directory(self.owner))
        return harm

    def check_held(self, holder: Holder) -> None:
        """Look at every payload of which a job has links; drop those that were changed."""
        for row in rows.held_files(self.generation.database.con, holder):
            try:
                if row.state == CACHED:
                    payloads.check(row)
            except payloads.PayloadChanged as changed:
                self.drop_changed(changed)

    def harm(self, holder: Holder) -> str | None:
        """Return what was changed under a job so far."""
        self.check_held(holder)
        return rows.harm_of(self.generation.database.con, holder)

    def drop_changed(self, changed: payloads.PayloadChanged) -> None:
        """Give up a payload that is not what it was, and tell the jobs that hold links to it.

        ChangedFileError if it was yet to be uploaded: nobody has what it should be. Of a payload that is gone
        each job still has what it was given.
        """
        row = changed.row
        what = "was removed" if changed.gone else "was changed"
        if row.state in (UPLOADABLE, UPLOADING):
            raise ChangedFileError(
                f"cannot hand out {row.id!r}: its copy {row.path!r} {what} before it was uploaded; "
                "run the job that wrote it again"
            )
        with self.transaction() as con:
            taken = row.state == CACHED and rows.begin_deleting(con, row, self.owner)
            if taken and changed.gone:
                rows.unlink_holders(con, row.id)
            elif taken:
                rows.tell_holders(con, row, f"the cached file {row.id!r} {what} while this job held it")
        if taken:
            self.remove([row])

    def adopt_dead(self) -> bool:
        """Take over what dead processes left; True if there was anything."""
        return adoption.adopt_dead(self)

    def has_jobs(self) -> bool:
        """Tell whether jobs of this process have a place here; also if the database does not say."""
        try:
            return rows.has_jobs(self.generation.database.con, self.owner)
        except Exception as error:
            if passed_on(error, "") is error:
                raise
            return True

    def close(self) -> None:
        """Stop using the cache in this process."""
        if _open.get(self.dirs.cache) is self:
            del _open[self.dirs.cache]
        self.closed = True
        self.generation.close()


def node_cache(dirs: NodeDirs, is_free: Callable[[str], bool], keeps_dirs: bool = False) -> NodeCache:
    """Return this process's cache of a workflow; it stays open for all its jobs."""
    with _opening:  # the first use may be that of several threads
        found = _open.get(dirs.cache)
        if found is None or not found.generation.lock.is_at():
            found = _open[dirs.cache] = NodeCache(dirs, is_free, keeps_dirs)
        return found


def opened_cache(dirs: NodeDirs) -> NodeCache | None:
    """Return this process's cache of a workflow if it has one open."""
    return _open.get(dirs.cache)


def _forget_after_fork() -> None:
    _opening._at_fork_reinit()  # type: ignore[attr-defined]
    for cache in _open.values():
        cache.closed = True
        cache.generation.database.forget()
    _open.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
