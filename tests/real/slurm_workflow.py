"""A workflow for the Slurm test-bed: jobs leave a line when they begin, take their time, and give a number.

`python slurm_workflow.py STORE --count 20 --seconds 1 --diary FILE [--trouble KIND]`; the result is the sum.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

from toilcache import Job, Toil


def note(diary: str, *words: object) -> None:
    """Add a line to the diary, whole."""
    line = " ".join(map(str, words)) + "\n"
    descriptor = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def has(diary: str, words: str) -> bool:
    try:
        with open(diary) as lines:
            return words in lines.read()
    except FileNotFoundError:
        return False


def work(number: int, diary: str, seconds: float, trouble: str) -> int:
    """Say where it runs, sleep, and return the number; in trouble at the first try of job 3."""
    first = not has(diary, f"begin {number} ")
    note(
        diary, "begin", number, socket.gethostname(), os.environ.get("SLURM_JOB_ID"), os.environ.get("TCTEST")
    )
    if number == 3 and trouble == "hungry":
        _eat(150)
    elif number == 3 and trouble == "late":
        time.sleep(85)
    elif number == 3 and trouble == "gated" and first:
        _fail_later(diary)
    elif number == 3 and first:
        _be(trouble)
    time.sleep(seconds)
    note(diary, "end", number)
    return number


def _eat(megabytes: int) -> None:
    """Use so much memory for a moment: the pages are written to."""
    block = bytearray(b"x") * (megabytes << 20)
    del block


def _fail_later(diary: str) -> None:
    """Fail when the diary says so."""
    while not has(diary, "go\n"):
        time.sleep(0.05)
    raise RuntimeError("at the first try")


def _be(trouble: str) -> None:
    if trouble == "memory":
        _eat(4096)
        time.sleep(60)
    elif trouble == "long":
        time.sleep(600)
    elif trouble == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def total(numbers: list[int]) -> int:
    return sum(numbers)


def spread(job: Job, options: dict[str, Any]) -> Any:
    each = [options[name] for name in ("diary", "seconds", "trouble")]
    numbers = [job.addChildFn(work, n, *each).rv() for n in range(options["count"])]
    return job.addFollowOnFn(total, numbers).rv()


if __name__ == "__main__":
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--diary", required=True)
    parser.add_argument("--trouble", default="")
    given = parser.parse_args()
    with Toil(given) as toil:
        root = Job.wrapJobFn(
            spread, {name: getattr(given, name) for name in ("count", "seconds", "diary", "trouble")}
        )
        print("result", toil.restart() if given.restart else toil.start(root))
