"""Leaders, nodes and downloads in trouble on a real Slurm cluster of four nodes.

The failures at the end are those of `test_slurm.py`, on a cluster without accounting.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.real import test_slurm
from tests.real.test_slurm import WORKFLOW, begin, check, running
from tests.testbed.slurm_cluster import USERS, remove_left_by, wait_for
from tests.testbed.slurm_fixtures import ROOT, Site, bare_site, site, the_machine

__all__ = ["bare_site", "site", "the_machine"]

pytestmark = [pytest.mark.real, pytest.mark.slow]


def say(site: Site, name: str, word: str) -> None:
    """Leave a word in the diary, for which a job waits."""
    with open(site.home / f"{name}.diary", "a") as diary:
        diary.write(f"{word}\n")


def test_a_leader_with_many_jobs_in_flight_is_killed(site: Site) -> None:
    """Each job has its effect once: none begins twice."""
    name = site.new_name()
    process = begin(site, name, "--count", "500", "--seconds", "0.1")
    site.await_begun(name, 60)
    process.kill()
    process.communicate()
    check(site, name, site.finish(begin(site, name, "--count", "500", "--restart")), 500)
    site.check_clean()


def test_a_worker_that_is_killed_alone(site: Site) -> None:
    """Its batch script says so at once, and no minute is waited for Slurm."""
    name = site.new_name()
    process = begin(site, name, "--count", "8", "--seconds", "3")
    site.await_begun(name, 4)
    os.kill(int(site.worker_pids()[0]), signal.SIGKILL)
    done = site.finish(process)
    check(site, name, done, 8, again=1)
    assert "its worker ended without a record of it" in done.err
    site.check_clean()


def test_a_clean_up_that_waits_while_the_workflow_is_restarted(site: Site) -> None:
    """A job takes a whole node, so that other nodes are touched while job 3 waits, however slow they are."""
    name = site.new_name()
    options = ("--count", "16", "--trouble", "gated", "--retryCount", "0", "--workerIdleTime", "1")
    process = begin(site, name, *options, "--defaultCores", "4")
    site.await_begun(name, 15, word="end")
    wait_for(lambda: len(running(site)) == 1, "idle workers to end")
    home = next(words[2] for words in site.diary(name) if words[:2] == ["begin", "3"])
    others = [node for node in site.cluster.nodes if node != home]
    fill(site, others)
    say(site, name, "go")
    wait_for(lambda: any(" PENDING " in line for line in site.cluster.jobs()), "a clean-up that waits")
    process.kill()
    process.communicate()
    process = begin(site, name, "--count", "16", "--restart", "--retryCount", "0")
    wait_for((site.home / name / "work/2/setup").exists, "the next leader")
    site.cluster.run("scancel", "--user=tcbob")
    check(site, name, site.finish(process), 16, again=1)
    site.check_clean()


def fill(site: Site, nodes: list[str]) -> None:
    """Have another user's jobs take all processors of these nodes."""
    bob = site.cluster.user("tcbob")
    for node in nodes:
        argv = ["sbatch", "-w", node, "-c", "4", "--mem=200M", "-o", "/dev/null", "--wrap", "sleep 200"]
        subprocess.run(argv, cwd="/tmp", check=True, capture_output=True, **bob)  # type: ignore[call-overload]
    wait_for(lambda: len(running(site)) == 1 + len(nodes), "the other user's jobs")


@pytest.mark.soak  # minutes: nobody waits for a downloader that stands still before half a minute is over
def test_a_downloader_that_is_suspended_keeps_nobody_waiting(site: Site) -> None:
    name = site.new_name()
    site.script(WORKFLOW)
    original = site.home / "original"
    original.write_text("content ")
    arguments = ("--diary", str(site.home / f"{name}.diary"), "--input", str(original), f"./{name}")
    process = site.begin(site.script("tests/real/slurm_download.py"), "--slurmArgs=--nodelist=n1", *arguments)
    site.await_begun(name, 1, word="fetching")
    task = next(words[2] for words in site.diary(name) if words[:2] == ["begin", "0"])
    site.cluster.run("scontrol", "suspend", task)
    site.await_begun(name, 2, word="end")
    site.cluster.run("scontrol", "resume", task)
    say(site, name, "go")
    done = site.finish(process)
    assert (done.status, done.out) == (0, "result content content content \n"), done.err
    assert "without the cache" not in done.err
    site.check_clean()


@pytest.mark.soak  # minutes: Slurm looks at time limits every half a minute
def test_a_leader_is_warned_before_its_own_time_limit(site: Site) -> None:
    """Job 3 sleeps for ten minutes at its first try; the same submission goes on where it ended."""
    script, workflow = site.script("examples/leader.sbatch"), site.script(WORKFLOW)
    user = site.cluster.user()
    user["env"] = {**user["env"], "PYTHON": str(site.python)}  # type: ignore[dict-item]
    argv = ["sbatch", "--wait", "--mem=200M", "--output=warned.out", "--time=2", "--signal=B:TERM@110"]
    argv += [str(script), str(workflow), "./warned", "--count", "4", "--trouble", "long"]
    argv += ["--diary", str(site.home / "warned.diary"), "--defaultMemory", "100M", "--defaultDisk", "1M"]
    first = subprocess.run(argv, cwd=site.home, timeout=200, capture_output=True, **user)  # type: ignore[call-overload]
    said = (site.home / "warned.out").read_text()
    assert first.returncode != 0
    assert "SIGTERM" in said
    assert "--restart" in said
    site.check_clean()
    subprocess.run(argv, cwd=site.home, check=True, timeout=200, **user)  # type: ignore[call-overload]
    assert (site.home / "warned.out").read_text().endswith("result 6\n")
    site.check_clean()


def test_the_epilog_of_a_site_cleans_what_nobody_else_can(site: Site) -> None:
    """Leader, workers and batch scripts are killed: what they left stays for a restart, and goes with the
    store.
    """
    name = site.new_name()
    with epilog(site):
        process = begin(site, name, "--count", "16", "--seconds", "600")
        site.await_begun(name, 16)
        process.kill()
        process.communicate()
        kill_all(site)
        site.cluster.wait_idle()
        assert all(site.local_files(node).startswith("toilcache-") for node in site.cluster.nodes)
        site.as_user(site.python, "-m", "toilcache", "clean", f"./{name}")
        site.as_user("srun", "--nodes=4", "--ntasks-per-node=1", "--mem=50M", "true")
        site.cluster.wait_idle()
        site.check_nodes_clean()
    remove_left_by(USERS["tcalice"])  # the leader's own, on the host: no epilog runs on a login node


@contextlib.contextmanager
def epilog(site: Site) -> Iterator[None]:
    """The example as the site's epilog, and beside it a note of each node on which that has run."""
    place, seen = site.cluster.base / "etc/epilog.d", site.cluster.base / "log/epilogs"
    command = site.python.with_name("toilcache")
    texts = {
        place / "1.sh": (ROOT / "examples/epilog.sh")
        .read_text()
        .replace("/opt/toilcache/bin/toilcache", str(command)),
        place / "2.sh": f"#!/bin/sh\n/bin/hostname >>{seen}\n",
        command: f'#!/bin/sh\nexec {site.python} -m toilcache "$@"\n',
    }
    place.mkdir()
    for path, text in texts.items():
        path.write_text(text)
        path.chmod(0o755)
    seen.touch()
    with site.configured(f"Epilog={place}/*"):
        for node in site.cluster.nodes:
            wait_for(partial(_epilog_runs, site, node, seen), f"the epilog of {node}")
        yield


def _epilog_runs(site: Site, node: str, seen: Path) -> bool:
    site.as_user("srun", "-w", node, "--mem=50M", "true")
    site.cluster.wait_idle()
    return node in seen.read_text().split()


def kill_all(site: Site) -> None:
    """Kill whatever the user runs on any node, batch scripts included."""

    def is_over() -> bool:
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == site.cluster.user()["user"]:
                    os.kill(int(entry.name), signal.SIGKILL)
        return not site.cluster.processes()

    wait_for(is_over, "the end of all that the user runs")


WITHOUT_ACCOUNTING = [
    test_slurm.test_workers_that_are_cancelled_by_hand,
    test_slurm.test_a_task_that_is_requeued,
    test_slurm.test_a_suspended_worker_goes_on_where_it_was,
    test_slurm.test_preemption_costs_no_try,
    test_slurm.test_a_drained_node_ends_what_it_has_and_gets_no_more,
    test_slurm.test_a_controller_that_is_restarted,
    test_slurm.test_a_job_that_needs_more_memory_gets_it,
    test_a_leader_with_many_jobs_in_flight_is_killed,
    test_a_worker_that_is_killed_alone,
    test_a_clean_up_that_waits_while_the_workflow_is_restarted,
]
MINUTES_WITHOUT_ACCOUNTING = [
    test_slurm.test_a_node_that_loses_power,
    test_slurm.test_a_node_behind_a_broken_network_changes_nothing,
    test_slurm.test_a_time_limit_is_said_to_the_person,
    test_slurm.test_a_job_that_needs_more_time_gets_it,
    test_a_downloader_that_is_suspended_keeps_nobody_waiting,
    test_a_leader_is_warned_before_its_own_time_limit,
]


@pytest.mark.parametrize("trouble", WITHOUT_ACCOUNTING)
def test_the_same_without_accounting(bare_site: Site, trouble: Callable[[Site], None]) -> None:
    trouble(bare_site)


@pytest.mark.soak  # each takes more than a minute
@pytest.mark.parametrize("trouble", MINUTES_WITHOUT_ACCOUNTING)
def test_the_same_for_longer_without_accounting(bare_site: Site, trouble: Callable[[Site], None]) -> None:
    trouble(bare_site)
