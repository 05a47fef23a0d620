"""The directories of a workflow on a node: where they are, who uses them, how they go.

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

import errno
import functools
import os
import re
import stat
from contextlib import ExitStack, suppress

from toilcache import vfs
from toilcache.errors import CoordinationDirError
from toilcache.io import random_name, write_durable
from toilcache.node.locks import NO_LOCKS, LockFile, acquire
from toilcache.node.mounts import file_system_type, is_network_type
from toilcache.node.places import COORDINATION_HINT, coordination_base, possible_bases, work_base
from toilcache.removal import robust_rmtree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_WORKFLOW_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NOTE = "node"
_RUNS = "runs"


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
        tag = _tag(_checked(workflow_id))
        self.workflow_id = workflow_id
        self.coordination = os.path.join(coordination_base, f"toilcache-{tag}")
        self.notes = os.path.join(self.coordination, "hosts")
        self.work = os.path.join(work_base, f"toilcache-{tag}.work")
        self.jobs = os.path.join(self.work, "jobs")
        self.engine = os.path.join(self.work, "engine")
        self.home = os.path.join(self.work, "home")
        self.names_base = self.coordination
        self.cache = os.path.join(self.coordination, "cache")
        self.payloads = os.path.join(self.work, "cache")
        self.lock_path = _lock_path(coordination_base, tag)

    def host_note(self, name: str) -> str:
        """Return the path where the process called `name` may leave a note about itself."""
        return os.path.join(self.notes, _plain(name))

    def make(self) -> None:
        """Make the directories; those that stand are checked. Raises CoordinationDirError or OSError.

        A clean-up may remove them again unless somebody holds them: prefer `hold`.
        """
        runs = os.path.join(self.coordination, _RUNS)
        for path in (self.coordination, self.notes, runs, self.work, self.jobs):
            _make_own_dir(path)
        _write_note(self.work, os.path.dirname(self.coordination))

    def hold(self, run: int | None = None) -> NodeHold:
        """Use the directories: make them, and keep every clean-up away until the hold is closed.

        `run` is the leader's run number; a clean-up of an earlier run then leaves them alone even after the
        hold. Waits while somebody removes them. The hold ends with this process; a forked child has none and
        takes its own if it is to outlive its parent. Raises CoordinationDirError or OSError.
        """
        return NodeHold(self, run)


class NodeHold:
    """The shared lock on a workflow's directories; a context manager."""

    def __init__(self, dirs: NodeDirs, run: int | None) -> None:
        self.dirs = dirs
        with ExitStack() as stack:
            stack.enter_context(_lock_shared(dirs.lock_path))
            while True:
                dirs.make()
                kept = [stack.enter_context(_keep(path)) for path in (dirs.coordination, dirs.work)]
                if all(directory.is_at() for directory in kept):
                    break
            if run is not None:
                _touch(os.path.join(dirs.coordination, _RUNS, str(int(run))))
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
    name = f"toilcache-{_tag(_checked(workflow_id))}"
    dirs = NodeDirs(workflow_id, work, coordination_base(coordination_dir, work, name))
    if create:
        dirs.make()
    return dirs


def dirs_of(jobs_dir: str) -> NodeDirs | None:
    """Return the directories of which this is the one for jobs; None if it is not of this boot's.

    A worker is told where its jobs' directories are and learns the rest from the note beside them.
    """
    work_base, work = os.path.split(os.path.dirname(os.path.realpath(jobs_dir)))
    note = _read_note(os.path.join(work_base, work))
    workflow_id = work.removeprefix("toilcache-").removesuffix(f"-{boot_id()[:8]}.work")
    if len(note) != 2 or _WORKFLOW_ID.fullmatch(workflow_id) is None:
        return None
    dirs = NodeDirs(workflow_id, work_base, note[1])
    return dirs if dirs.jobs == os.path.realpath(jobs_dir) else None


def has_cache(jobs_dir: str) -> bool:
    """Tell cheaply whether any job of this node has used the cache."""
    return os.path.lexists(os.path.join(os.path.dirname(jobs_dir), "cache"))


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
    _checked(workflow_id)
    bases = possible_bases(work_dir, coordination_dir)
    tags = sorted({tag for base in bases for tag in _tags_in(base, workflow_id)})
    cleaned = [_clean_tag(tag, bases, run) for tag in tags]  # all of them, even if one is in use
    return all(cleaned)


def _clean_tag(tag: str, bases: list[str], run: int | None) -> bool:
    """Remove one workflow's directories of one boot if nobody uses them."""
    bases = list(dict.fromkeys([*bases, *_noted_bases(tag, bases)]))
    paths = [path for base in bases for path in _entries(base, tag)]
    with ExitStack() as stack:
        for base in dict.fromkeys(map(os.path.dirname, paths)):
            if not is_network_type(file_system_type(base)):  # no workflow has its lock there
                lock = acquire(_lock_path(base, tag), shared=False, wait=False)
                if lock is None:
                    return False
                stack.enter_context(lock)
                stack.callback(lock.unlink)
        if not all(_is_unused(path, stack) for path in paths):
            return False
        if run is not None and any(_latest_run(path) > run for path in paths):
            return False
        for path in paths:
            _remove(path)
    return True


def _tags_in(base: str, workflow_id: str) -> set[str]:
    """Find each boot of a workflow that has left something in a directory; a tag is ID-BOOT."""
    pattern = re.compile(rf"toilcache-({re.escape(workflow_id)}-[0-9a-f]{{8}})(\..*)?", re.DOTALL)
    return {match[1] for name in _listed(base) if (match := pattern.fullmatch(name))} | {_tag(workflow_id)}


def _entries(base: str, tag: str) -> list[str]:
    """Return the paths of a tag in a directory that this process may remove, its lock file among them."""
    known = {f"toilcache-{tag}", f"toilcache-{tag}.work", f"toilcache-{tag}.lock"}
    names = known | {name for name in _listed(base) if name.startswith(f"toilcache-{tag}.gone-")}
    names |= {name for name in _listed(base) if name.startswith(f"toilcache-{tag}.work.gone-")}
    paths = [os.path.join(base, name) for name in sorted(names)]
    return [path for path in paths if _is_own(path) and _is_of_this_node(path, tag)]


def _listed(base: str) -> list[str]:
    # A directory that others may only pass through still holds what we know by name.
    with suppress(OSError):
        return os.listdir(base)
    return []


def _is_own(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == os.geteuid() or os.geteuid() == 0
    except OSError:
        return False


def _is_of_this_node(path: str, tag: str) -> bool:
    """Tell whether a directory was made on this node: by its boot, by where it lies, or by its note."""
    if tag.endswith(boot_id()[:8]) or not is_network_type(file_system_type(os.path.dirname(path))):
        return True
    return _read_note(path)[:1] == [os.uname().nodename]


def _noted_bases(tag: str, bases: list[str]) -> list[str]:
    """Return where the notes in work directories say that the coordination directories are."""
    notes = [_read_note(path) for base in bases for path in _entries(base, tag)]
    return [note[1] for note in notes if len(note) == 2 and os.path.isdir(note[1])]


def _is_unused(path: str, stack: ExitStack) -> bool:
    """Lock a directory against its users if its file system has locks; False if there are any."""
    if not stat.S_ISDIR(os.lstat(path).st_mode) or is_network_type(file_system_type(path)):
        return True
    directory = stack.enter_context(LockFile(path, _DIRECTORY))
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


def _lock_shared(path: str) -> LockFile:
    try:
        lock = acquire(path, shared=True)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise CoordinationDirError(
            f"cannot lock {path!r}: its file system has no kernel locks; {COORDINATION_HINT}"
        ) from error
    assert lock is not None  # it waited
    if os.fstat(lock.fd).st_uid != os.geteuid():
        lock.close()
        raise CoordinationDirError(f"cannot use {path!r}: it belongs to another user; {COORDINATION_HINT}")
    return lock


def _keep(path: str) -> LockFile:
    """Hold a directory itself shared, where its file system has locks worth the name."""
    directory = LockFile(path, _DIRECTORY)
    try:
        if not is_network_type(file_system_type(path)):
            directory.lock(shared=True, wait=True)
    except OSError as error:
        if error.errno not in NO_LOCKS and error.errno != errno.ENOENT:
            directory.close()
            raise
    return directory


def _make_own_dir(path: str) -> None:
    """Make a directory that others may pass through but not list; take one that stands only if it is ours."""
    with suppress(FileExistsError):
        vfs.mkdir(path, 0o711)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise CoordinationDirError(f"cannot use {path!r}: it is not a directory; remove it")
    if found.st_uid != os.geteuid():
        raise CoordinationDirError(
            f"cannot use {path!r}: it belongs to user {found.st_uid}, not to you; {COORDINATION_HINT}"
        )
    if found.st_mode & 0o022:
        raise CoordinationDirError(f"cannot use {path!r}: other people may write to it; run chmod go-w on it")
    if found.st_mode & 0o111 != 0o111:  # made under a strict umask, which containers cannot pass
        vfs.chmod(path, 0o711)


def _write_note(work: str, coordination: str) -> None:
    """Leave in the work directory whose it is, for a clean-up that starts from there."""
    path = os.path.join(work, _NOTE)
    if not os.path.lexists(path):
        write_durable(path, b"\0".join(map(os.fsencode, (os.uname().nodename, coordination))), sync=False)


def _read_note(path: str) -> list[str]:
    """Return host name and coordination place from a work directory's note; empty if there is none."""
    try:
        fd = os.open(os.path.join(path, _NOTE), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    with open(fd, "rb") as file:
        return [os.fsdecode(part) for part in file.read().split(b"\0")]


def _latest_run(path: str) -> int:
    """Return the highest run that held a coordination directory; 0 for none and for other paths."""
    return max((int(name) for name in _listed(os.path.join(path, _RUNS)) if name.isdigit()), default=0)


def _touch(path: str) -> None:
    os.close(vfs.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))


def _tag(workflow_id: str) -> str:
    return f"{workflow_id}-{boot_id()[:8]}"


def _lock_path(base: str, tag: str) -> str:
    return os.path.join(base, f"toilcache-{tag}.lock")


def _checked(workflow_id: str) -> str:
    if _WORKFLOW_ID.fullmatch(workflow_id) is None:
        raise CoordinationDirError(
            f"cannot use {workflow_id!r} as a workflow id; give up to 64 letters, digits, '-' and '_'"
        )
    return workflow_id


def _plain(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"cannot use {name!r} as the name of a note; give a name without a path")
    return name
