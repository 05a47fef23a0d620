"""Command lines for Slurm, the environment they run in, which partition, and what a refusal means."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from toilcache.batch.slurm import commands
from toilcache.batch.slurm.commands import Needs, Placement
from toilcache.batch.slurm.parse import NodeGroup
from toilcache.batch.slurm.partitions import choose_partition, usual_time, what_is_lacking, with_more_time
from toilcache.batch.slurm.trouble import Patience, Trouble, classify, said

MIB = 1 << 20
ONE = Needs(1, 100 * MIB, 0, 0)
NOTHING = Placement()


def array(placement: Placement = NOTHING, needs: Needs = ONE, tasks: int = 1, **more: Any) -> list[str]:
    return commands.sbatch(placement, needs, tasks, **({"name": "wf", "tag": "t", "output": "/o/%A"} | more))


def test_an_array_of_workers() -> None:
    argv = array(tasks=30)
    assert argv[:2] == ["sbatch", "--parsable"]
    assert {"--job-name=wf", "--comment=t", "--array=0-29", "--output=/o/%A", "--ntasks=1"} <= set(argv)
    assert {"--cpus-per-task=1", "--mem=100M", "--signal=B:USR1@60"} <= set(argv)
    assert not [word for word in argv if word.startswith(("--time", "--gres", "--tmp", "--exclude"))]


@pytest.mark.parametrize(
    ("placement", "needs", "words"),
    [
        (Placement(), Needs(1.5, 1, MIB, 0), {"--cpus-per-task=2", "--mem=1M", "--tmp=1M"}),
        (Placement(), Needs(0.1, 3 * MIB + 1, 0, 2), {"--cpus-per-task=1", "--mem=4M", "--gres=gpu:2"}),
        (Placement(memory_as="per-cpu"), Needs(3, 100 * MIB, 0, 0), {"--mem-per-cpu=34M"}),
        (Placement(time=61.0), ONE, {"--time=2"}),
        (Placement(time=1.0), ONE, {"--time=1"}),
        (
            Placement(account="a", qos="q", constraint="x&y"),
            ONE,
            {"--account=a", "--qos=q", "--constraint=x&y"},
        ),
        (Placement(reservation="r", clusters="c"), ONE, {"--reservation=r", "--clusters=c"}),
    ],
)
def test_what_is_asked_for(placement: Placement, needs: Needs, words: set[str]) -> None:
    assert words <= set(array(placement, needs))


def test_memory_is_not_named_where_the_site_refuses_that() -> None:
    assert not [word for word in array(Placement(memory_as="none")) if "mem" in word]


def test_memory_does_not_depend_on_the_size_of_the_array() -> None:
    assert {word for size in (1, 500) for word in array(tasks=size) if "--mem" in word} == {"--mem=100M"}


def test_what_a_person_asks_for_comes_before_what_was_chosen_and_free_arguments_come_last() -> None:
    argv = array(Placement(partition="mine", arguments=("--nice=5",)), partition="chosen", avoid=["n2", "n1"])
    assert "--partition=mine" in argv
    assert argv[-2:] == ["--exclude=n1,n2", "--nice=5"]
    assert "--partition=chosen" in array(partition="chosen")


def test_a_cleaning_job_is_short_small_and_pinned() -> None:
    argv = commands.sbatch_cleaning(Placement(time=9e9, constraint="x", account="a"), "n7", "wf", "/o")
    assert {"--nodelist=n7", "--time=5", "--array=0-0", "--account=a"} <= set(argv)
    assert not [word for word in argv if word.startswith("--constraint")]


def test_the_script_runs_any_words_as_they_are(tmp_path: Any) -> None:
    words = ["it's", '"$(x)"', "new\nline", "-rf", "\udcff", "%A"]
    script = tmp_path / "script"
    script.write_bytes(commands.batch_script(["printf", "%s|", *words]))
    printed = subprocess.run(["sh", script], capture_output=True, check=True).stdout
    assert printed == b"|".join(os.fsencode(word) for word in words) + b"|"


def begin_worker(tmp_path: Any, then: str, first: str = "pass") -> subprocess.Popen[str]:
    """Start the script of a worker that says its name in between; what comes after it says it too."""
    script = tmp_path / "script"
    program = f"import os, signal, sys; {first}; print('host', os.environ['TOILCACHE_HOST']); {then}"
    after = [sys.executable, "-c", "import os; print('after', os.environ['TOILCACHE_HOST'])"]
    script.write_bytes(commands.worker_script([sys.executable, "-uc", program], after))
    return subprocess.Popen(["sh", script], stdout=subprocess.PIPE, text=True)


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_a_worker_that_ends_well_is_followed_by_nothing(tmp_path: Any) -> None:
    process = begin_worker(tmp_path, "pass")
    assert re.fullmatch(r"host [0-9a-f-]{36}\n", process.communicate()[0])
    assert process.returncode == 0


def test_who_follows_a_killed_worker_knows_its_name(tmp_path: Any) -> None:
    process = begin_worker(tmp_path, "os.kill(os.getpid(), 9)")
    host, after = process.communicate()[0].splitlines()
    assert after == host.replace("host", "after")
    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_worker_gets_the_signals_of_its_script(tmp_path: Any, number: signal.Signals) -> None:
    """Its own end is waited for, and its own status counts."""
    heeds = f"signal.signal({int(number)}, lambda *_: (print('heard'), sys.exit(7)))"
    process = begin_worker(tmp_path, "signal.pause()", heeds)
    host = hear(process).split()[1]
    process.send_signal(number)
    assert process.communicate()[0].splitlines() == ["heard", f"after {host}"]
    assert process.returncode == 7


def test_a_worker_that_does_not_end_is_killed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "TERM_SECONDS", 0)
    process = begin_worker(tmp_path, "signal.pause()", "signal.signal(15, signal.SIG_IGN)")
    host = hear(process).split()[1]
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[0] == f"after {host}\n"
    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("builder", [commands.squeue, commands.scancel_all, commands.scancel_pending])
def test_calls_are_filtered_by_name_and_user_and_name_no_job(builder: Any) -> None:
    argv = builder("wf", "me", "east")
    assert {"--name=wf", "--user=me", "--clusters=east"} <= set(argv)
    assert not [word for word in argv if "--job" in word]


def test_accounting_is_asked_for_no_more_than_this_workflow() -> None:
    argv = commands.sacct("wf", "me", "2026-11-23T00:00:00")
    assert {"--name=wf", "--user=me", "--starttime=2026-11-23T00:00:00", "--allocations"} <= set(argv)


LOGIN = {
    **{"PATH": "/bin", "HOME": "/h", "SLURM_CONF": "/etc/s", "SBATCH_ACCOUNT": "a", "MY_TOKEN": "secret"},
    **{
        "SLURM_JOB_ID": "7",
        "SLURM_MEM_PER_NODE": "1",
        "SQUEUE_STATES": "PD",
        "XDG_RUNTIME_DIR": "/run/user/1",
    },
    **{
        "DBUS_SESSION_BUS_ADDRESS": "unix:x",
        "TMPDIR": "/tmp/job7",
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTHONPATH": "/p",
    },
}


def test_slurm_gets_little_of_the_environment() -> None:
    kept = commands.client_environment(LOGIN)
    assert kept == {
        **{"PATH": "/bin", "HOME": "/h", "SLURM_CONF": "/etc/s", "SBATCH_ACCOUNT": "a"},
        "SLURM_BITSTR_LEN": "0",
    }


def test_workers_get_the_environment_but_for_what_belongs_to_another_node() -> None:
    assert commands.leader_environment(LOGIN) == {
        **{"PATH": "/bin", "HOME": "/h", "MY_TOKEN": "secret", "PYTHONPATH": "/p"}
    }


# Partitions


def group(name: str, **more: Any) -> NodeGroup:
    usual = NodeGroup(name, False, True, None, None, 4, 4000, 4000, 0, frozenset(), 2, "idle")
    return usual._replace(**more)


GROUPS = [
    group("main", is_default=True),
    group("short", time_limit=300.0),
    group("gpu", gpus=4, features=frozenset({"a100"})),
    group("big", memory=64000, nodes=1),
    group("bigger", memory=64000, time_limit=600.0),
    group("closed", cores=128, is_up=False),
]


@pytest.mark.parametrize(
    ("needs", "placement", "expected"),
    [
        (ONE, Placement(), None),
        (Needs(1, 10_000 * MIB, 0, 0), Placement(), "bigger"),
        (Needs(1, 10_000 * MIB, 0, 0), Placement(time=3600.0), "big"),
        (Needs(1, 10_000 * MIB, 0, 0), Placement(partition="main"), None),
        (Needs(1, 10_000 * MIB, 0, 0), Placement(memory_as="none"), None),
        (Needs(1, MIB, 0, 1), Placement(), "gpu"),
        (Needs(1, MIB, 0, 0), Placement(constraint="a100"), "gpu"),
        (Needs(100, MIB, 0, 0), Placement(), None),
    ],
)
def test_the_partition_that_fits(needs: Needs, placement: Placement, expected: str | None) -> None:
    assert choose_partition(GROUPS, needs, placement) == expected


@pytest.mark.parametrize(
    ("needs", "placement", "resource", "wanted", "most"),
    [
        (Needs(200, MIB, 0, 0), Placement(), "cores", 200, 128),
        (Needs(8, MIB, 0, 0), Placement(partition="main"), "cores", 8, 4),
        (Needs(1, 100_000 * MIB, 0, 0), Placement(), "MiB of memory", 100_000, 64_000),
        (Needs(1, MIB, 0, 9), Placement(), "GPUs", 9, 4),
        (ONE, Placement(partition="short", time=900.0), "seconds of time", 900, 300),
        (ONE, Placement(constraint="h100"), "nodes with feature h100", 1, 0),
    ],
)
def test_what_no_node_has(
    needs: Needs, placement: Placement, resource: str, wanted: float, most: float
) -> None:
    assert what_is_lacking(GROUPS, needs, placement) == (resource, wanted, most)


def test_what_no_node_has_all_at_once() -> None:
    lack = what_is_lacking(GROUPS, Needs(100, 64_000 * MIB, 0, 4), Placement())
    assert lack is not None
    assert "at once" in lack.resource


@pytest.mark.parametrize(
    ("groups", "needs", "placement"),
    [
        (GROUPS, Needs(100, MIB, 0, 0), Placement()),
        ([], Needs(10_000, MIB, 0, 0), Placement()),
        (GROUPS, ONE, Placement(partition="typo")),
        (GROUPS, ONE, Placement(constraint="a100&!x")),
    ],
)
def test_what_is_not_refused_here(groups: list[NodeGroup], needs: Needs, placement: Placement) -> None:
    assert what_is_lacking(groups, needs, placement) is None


def test_how_long_an_allocation_lasts() -> None:
    groups = [
        group("main", is_default=True, usual_time=3600.0),
        group("main", is_default=True, usual_time=1800.0),
        group("long", usual_time=None),
        group("short", usual_time=60.0),
    ]
    assert usual_time(groups, Placement()) == 1800.0
    assert usual_time(groups, Placement(time=5.0)) == 5.0
    assert usual_time(groups, Placement(partition="short,main")) == 60.0
    assert usual_time(groups, Placement(partition="long")) is None
    assert usual_time([], Placement()) is None


@pytest.mark.parametrize(
    ("placement", "times", "time"),
    [
        (Placement(time=60.0), 1, 60.0),
        (Placement(time=60.0), 4, 240.0),
        (Placement(time=60.0, partition="short"), 8, 300.0),
        (Placement(partition="main"), 2, 7200.0),
        (Placement(partition="big"), 2, None),
        (Placement(), 2, 7200.0),
    ],
)
def test_more_time_at_most_what_a_partition_allows(
    placement: Placement, times: int, time: float | None
) -> None:
    groups = [
        group("main", is_default=True, usual_time=3600.0, time_limit=36000.0),
        group("short", usual_time=60.0, time_limit=300.0),
        group("big", usual_time=None, time_limit=None),
    ]
    found = with_more_time(groups, ONE, placement, times)
    assert found == placement._replace(time=time)
    assert with_more_time([], ONE, Placement(), times) == Placement()


def test_with_more_time_the_partition_is_chosen_again() -> None:
    groups = [
        group("tiny", is_default=True, cores=1, time_limit=600.0),
        group("short", cores=8, time_limit=300.0),
        group("long", cores=8, time_limit=90_000.0),
    ]
    needs, placement = Needs(4, MIB, 0, 0), Placement(time=200.0)
    assert choose_partition(groups, needs, placement) == "short"
    assert choose_partition(groups, needs, with_more_time(groups, needs, placement, 2)) == "long"


# Refusals


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("Batch job submission failed: Socket timed out on send/recv operation", Trouble.AMBIGUOUS),
        ("Batch job submission failed: Zero Bytes were transmitted or received", Trouble.AMBIGUOUS),
        (
            "Batch job submission failed: Unable to contact slurm controller (connect failure)",
            Trouble.TRANSIENT,
        ),
        ("error: Slurm temporarily unable to accept job, sleeping and retrying", Trouble.TRANSIENT),
        ("slurm_load_jobs error: Connection refused", Trouble.TRANSIENT),
        ("error: If munged is up, restart with --num-threads=10", Trouble.TRANSIENT),
        (
            "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size "
            "and/or time limits)",
            Trouble.LIMIT,
        ),
        (
            "sbatch: error: QOSMaxCpuPerJobLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)",
            Trouble.PERMANENT,
        ),
        ("error: AssocMaxWallDurationPerJobLimit", Trouble.PERMANENT),
        ("error: QOSGrpSubmitJobsLimit", Trouble.LIMIT),
        ("error: QOSMaxSubmitJobPerUserLimit", Trouble.LIMIT),
        ("error: AssocMaxSubmitJobLimit", Trouble.LIMIT),
        ("Batch job submission failed: Invalid partition name specified", Trouble.PERMANENT),
        (
            "Batch job submission failed: Invalid account or account/partition combination specified",
            Trouble.PERMANENT,
        ),
        ("Batch job submission failed: Requested node configuration is not available", Trouble.PERMANENT),
        ("Batch job submission failed: Invalid qos specification", Trouble.PERMANENT),
    ],
)
def test_refusals(text: str, trouble: Trouble) -> None:
    assert classify(text) is trouble


def test_what_a_program_said_in_one_line() -> None:
    text = "sbatch: warning: x\nsbatch: error: invalid partition: nope\nsbatch: error: Batch job failed\n"
    assert said(text) == "invalid partition: nope; Batch job failed"
    assert said("\n") == "it did not say why"
    assert said("only this\n") == "only this"


def test_pauses_double_are_jittered_and_end() -> None:
    patience = Patience(random.Random(1))
    pauses = [patience.failed(now=100.0) for _ in range(12)]
    for number, pause in enumerate(pauses):
        full = min(300.0, 2.0 * 2**number)
        assert full / 2 <= pause <= full
    assert len(set(pauses)) == len(pauses)
    assert patience.left(100.0) == pytest.approx(pauses[-1])
    patience.worked()
    assert patience.left(100.0) == 0.0
    assert patience.failed(0.0) <= 2.0
