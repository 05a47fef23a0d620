"""Where on a node the engine may put its directories, and which of those places to take.

This module knows what makes a directory fit: local, writable, safe from other people. It must not know what
is put there.

A place named by a person is taken or refused with the reason; nothing else is tried. Without one, the
coordination directory goes beside the work directory (one mount then serves a container for both), or, where
that is on a network file system, to the first fit of /tmp, /var/tmp and /dev/shm. Not tried: XDG_RUNTIME_DIR
and /run/user, which vanish when the last login session ends though batch jobs run on, and which processes of
one node see differently; /run/lock, which holds 5 MB for the whole system. /dev/shm comes last because
systemd may empty it when its owner logs out.
"""

from __future__ import annotations

import os
import stat

from toilcache import vfs
from toilcache.errors import CoordinationDirError
from toilcache.io import default_temp_dir
from toilcache.node.mounts import file_system_type, is_network_type

COORDINATION_VARIABLE = "TOILCACHE_COORDINATION_DIR"
WORK_VARIABLE = "TOILCACHE_WORK_DIR"
ROOM_NEEDED = 64 << 20

_FALLBACKS = ("/tmp", "/var/tmp", "/dev/shm")
COORDINATION_HINT = (
    f"set --coordinationDir or {COORDINATION_VARIABLE} to a directory on a local disk of the node"
)
_WORK_HINT = f"set --workDir or {WORK_VARIABLE} to a directory on the node that you own"


def work_base(given: str | None = None) -> str:
    """Return the directory in which workflows get their work directories: absolute, links resolved.

    The first of: the argument, TOILCACHE_WORK_DIR, the usual place of temporary files. A named one is made if
    it is missing. Raises CoordinationDirError with the reason if it does not fit.
    """
    named = given or os.environ.get(WORK_VARIABLE)
    base = _named(named, _WORK_HINT) if named else os.path.realpath(default_temp_dir())
    reason = why_unsafe(base, trusted=bool(named))
    if reason:
        raise CoordinationDirError(f"cannot use {base!r} as the work directory: {reason}; {_WORK_HINT}")
    return base


def coordination_base(given: str | None, work: str, existing: str) -> str:
    """Return the directory in which workflows get their coordination directories.

    `existing` is the name that the workflow's directory has: without a named place, one where it already
    stands wins, so that all processes of a node meet even if the free space of the places changes meanwhile.
    Raises CoordinationDirError naming every place tried and why not.
    """
    named = given or os.environ.get(COORDINATION_VARIABLE)
    if named:
        base = _named(named, COORDINATION_HINT)
        reason = why_unsafe(base, trusted=True) or why_not_local(base)
        if reason:
            raise CoordinationDirError(
                f"cannot use {base!r} as the coordination directory: {reason}; {COORDINATION_HINT}"
            )
        return base
    return _first_fit(_distinct([work, *_FALLBACKS]), existing)


def possible_bases(work: str | None, coordination: str | None) -> list[str]:
    """Return every existing directory where a workflow of these settings may have put something here."""
    works = [work or os.environ.get(WORK_VARIABLE), default_temp_dir()]
    coordinations = [coordination or os.environ.get(COORDINATION_VARIABLE), *_FALLBACKS]
    return [path for path in _distinct([*works, *coordinations]) if os.path.isdir(path)]


def why_unsafe(base: str, *, trusted: bool) -> str:
    """Say why nothing of ours may be put into a directory; "" if it is safe.

    Others who may rename our directory there could put their own in its place. A directory that a person
    named (`trusted`) may belong to a group or to somebody else, but may not be open to all.
    """
    try:
        found = os.stat(base)
    except OSError as error:
        return _reason(error)
    if not stat.S_ISDIR(found.st_mode):
        return "it is not a directory"
    if not os.access(base, os.W_OK | os.X_OK):
        return "it is not writable for you"
    sticky = bool(found.st_mode & stat.S_ISVTX)
    if found.st_mode & stat.S_IWOTH and not sticky:
        return "everybody may rename what lies in it (chmod +t it)"
    if not trusted and not sticky and (found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWGRP):
        return "other people may rename what lies in it"
    return ""


def why_not_local(base: str) -> str:
    """Say why kernel locks would not hold in a directory; "" if it is local to the node."""
    fs_type = file_system_type(base)
    if is_network_type(fs_type):
        return f"it is on {fs_type}, a network file system, where kernel locks do not hold for a node"
    return ""


def _first_fit(candidates: list[str], existing: str) -> str:
    reasons = {}
    for base in candidates:
        reasons[base] = why_unsafe(base, trusted=False) or why_not_local(base)
    fit = [base for base in candidates if not reasons[base]]
    for base in fit:
        if os.path.lexists(os.path.join(base, existing)):
            return base
    for base in fit:
        room = _room(base)
        if room >= ROOM_NEEDED:
            return base
        reasons[base] = f"it has {room >> 20} MiB free of the {ROOM_NEEDED >> 20} needed"
    tried = ", ".join(f"{base!r} ({reason})" for base, reason in reasons.items())
    raise CoordinationDirError(
        f"cannot find a place for the coordination directory: {tried}; {COORDINATION_HINT}"
    )


def _room(base: str) -> int:
    found = os.statvfs(base)
    return found.f_bavail * found.f_frsize


def _named(path: str, hint: str) -> str:
    try:
        _make_passable(os.path.abspath(path))
    except OSError as error:
        raise CoordinationDirError(f"cannot make the directory {path!r}: {_reason(error)}; {hint}") from error
    return os.path.realpath(path)


def _make_passable(path: str) -> None:
    """Make a directory, and what is missing above it, so that others may pass whatever the umask is: what
    mounts it into a container may be one of them.
    """
    if os.path.isdir(path):
        return
    _make_passable(os.path.dirname(path))
    try:
        vfs.mkdir(path, 0o711)
    except FileExistsError:  # somebody else has just made it, or it is none
        if not os.path.isdir(path):
            raise
    else:
        vfs.chmod(path, 0o711)


def _distinct(paths: list[str | None]) -> list[str]:
    return list(dict.fromkeys(os.path.realpath(path) for path in paths if path))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
