"""The workflow of the tests of deferred functions: jobs that defer, and then end in some way.

Run as a script by the tests. Each call and each job leaves a word in the file of notes.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from toilcache import Job

SMALL = {"cores": 1, "memory": "10M", "disk": "10M"}


def note(place: str, word: str) -> None:
    """Write a word down, whole."""
    descriptor = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{word};".encode())
    os.close(descriptor)


def exiting(place: str, status: int) -> None:
    """End the process of whoever calls."""
    note(place, f"exit{status}")
    os._exit(status)


def raising(place: str) -> None:
    """Raise what only the process's end should raise."""
    note(place, "raising")
    raise SystemExit(3)


def deferring(job: Job, place: str) -> None:
    """Defer once more, when it is too late."""
    note(place, "deferring")
    job.defer(note, place, "never")


def killing_all(place: str) -> None:
    """Kill whoever calls, and whoever waits for that."""
    note(place, "killing")
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


class Tidy(Job):
    """A job whose own method is deferred."""

    def __init__(self, place: str) -> None:
        super().__init__(**SMALL)
        self.place = place

    def run(self, fileStore: Any) -> None:
        self.defer(deferring, self, self.place)
        note(self.place, "ran")
        if os.environ.get("TIDY_DIES"):
            os.kill(os.getpid(), signal.SIGKILL)


def end(job: Job, place: str, how: str, name: str = "") -> None:
    """Defer two words, then end."""
    job.defer(note, place, f"{name}second")
    job.defer(note, place, word=f"{name}first")
    with open(f"{place}.pid", "w", encoding="ascii") as stream:
        stream.write(str(os.getpid()))
    note(place, f"{name}ran")
    if how == "raise":
        raise ValueError
    if how.startswith("exit"):
        os._exit(int(how[4:]))
    if how.startswith("signal"):
        os.kill(os.getpid(), int(how[6:]))
    if how == "fork" and os.fork() == 0:
        signal.pause()
    while how == "wait" and not os.path.exists(f"{place}.go"):
        time.sleep(0.01)


def odd(job: Job, place: str, how: str) -> None:
    """Defer something that behaves badly between two that do not, then die or return."""
    job.defer(note, place, "last")
    if how.startswith("exit"):
        job.defer(exiting, place, int(how[4:]))
    elif how == "raise":
        job.defer(raising, place)
    elif how == "kill":
        job.defer(killing_all, place)
    job.defer(note, place, "first")
    if os.environ.get("ODD_DIES"):
        os.kill(os.getpid(), signal.SIGKILL)


def chain(job: Job, place: str, how: str) -> None:
    """A job that ends well, and its only successor, which goes on in the same process."""
    job.addChildJobFn(end, place, how, f"{os.getpid()}-child-", **SMALL)
    end(job, place, "return", f"{os.getpid()}-parent-")


def main() -> None:
    """Start or restart the workflow of that name."""
    parser = Job.Runner.getDefaultArgumentParser()
    for name in ("kind", "place", "how"):
        parser.add_argument(f"--{name}", default="")
    options = parser.parse_args()
    kinds = {"end": end, "odd": odd, "chain": chain}
    if options.kind == "tidy":
        root: Job = Tidy(options.place)
    else:
        root = Job.wrapJobFn(kinds[options.kind], options.place, options.how, **SMALL)
    Job.Runner.startToil(root, options)


if __name__ == "__main__":
    main()
