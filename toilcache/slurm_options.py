"""The options of the batch system for Slurm: where allocations come from, and how long a worker keeps one.

Knows how each value is read from text. Must not know what is made of it.
"""

from __future__ import annotations

from toilcache.option import Option
from toilcache.readers import parse_bool, parse_memory_style, parse_positive_count, parse_word, parse_words
from toilcache.units import format_duration, parse_duration

SLURM: tuple[Option, ...] = (
    Option("slurmAccount", parse_word, None, "NAME", "account that allocations are charged to"),
    Option(
        "slurmPartition",
        parse_word,
        None,
        "NAME",
        "partition, or several with commas (default: Slurm's own, or one that fits where that does not)",
    ),
    Option("slurmQos", parse_word, None, "NAME", "quality of service of allocations"),
    Option(
        "slurmConstraint", parse_word, None, "TEXT", "features that nodes must have, as sbatch takes them"
    ),
    Option("slurmReservation", parse_word, None, "NAME", "reservation to use"),
    Option("slurmClusters", parse_word, None, "NAME", "cluster to submit to, where there are several"),
    Option(
        "slurmTime",
        parse_duration,
        None,
        "TIME",
        "time limit of an allocation, such as 2h; a job must fit into it (default: the partition's)",
        show=format_duration,
    ),
    Option(
        "slurmMemory",
        parse_memory_style,
        "total",
        "HOW",
        "how memory is asked for: total, per-cpu, or none where the site refuses that",
    ),
    Option(
        "slurmArgs",
        parse_words,
        [],
        "WORDS",
        "further arguments of sbatch, split as a shell would, such as '--licenses=x --nice=10'",
    ),
    Option(
        "workerReuse",
        parse_bool,
        True,
        "",
        "give each job an allocation of its own, instead of having workers take one job after the other",
    ),
    Option(
        "workerIdleTime",
        parse_duration,
        30.0,
        "TIME",
        "how long a worker without work keeps its allocation",
        show=format_duration,
    ),
    Option("workerMaxJobs", parse_positive_count, None, "N", "most jobs that a worker runs before it ends"),
    Option(
        "workerLifetime",
        parse_duration,
        None,
        "TIME",
        "a worker that is so old takes no further job (default: as long as its allocation lasts)",
        show=format_duration,
    ),
    Option(
        "maxWorkers", parse_positive_count, None, "N", "most workers at the same time (default: no limit)"
    ),
)
