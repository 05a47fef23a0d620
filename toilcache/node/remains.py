"""What workflows have left on a node: finding it, whose it is, removing it.

Knows the lock that decides whether somebody still uses a workflow's directories, and in which order they go.
Must not know what became of a workflow: whoever asks for a removal has found that out.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from contextlib import ExitStack, suppress

from toilcache import vfs
from toilcache.io import random_name
from toilcache.node.coordination import (
    ABOUT_NOTE,
    DEFERRED,
    ENGINE,
    KEPT_MARK,
    NODE_NOTE,
    RUNS,
    boot_id,
    checked_id,
    lock_path_of,
    tag_of,
)
from toilcache.node.leftovers import call_left_behind
from toilcache.node.locks import NO_LOCKS, LockFile, acquire
from toilcache.node.mounts import file_system_type, is_network_type
from toilcache.node.own import DIRECTORY, is_own, listed, owner_of, read_note
from toilcache.node.places import possible_bases
from toilcache.removal import robust_rmtree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from toilcache.node.coordination import NodeDirs

# A tag is the id of a workflow and of a boot; directories on their way out have random digits at the end.
_NAME = re.compile(
    r"toilcache-(?P<tag>(?P<id>[A-Za-z0-9][A-Za-z0-9_-]{0,63})-(?P<boot>[0-9a-f]{8}))"
    r"(\.lock|(\.work)?(\.gone-[0-9a-f]{12})?)"
)
_LEADER_LOCK = re.compile(r"toilcache-leader-[0-9a-f]{16}-[0-9]+\.lock")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
STALE_SECONDS = 3 * 24 * 3600.0

IN_USE = "somebody on this node uses it"
LATER_RUN = "a later run of its leader has used it"


def cleanup(
    workflow_id: str,
    work_dir: str | None = None,
    coordination_dir: str | None = None,
    *,
    run: int | None = None,
) -> bool:
    """Remove all that a workflow left on this node, this boot or an earlier one; True if nothing is left.

    False, and nothing is touched, if somebody uses the directories, or if a later run than `run` did. Never
    waits. All automatic places are searched beside the named ones. On a file system shared with other nodes,
    another boot's directory is removed only if its note says that it was this node's.
    """
    checked_id(workflow_id)
    bases = possible_bases(work_dir, coordination_dir)
    tags = {match["tag"] for base in bases for match in _matches(base) if match["id"] == workflow_id}
    why_left = [Remains(tag, bases).remove(run) for tag in sorted({*tags, tag_of(workflow_id)})]
    return not any(why_left)  # all of them were tried, even if one is in use


def remains_here(work_dir: str | None = None, coordination_dir: str | None = None) -> list[Remains]:
    """Find what workflows have on this node, of whatever user and boot, as far as it can be seen.

    A directory that only bears such a name is left out: ours have a note or a list of runs.
    """
    bases = possible_bases(work_dir, coordination_dir)
    matches = [(base, match) for base in bases for match in _matches(base)]
    keys = {(match["tag"], owner_of(os.path.join(base, match[0]))) for base, match in matches}
    found = [Remains(tag, bases, owner) for tag, owner in sorted(keys)]
    return [remains for remains in found if any(map(_is_of_a_workflow, remains.paths))]


def others_are_here(dirs: NodeDirs) -> bool:
    """Tell, by a look at names, whether other workflows or an earlier boot have left something of this user
    where the directories of this one are, or might have been.
    """
    work, coordination = os.path.dirname(dirs.work), os.path.dirname(dirs.coordination)
    return bool(stale_leader_locks(work, coordination)) or any(
        match["tag"] != tag_of(dirs.workflow_id) and owner_of(os.path.join(base, match[0])) == os.geteuid()
        for base in possible_bases(work, coordination)
        for match in _matches(base)
    )


def stale_leader_locks(work_dir: str | None = None, coordination_dir: str | None = None) -> list[str]:
    """Find the locks of this user's leaders that have not been touched for days; they may still be held."""
    paths = [
        os.path.join(base, name)
        for base in possible_bases(work_dir, coordination_dir)
        for name in listed(base)
        if _LEADER_LOCK.fullmatch(name)
    ]
    return [path for path in paths if _is_stale(path)]


def remove_leader_lock(path: str) -> bool:
    """Remove the lock that a killed leader has left; False if it is held, or has just been touched."""
    with suppress(FileNotFoundError), LockFile(path, os.O_RDWR) as lock:
        if lock.lock(shared=False, wait=False) and _is_stale(path):
            lock.unlink()
            return True
    return False


def _is_stale(path: str) -> bool:
    with suppress(OSError):
        found = os.lstat(path)
        return found.st_uid == os.geteuid() and time.time() - found.st_mtime > STALE_SECONDS
    return False


class Remains:
    """What a workflow has on this node since one boot of it; all of one owner, if that is given."""

    def __init__(self, tag: str, bases: list[str], owner: int | None = None) -> None:
        self._tag = tag
        self._owner = owner
        self.workflow_id, _, self.boot = tag.rpartition("-")
        self.paths = self._paths_in(bases)
        # The note in a work directory says where the coordination directories are.
        notes = [read_note(os.path.join(path, NODE_NOTE)) for path in self.paths]
        noted = {note[1] for note in notes if len(note) == 2 and os.path.isdir(note[1])}
        self.paths += self._paths_in(sorted(noted.difference(bases)))

    @property
    def owner(self) -> int:
        """The user to whom they belong."""
        return os.geteuid() if self._owner is None else self._owner

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the node has not been started anew since."""
        return self.boot == boot_id()[:8]

    @property
    def are_local(self) -> bool:
        """Whether no other node can have anything to do with them, even one that has the same name."""
        return not any(is_network_type(file_system_type(os.path.dirname(path))) for path in self.paths)

    @property
    def is_kept(self) -> bool:
        """Whether somebody has asked that they stay (`NodeDirs.keep`)."""
        return any(os.path.lexists(os.path.join(path, KEPT_MARK)) for path in self.paths)

    @property
    def had_containers(self) -> bool:
        """Whether the engine was made ready for containers here."""
        return any(os.path.lexists(os.path.join(path, ENGINE)) for path in self.paths)

    @property
    def latest_run(self) -> int:
        """The highest run of the leader that has used them; 0 if nobody knows."""
        return max(map(_latest_run, self.paths), default=0)

    def about(self) -> list[str]:
        """Return the words about the workflow that its users have left (`NodeDirs.hold`), if any."""
        return next(filter(None, (read_note(os.path.join(path, ABOUT_NOTE)) for path in self.paths)), [])

    def last_used(self) -> float:
        """Return when a user came or a job began here the last time, in seconds since 1970."""
        times = [0.0]
        for path in self.paths:
            for place in (path, *(os.path.join(path, name) for name in ("names", "hosts", RUNS, "jobs"))):
                with suppress(OSError):
                    times.append(os.lstat(place).st_mtime)
        return max(times)

    def are_used(self) -> bool:
        """Tell whether somebody uses them in this moment."""
        with ExitStack() as stack:
            return self._lock(stack, only_existing=True) is None

    def remove(self, run: int | None = None) -> str:
        """Remove them, after calling what jobs have deferred; return "", or why they have to stay.

        They stay while somebody uses them, and if a later run of the leader than `run` has used them.
        """
        with ExitStack() as stack:
            locks = self._lock(stack)
            if locks is None:
                return IN_USE
            if run is not None and self.latest_run > run:
                return LATER_RUN
            for lock in locks:
                stack.callback(lock.unlink)
            for path in self.paths:
                call_left_behind(os.path.join(path, DEFERRED))
            for path in self.paths:
                _remove(path)
        return ""

    def _lock(self, stack: ExitStack, *, only_existing: bool = False) -> list[LockFile] | None:
        """Lock them against their users until the stack is closed, without waiting; None if there are any."""
        locks = []
        for base in dict.fromkeys(map(os.path.dirname, self.paths)):
            path = lock_path_of(base, self._tag)
            exists = os.path.lexists(path)
            if is_network_type(file_system_type(base)) or (only_existing and not exists):
                continue  # no workflow has its lock there
            try:
                lock = acquire(path, shared=False, wait=False)
            except OSError as error:
                if exists or error.errno not in _NO_ROOM:
                    raise
                continue  # nobody can come here anew either; who is here holds the directory itself
            if lock is None:
                return None
            locks.append(stack.enter_context(lock))
            if not exists:
                stack.callback(lock.unlink)
        return locks if all(_is_unused(path, stack) for path in self.paths) else None

    def _paths_in(self, bases: list[str]) -> list[str]:
        # A directory that others may only pass through still holds what we know by name.
        known = {f"toilcache-{self._tag}{end}" for end in ("", ".work", ".lock")}
        paths = []
        for base in bases:
            names = known | {match[0] for match in _matches(base) if match["tag"] == self._tag}
            paths += [os.path.join(base, name) for name in sorted(names)]
        return [path for path in paths if self._is_meant(path) and _is_of_this_node(path, self._tag)]

    def _is_meant(self, path: str) -> bool:
        return is_own(path) if self._owner is None else owner_of(path) == self._owner


def _matches(base: str) -> list[re.Match[str]]:
    return [match for name in listed(base) if (match := _NAME.fullmatch(name))]


def _is_of_a_workflow(path: str) -> bool:
    marks = (path, "") if path.endswith(".lock") else (NODE_NOTE, RUNS)
    return ".gone-" in os.path.basename(path) or any(
        os.path.lexists(os.path.join(path, mark)) for mark in marks
    )


def _is_of_this_node(path: str, tag: str) -> bool:
    """Tell whether a directory was made on this node: by its boot, by where it lies, or by its note."""
    if tag.endswith(boot_id()[:8]) or not is_network_type(file_system_type(os.path.dirname(path))):
        return True
    return read_note(os.path.join(path, NODE_NOTE))[:1] == [os.uname().nodename]


def _is_unused(path: str, stack: ExitStack) -> bool:
    """Lock a directory against its users if its file system has locks; False if there are any, or if somebody
    is removing it.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode) or is_network_type(file_system_type(path)):
            return True
        directory = stack.enter_context(LockFile(path, DIRECTORY))
    except FileNotFoundError:
        return False
    try:
        return directory.lock(shared=False, wait=False)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return True
        raise


def _remove(path: str) -> None:
    if path.endswith(".lock"):
        return
    gone = path if ".gone-" in os.path.basename(path) else f"{path}.gone-{random_name()}"
    if gone != path:
        vfs.rename(path, gone)
    robust_rmtree(gone)


def _latest_run(path: str) -> int:
    """Return the highest run that held a coordination directory; 0 for none and for other paths."""
    return max((int(name) for name in listed(os.path.join(path, RUNS)) if name.isdigit()), default=0)
