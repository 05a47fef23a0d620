"""The machine's size and its processes, from the kernel's own texts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from toilcache.node import cgroups, machine
from toilcache.node.cgroups import group_dirs, parse_cpu_max, parse_memory_max
from toilcache.node.coordination import boot_id
from toilcache.node.mounts import parse_mountinfo

IMPORTED = time.clock_gettime(time.CLOCK_BOOTTIME)
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V2_IN_CONTAINER = "30 23 0:26 /kube/pod1 /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"
V1 = (
    "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)
V1_IN_DOCKER = "31 23 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
V1_MEMBER = "5:memory:/slurm/uid_1/job_7\n3:cpu,cpuacct:/user.slice\n1:name=systemd:/x\n0::/init.scope\n"


@pytest.mark.parametrize(
    ("table", "membership", "controller", "expected"),
    [
        (V2, "0::/a/b\n", "memory", ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]),
        (V2, "0::/\n", "cpu", ["/sys/fs/cgroup"]),
        (V2, "", "cpu", ["/sys/fs/cgroup"]),
        (V2, "0::/../../other\n", "cpu", ["/sys/fs/cgroup"]),
        (V2_IN_CONTAINER, "0::/kube/pod1/x\n", "cpu", ["/sys/fs/cgroup/x", "/sys/fs/cgroup"]),
        (V2_IN_CONTAINER, "0::/kube/pod2\n", "cpu", ["/sys/fs/cgroup"]),
        (
            V1,
            V1_MEMBER,
            "memory",
            [f"/sys/fs/cgroup/memory{rest}" for rest in ("/slurm/uid_1/job_7", "/slurm/uid_1", "/slurm", "")],
        ),
        (V1, V1_MEMBER, "cpu", ["/sys/fs/cgroup/cpu,cpuacct/user.slice", "/sys/fs/cgroup/cpu,cpuacct"]),
        (V1_IN_DOCKER, "5:memory:/docker/abc\n", "memory", ["/sys/fs/cgroup/memory"]),
        (V1_IN_DOCKER, "5:memory:/docker/abc\n", "cpu", []),
    ],
)
def test_groups_from_the_own_up_to_the_visible_root(
    table: str, membership: str, controller: str, expected: list[str]
) -> None:
    assert group_dirs(parse_mountinfo(table), membership, controller) == expected


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", None),
        ("150000 100000", 1.5),
        ("-1 100000", None),
        ("0 100000", None),
        ("", None),
        ("1 0", None),
    ],
)
def test_limits_on_cores(text: str, cores: float | None) -> None:
    assert parse_cpu_max(text) == cores


@pytest.mark.parametrize(
    ("text", "memory"),
    [("max\n", None), ("1073741824\n", 1 << 30), ("9223372036854771712\n", None), ("0", None), ("", None)],
)
def test_limits_on_memory(text: str, memory: int | None) -> None:
    assert parse_memory_max(text) == memory


def test_the_tightest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "memory.max").write_text("1000\n")
    (inner / "memory.max").write_text("max\n")
    (inner / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "outer" / "cpu.cfs_quota_us").write_text("20000\n")
    (tmp_path / "outer" / "cpu.cfs_period_us").write_text("100000\n")
    dirs = [str(inner), str(inner.parent), str(tmp_path)]
    monkeypatch.setattr(cgroups, "group_dirs", lambda *_: dirs)
    assert cgroups.cgroup_memory() == [1000]
    assert cgroups.cgroup_cores() == [0.5, 0.2]
    found = machine.machine()
    assert (found.cores, found.memory) == (0.2, 1000)


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "group_dirs", lambda *_: [])
    found = machine.machine()
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.memory == psutil.virtual_memory().total
    assert found.node_id == machine.node_id() == f"{found.hostname}-{boot_id()}"
    assert f"cores={found.cores}" in repr(found)


def test_free_space(tmp_path: Path) -> None:
    assert 0 < machine.disk_free(str(tmp_path)) <= psutil.disk_usage(str(tmp_path)).total


@pytest.mark.parametrize(
    ("text", "count"),
    [("pgfault 7\noom_kill 12\nx 1\n", 12), ("pgfault 7\n", 0), ("oom_kill x\n", 0), ("", 0)],
)
def test_kills_for_memory(text: str, count: int) -> None:
    assert machine.parse_oom_kills(text) == count


def test_kills_for_memory_here(monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    assert machine.oom_kills() >= (int(found[1]) if found else 0)

    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", missing)
        assert machine.oom_kills() == 0


TAIL = b" 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 200"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"12 (sh) S" + TAIL, (3, 98765)),
        (b"12 (a) b) (c\n 9 9) R" + TAIL, (3, 98765)),
        (b"12 (sh) Z" + TAIL, None),
        (b"12 (sh) X" + TAIL, None),
        (b"", None),
        (b"12 (sh", None),
    ],
)
def test_status_of_a_process(text: bytes, expected: tuple[int, int] | None) -> None:
    assert machine.parse_stat(text) == expected


def test_a_pid_with_its_start_time_is_one_process() -> None:
    start = machine.process_start_time(os.getpid())
    assert start is not None
    assert machine.is_process(os.getpid(), start)
    assert not machine.is_process(os.getpid(), start - 1)
    ticks = os.sysconf("SC_CLK_TCK")
    assert abs(psutil.Process().create_time() - psutil.boot_time() - start / ticks) < 2
    assert machine.process_start_time(1 << 30) is None


def test_the_age_of_a_process() -> None:
    """Between the time since something that it did and the time that the machine is up."""
    age = machine.process_age(os.getpid())
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert now - IMPORTED - 0.1 < age < now
    assert machine.process_age(1) >= age
    assert machine.process_age(1 << 30) == 0


def test_what_a_process_was_started_with() -> None:
    environment = {"PLAIN": "it's a\n'value'=x", "PLAIN2": "other", "EMPTY": ""}
    argv = [sys.executable, "-c", "print(flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=environment, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()  # while it is being loaded, its environment is not told
        assert machine.environment_entry(process.pid, "PLAIN") == "it's a\n'value'=x"
        assert machine.environment_entry(process.pid, "EMPTY") == ""
        assert machine.environment_entry(process.pid, "PLA") is None
        process.communicate(b"\n")
    assert machine.environment_entry(process.pid, "PLAIN") is None


def test_killing_what_has_one_of_several_markers() -> None:
    """At once, whatever it does with signals, and nobody else."""
    deaf = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); "
        "import time; time.sleep(600)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", deaf], env={"MINE": mine}, stdout=subprocess.PIPE)
        for mine in ("a" * 20, "b" * 20, "a" * 21)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        victims, spared = processes[:2], processes[2]
        killed = machine.kill_marked_processes([f"MINE={'a' * 20}", f"MINE={'b' * 20}", "MINE="])
        assert killed == sorted(process.pid for process in victims)
        assert spared.poll() is None
    finally:
        for process in processes:
            process.kill()
            process.communicate()
