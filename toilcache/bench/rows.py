"""What is measured, one function a row: each returns figures of one run; the caller repeats and pairs them.

Knows commands and their output. Must not know how figures are shown.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from statistics import median
from typing import Any

from toilcache.bench.cache_jobs import use_memory
from toilcache.bench.filesystem import beside
from toilcache.bench.row import Budget, Row
from toilcache.process import run
from toilcache.removal import robust_rmtree

FAN_SIZES = (200, 1200)
SHARED_SIZES = (500, 4500)
CHAIN_SIZES = (20, 220)
LEADER_SIZES = (500, 5500)
CACHE_TIMES, CROWD = 300, 32
READERS, SHARED, WAITED_FOR = 8, 1 << 30, 1 << 28


def run_workflow(kind: str, size: int, directory: str, *options: str) -> dict[str, Any]:
    """Run one workflow in a new store below ``directory``, with these options; returns its figures, ``wall``
    being the whole process.
    """
    store = os.path.join(directory, f"{kind}-{size}-{os.urandom(4).hex()}")
    command = [
        sys.executable,
        "-m",
        "toilcache.bench.workflows",
        kind,
        str(size),
        store,
        "--workDir",
        directory,
        *options,
    ]
    began = time.perf_counter()
    done = run(command, cwd=directory)  # containers are shown where the script is started
    wall = time.perf_counter() - began
    figures: dict[str, Any] = json.loads(done.stdout)
    figures["wall"] = wall
    return figures


def fan_out(directory: str, sizes: tuple[int, int] = FAN_SIZES, *options: str, kind: str = "fan") -> float:
    """Jobs per second of no-op siblings, one process each: the marginal rate between two sizes."""
    few, many = (run_workflow(kind, size, directory, *options)["seconds"] for size in sizes)
    return float((sizes[1] - sizes[0]) / (many - few))


def fan_out_shared(directory: str) -> float:
    """The same where a few processes run all of them."""
    return fan_out(directory, SHARED_SIZES, "--shareProcess")


def distinct_pids(directory: str) -> float:
    """The number of different process ids that 200 siblings ran in."""
    return float(run_workflow("pids", 200, directory)["distinct_pids"])


def chain(directory: str) -> float:
    """Milliseconds per job of a chain: the marginal time between two lengths."""
    few, many = CHAIN_SIZES
    seconds = (
        run_workflow("chain", many, directory)["seconds"] - run_workflow("chain", few, directory)["seconds"]
    )
    return float(1000 * seconds / (many - few))


def empty(directory: str) -> float:
    """Seconds of a workflow of one job, from the start of the interpreter to its end."""
    return float(run_workflow("empty", 0, directory)["wall"])


def worker_import(directory: str) -> float:
    """Seconds that ``import toilcache.worker`` adds to an idle interpreter; median of 20 pairs."""
    differences = []
    for _ in range(20):
        bare, loaded = (_wall([sys.executable, "-c", code]) for code in ("", "import toilcache.worker"))
        differences.append(loaded - bare)
    return sorted(differences)[len(differences) // 2]


def run_leader(size: int, directory: str) -> dict[str, Any]:
    """Run the leader alone over ``size`` jobs; returns its figures."""
    store = os.path.join(directory, f"leader-{size}-{os.urandom(4).hex()}")
    done = run([sys.executable, "-m", "toilcache.bench.leader_alone", str(size), store])
    robust_rmtree(store)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def leader_rate(directory: str) -> float:
    """Jobs per second of the leader alone: the marginal rate between two sizes."""
    few, many = (run_leader(size, directory)["seconds"] for size in LEADER_SIZES)
    return float((LEADER_SIZES[1] - LEADER_SIZES[0]) / (many - few))


def leader_cpu(directory: str) -> float:
    """Milliseconds of processor time per job of the leader alone."""
    few, many = (run_leader(size, directory)["cpu"] for size in LEADER_SIZES)
    return float(1000 * (many - few) / (LEADER_SIZES[1] - LEADER_SIZES[0]))


def leader_time(directory: str, size: int) -> float:
    """Microseconds per job of the leader alone over ``size`` jobs: the same at all sizes if it is linear."""
    return float(1e6 * run_leader(size, directory)["seconds"] / size)


def leader_memory(directory: str) -> float:
    """Peak memory of the leader with 100,000 jobs, in MiB."""
    return float(run_leader(100_000, directory)["peak_memory"] / (1 << 20))


def children(directory: str, size: int) -> float:
    """Microseconds per child of a job that adds ``size`` children, from its begin until its commit."""
    store = os.path.join(directory, f"children-{size}-{os.urandom(4).hex()}")
    done = run([sys.executable, "-m", "toilcache.bench.worker_alone", str(size), store])
    robust_rmtree(store)
    return float(1e6 * json.loads(done.stdout)["seconds"] / size)


def run_cache(kind: str, size: int, directory: str, elsewhere: str = "") -> Any:
    """Run one workflow that uses the cache, its store there or elsewhere; returns what its jobs measured."""
    store = os.path.join(elsewhere or directory, f"{kind}-{size}-{os.urandom(4).hex()}")
    command = [sys.executable, "-m", "toilcache.bench.cache_jobs", kind, str(size), store]
    done = run([*command, "--workDir", directory])
    [found] = json.loads(done.stdout).values()
    return found


def quantile(values: list[float], part: float) -> float:
    """Return the value below or at which this part of all lie."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def cache_hit(directory: str) -> float:
    """Median milliseconds of reading one megabyte that the cache has, to a new path, in one job."""
    return float(median(run_cache("hits", CACHE_TIMES, directory)))


def cache_write(directory: str) -> float:
    """Median milliseconds of writing a file of 1,000 bytes, in one job."""
    return float(median(run_cache("writes", CACHE_TIMES, directory)))


def crowd(directory: str, kind: str, part: float) -> float:
    """Milliseconds below which this part of the reads and writes of 32 processes at once lie."""
    return quantile(run_cache(kind, CROWD, directory), part)


def shared_read(directory: str) -> float:
    """How much longer it takes until 8 jobs have a file of 1 GiB from another file system than `cp` takes for
    one copy.
    """
    with beside(directory) as elsewhere:
        source, plain = _source(elsewhere, SHARED), os.path.join(directory, "plain")
        use_memory(2 * SHARED)
        alone = _wall(["/bin/cp", source, plain])
        os.unlink(plain)
        times = _shared(directory, elsewhere)
    return (max(end for _, end in times) - min(begin for begin, _ in times)) / alone


def waiter_wake(directory: str) -> float:
    """Milliseconds from the first of 8 jobs that has a file, which one of them fetches, to the last."""
    with beside(directory) as elsewhere:
        _source(elsewhere, WAITED_FOR)
        ends = [end for _, end in _shared(directory, elsewhere)]
    return 1000 * (max(ends) - min(ends))


def _source(elsewhere: str, size: int) -> str:
    path = os.path.join(elsewhere, "source")
    piece = os.urandom(1 << 20)
    with open(path, "wb") as stream:
        for _ in range(size >> 20):
            stream.write(piece)
    os.sync()  # what is yet to be written would slow down whoever comes first
    return path


def _shared(directory: str, elsewhere: str) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = run_cache("shares", READERS, directory, elsewhere)
    return found


def _wall(command: list[str]) -> float:
    began = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ)
    os.waitpid(pid, 0)
    return time.perf_counter() - began


ROWS: dict[str, Row] = {
    "fan-out": Row(fan_out, "jobs/s"),
    "fan-out-given": Row(partial(fan_out, kind="fan-given"), "jobs/s"),
    "fan-out-shared": Row(fan_out_shared, "jobs/s"),
    "distinct-pids": Row(distinct_pids, "of 200", Budget(200, least=True)),
    "chain": Row(chain, "ms/job", Budget(3)),
    "empty": Row(empty, "s", Budget(0.5)),
    "worker-import": Row(worker_import, "s", Budget(0.08)),
    "cache-hit": Row(cache_hit, "ms"),
    "cache-write": Row(cache_write, "ms"),
    "crowd-p99": Row(partial(crowd, kind="crowd", part=0.99), "ms", Budget(25)),
    "crowd-max": Row(partial(crowd, kind="crowd", part=1.0), "ms", Budget(1000)),
    "flat-out-p99": Row(partial(crowd, kind="throng", part=0.99), "ms", Budget(100)),
    "shared-read": Row(shared_read, "x one copy", Budget(1.1)),
    "waiter-wake": Row(waiter_wake, "ms", Budget(50)),
    "leader": Row(leader_rate, "jobs/s", Budget(2000, least=True)),
    "leader-cpu": Row(leader_cpu, "ms/job", Budget(0.5)),
    "leader-10k": Row(partial(leader_time, size=10_000), "us/job"),
    "leader-100k": Row(partial(leader_time, size=100_000), "us/job"),
    "leader-memory": Row(leader_memory, "MiB", Budget(1024)),
    "children-10k": Row(partial(children, size=10_000), "us/child"),
    "children-30k": Row(partial(children, size=30_000), "us/child"),
    "children-100k": Row(partial(children, size=100_000), "us/child", Budget(60e6 / 100_000)),
}

SLOWER_IF_EDITABLE = ("empty", "worker-import")
"""Rows that are mostly the start of Python and imports, which an editable installation makes slower."""
