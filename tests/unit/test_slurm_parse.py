"""What Slurm's programs print, read as values; samples are real output of 22.05 where no other version is
named.
"""

from __future__ import annotations

import pytest

from toilcache.batch.slurm.parse import (
    AccountLine,
    QueueLine,
    Submitted,
    TaskIds,
    parse_config,
    parse_gpus,
    parse_limits,
    parse_number,
    parse_sacct,
    parse_sinfo,
    parse_squeue,
    parse_submission,
    parse_task_ids,
    parse_time,
)

WRAPPED = """\
*** Welcome to cluster 7. Your quota: 12/100 GB ***
sbatch: Checking quota ... ok
4711
remember to acknowledge us in 2 papers
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24\n", Submitted(24, "")),
        ("11;toilcachetests\n", Submitted(11, "toilcachetests")),
        ("Submitted batch job 3\n", Submitted(3, "")),
        ("Submitted batch job 77 on cluster east-2\n", Submitted(77, "east-2")),
        (WRAPPED, Submitted(4711, "")),
        ("17\njobs of yours wait\n4712\n", Submitted(4712, "")),
        ("sbatch: INFO: job 99 is queued as\n99;c1\n", Submitted(99, "c1")),
        ("", None),
        ("sbatch: error: Batch job submission failed: Invalid account\n", None),
        ("your job will cost 12 units\n", None),
    ],
)
def test_submissions(text: str, expected: Submitted | None) -> None:
    assert parse_submission(text) == expected


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("7", [7]),
        ("1-5,9", [1, 2, 3, 4, 5, 9]),
        ("[1-5,7%2]", [1, 2, 3, 4, 5, 7]),
        ("7-30%7", list(range(7, 31))),
        ("0-8:4", [0, 4, 8]),
        ("[2,4-5:1,...]", [2, 4, 5]),
        ("1-3,9...", [1, 2, 3]),
    ],
)
def test_task_ids(text: str, indices: list[int]) -> None:
    found = parse_task_ids(text)
    assert found is not None
    assert (list(found), len(found)) == (indices, len(indices))


@pytest.mark.parametrize("text", ["N/A", "", "[]", "batch", "-3", "..."])
def test_what_is_no_list_of_tasks(text: str) -> None:
    assert parse_task_ids(text) is None


SQUEUE = """\
toilcache|1|7-30%7|PENDING|JobArrayTaskLimit||tc:1:1|.
toilcache|10|N/A|PENDING|PartitionConfig||(null)|.
toilcache|1|0|RUNNING|None|n1|a|b|.
  toilcache|26|N/A|OUT_OF_MEMORY|OutOfMemory|n4|(null)|.
"""


def test_squeue() -> None:
    assert parse_squeue(SQUEUE) == [
        QueueLine(1, TaskIds(((7, 30, 1),)), "PENDING", "JobArrayTaskLimit", "", "tc:1:1"),
        QueueLine(10, None, "PENDING", "PartitionConfig", "", ""),
        QueueLine(1, TaskIds(((0, 0, 1),)), "RUNNING", "None", "n1", "a|b"),
        QueueLine(26, None, "OUT_OF_MEMORY", "OutOfMemory", "n4", ""),
    ]


@pytest.mark.parametrize("length", range(len(SQUEUE)))
def test_of_output_that_was_cut_only_whole_lines_count(length: int) -> None:
    whole = parse_squeue(SQUEUE)
    found = parse_squeue(SQUEUE[:length])
    assert found == whole[: len(found)]
    assert len(found) <= SQUEUE[: length + 1].count("\n")


def test_lines_of_a_wrapper_are_no_jobs() -> None:
    noise = "CLUSTER: east\n1|2|RUNNING|None|n1|x\nsqueue: warning: slow today\n"
    assert parse_squeue(noise + SQUEUE + noise) == parse_squeue(SQUEUE)


def test_a_name_with_newlines_and_bars_in_a_comment_harms_no_other_line() -> None:
    text = "toilcache|5|1|RUNNING|None|n1|first\nsecond|.\n" + SQUEUE
    assert parse_squeue(text) == parse_squeue(SQUEUE)


def test_sacct() -> None:
    text = """\
3|CANCELLED by 5101|0:0|n4
2_1|COMPLETED|0:0|n2
2_[3-9%2]|PENDING|0:0|None assigned
25|FAILED|0:53|n4
26+0|OUT_OF_MEMORY|0:125|n4
26.batch|OUT_OF_MEMORY|0:125|n4
cut|o
"""
    assert parse_sacct(text) == [
        AccountLine(3, None, "CANCELLED by 5101", "0:0", "n4"),
        AccountLine(2, TaskIds(((1, 1, 1),)), "COMPLETED", "0:0", "n2"),
        AccountLine(2, TaskIds(((3, 9, 1),)), "PENDING", "0:0", "None assigned"),
        AccountLine(25, None, "FAILED", "0:53", "n4"),
        AccountLine(26, None, "OUT_OF_MEMORY", "0:125", "n4"),
    ]


def test_sinfo() -> None:
    text = """\
toilcache|main*|up|infinite|1:00:00|4|4000|4000|(null)|std|2|allocated|.
toilcache|short|up|5:00|n/a|4|4000|4000|gpu:4|gpu,fast|1|drained*|.
toilcache|old|inact|1-12:00:00|30:00|16+|64000+|0|gpu:tesla:2(S:0-1),shard:8|(null)|3|idle~|.
"""
    main, short, old = parse_sinfo(text)
    assert (main.partition, main.is_default, main.is_up, main.time_limit) == ("main", True, True, None)
    assert (main.cores, main.memory, main.disk, main.gpus, main.nodes) == (4, 4000, 4000, 0, 2)
    assert (short.is_default, short.time_limit, short.gpus, short.state) == (False, 300.0, 4, "drained")
    assert short.features == {"gpu", "fast"}
    assert (old.is_up, old.cores, old.memory, old.gpus, old.state) == (False, 16, 64000, 2, "idle")
    assert old.time_limit == 36 * 3600.0
    assert old.features == frozenset()
    assert [group.usual_time for group in (main, short, old)] == [3600.0, 300.0, 1800.0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("infinite", None),
        ("UNLIMITED", None),
        ("n/a", None),
        ("30", 1800.0),
        ("5:00", 300.0),
        ("1:02:03", 3723.0),
        ("2-00:00:00", 172800.0),
        ("2-6", 194400.0),
        ("1-0:30", 88200.0),
    ],
)
def test_times(text: str, seconds: float | None) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    ("gres", "count"),
    [
        ("(null)", 0),
        ("gpu:4", 4),
        ("gpu", 1),
        ("gpu:a100:8(S:0-1)", 8),
        ("gpu:a100:2(S:0,1),gpu:v100:1,shard:40", 3),
        ("craynetwork:4", 0),
        ("gpu:a100:4(IDX:0-3)", 4),
    ],
)
def test_gpus(gres: str, count: int) -> None:
    assert parse_gpus(gres) == count


def test_config() -> None:
    config = parse_config(
        "Configuration data as of 2026-11-23T00:45:01\nMaxArraySize            = 1001\nMinJobAge = 300 sec\n"
        "SchedulerParameters     = bf_interval=1,nohold\nSlurmctldHost[0]        = vm(10.78.0.1)\n\nno pair\n"
    )
    assert parse_number(config, "MaxArraySize") == 1001
    assert parse_number(config, "MinJobAge") == 300
    assert parse_number(config, "MaxJobCount") is None
    assert config["SchedulerParameters"] == "bf_interval=1,nohold"


def test_limits() -> None:
    assert parse_limits("proj|\nother|200\nthird|50\nwelcome to\n") == [200, 50]
