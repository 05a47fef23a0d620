"""Small workflows that show what an option does, chosen by ``--kind``. Run as a script by the tests."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import Any

from toilcache import Job, Toil

SMALL = {"cores": 1, "memory": "10M", "disk": "10M"}

if "IMPORTS" in os.environ:
    with open(os.environ["IMPORTS"], "a", encoding="ascii") as imports:
        imports.write(f"{os.getpid()}\n")


def speaks(job: Job) -> str:
    """Say something in each way that there is, and leave a file."""
    print("printed by the job")
    job.log("logged as a warning", 30)
    job.fileStore.log_to_leader("logged as information", 20)
    job.fileStore.log_user_stream("of steps", io.BytesIO(b"first step\nsecond step"))
    Path("left here").write_text("left", encoding="ascii")
    if "FAIL" in os.environ:
        raise ValueError("told to fail")
    return "spoke"


def sleeps(job: Job) -> str:
    if "STARTED" in os.environ:
        Path(os.environ["STARTED"]).touch()
    while "MENDED" not in os.environ:
        time.sleep(100)
    return "woke up"


def fails_at_first(job: Job) -> int:
    """Fail until the third try; returns the number of tries."""
    tries = Path(os.environ["TRIES"])
    with tries.open("a", encoding="ascii") as file:
        file.write(".")
    count = tries.stat().st_size
    if count < 3:
        raise ValueError(f"try {count}")
    return count


def asks(job: Job) -> list[Any]:
    """What a job that asks for nothing is given."""
    return [job.memory, job.cores, job.disk, job.preemptible]


def together(job: Job) -> Any:
    """Return when each of six jobs began and ended."""
    return [job.addChildFn(moments, number, **SMALL).rv() for number in range(6)]


def moments(number: int) -> tuple[float, float]:
    began = time.monotonic()
    time.sleep(0.02)
    return began, time.monotonic()


def family(job: Job) -> list[Any]:
    return [job.addChildFn(os.getpid, **SMALL).rv() for number in range(4)]


def crew(job: Job) -> list[Any]:
    """Where six jobs run that go well, then one that fails at first, then another."""
    sober = [job.addChildFn(kind, **SMALL).rv() for kind in (os.getpid, leaves_a_file) * 3]
    drunk = job.addFollowOnFn(pid_of_second_try, **SMALL)
    return [sober, drunk.rv(), drunk.addFollowOnJobFn(own_surroundings, **SMALL).rv()]


def leaves_a_file() -> int:
    assert os.listdir(".") == []
    Path("left").touch()
    return os.getpid()


def pid_of_second_try() -> int:
    with open(os.environ["TRIES"], "ab") as tries:
        tries.write(b".")
        if tries.tell() == 1:
            raise ValueError("the first try")
    return os.getpid()


def own_surroundings(job: Job) -> list[bool]:
    own = os.environ["TOILCACHE_JOB"].startswith(str(job.description.jobStoreID))
    return [os.getcwd() == job.fileStore.localTempDir and not os.listdir("."), own]


def reads(job: Job, file_id: Any) -> str:
    return Path(job.fileStore.readGlobalFile(file_id)).read_text(encoding="ascii")


def asks_for(**asked: Any) -> Any:
    return Job.wrapFn(os.getcwd, **{**SMALL, **asked})


def main() -> None:
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--kind", default="speaks")
    parser.add_argument("--ask", nargs=2)
    options = parser.parse_args()
    with Toil(options) as toil:
        arguments = []
        if options.kind == "reads":
            original = Path(os.environ["ORIGINAL"])
            arguments.append(toil.import_file(str(original)))
            original.write_text("changed since", encoding="ascii")
        if options.restart:
            result = toil.restart()
        elif options.ask:
            result = toil.start(asks_for(**dict([options.ask])))
        else:
            asked = {} if options.kind == "asks" else SMALL
            result = toil.start(Job.wrapJobFn(globals()[options.kind], *arguments, **asked))
    print("result", repr(result))


if __name__ == "__main__":
    main()
