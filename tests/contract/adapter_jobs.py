"""What the jobs of the adapter contract do."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from toilcache.job.job import Job

DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]])
    os._exit(0)
os.wait()
"""


def quick(job: Job) -> str:
    """Return at once."""
    return "done"


def wait_for(job: Job, gate: str) -> None:
    """Say that the job runs, then wait until a file appears."""
    with open(f"{gate}.{job.description.jobStoreID}.{os.getpid()}.running", "w", encoding="ascii"):
        pass
    while not os.path.exists(gate):
        time.sleep(0.005)


def exit_at_once(job: Job, status: int) -> None:
    """End without a word."""
    os._exit(status)


def crash(job: Job) -> None:
    """End as a fault in a library would have it."""
    os.kill(os.getpid(), signal.SIGSEGV)


def call_exit(job: Job) -> None:
    """Do what no job should."""
    sys.exit(4)


def fail(job: Job) -> None:
    """Raise."""
    raise ValueError("no such luck")


def print_much(job: Job, then_exit: int | None) -> None:
    """Print some megabytes, to both streams."""
    for number in range(40_000):
        print(f"line {number} " + "x" * 60)
    os.write(2, b"the very last words\n")
    sys.stdout.flush()
    if then_exit is not None:
        os._exit(then_exit)


def daemonise(job: Job, marker: str) -> None:
    """Leave a process behind that has a session of its own and no parent."""
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", DAEMON, marker])
    os.waitpid(pid, 0)


def parent(job: Job) -> Any:
    """Have one child, which the same worker can go on with."""
    return job.addChildJobFn(quick, memory=job.memory, cores=job.cores, disk=job.disk).rv()


def fork_and_wait_for(job: Job, gate: str) -> None:
    """Leave a forked process that holds every descriptor of this one, in a session of its own; then wait."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)
    with open(f"{gate}.{pid}.forked", "w", encoding="ascii"):
        pass
    wait_for(job, gate)


def close_streams(job: Job) -> None:
    """Leave nothing to print to."""
    sys.stderr.close()
    sys.stdout.close()


SESSIONS = """
import os, sys, time
for _ in range(int(sys.argv[2])):
    if os.fork():
        time.sleep(600)
    os.setsid()
open(sys.argv[3], "w").close()
time.sleep(600)
"""


def leave_sessions(job: Job, marker: str, ready: str) -> None:
    """Leave a program behind whose child, in a session of its own, has such a child, and so on."""
    os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", SESSIONS, marker, "5", ready])
    while not os.path.exists(ready):
        time.sleep(0.005)


def run_program(job: Job, marker: str, gate: str) -> None:
    """Wait with a program that runs, in a session of its own."""
    argv = [sys.executable, "-c", "import os, time; os.setsid(); time.sleep(600)", marker]
    os.spawnv(os.P_NOWAIT, sys.executable, argv)
    wait_for(job, gate)


def write_devices(job: Job, path: str) -> None:
    """Say which devices this job may see."""
    with open(path, "a", encoding="ascii") as file:
        file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "all") + "\n")


def note(place: str, word: str) -> None:
    """Write a word down, whole."""
    descriptor = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{word};".encode())
    os.close(descriptor)


def tidy_slowly(place: str) -> None:
    """Take until a file appears."""
    note(place, "begun")
    while not os.path.exists(f"{place}.go"):
        time.sleep(0.005)
    note(place, "ended")


def defer(job: Job, place: str, slowly: bool, gate: str | None) -> None:
    """Defer something, then wait at a gate, or die."""
    if slowly:
        job.defer(tidy_slowly, place)
    else:
        job.defer(note, place, "called")
    if gate is None:
        os.kill(os.getpid(), signal.SIGKILL)
    wait_for(job, str(gate))


def haunt(job: Job, kind: str, path: str) -> None:
    """Leave something behind that writes to this job's directory; say which process this is."""
    there = os.getcwd()
    Path(path).write_text(str(os.getpid()), encoding="ascii")
    program = f"""import os, time
while True:
    os.path.isdir({there!r}) and open({there!r} + "/x", "a").close()
    time.sleep(0.001)
"""
    if kind == "thread":
        threading.Thread(target=exec, args=(program, {}), daemon=True).start()
    elif kind == "child":
        os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", program])
    elif os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        if kind == "daemon":
            os.execv(sys.executable, [sys.executable, "-c", program])
        exec(program, {})
    else:
        os.wait()


def defer_a_trace(job: Job) -> None:
    """Have something written to this job's directory when the job is over."""
    job.defer(note, os.path.abspath("trace"), "late")


def look_around(job: Job, path: str) -> None:
    """Say which process this is, where this job's directory is, and what comes into it."""
    time.sleep(0.2)
    Path(path).write_text(f"{os.getpid()}\n{os.getcwd()}\n{os.listdir()}", encoding="ascii")
