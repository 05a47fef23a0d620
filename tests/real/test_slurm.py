"""Workflows on a real Slurm cluster of four nodes, as a user without privileges.

Each ends with the right answer and leaves nothing on any node, whatever happens to jobs, nodes and leaders.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.testbed.slurm_cluster import USERS, remove_left_by
from tests.testbed.slurm_fixtures import Finished, Site, bare_site, site, the_machine
from toilcache.batch.slurm.reasons import in_words

__all__ = ["bare_site", "site", "the_machine"]

pytestmark = [pytest.mark.real, pytest.mark.slow]

WORKFLOW = "tests/real/slurm_workflow.py"


def begin(site: Site, name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    diary = str(site.home / f"{name}.diary")
    return site.begin(site.script(WORKFLOW), "--diary", diary, *arguments, f"./{name}", **environment)


def check(site: Site, name: str, done: Finished, count: int, again: int = 0) -> None:
    """The right sum; each job has come to its end, and no more than `again` were begun more than once."""
    assert done.status == 0, done.err
    assert done.out == f"result {sum(range(count))}\n"
    words = site.diary(name)
    begun = Counter(line[1] for line in words if line[0] == "begin")
    assert set(begun) == {str(number) for number in range(count)}
    assert sum(times - 1 for times in begun.values()) <= again, begun
    assert not (site.home / name).exists(), "the job store of a workflow that succeeded is removed"


def test_what_an_interrupted_run_has_left_goes_before_the_next(tmp_path: Path) -> None:
    uid = USERS["tcalice"]
    for name, owner in (("toilcache-a b", uid), ("toilcache-other", uid + 50), ("mine", uid)):
        (tmp_path / name / "deep").mkdir(parents=True)
        os.chown(tmp_path / name, owner, owner)
    (tmp_path / "toilcache-link").symlink_to(tmp_path / "mine")
    os.lchown(tmp_path / "toilcache-link", uid, uid)
    remove_left_by(uid, [str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "toilcache-other"]
    assert (tmp_path / "mine" / "deep").is_dir()


def test_a_first_workflow(site: Site) -> None:
    done = site.run(site.script("examples/hello.py"), "./hello-store")
    assert (done.status, done.out) == (0, "sum of squares: 285\n"), done.err
    site.check_clean()


def test_jobs_run_on_all_nodes_and_leave_them_clean(site: Site) -> None:
    name = site.new_name()
    done = site.finish(begin(site, name, "--count", "48", "--seconds", "1", TCTEST="open-sesame"))
    check(site, name, done, 48)
    hosts = {words[2] for words in site.diary(name) if words[0] == "begin"}
    assert hosts == set(site.cluster.nodes)
    assert {words[4] for words in site.diary(name) if words[0] == "begin"} == {"open-sesame"}
    site.check_clean()


@pytest.mark.parametrize(
    ("trouble", "words"),
    [("memory", "memory ran out; raise its memory requirement"), ("killed", "was killed (SIGKILL)")],
)
def test_a_job_that_is_killed_runs_again(site: Site, trouble: str, words: str) -> None:
    name = site.new_name()
    done = site.finish(begin(site, name, "--count", "6", "--trouble", trouble))
    check(site, name, done, 6, again=1)
    assert words in done.err
    site.check_clean()


def test_a_job_that_needs_more_memory_gets_it(site: Site) -> None:
    """It needs 150 MiB at each try, and has 100 at first."""
    name = site.new_name()
    done = site.finish(begin(site, name, "--count", "5", "--trouble", "hungry", "--doubleMem"))
    check(site, name, done, 5, again=1)
    assert "memory ran out" in done.err
    site.check_clean()


def test_workers_that_are_cancelled_by_hand(site: Site) -> None:
    name = site.new_name()
    process = begin(site, name, "--count", "24", "--seconds", "4", "--retryCount", "0")
    site.await_begun(name, 8)
    site.cluster.run("scancel", *running(site)[:3])
    check(site, name, site.finish(process), 24, again=3)
    site.check_clean()


def test_a_controller_that_is_restarted(site: Site) -> None:
    name = site.new_name()
    process = begin(site, name, "--count", "24", "--seconds", "4")
    site.await_begun(name, 8)
    site.cluster.stop_controller()
    site.await_begun(name, 12)
    site.cluster.start_controller()
    check(site, name, site.finish(process), 24)
    site.check_clean()


def test_a_database_that_is_down(site: Site) -> None:
    name = site.new_name()
    site.cluster.stop_database()
    try:
        process = begin(site, name, "--count", "12", "--seconds", "2")
        site.await_begun(name, 4)
        site.cluster.run("scancel", running(site)[0])
        check(site, name, site.finish(process), 12, again=1)
    finally:
        site.cluster.start_database()
    site.check_clean()


def test_a_node_that_loses_power(site: Site) -> None:
    name = site.new_name()
    process = begin(site, name, "--count", "24", "--seconds", "5")
    site.await_begun(name, 16)
    site.cluster.node_down("n2")
    done = site.finish(process)
    site.cluster.node_up("n2")
    check(site, name, done, 24, again=4)
    assert "was lost" in done.err
    assert "cannot clean n2 now" in done.err
    site.cluster.wait_idle()
    site.check_clean()


def test_a_node_behind_a_broken_network_changes_nothing(site: Site) -> None:
    """Slurm gives up on it and requeues, while what runs there goes on and commits or tries to."""
    name = site.new_name()
    process = begin(site, name, "--count", "16", "--seconds", "45")
    site.await_begun(name, 16)
    site.cluster.cut("n2")
    try:
        done = site.finish(process)
    finally:
        site.cluster.heal("n2")
    check(site, name, done, 16, again=4)
    site.cluster.wait_idle()


def test_a_leader_that_is_killed_goes_on_where_it_was(site: Site) -> None:
    name = site.new_name()
    process = begin(site, name, "--count", "60", "--seconds", "2")
    site.await_begun(name, 20)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    check(site, name, site.finish(begin(site, name, "--count", "60", "--restart")), 60)
    site.check_clean()


def running(site: Site) -> list[str]:
    """The tasks that run, as ARRAY_INDEX."""
    return [line.split()[0] for line in site.cluster.jobs() if " RUNNING " in line]


def test_a_task_that_is_requeued(site: Site) -> None:
    name = site.new_name()
    process = begin(site, name, "--count", "12", "--seconds", "6")
    site.await_begun(name, 12)
    site.cluster.run("scontrol", "requeue", running(site)[0])
    check(site, name, site.finish(process), 12, again=1)
    site.check_clean()


def test_a_suspended_worker_goes_on_where_it_was(site: Site) -> None:
    name = site.new_name()
    process = begin(site, name, "--count", "6", "--seconds", "6")
    site.await_begun(name, 6)
    tasks = running(site)
    site.cluster.run("scontrol", "suspend", tasks[0])
    site.await_begun(name, 5, word="end")
    site.cluster.run("scontrol", "resume", tasks[0])
    check(site, name, site.finish(process), 6)
    site.check_clean()


def test_a_drained_node_ends_what_it_has_and_gets_no_more(site: Site) -> None:
    name = site.new_name()
    process = begin(site, name, "--count", "32", "--seconds", "2")
    site.await_begun(name, 8)
    site.cluster.run("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
    try:
        check(site, name, site.finish(process), 32)
    finally:
        site.cluster.run("scontrol", "update", "nodename=n1", "state=resume")
    site.check_clean()


def test_preemption_costs_no_try(site: Site) -> None:
    name = site.new_name()
    arguments = ("--count", "16", "--seconds", "8", "--retryCount", "0", "--slurmPartition", "spot")
    process = begin(site, name, *arguments)
    site.await_begun(name, 16)
    script = site.home / "urgent.sh"
    script.write_text("#!/bin/sh\nsleep 3\n")
    site.cluster.run("sbatch", "-p", "main", "-o", "/dev/null", "-w", "n3", "-c", "4", "--mem=400M", script)
    check(site, name, site.finish(process), 16, again=5)
    site.check_clean()


def test_a_time_limit_is_said_to_the_person(site: Site) -> None:
    """The job would sleep for ten minutes at its first try."""
    name = site.new_name()
    done = site.finish(begin(site, name, "--count", "4", "--trouble", "long", "--slurmTime", "60"))
    check(site, name, done, 4, again=3)
    assert "time limit of its allocation; raise --slurmTime" in done.err
    site.check_clean()


def test_a_job_that_needs_more_time_gets_it(site: Site) -> None:
    """The job takes 85 s each time, and the first allocation lasts 60."""
    name = site.new_name()
    limits = ("--slurmTime", "60", "--doubleTime", "--noWorkerReuse")
    done = site.finish(begin(site, name, "--count", "4", "--trouble", "late", *limits))
    check(site, name, done, 4, again=1)
    assert "time limit of its allocation" in done.err
    site.check_clean()


def test_what_waits_in_slurm_is_explained_in_its_words(site: Site) -> None:
    """Sixteen jobs fill the nodes; of the others Slurm says why they wait."""
    name = site.new_name()
    process = begin(site, name, "--count", "20", "--seconds", "15", "--noWorkerReuse")
    site.await_begun(name, 16)
    user = site.cluster.user()
    argv = [str(site.python), "-m", "toilcache", "explain", "--json", f"./{name}"]
    text = subprocess.run(argv, cwd=site.home, check=True, capture_output=True, timeout=100, **user)  # type: ignore[call-overload]
    found = {one["begun"]: one for one in json.loads(text.stdout)["issued"]}
    assert (found[True]["why"], found[True]["count"]) == ("run on nodes of Slurm", 16)
    assert found[False]["count"] == 4
    words = [in_words(reason) for reason in found[False]["reasons"]]
    assert words != []
    assert all(one in found[False]["why"] and "(" in one for one in words), found
    check(site, name, site.finish(process), 20)
    site.check_clean()


def test_a_leader_that_is_a_slurm_job(site: Site) -> None:
    script, hello = site.script("examples/leader.sbatch"), site.script("examples/hello.py")
    user = site.cluster.user()
    user["env"] = {**user["env"], "PYTHON": str(site.python)}  # type: ignore[dict-item]
    argv = ["sbatch", "--wait", "--mem=200M", "--output=leader.out", str(script), str(hello), "./inside"]
    options = ["--defaultMemory", "100M", "--defaultDisk", "1M"]
    subprocess.run([*argv, *options], cwd=site.home, check=True, timeout=200, **user)  # type: ignore[call-overload]
    assert (site.home / "leader.out").read_text().endswith("sum of squares: 285\n")
    site.check_clean()


def test_an_allocation_for_each_job(site: Site) -> None:
    name = site.new_name()
    done = site.finish(begin(site, name, "--count", "12", "--noWorkerReuse", "--disableChaining"))
    check(site, name, done, 12)
    allocations = {words[3] for words in site.diary(name) if words[0] == "begin"}
    assert len(allocations) == 12
    site.check_clean()


def refused(site: Site, *arguments: str, words: str) -> None:
    name = site.new_name()
    done = site.finish(begin(site, name, "--count", "2", "--retryCount", "0", *arguments))
    assert done.status != 0
    assert words in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_what_slurm_refuses_is_said_in_its_words(site: Site) -> None:
    refused(site, "--slurmPartition", "nope", words="invalid partition specified: nope")
    refused(site, "--slurmReservation", "nope", words="Requested reservation is invalid")
    refused(site, "--slurmConstraint", "a|b", words="Invalid feature specification")
    site.check_clean()


def test_what_accounting_refuses_is_said_in_its_words(site: Site) -> None:
    """The last one is a QOS that refuses what is above its limits, in place of letting it wait."""
    refused(site, "--slurmAccount", "nope", words="Invalid account or account/partition combination")
    refused(site, "--slurmQos", "nope", words="Invalid qos specification")
    site.qos("narrow", "Flags=DenyOnLimit", "MaxTRESPerJob=cpu=1")
    refused(site, "--slurmQos", "narrow", "--defaultCores", "2", words="QOSMaxCpuPerJobLimit")
    site.check_clean()


def test_a_limit_of_jobs_of_a_qos_is_kept(site: Site) -> None:
    name = site.new_name()
    site.qos("few", "MaxSubmitJobsPerUser=2")
    check(site, name, site.finish(begin(site, name, "--count", "8", "--slurmQos", "few")), 8)
    site.check_clean()


def test_what_no_node_can_meet_is_refused_before_anything_is_submitted(site: Site) -> None:
    refused(site, "--defaultMemory", "1T", words="MiB of memory")
    refused(site, "--defaultCores", "99", words="cores")
    refused(site, "--slurmPartition", "short", "--slurmTime", "1h", words="seconds of time")
    site.check_clean()


def test_a_store_that_nodes_do_not_see_is_explained_in_one_line(site: Site) -> None:
    """A node has a /tmp of its own."""
    process = site.begin(
        site.script(WORKFLOW), "--diary", "/tmp/x", "--retryCount", "0", "/tmp/tcalice-store"
    )
    try:
        done = site.finish(process)
        assert done.status != 0
        assert "/tmp/tcalice-store and" in done.err
        assert "visible on the nodes?" in done.err
    finally:
        subprocess.run(["rm", "-rf", "/tmp/tcalice-store"], check=True)
    site.check_clean()


def test_without_accounting_lost_workers_are_noticed_all_the_same(bare_site: Site) -> None:
    name = bare_site.new_name()
    process = begin(bare_site, name, "--count", "24", "--seconds", "4")
    bare_site.await_begun(name, 8)
    bare_site.cluster.run("scancel", "--signal=KILL", "--full", *running(bare_site)[:2])
    check(bare_site, name, bare_site.finish(process), 24, again=2)
    bare_site.check_clean()
