"""The directories of a workflow on a node: where they are, and who uses them.

This is the one module that knows every path the engine uses on a node. It must not know jobs, caches or
schedulers; they get their paths here.

For each workflow and boot a node has: `toilcache-ID-BOOT`, the coordination directory (names of living
processes, notes, the cache's database); `toilcache-ID-BOOT.work`, the work directory (job directories,
cached bytes); and `toilcache-ID-BOOT.lock` beside the coordination directory. Whoever uses the directories
holds that lock shared; whoever removes them holds it exclusively, never waits for it, and moves a directory
to a name ending in `.gone-...` before emptying it, so that nobody meets a half-removed one. The lock file
goes last; who waited for it notices that it is no longer at its path and makes everything anew. Users also
hold each local directory itself shared: that keeps the ageing of temporary files (systemd-tmpfiles) away
from it.
"""

from __future__ import annotations

import functools
import os
import re
from contextlib import ExitStack, suppress

from toilcache import vfs
from toilcache.errors import CoordinationDirError
from toilcache.node.own import (
    hold_directory,
    lock_shared,
    make_own_directory,
    read_note,
    touch,
    write_note,
)
from toilcache.node.places import coordination_base, work_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_WORKFLOW_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
NODE_NOTE, ABOUT_NOTE, KEPT_MARK, RUNS, DEFERRED = "node", "store", "kept", "runs", "deferred"
ENGINE = "engine"


@functools.cache
def boot_id() -> str:
    """Return the kernel's id of this boot: the same in all containers of a node, another after a reboot.

    36 characters. Raises CoordinationDirError where the kernel does not tell (it is not Linux, or no /proc).
    """
    path = "/proc/sys/kernel/random/boot_id"
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        raise CoordinationDirError(
            f"cannot tell this boot of the node from others: no {path}; mount /proc"
        ) from error


class NodeDirs:
    """The paths of one workflow on this node; nothing is made before `make` or `hold`."""

    def __init__(self, workflow_id: str, work_base: str, coordination_base: str) -> None:
        tag = tag_of(checked_id(workflow_id))
        self.workflow_id = workflow_id
        self.coordination = os.path.join(coordination_base, f"toilcache-{tag}")
        self.notes = os.path.join(self.coordination, "hosts")
        self.work = os.path.join(work_base, f"toilcache-{tag}.work")
        self.jobs = os.path.join(self.work, "jobs")
        self.names_base = self.coordination
        self.deferred = os.path.join(self.coordination, DEFERRED)
        self.cache = os.path.join(self.coordination, "cache")
        self.payloads = os.path.join(self.work, "cache")
        self.engine = os.path.join(self.work, ENGINE)
        self.home = os.path.join(self.work, "home")
        self.lock_path = lock_path_of(coordination_base, tag)

    def host_note(self, name: str) -> str:
        """Return the path where the process called `name` may leave a note about itself."""
        return os.path.join(self.notes, _plain(name))

    def call_file(self, attempt: tuple[str, int]) -> str:
        """Return the path where the process of an attempt (job id, version) writes what its jobs defer."""
        return os.path.join(self.deferred, _plain(f"{attempt[0]}.{attempt[1]}"))

    def make(self) -> None:
        """Make the directories; those that stand are checked. Raises CoordinationDirError or OSError.

        A clean-up may remove them again unless somebody holds them: prefer `hold`.
        """
        runs = os.path.join(self.coordination, RUNS)
        for path in (self.coordination, self.notes, runs, self.work, self.jobs):
            make_own_directory(path)
        note = os.path.join(self.work, NODE_NOTE)
        if not os.path.lexists(note):
            write_note(note, os.uname().nodename, os.path.dirname(self.coordination))

    def hold(self, run: int | None = None, about: tuple[str, ...] = ()) -> NodeHold:
        """Use the directories: make them, and keep every clean-up away until the hold is closed.

        `run` is the leader's run number; a clean-up of an earlier run then leaves them alone even after the
        hold. `about` are words for whoever finds them later and wants to know what became of the workflow.
        Waits while somebody removes them. The hold ends with this process; a forked child has none and
        takes its own if it is to outlive its parent. Raises CoordinationDirError or OSError.
        """
        return NodeHold(self, run, about)

    def keep(self, wanted: bool = True) -> None:
        """Say that the directories are to stay though the workflow has ended, or do not say so any more."""
        for path in (self.coordination, self.work):
            with suppress(FileNotFoundError):
                mark = os.path.join(path, KEPT_MARK)
                touch(mark) if wanted else vfs.unlink(mark)


class NodeHold:
    """The shared lock on a workflow's directories; a context manager."""

    def __init__(self, dirs: NodeDirs, run: int | None, about: tuple[str, ...]) -> None:
        self.dirs = dirs
        with ExitStack() as stack:
            stack.enter_context(lock_shared(dirs.lock_path))
            while True:
                dirs.make()
                kept = [stack.enter_context(hold_directory(path)) for path in (dirs.coordination, dirs.work)]
                if all(directory.is_at() for directory in kept):
                    break
            if run is not None:
                touch(os.path.join(dirs.coordination, RUNS, str(int(run))))
            store = os.path.join(dirs.coordination, ABOUT_NOTE)
            if about and read_note(store) != list(about):
                write_note(store, *about)
            self._locks = stack.pop_all()

    def close(self) -> None:
        """Stop using the directories."""
        self._locks.close()

    def __enter__(self) -> NodeHold:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def node_dirs(
    workflow_id: str,
    work_dir: str | None = None,
    coordination_dir: str | None = None,
    create: bool = True,
) -> NodeDirs:
    """Choose this node's directories for a workflow, as toilcache.node.places describes, and make them.

    Raises CoordinationDirError with what to set if a place does not fit.
    """
    work = work_base(work_dir)
    name = f"toilcache-{tag_of(checked_id(workflow_id))}"
    dirs = NodeDirs(workflow_id, work, coordination_base(coordination_dir, work, name))
    if create:
        dirs.make()
    return dirs


def dirs_of(jobs_dir: str) -> NodeDirs | None:
    """Return the directories of which this is the one for jobs; None if it is not of this boot's.

    A worker is told where its jobs' directories are and learns the rest from the note beside them.
    """
    work_base, work = os.path.split(os.path.dirname(os.path.realpath(jobs_dir)))
    note = read_note(os.path.join(work_base, work, NODE_NOTE))
    workflow_id = work.removeprefix("toilcache-").removesuffix(f"-{boot_id()[:8]}.work")
    if len(note) != 2 or _WORKFLOW_ID.fullmatch(workflow_id) is None:
        return None
    dirs = NodeDirs(workflow_id, work_base, note[1])
    return dirs if dirs.jobs == os.path.realpath(jobs_dir) else None


def has_cache(jobs_dir: str) -> bool:
    """Tell cheaply whether any job of this node has used the cache."""
    try:
        os.lstat(f"{jobs_dir.rpartition('/')[0]}/cache")
    except OSError:
        return False
    return True


def leader_lock(store: str, work_dir: str | None = None, coordination_dir: str | None = None) -> str:
    """Return the path of the lock that only one leader of a job store (a locator) holds on this node.

    It goes by the store and not by the workflow, and lies where no clean-up of a workflow removes it.
    Raises CoordinationDirError with what to set if a place does not fit.
    """
    import zlib

    data = os.fsencode(store)
    digest = f"{zlib.crc32(data):08x}{zlib.adler32(data):08x}"
    name = f"toilcache-leader-{digest}-{os.geteuid()}.lock"
    return os.path.join(coordination_base(coordination_dir, work_base(work_dir), name), name)


def tag_of(workflow_id: str) -> str:
    """Return what names a workflow's directories of this boot."""
    return f"{workflow_id}-{boot_id()[:8]}"


def lock_path_of(base: str, tag: str) -> str:
    """Return the path of the lock of a workflow's directories whose coordination directory is in `base`."""
    return os.path.join(base, f"toilcache-{tag}.lock")


def checked_id(workflow_id: str) -> str:
    """Return a workflow's id; CoordinationDirError if it could lead elsewhere as part of a name."""
    if _WORKFLOW_ID.fullmatch(workflow_id) is None:
        raise CoordinationDirError(
            f"cannot use {workflow_id!r} as a workflow id; give up to 64 letters, digits, '-' and '_'"
        )
    return workflow_id


def _plain(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"cannot use {name!r} as the name of a note; give a name without a path")
    return name
