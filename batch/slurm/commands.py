"""The command lines of Slurm's programs, and the environment they run in. Pure: values in, argv out.

Must not run anything. Every format that is asked for here is read in :mod:`toilcache.batch.slurm.parse`. A
command line never holds a secret, and never one word per job.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from toilcache.batch.host_process import HOST_MARKER
from toilcache.batch.slurm.parse import LINE_END, LINE_MARK

MIB = 1 << 20
WARNING_SECONDS = 60
"""So long before the time limit of an allocation its worker is warned; Slurm may do so a minute sooner."""

_SQUEUE_FIELDS = ("%F", "%K", "%T", "%r", "%N", "%k")
_SINFO_FIELDS = ("%P", "%a", "%l", "%L", "%c", "%m", "%d", "%G", "%f", "%D", "%T")
_KEPT = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"})

OWN_PREFIXES = (
    "SLURM",
    "XDG_",
    "DBUS_",
    "SBATCH_",
    "SQUEUE_",
    "SACCT_",
    "SINFO_",
    "SCONTROL_",
    "PMI_",
    "PMIX_",
)
OWN_NAMES = frozenset(
    {
        *("TMPDIR", "HOSTNAME", "HOST", "PWD", "OLDPWD", "SHLVL", "DISPLAY", "WINDOWID"),
        *("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY", "SSH_AUTH_SOCK", "GPU_DEVICE_ORDINAL"),
        HOST_MARKER,
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"),
    }
)

_FEW = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "KRB5CCNAME")

TERM_SECONDS = 10
"""So long a worker may take to end; Slurm's usual KillWait is 30 s."""

_WORKER_SCRIPT = b"""\
#!/bin/sh
worker= told= killer=
end_it() { sleep %d; kill -s KILL "$worker"; }
tell() {
    told=$1
    [ -n "$worker" ] || return
    kill -s "$1" "$worker"
    [ "$1" = USR1 ] || { end_it & killer=$!; }
}
trap 'tell USR1' USR1
trap 'tell TERM' TERM
read -r host </proc/sys/kernel/random/uuid
export %s="$host"
%s &
worker=$!
[ -z "$told" ] || tell "$told"
wait "$worker"
status=$?
while [ "$status" -gt 128 ] && kill -s 0 "$worker" 2>/dev/null; do
    wait "$worker"
    status=$?
done
[ -z "$killer" ] || kill "$killer"
[ "$status" = 0 ] || %s
exit "$status"
"""


class Placement(NamedTuple):
    """What a person asked for all allocations. `time` is in seconds, `memory_as` total, per-cpu or none."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    clusters: str | None = None
    time: float | None = None
    memory_as: str = "total"
    arguments: Sequence[str] = ()


class Needs(NamedTuple):
    """What one worker needs: cores, bytes of memory and disk, a number of GPUs."""

    cores: float
    memory: int
    disk: int
    gpus: int


def sbatch(
    placement: Placement,
    needs: Needs,
    tasks: int,
    *,
    name: str,
    tag: str,
    output: str,
    partition: str | None = None,
    avoid: Sequence[str] = (),
) -> list[str]:
    """Submit one array of so many workers; the script comes on standard input.

    `partition` is the one that was chosen where none is asked for, `avoid` are names of nodes. What a person
    gave as free arguments comes last, so that it counts.
    """
    argv = ["sbatch", "--parsable", f"--job-name={name}", f"--comment={tag}", f"--array=0-{tasks - 1}"]
    argv += [f"--output={output}", "--open-mode=append", "--chdir=/", "--nodes=1", "--ntasks=1"]
    warning = WARNING_SECONDS if placement.time is None else min(WARNING_SECONDS, placement.time / 4)
    argv += [*_resources(placement, needs), f"--signal=B:USR1@{max(1, int(warning))}"]
    if placement.time is not None:
        argv.append(f"--time={max(1, math.ceil(placement.time / 60))}")
    chosen = placement._replace(partition=placement.partition or partition)
    for option in ("account", "partition", "qos", "constraint", "reservation", "clusters"):
        value = getattr(chosen, option)
        if value:
            argv.append(f"--{option}={value}")
    if avoid:
        argv.append("--exclude=" + ",".join(sorted(avoid)))
    return [*argv, *placement.arguments]


def sbatch_cleaning(placement: Placement, node: str, name: str, output: str) -> list[str]:
    """Submit a short job to one node; the script comes on standard input."""
    least = placement._replace(time=300.0, constraint=None, arguments=())
    needs = Needs(1, 100 * MIB, 0, 0)
    argv = sbatch(least, needs, 1, name=name, tag="toilcache.cleaning", output=output)
    return [*argv, f"--nodelist={node}", "--oversubscribe"]


def _resources(placement: Placement, needs: Needs) -> list[str]:
    processors = max(1, math.ceil(needs.cores))
    argv = [f"--cpus-per-task={processors}"]
    if placement.memory_as == "total":
        argv.append(f"--mem={_mebibytes(needs.memory)}M")
    elif placement.memory_as == "per-cpu":
        argv.append(f"--mem-per-cpu={math.ceil(_mebibytes(needs.memory) / processors)}M")
    if needs.disk >= MIB:
        argv.append(f"--tmp={_mebibytes(needs.disk)}M")
    if needs.gpus:
        argv.append(f"--gres=gpu:{needs.gpus}")
    return argv


def _mebibytes(size: int) -> int:
    return max(1, math.ceil(size / MIB))


def batch_script(argv: Sequence[str]) -> bytes:
    """Return a script whose shell becomes this program, so that signals reach that."""
    return b"#!/bin/sh\nexec " + _words(argv) + b"\n"


def worker_script(argv: Sequence[str], after: Sequence[str]) -> bytes:
    """Return the script of a worker: its shell hands signals on, and runs `after` if the worker has failed.

    A worker that does not heed the end of its allocation is killed while there is time for that. The name of
    the host is made here, so that `after` knows whom it follows.
    """
    return _WORKER_SCRIPT % (TERM_SECONDS, HOST_MARKER.encode(), _words(argv), _words(after))


def _words(argv: Sequence[str]) -> bytes:
    return shlex.join(argv).encode("utf-8", "surrogateescape")


def squeue(name: str, user: str, clusters: str | None = None) -> list[str]:
    """Ask for all jobs of a workflow, ended ones that Slurm still knows included, in one call."""
    fields = "|".join((LINE_MARK, *_SQUEUE_FIELDS, LINE_END))
    argv = ["squeue", "--noheader", "--states=all", f"--user={user}", f"--name={name}", f"--format={fields}"]
    return [*argv, *_on(clusters)]


def sacct(name: str, user: str, since: str, clusters: str | None = None) -> list[str]:
    """Ask for what accounting knows of the workflow's jobs; never for more than since it began."""
    argv = ["sacct", "--noheader", "--parsable2", "--allocations", f"--user={user}", f"--name={name}"]
    return [*argv, f"--starttime={since}", "--format=JobID,State,ExitCode,NodeList", *_on(clusters)]


def scancel_pending(name: str, user: str, clusters: str | None = None) -> list[str]:
    """Cancel what of the workflow has not started."""
    return ["scancel", "--quiet", f"--user={user}", f"--name={name}", "--state=PENDING", *_on(clusters)]


def scancel_all(name: str, user: str, clusters: str | None = None) -> list[str]:
    """Cancel all of the workflow."""
    return ["scancel", "--quiet", f"--user={user}", f"--name={name}", *_on(clusters)]


def sinfo(clusters: str | None = None) -> list[str]:
    """Ask for partitions and their kinds of nodes."""
    fields = "|".join((LINE_MARK, *_SINFO_FIELDS, LINE_END))
    return ["sinfo", "--noheader", f"--format={fields}", *_on(clusters)]


def show_config() -> list[str]:
    """Ask the controller for its configuration."""
    return ["scontrol", "show", "config"]


def show_limits(user: str) -> list[str]:
    """Ask accounting how many jobs this user may have submitted."""
    return ["sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=Account,MaxSubmitJobs"]


def _on(clusters: str | None) -> list[str]:
    return [f"--clusters={clusters}"] if clusters else []


def client_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for Slurm's programs, and so of allocations: little, and nothing of a job we are
    in.

    A leader inside an allocation must not hand that one's identity on, squeue's own variables would filter
    unseen, and what a person has set (tokens among it) must not stand in Slurm's records.
    """
    found = {name: value for name, value in environ.items() if name in _FEW or name in _KEPT}
    found |= {name: value for name, value in environ.items() if name.startswith("SBATCH_")}
    return found | {"SLURM_BITSTR_LEN": "0"}


def leader_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what workers get of the leader's environment: not what belongs to its own node."""
    return {name: value for name, value in environ.items() if not is_own(name)}


def is_own(name: str) -> bool:
    """Tell whether a variable belongs to a login, a node or an allocation, and is never handed on."""
    return name.startswith(OWN_PREFIXES) or name in OWN_NAMES
