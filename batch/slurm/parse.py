"""What the programs of Slurm print, as values. Pure: text in, value out.

Knows the output formats that :mod:`toilcache.batch.slurm.commands` asks for, and what sites put around them:
greetings of wrapper scripts, cluster names, lines cut off. A line that is not whole is left out, never
guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_PLAIN_ID = re.compile(r"(\d+)(?:;([\w.-]+))?")
_SUBMITTED = re.compile(r"Submitted batch job (\d+)(?: on cluster ([\w.-]+))?")
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
_DAYS = re.compile(r"(?:(\d+)-)?(\d+(?::\d+){0,2})")
_COUNT = re.compile(r"(?:^|:)(\d+)(?:\(|$)")
LINE_MARK = "toilcache"
LINE_END = "."


class Submitted(NamedTuple):
    """The job that sbatch made, and the cluster if it named one."""

    job_id: int
    cluster: str


@dataclass(frozen=True)
class TaskIds:
    """The indices of array tasks as Slurm writes them: ranges of (first, last, step)."""

    ranges: tuple[tuple[int, int, int], ...]

    def __iter__(self) -> Iterator[int]:
        for first, last, step in self.ranges:
            yield from range(first, last + 1, step)

    def __len__(self) -> int:
        return sum(len(range(first, last + 1, step)) for first, last, step in self.ranges)


class QueueLine(NamedTuple):
    """One line of squeue: tasks of an array in one state. `tasks` is None for a job that is no array."""

    job_id: int
    tasks: TaskIds | None
    state: str
    reason: str
    nodes: str
    comment: str


class AccountLine(NamedTuple):
    """One line of sacct. `exit_code` is status:signal as sacct has it."""

    job_id: int
    tasks: TaskIds | None
    state: str
    exit_code: str
    nodes: str


class NodeGroup(NamedTuple):
    """Equal nodes of a partition. Memory and disk are in MiB, times in seconds, None without a limit.

    `usual_time` is the limit of a job that asks for none.
    """

    partition: str
    is_default: bool
    is_up: bool
    time_limit: float | None
    usual_time: float | None
    cores: int
    memory: int
    disk: int
    gpus: int
    features: frozenset[str]
    nodes: int
    state: str


def parse_submission(text: str) -> Submitted | None:
    """Find the id that `sbatch --parsable` printed, whatever a wrapper printed around it; None if none."""
    for line in reversed(text.splitlines()):
        match = _PLAIN_ID.fullmatch(line.strip()) or _SUBMITTED.search(line)
        if match:
            return Submitted(int(match[1]), match[2] or "")
    return None


def parse_task_ids(text: str) -> TaskIds | None:
    """Read `3`, `1-5,7,9-15:2%2`, with or without brackets; None for N/A and what is no list.

    A list that squeue cut short ends in dots; what is before them counts.
    """
    ranges = []
    for part in text.strip().strip("[]").partition("%")[0].split(","):
        match = _RANGE.fullmatch(part.strip())
        if match:
            first = int(match[1])
            ranges.append((first, int(match[2] or first), int(match[3] or 1)))
        elif not part.strip().endswith("..."):
            return None
    return TaskIds(tuple(ranges)) if ranges else None


def _fields(text: str, count: int) -> Iterator[list[str]]:
    """The lines with our mark and our end that have enough fields."""
    for line in text.splitlines():
        fields = line.strip().split("|")
        if fields[0] == LINE_MARK and fields[-1] == LINE_END and len(fields) >= count + 2:
            yield fields[1:-1]


def parse_squeue(text: str) -> list[QueueLine]:
    """Read what `commands.squeue` asks for; the comment comes last, since anything may be in it."""
    found = []
    for job_id, tasks, state, reason, nodes, *comment in _fields(text, 6):
        if job_id.isdigit() and state:
            note = "|".join(comment)
            ids = parse_task_ids(tasks)
            found.append(QueueLine(int(job_id), ids, state, reason, nodes, "" if note == "(null)" else note))
    return found


def parse_sacct(text: str) -> list[AccountLine]:
    """Read `JobID|State|ExitCode|NodeList` lines of `sacct -nPX`."""
    found = []
    for line in text.splitlines():
        fields = line.split("|")
        match = re.fullmatch(r"(\d+)(?:_(\d+|\[.*\]))?(?:\+\d+)?", fields[0])
        if match and len(fields) == 4:
            tasks = parse_task_ids(match[2]) if match[2] else None
            found.append(AccountLine(int(match[1]), tasks, fields[1], fields[2], fields[3]))
    return found


def parse_sinfo(text: str) -> list[NodeGroup]:
    """Read what `commands.sinfo` asks for."""
    found = []
    for partition, up, limit, usual, cores, memory, disk, gres, features, count, state in _fields(text, 11):
        found.append(
            NodeGroup(
                partition.rstrip("*"),
                partition.endswith("*"),
                up == "up",
                parse_time(limit),
                parse_time(usual) if usual != "n/a" else parse_time(limit),
                _number(cores),
                _number(memory),
                _number(disk),
                parse_gpus(gres),
                frozenset() if features == "(null)" else frozenset(features.split(",")),
                _number(count),
                state.rstrip("*~#!%$@^-+").lower(),
            )
        )
    return found


def _number(text: str) -> int:
    """Read a number; sinfo writes 4000+ for nodes of 4000 and more."""
    digits = re.match(r"\d+", text)
    return int(digits[0]) if digits else 0


def parse_time(text: str) -> float | None:
    """Read a time as Slurm writes it, days-hours:minutes:seconds, in seconds; None for no limit.

    Without days, one number is minutes and two are minutes and seconds; after days, one number is hours.
    """
    match = _DAYS.fullmatch(text.strip())
    if match is None:
        return None
    numbers = [int(part) for part in match[2].split(":")]
    if match[1] is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return float(((int(match[1] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds)


def parse_gpus(gres: str) -> int:
    """Count the GPUs in a list such as `gpu:a100:4(S:0-1),shard:8`."""
    total = 0
    for part in re.split(r",(?![^(]*\))", gres):
        if part.split(":")[0].split("(")[0] == "gpu":
            match = _COUNT.search(part.split("(")[0])
            total += int(match[1]) if match else 1
    return total


def parse_config(text: str) -> dict[str, str]:
    """Read the `Name = value` lines of `scontrol show config`."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def parse_number(config: dict[str, str], name: str) -> int | None:
    """Return a number of the configuration, its unit left away; None where there is none."""
    match = re.match(r"\d+", config.get(name, ""))
    return int(match[0]) if match else None


def parse_limits(text: str) -> list[int]:
    """Return the numbers that stand alone in the last field of `sacctmgr -nP` lines."""
    last = (line.rpartition("|")[2].strip() for line in text.splitlines())
    return [int(word) for word in last if word.isdigit()]
