"""Who is alive on this node, seen alike from every container that shares a directory.

This module knows names of processes and the locks that keep them alive. It must not know what the names are
used for, nor how the directory was chosen.

A name is a file in `names/` of the base directory, and its life has four states. *Unborn*: the file has a
temporary name and nobody looks at it; a crash leaves it behind unlocked and a sweep removes it. *Alive*: its
process holds the file's lock exclusively and the file has its final name; because the lock came first, nobody
ever sees a final name that is not locked. *Dead*: the process ended, however it ended, and the kernel dropped
the lock with the last descriptor; the file is still there. *Gone*: somebody who asked after the dead name
removed the file, or its process did on leaving. Names are random and never used twice, so dead and gone are
final. Process ids appear nowhere: two containers of one node both have a process 1.

Who asks takes the lock shared, so that two who ask at once do not take each other for the owner.
"""

from __future__ import annotations

import _thread
import errno
import os
import re
from contextlib import suppress

from toilcache import vfs
from toilcache.io import random_name
from toilcache.node.locks import LockFile

_NAMES = "names"
_NAME = re.compile(r"[0-9a-f]{16}")
_UNBORN = ".unborn-"
_TRIES = 100


class _Named:
    """A name this process holds, and the process id it had when it took it."""

    __slots__ = ("file", "name", "pid")

    def __init__(self, name: str, file: LockFile) -> None:
        self.name = name
        self.file = file
        self.pid = os.getpid()

    def is_valid(self, path: str) -> bool:
        """Tell whether others, looking at `path`, find this name alive."""
        return self.pid == os.getpid() and self.file.is_at(path) and self.file.is_ours()


_naming = _thread.RLock()
_by_real_path: dict[str, _Named] = {}
_by_spelling: dict[str, tuple[str, _Named]] = {}


def get_process_name(base_dir: str) -> str:
    """Return the name of this process among all that share `base_dir`, taking one at the first call.

    Later calls cost two stats: they make sure that the file is still there and the lock still ours, and take
    a new name if not (the directory was removed and made again, or somebody closed our descriptor). A forked
    child gets a name of its own. Raises OSError if no file can be made in `base_dir` (specification line
    1113).
    """
    known = _by_spelling.get(base_dir)
    if known is not None and known[1].is_valid(known[0]):
        return known[1].name
    with _naming:
        named = _named_in(os.path.realpath(base_dir))
        _by_spelling[base_dir] = (_name_path(base_dir, named.name), named)
        return named.name


def process_name_exists(base_dir: str, name: str) -> bool:
    """Tell whether the process called `name` lives; a name found dead is removed (specification line 1115).

    Death is told only on proof: a name whose file may not be opened counts as alive. What is no name at all
    (a path, an empty string) is nobody's. Raises OSError if the question cannot be put (no free descriptor).
    """
    if _NAME.fullmatch(name) is None:
        return False
    known = _by_spelling.get(base_dir)
    if known is not None and known[1].name == name and known[1].is_valid(known[0]):
        return True
    return _is_locked_else_remove(_name_path(base_dir, name))


def living_process_names(base_dir: str) -> list[str]:
    """Return the names alive in `base_dir`, sorted, and remove what the dead have left there.

    It lists a directory: for clean-up and for reports, not for hot paths.
    """
    try:
        entries = os.listdir(os.path.join(base_dir, _NAMES))
    except FileNotFoundError:
        return []
    for entry in entries:
        if entry.startswith(_UNBORN):
            _is_locked_else_remove(_name_path(base_dir, entry))
    return sorted(entry for entry in entries if process_name_exists(base_dir, entry))


def remove_some_dead_names(base_dir: str, most: int = 8) -> None:
    """Look at a few of the names, and remove those whose process died without anybody asking after it.

    Whoever takes a name and calls this keeps the directory from filling up, at a price that does not grow.
    """
    try:
        entries = os.listdir(os.path.join(base_dir, _NAMES))
    except FileNotFoundError:
        return
    first = int.from_bytes(os.urandom(2), "big") % max(1, len(entries))
    for entry in (entries[first:] + entries[:first])[:most]:
        _is_locked_else_remove(_name_path(base_dir, entry))


def release_process_name(base_dir: str) -> None:
    """Give up this process's name in `base_dir`, if it has one, and leave no file behind."""
    with _naming:
        named = _by_real_path.pop(os.path.realpath(base_dir), None)
        for spelling in [key for key, (_, other) in _by_spelling.items() if other is named]:
            del _by_spelling[spelling]
        if named is None:
            return
        if named.pid == os.getpid() and named.file.is_ours():
            named.file.unlink()
        named.file.close()


def _named_in(real_dir: str) -> _Named:
    named = _by_real_path.get(real_dir)
    if named is not None:
        if named.is_valid(_name_path(real_dir, named.name)):
            return named
        named.file.close()
    named = _by_real_path[real_dir] = _take_name(real_dir)
    return named


def _take_name(real_dir: str) -> _Named:
    _make_names_dir(os.path.join(real_dir, _NAMES))
    for _ in range(_TRIES):
        name = random_name(16)
        file = _locked_unborn(_name_path(real_dir, _UNBORN + random_name(16)))
        if file is None:
            continue
        try:
            published = _publish(file, _name_path(real_dir, name))
        except BaseException:
            file.close()
            raise
        if published:
            return _Named(name, file)
        file.close()
    raise OSError(
        errno.EAGAIN, f"cannot take a process name in {real_dir!r}: something removes every new file"
    )


def _locked_unborn(path: str) -> LockFile | None:
    """Make a locked file under a temporary name; None if a sweep had it first."""
    file = LockFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        if file.lock(shared=False, wait=False):
            return file
        file.unlink()
    except BaseException:
        file.unlink()
        file.close()
        raise
    file.close()
    return None


def _publish(file: LockFile, path: str) -> bool:
    """Give a locked file its final name; False if the name is taken or the file was swept away."""
    try:
        vfs.link(file.path, path, follow_symlinks=False)
    except (FileExistsError, FileNotFoundError):
        return False
    finally:
        file.unlink()
    file.path = path
    return file.is_at()


def _is_locked_else_remove(path: str) -> bool:
    try:
        file = LockFile(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return True
    except OSError as error:
        if error.errno == errno.ELOOP:  # a symlink is nobody's name
            return False
        raise
    with file:
        if not file.lock(shared=True, wait=False):
            return True
        file.unlink()
        return False


def _make_names_dir(path: str) -> None:
    with suppress(FileExistsError):
        vfs.mkdir(path, 0o711)
        vfs.chmod(path, 0o711)  # whatever the umask


def _name_path(base_dir: str, name: str) -> str:
    return os.path.join(base_dir, _NAMES, name)


# After a fork nobody holds this lock. The names are those of the parent: none of them is valid in the child.
os.register_at_fork(after_in_child=_naming._at_fork_reinit)  # type: ignore[attr-defined]
