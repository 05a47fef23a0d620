"""Workflows that look at what jobs share, chosen by ``--kind``. Run as a script by the tests of isolation."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy.random

from toilcache import Job, Toil

SMALL = {"cores": 1, "memory": "10M", "disk": "10M"}
HOSTILE = (
    "../victim",
    "../../../../../../../../victim",
    "free/ab/../../../victim",
    "kept/0123456789abcdef/1/../../../victim",
    "\n../victim",
    "victim\n",
    "-rf",
    "",
    ".",
    "..",
    "/",
    "\0",
    "x" * 300,
    "body:../victim",
    "own/0123456789abcdef/1/0123456789abcdef-../victim",
    "free/0123456789abcdef-..%2F..%2Fvictim",
)

changed = 0


def tell(_: Any = None) -> dict[str, Any]:
    """Say what a job sees of the world."""
    global changed
    changed += 1
    return {
        "pid": os.getpid(),
        "changed": changed,
        "random": random.random(),
        "numpy": float(numpy.random.random()),
        "variable": os.environ.get("OF_THE_LEADER"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "cwd": os.getcwd(),
        "session": os.getsid(0),
        "stdin": sys.stdin.read(),
    }


def look(job: Job) -> dict[str, Any]:
    """Say it with the job's temporary directory."""
    return {**tell(), "temporary": job.fileStore.localTempDir}


def siblings(job: Job, count: int) -> list[Any]:
    return [job.addChildFn(tell, number, **SMALL).rv() for number in range(count)]


def chain(job: Job, left: int) -> list[Any]:
    """Jobs one after the other, which one process may run."""
    here = look(job)
    if left == 1:
        return [here]
    return [here, job.addChildJobFn(chain, left - 1, **SMALL).rv()]


def threads(job: Job) -> list[Any]:
    wanted = (0.1, 1, 1.5, 2)
    return [job.addChildFn(tell, memory="10M", disk="10M", cores=cores).rv() for cores in wanted]


def hostile(job: Job) -> dict[str, str]:
    """Hand ids and names to every call that takes one; say what came of each."""
    outcome = {}
    ids = (*HOSTILE, os.environ["VICTIM"])
    for number, file_id in enumerate(ids):
        outcome[f"read {file_id}"] = attempt(job.fileStore.readGlobalFile, file_id, f"copy-{number}")
        outcome[f"stream {file_id}"] = attempt(read_stream, job, file_id)
        outcome[f"delete {file_id}"] = attempt(job.fileStore.deleteGlobalFile, file_id)
        outcome[f"name {file_id}"] = attempt(write_named, job, file_id)
        outcome[f"shared {file_id}"] = attempt(write_shared, job, file_id)
    return outcome


def attempt(function: Any, *arguments: Any) -> str:
    try:
        return f"gave {function(*arguments)!r}"
    except Exception as error:  # whatever it is, it is reported
        return type(error).__name__


def read_stream(job: Job, file_id: str) -> bytes:
    with job.fileStore.readGlobalFileStream(file_id) as stream:
        return bytes(stream.read())


def write_named(job: Job, name: str) -> str:
    with job.fileStore.writeGlobalFileStream(basename=name) as (stream, file_id):
        stream.write(b"hostile")
    return str(file_id)


def write_shared(job: Job, name: str) -> None:
    with job.fileStore.jobStore.write_shared_file_stream(name) as stream:
        stream.write(b"hostile")


def awkward_files(job: Job) -> list[str]:
    """Upload files with awkward names and read each back in another job."""
    names = ["-rf", "a b'\"c", "new\nline", "ünï", ".hidden", "%2F..%2F", "x" * 255, os.fsdecode(b"\xff")]
    values = []
    for name in names:
        Path(name).write_text(name, encoding="utf-8", errors="surrogateescape")
        file_id = job.fileStore.writeGlobalFile(f"./{name}")
        values.append(job.addChildJobFn(read_back, file_id, **SMALL).rv())
    return [job.addFollowOnFn(list, values, **SMALL).rv(), names]


def read_back(job: Job, file_id: Any) -> str:
    path = Path(job.fileStore.readGlobalFile(file_id))
    assert path.parent == Path(job.fileStore.localTempDir)
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def waits(job: Job) -> str:
    """Tell that it runs, with a child of its own that ignores requests to end, and wait to be mended."""
    if "MENDED" not in os.environ:
        subprocess.Popen(["sh", "-c", "trap '' TERM INT HUP; while :; do sleep 100; done"])
        Path(os.environ["STARTED"]).touch()
        while True:
            time.sleep(100)
    return "mended"


def leaves_children(job: Job) -> Any:
    """End while processes it started are still there, one of them in a session of its own."""
    near = subprocess.Popen(["sleep", "1000"], env={"PATH": os.environ["PATH"]})
    far = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    return job.addChildFn(those_alive, [near.pid, far.pid], **SMALL).rv()


def those_alive(pids: list[int]) -> list[int]:
    """The processes that are still there when there was time to end them."""
    end = time.monotonic() + 60
    while time.monotonic() < end and any(os.path.exists(f"/proc/{pid}") for pid in pids):
        time.sleep(0.01)
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def handlers() -> list[str]:
    """The signals that a job inherits in another than the usual way."""
    usual = {signal.SIG_DFL, signal.default_int_handler}
    named = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1]
    return [number.name for number in named if signal.getsignal(number) not in usual]


def main() -> None:
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--kind", default="look")
    parser.add_argument("--count", type=int, default=None)
    options = parser.parse_args()
    with Toil(options) as toil:
        if options.restart:
            result = toil.restart()
        else:
            arguments = [] if options.count is None else [options.count]
            function = globals()[options.kind]
            wrap = Job.wrapFn if function in (tell, handlers) else Job.wrapJobFn
            result = toil.start(wrap(function, *arguments, **SMALL))
    print("result", repr(result))


if __name__ == "__main__":
    main()
