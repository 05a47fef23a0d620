"""The options of the engine: one table of names, meanings, parsers and defaults.

Knows how each value is read from text. Must not know where a value comes from (command line, environment,
file) nor who acts on it. An option stands here only if some part of the engine honours it.
"""

from __future__ import annotations

from toilcache.option import Option, spellings
from toilcache.readers import (
    KNOWN_BATCH_SYSTEMS,
    LOG_LEVELS,
    parse_batch_system,
    parse_bool,
    parse_clean,
    parse_count,
    parse_engine,
    parse_image,
    parse_locator,
    parse_log_level,
    parse_names,
    parse_path,
    parse_positive_count,
)
from toilcache.slurm_options import SLURM
from toilcache.units import format_duration, format_size, parse_cores, parse_duration, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


JOB_STORE = Option(
    "jobStore",
    parse_locator,
    None,
    "JOBSTORE",
    "directory for the workflow's jobs and files, on a file system that every worker sees; "
    "created at the start, continued with --restart",
    aliases=("--jobstore",),
)

GROUPS: dict[str, tuple[Option, ...]] = {
    "workflow": (
        Option("restart", parse_bool, False, "", "continue the workflow that stands in the job store"),
        Option(
            "forceRestart",
            parse_bool,
            False,
            "",
            "as --restart, and take the workflow over although its earlier leader seems to be alive",
        ),
        Option(
            "clean",
            parse_clean,
            "onSuccess",
            "WHEN",
            "when the job store is removed at the end: always, onError, never or onSuccess",
        ),
        Option(
            "cleanWorkDir",
            parse_clean,
            "always",
            "WHEN",
            "when temporary files are removed: a job's directory after the job, a node's after the workflow; "
            "always, onError, never or onSuccess",
        ),
    ),
    "directories": (
        Option(
            "workDir",
            parse_path,
            None,
            "DIR",
            "directory on each node for the jobs' temporary files; needs room for what they write "
            "(default: $TMPDIR, else /tmp)",
        ),
        Option(
            "coordinationDir",
            parse_path,
            None,
            "DIR",
            "directory on each node, local to it and never on a network file system, through which its "
            "workers find each other; small (default: beside the work directory if that is local, else in "
            "the first usable one of /tmp, /var/tmp and /dev/shm)",
        ),
    ),
    "running jobs": (
        Option(
            "batchSystem",
            parse_batch_system,
            "single_machine",
            "NAME",
            f"what runs the jobs: {', '.join(KNOWN_BATCH_SYSTEMS)}; single_machine, also called local, "
            "runs them as processes of this machine, or in containers if there is --container; docker runs "
            "each in a container of its own here, kept by Docker to the job's cores, memory and accelerators",
        ),
        Option(
            "maxLocalJobs",
            parse_positive_count,
            None,
            "N",
            "most jobs that run on this machine at the same time (default: as many as its resources allow)",
        ),
        Option(
            "maxCores", parse_cores, None, "CORES", "most cores in use at once (default: all of the machine)"
        ),
        Option(
            "maxMemory", parse_size, None, "SIZE", "most memory in use at once, such as 16GiB (default: all)"
        ),
        Option("maxDisk", parse_size, None, "SIZE", "most disk in use at once, such as 1TiB (default: all)"),
        Option(
            "disableChaining",
            parse_bool,
            False,
            "",
            "give every job a worker process of its own, even where one could go on with the only successor",
        ),
        Option(
            "shareProcess",
            parse_bool,
            False,
            "",
            "run jobs that need no accelerators one after the other in the same worker processes: faster for "
            "very small ones, but each sees what others left in Python's memory, and what one starts and "
            "does not wait for ends later",
        ),
        Option(
            "preload",
            parse_bool,
            True,
            "",
            "import the script's module for each job instead of once per worker host; slower, for modules "
            "that do not survive a fork",
        ),
        Option(
            "caching",
            parse_bool,
            None,
            "BOOL",
            "true or false: keep files on each node for its later jobs (default: as the job store prefers)",
        ),
        Option(
            "symlinkImports",
            parse_bool,
            True,
            "BOOL",
            "true: local files imported by the workflow's script are linked to, and must stay as they are "
            "until the end; false: they are copied",
            show=lambda value: str(value).lower(),
        ),
    ),
    "containers": (
        Option(
            "container",
            parse_image,
            None,
            "IMAGE",
            "run the jobs in containers of this image, which needs Python 3.10 or later and nothing else: "
            "a name in a registry, docker-daemon:NAME, docker-archive:FILE or FILE.sif (default: none)",
        ),
        Option(
            "containerEngine",
            parse_engine,
            "auto",
            "NAME",
            "what runs containers: auto, docker, singularity (also called apptainer), podman, or none to run "
            "the jobs without; auto is the first of these that answers",
        ),
        Option(
            "containerLimits",
            parse_bool,
            False,
            "",
            "give each job a container of its own, and have the engine keep it to the job's cores and "
            "memory; without, a container serves all jobs of its image (batch system docker always does it)",
        ),
        Option(
            "imageCache",
            parse_path,
            None,
            "DIR",
            "directory in which Singularity and Apptainer keep images; may be shared by a cluster "
            "(default: toilcache/images in your cache directory)",
        ),
    ),
    "Slurm": SLURM,
    "resources of jobs that ask for none": (
        Option(
            "defaultMemory",
            parse_size,
            2 << 30,
            "SIZE",
            "memory of a job: bytes, or with a unit, 2G and 2GiB in steps of 1024, 2GB in steps of 1000",
            show=format_size,
        ),
        Option(
            "defaultCores",
            parse_cores,
            1.0,
            "CORES",
            "cores of a job, parts such as 0.5 allowed",
            show="{:g}".format,
        ),
        Option(
            "defaultDisk",
            parse_size,
            2 << 30,
            "SIZE",
            "disk of a job, in bytes or with a unit as above",
            show=format_size,
        ),
        Option(
            "defaultAccelerators",
            parse_names,
            [],
            "LIST",
            "accelerators of a job, separated by commas, such as 1 or nvidia:2 (default: none)",
        ),
        Option(
            "defaultPreemptible",
            parse_bool,
            False,
            "",
            "let jobs run where they may be stopped at any time",
            aliases=("--defaultPreemptable",),
        ),
    ),
    "failing jobs": (
        Option("retryCount", parse_count, 1, "N", "how often a failed job is run again"),
        Option(
            "retryBackoff",
            parse_duration,
            1.0,
            "TIME",
            "pause before a failed job runs again, in seconds or as 2min; doubled for each further try",
            show=format_duration,
        ),
        Option(
            "doubleMem",
            parse_bool,
            False,
            "",
            "ask for twice the memory when a job is run again because its memory did not suffice",
        ),
        Option(
            "doubleTime",
            parse_bool,
            False,
            "",
            "on Slurm, ask for twice the time when a job is run again because a time limit ended it",
        ),
        Option(
            "maxJobDuration",
            parse_duration,
            None,
            "TIME",
            "a job that runs longer has failed; in seconds or as 90min (default: no limit)",
        ),
    ),
    "messages": (
        Option(
            "logLevel",
            parse_log_level,
            "INFO",
            "LEVEL",
            "least important messages to show: " + ", ".join(LOG_LEVELS),
        ),
        Option("logFile", parse_path, None, "FILE", "also append the messages to this file"),
        Option(
            "writeLogs",
            parse_path,
            None,
            "DIR",
            "write what failed jobs printed into files in this directory",
        ),
        Option(
            "writeLogsFromAllJobs",
            parse_bool,
            False,
            "",
            "with --writeLogs: write what every job printed, not only the failed ones",
        ),
        Option("disableProgress", parse_bool, False, "", "show no progress line on a terminal"),
    ),
}

# Every option by its name in Config.
OPTIONS: dict[str, Option] = {
    option.dest: option for option in (JOB_STORE, *(option for group in GROUPS.values() for option in group))
}

# Flags that stand for an option with a certain value.
SHORTCUTS: dict[tuple[str, ...], tuple[Option, Any]] = {
    **{spellings(f"log{level.capitalize()}"): (OPTIONS["logLevel"], level) for level in LOG_LEVELS},
    spellings("disableCaching"): (OPTIONS["caching"], False),
}


def option_defaults() -> dict[str, Any]:
    """Return the default of every option by its name in Config, lists as new copies."""
    return {
        dest: list(option.default) if isinstance(option.default, list) else option.default
        for dest, option in OPTIONS.items()
    }


def near_misses(name: str, known: Iterable[str]) -> str:
    """Return advice about names that look like a mistyped one, as the end of an error message."""
    import difflib

    spelled = {_plain(candidate): candidate for candidate in known}
    close = difflib.get_close_matches(_plain(name), spelled, n=3, cutoff=0.6)
    return (
        f"did you mean {' or '.join(spelled[match] for match in close)}?" if close else "check its spelling"
    )


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def find_option(name: str) -> Option | None:
    """Return the option of this name in any spelling: retryCount, retry-count, retry_count, RETRY_COUNT."""
    return _BY_PLAIN_NAME.get(_plain(name))


_BY_PLAIN_NAME = {_plain(dest): option for dest, option in OPTIONS.items()}
