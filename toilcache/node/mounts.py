"""Which file system a path lies on, read from the kernel's table of mounts.

This module knows the format of /proc/self/mountinfo and which types of file system are shared between
machines. It must not know why somebody asks.
"""

from __future__ import annotations

import os
import re

# Kernel locks and memory maps do not hold between two machines, or not between machine and guest, on these.
# fmt: off
NETWORK_TYPES = frozenset((
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "cvfs", "drvfs", "dvs", "exafs", "fhgfs",
    "gfs", "gfs2", "glusterfs", "gpfs", "juicefs", "kafs", "lustre", "moosefs", "ncp", "ncpfs", "nfs",
    "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "quobyte", "smb2", "smb3", "smbfs", "snfs",
    "vboxsf", "virtiofs", "vmhgfs", "wekafs",
))
# fmt: on
# Of what runs in user space only these are known to be local; any other may be anything.
LOCAL_FUSE_TYPES = frozenset({"fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.bindfs", "fuseblk"})

_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount:
    """One mounted file system: device `major:minor`, root within it, mount point, type, options."""

    __slots__ = ("device", "fs_type", "options", "point", "root")

    def __init__(self, device: str, root: str, point: str, fs_type: str, options: str) -> None:
        self.device = device
        self.root = root
        self.point = point
        self.fs_type = fs_type
        self.options = options


def parse_mountinfo(text: str) -> list[Mount]:
    """Read the table (proc(5), /proc/PID/mountinfo); lines of another shape are passed over."""
    mounts = []
    for line in text.split("\n"):
        before, separator, after = line.partition(" - ")
        fields, more = before.split(" "), after.split(" ")
        if separator and len(fields) >= 6 and len(more) >= 1:
            root, point = _unescape(fields[3]), _unescape(fields[4])
            mounts.append(Mount(fields[2], root, point, more[0], more[-1]))
    return mounts


def read_mounts() -> list[Mount]:
    """Return the mounts that this process sees; empty where /proc does not tell."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as table:
            return parse_mountinfo(table.read())
    except OSError:
        return []


def file_system_type(path: str) -> str:
    """Return the type of the file system that holds `path`, as `mount` names it; "" if unknown."""
    real = os.path.realpath(path)
    device = os.stat(real).st_dev  # first: it makes an automounter mount what it has there
    return type_in(read_mounts(), real, f"{os.major(device)}:{os.minor(device)}")


def type_in(mounts: list[Mount], real_path: str, device: str) -> str:
    """Find the type by device number, else by the longest mount point above the path.

    The device is the better answer (mounts may hide each other); btrfs subvolumes have one of their own,
    which the table does not show.
    """
    for mount in mounts:
        if mount.device == device:
            return mount.fs_type
    above = [mount for mount in mounts if _is_above(mount.point, real_path)]
    return max(enumerate(above), key=lambda pair: (len(pair[1].point), pair[0]))[1].fs_type if above else ""


def is_network_type(fs_type: str) -> bool:
    """Tell whether a file system of this type may be shared with another machine."""
    if fs_type == "fuse" or fs_type.startswith("fuse."):
        return fs_type not in LOCAL_FUSE_TYPES
    return fs_type in NETWORK_TYPES


def _is_above(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _unescape(field: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), field)
