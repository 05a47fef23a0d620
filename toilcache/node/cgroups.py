"""The limits that control groups put on this process.

This module knows the files of cgroup v1 and v2. It must not know what the limits are used for. A limit of any
group above the process binds it, so all levels that can be seen are read and the callers take the least.
"""

from __future__ import annotations

import os

from toilcache.node.mounts import Mount, read_mounts

# cgroup v1 writes "no limit" as a number near the largest one.
_NO_LIMIT = 1 << 60


def cgroup_cores() -> list[float]:
    """Return the limits on cores of every level above this process; empty if there are none."""
    limits = [parse_cpu_max(text) for text in _read_levels("cpu", "cpu.max")]
    quotas = _read_levels("cpu", "cpu.cfs_quota_us")
    periods = _read_levels("cpu", "cpu.cfs_period_us")
    limits += [parse_cpu_max(f"{quota} {period}") for quota, period in zip(quotas, periods, strict=False)]
    return [limit for limit in limits if limit is not None]


def cgroup_memory() -> list[int]:
    """Return the limits on memory, in bytes, of every level above this process; empty if there are none."""
    texts = _read_levels("memory", "memory.max") + _read_levels("memory", "memory.limit_in_bytes")
    return [limit for limit in map(parse_memory_max, texts) if limit is not None]


def parse_cpu_max(text: str) -> float | None:
    """Read `quota period`, both in microseconds; None for no limit ("max", or -1 in v1)."""
    fields = text.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields) or not int(fields[1]):
        return None
    return int(fields[0]) / int(fields[1]) or None


def parse_memory_max(text: str) -> int | None:
    """Read a number of bytes; None for no limit ("max", or a huge number in v1)."""
    value = text.strip()
    return int(value) if value.isdigit() and 0 < int(value) < _NO_LIMIT else None


def group_dirs(mounts: list[Mount], membership: str, controller: str) -> list[str]:
    """Return the directories of the process's groups for a controller, from its own up to the visible root.

    `membership` is the text of /proc/self/cgroup. A container may show paths of the outside, which do not
    exist within: such a path is cut back to the mount's own root, where the container's limits are.
    """
    paths = _parse_membership(membership)
    dirs = []
    for mount in mounts:
        v2 = mount.fs_type == "cgroup2"
        if not v2 and (mount.fs_type != "cgroup" or controller not in mount.options.split(",")):
            continue
        path = paths.get("" if v2 else controller, "/")
        inside = os.path.relpath(path, mount.root)
        outside = inside.startswith("..") or path.startswith("/..")
        parts = [] if outside or inside == "." else inside.split("/")
        dirs += ["/".join([mount.point.rstrip("/"), *parts[:n]]) for n in range(len(parts), -1, -1)]
    return dirs


def _parse_membership(text: str) -> dict[str, str]:
    """Map each v1 controller to its path, and "" to the path in v2 (cgroups(7), /proc/PID/cgroup)."""
    paths = {}
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            paths.update(dict.fromkeys(fields[1].split(","), fields[2]))
    return paths


def _read_levels(controller: str, name: str) -> list[str]:
    membership = _read("/proc/self/cgroup")
    texts = [_read(f"{path}/{name}") for path in group_dirs(read_mounts(), membership or "", controller)]
    return [text.strip() for text in texts if text is not None]


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return None
