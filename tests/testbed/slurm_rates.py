"""No-op jobs on the Slurm test-bed, ours beside one sbatch each, in one run: `python -m
tests.testbed.slurm_rates 10000 [option of the workflow ...]`.

Prints rates, how many calls the controller got, and the processor time of each part, which says more than a
rate where a machine has other work too. Single jobs are measured before the workflow and after it, since
their rate wanders most. The workflow's jobs run as one process each, with their records in the job store;
Slurm's own jobs are empty scripts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

from tests.testbed.slurm_cluster import SlurmCluster, wait_for
from tests.testbed.slurm_fixtures import Site
from toilcache.bench.filesystem import fresh_directory

SINGLE, LINKS = 200, 60
SCRIPT = """
from toilcache import Job, Toil

def nothing(): return None

def spread(job, count):
    for _ in range(count):
        job.addChildFn(nothing, memory="100M", disk="1M")

if __name__ == "__main__":
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--count", type=int)
    options = parser.parse_args()
    with Toil(options) as toil:
        toil.start(Job.wrapJobFn(spread, options.count, memory="100M", disk="1M"))
"""


CHAIN = """
import time
from toilcache import Job, Toil

def link(job, left, diary):
    with open(diary, "a") as lines:
        print("begin", time.time(), file=lines)
    if left:
        job.addChildJobFn(link, left - 1, diary, memory="100M", disk="1M")
    with open(diary, "a") as lines:
        print("end", time.time(), file=lines)

if __name__ == "__main__":
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--count", type=int)
    parser.add_argument("--diary")
    options = parser.parse_args()
    with Toil(options) as toil:
        toil.start(Job.wrapJobFn(link, options.count, options.diary, memory="100M", disk="1M"))
"""


def single(site: Site) -> float:
    """Jobs per second of Slurm alone, from the first sbatch to the end of the last."""
    script = site.home / "nothing.sh"
    script.write_text("#!/bin/sh\n")
    usual = ["sbatch", "--parsable", "--output=/dev/null", "--time=5", "--mem=100M", str(script)]
    began = time.monotonic()
    for _ in range(SINGLE):
        subprocess.run(usual, cwd=site.home, check=True, stdout=subprocess.DEVNULL, **site.cluster.user())  # type: ignore[call-overload]
    wait_for(lambda: not site.cluster.jobs(), "the end of all jobs", 300)
    return SINGLE / (time.monotonic() - began)


def calls(site: Site) -> dict[str, int]:
    """How often the controller was asked for what, since it began."""
    text = site.cluster.run("sdiag")
    return {name: int(count) for name, count in re.findall(r"(REQUEST_\w+)\s*\(\s*\d+\) count:(\d+)", text)}


def times(pid: int, *, of_children: bool) -> float:
    """Seconds of processor time of a process, or of all its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    first = 13 if of_children else 11
    return sum(map(int, fields[first : first + 2])) / os.sysconf("SC_CLK_TCK")


def parts(cluster: SlurmCluster) -> dict[str, float]:
    """What each part has used so far; all that ends in a node is buried by its first process."""
    found = {"controller": times(cluster.pid_of("slurmctld"), of_children=False), "slurmd": 0.0, "nodes": 0.0}
    for node in cluster.nodes:
        found["slurmd"] += times(cluster.pid_of(f"slurmd-{node}"), of_children=False)
        found["nodes"] += times(cluster.first_process(node), of_children=True)
    return found


def ours(site: Site, count: int, options: list[str]) -> tuple[float, dict[str, int], dict[str, float]]:
    """Jobs per second of a workflow from its start to its exit, the calls it made, and seconds by part."""
    script = site.cluster.shared / "rates.py"
    script.write_text(SCRIPT)
    before, parts_before = calls(site), parts(site.cluster)
    children = os.times()
    began = time.monotonic()
    done = site.finish(site.begin(script, *options, "--count", str(count), "./rates"), 900)
    seconds = time.monotonic() - began
    assert done.status == 0, done.err
    leader = os.times()
    used = {"leader": sum(leader[2:4]) - sum(children[2:4])}
    site.cluster.wait_idle()
    used |= {part: total - parts_before[part] for part, total in parts(site.cluster).items()}
    after = calls(site)
    return count / seconds, {name: after[name] - before.get(name, 0) for name in after}, used


def seen(site: Site) -> list[float]:
    """Seconds from the end of a job to the begin of the one that waits for it, each in an attempt of its own.

    The leader has to see the commit, and a worker that is there has to see the next job.
    """
    script, diary = site.cluster.shared / "chain.py", site.home / "links.diary"
    script.write_text(CHAIN)
    options = ("--disableChaining", "--count", str(LINKS), "--diary", str(diary))
    done = site.finish(site.begin(script, *options, "./links"), 900)
    assert done.status == 0, done.err
    lines = [line.split() for line in diary.read_text().splitlines()]
    moments = {word: [float(moment) for kind, moment in lines if kind == word] for word in ("begin", "end")}
    return sorted(later - end for end, later in zip(moments["end"], moments["begin"][1:], strict=False))


def main(count: int, options: list[str]) -> None:
    # The machine's own file system finds free inodes slowly after the many deletions of earlier runs.
    with fresh_directory("/srv") as (place, _):
        cluster = SlurmCluster(Path(place), accounting=False)
        try:
            site = Site(cluster.up())
            alone = [single(site)]
            rate, made, used = ours(site, count, options)
            alone.append(single(site))
            gaps = seen(site)
        finally:
            cluster.down()
    print(f"{SINGLE} single sbatch jobs: {alone[0]:.1f}/s before and {alone[1]:.1f}/s after")
    print(f"{count} jobs of a workflow: {rate:.1f}/s, {rate / fmean(alone):.1f} times that")
    print(f"from a job's end to the next one's begin: median {gaps[len(gaps) // 2]:.2f} s, ", end="")
    print(f"p95 {gaps[int(0.95 * len(gaps))]:.2f} s, longest {gaps[-1]:.2f} s")
    for part, total in used.items():
        print(f"{part}: {1000 * total / count:.2f} ms of processor time for each job")
    for name in ("REQUEST_SUBMIT_BATCH_JOB", "REQUEST_JOB_INFO", "REQUEST_JOB_USER_INFO", "REQUEST_KILL_JOB"):
        print(f"{name}: {made.get(name, 0)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, sys.argv[2:])
