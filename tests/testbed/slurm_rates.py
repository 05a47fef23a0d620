"""No-op jobs on the Slurm test-bed, ours beside one sbatch each, in one run: `python -m
tests.testbed.slurm_rates`.

Prints rates, how many calls the controller got, and how long submitting took. The workflow's jobs run as one
process each, with their records in the job store; Slurm's own jobs are empty scripts.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time

from tests.testbed.slurm_cluster import SlurmCluster, wait_for
from tests.testbed.slurm_fixtures import Site

SINGLE = 200
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


def ours(site: Site, count: int) -> tuple[float, dict[str, int]]:
    """Jobs per second of a workflow from its start to its exit, and the calls it made."""
    script = site.cluster.shared / "rates.py"
    script.write_text(SCRIPT)
    before = calls(site)
    began = time.monotonic()
    done = site.finish(site.begin(script, "--count", str(count), "./rates"), 900)
    seconds = time.monotonic() - began
    assert done.status == 0, done.err
    after = calls(site)
    return count / seconds, {name: after[name] - before.get(name, 0) for name in after}


def main(count: int) -> None:
    cluster = SlurmCluster(accounting=False)
    try:
        site = Site(cluster.up())
        alone = single(site)
        rate, made = ours(site, count)
    finally:
        cluster.down()
    print(f"{SINGLE} single sbatch jobs: {alone:.1f}/s")
    print(f"{count} jobs of a workflow: {rate:.1f}/s, {rate / alone:.1f} times that")
    for name in ("REQUEST_SUBMIT_BATCH_JOB", "REQUEST_JOB_INFO", "REQUEST_JOB_USER_INFO", "REQUEST_KILL_JOB"):
        print(f"{name}: {made.get(name, 0)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
