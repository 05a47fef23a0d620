"""Small workflows that look around in a container, chosen by ``--kind``. Run as a script by the tests."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from toilcache import Job, Toil, run_container
from toilcache.errors import ContainerFailedError, ContainerImageError

SMALL = {"cores": 1, "memory": "10M", "disk": "10M"}
MINE = os.path.dirname(os.path.abspath(__file__))


def looks(job: Job) -> dict[str, Any]:
    """What the job sees: who it is, which Python, which places it can write to."""
    return {
        "uid": os.geteuid(),
        "python": list(sys.version_info[:2]),
        "engine": sys.modules["toilcache"].__file__,
        "boxed": os.path.exists("/.singularity.d") or os.path.exists("/.dockerenv"),
        "writable": {name: can_write(place) for name, place in places(job).items()},
        "secret": os.environ.get("SECRET_OF_OURS"),
        "needs": [name for name in ("cloudpickle", "fsspec", "docker", "rich") if can_import(name)],
    }


def places(job: Job) -> dict[str, str]:
    return {
        "root": "/",
        "script": MINE,
        "engine": os.path.dirname(str(sys.modules["toilcache"].__file__)),
        "home": os.path.expanduser("~"),
        "temporary": tempfile.gettempdir(),
        "working": os.getcwd(),
        "job": job.tempDir,
    }


def can_write(place: str) -> bool:
    try:
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


def can_import(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def fans_out(job: Job) -> Any:
    """Children, a follow-on that takes their values, and a function that only goes by value."""
    squares = [job.addChildFn(square, number, **SMALL).rv() for number in range(8)]
    cube = job.addChildFn(lambda number: number**3, 3, **SMALL).rv()
    return job.addFollowOnFn(add, squares, cube, **SMALL).rv()


def square(number: int) -> int:
    return number * number


def add(squares: list[int], cube: int) -> int:
    return sum(squares) + cube


def reads(job: Job, file_id: Any) -> str:
    """Read an imported file, and hand a file of its own on."""
    path = job.fileStore.readGlobalFile(file_id)
    made = Path(job.tempDir) / "made"
    made.write_text(Path(path).read_text() * 2)
    return job.addChildJobFn(reads_again, job.fileStore.writeGlobalFile(str(made)), **SMALL).rv()


def reads_again(job: Job, file_id: Any) -> str:
    return Path(job.fileStore.readGlobalFile(file_id)).read_text()


def asks(job: Job, image: str) -> Any:
    """A child in another image than this job's."""
    child = job.addChildFn(version, **SMALL)
    child.image = image
    return [version(), child.rv()]


def version() -> list[int]:
    return list(sys.version_info[:2])


def waits(job: Job) -> str:
    """Say that it runs, and wait to be killed or told to go on; the second time, return at once."""
    started = Path(os.environ.get("TMPDIR", "/tmp")).parent / "started"
    if started.exists():
        return "again"
    started.touch()
    while not started.with_name("go").exists():
        time.sleep(0.05)
    return "the first time"


def eats_when_told(job: Job) -> str:
    """Wait to be told, and take more memory than there is; the second time, take none."""
    told = waits(job)
    return told if told == "again" else str(len(bytearray(600 << 20)))


def fills(job: Job) -> str:
    """Fill the disk; the second time, write nothing."""
    mark = Path(os.environ["HOME"]) / "filled"
    if mark.exists():
        return "again"
    mark.touch()
    with open("large", "wb") as file:
        while True:
            file.write(bytes(1 << 20))


def asks_for_nothing(job: Job) -> str:
    return "done"


def eats(job: Job) -> int:
    """Take more memory than a small container has."""
    return len(bytearray(600 << 20))


def grows(job: Job) -> int:
    """Have a child take more memory than it has asked for, but less than twice that."""
    return job.addChildFn(takes_memory, 170 << 20, cores=1, memory="100M", disk="10M").rv()


def takes_memory(size: int) -> int:
    return len(bytearray(size))


def runs_tools(job: Job, image: str) -> list[Any]:
    """Run programs in containers of their own, and tell what came of it."""
    own = Path(job.fileStore.localTempDir)
    (own / "input").write_text("some words of input")
    counted = run_container(job, image, ["wc", "-w", "input"])
    run_container(job, image, ["sh", "-c", "cat input; echo problem >&2"], stdout="copied")
    script = "import os, sys; open('made', 'w').close(); "
    script += "print(ascii([os.environ['A'], sys.argv[1:], os.getuid()]))"
    hostile = "$(id) \"'\n"
    told = run_container(job, image, ["python3", "-c", script, hostile], environment={"A": hostile})
    failed, code = "", None
    try:
        run_container(job, image, ["sh", "-c", "echo broken >&2; exit 3"])
    except ContainerFailedError as error:
        failed, code = str(error), error.code
    quiet = run_container(job, image, ["sh", "-c", "echo said; exit 3"], check=False)
    large = run_container(job, image, ["python3", "-c", "print('x' * 1_000_000, end='')"])
    many = run_container(job, image, ["sh", "-c", "echo $#", "sh", *(f"{n:0100}" for n in range(4000))])
    return [
        counted.split(),
        (own / "copied").read_text(),
        told == (ascii([hostile, [hostile], os.getuid()]) + "\n").encode(),
        os.stat(own / "made").st_uid == os.getuid(),
        [failed, code],
        quiet,
        len(large),
        int(many),
    ]


def runs_a_limited_tool(job: Job, image: str) -> int:
    """Have a program in a container of its own tell how much memory it may take."""
    script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>&-; true"
    return int(run_container(job, image, ["sh", "-c", script]).split()[0])


def runs_a_missing_image(job: Job, image: str) -> str:
    try:
        run_container(job, image, ["true"])
    except ContainerImageError as error:
        return str(error)
    return "no error"


def waits_in_a_tool(job: Job, image: str) -> bytes:
    """Have a program say that it runs, and wait to be killed; the second time, return at once."""
    home = Path(job.fileStore.localTempDir).parents[1]
    if (home / "job-runs").exists():
        while not (home / "go").exists():
            time.sleep(0.05)
        return b"again"
    (home / "job-runs").write_text(f"{os.getpid()} {os.readlink('/proc/self/ns/pid')}")
    return run_container(job, image, ["sh", "-c", "touch tool-runs; sleep 1000"])


def main() -> None:
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--kind")
    parser.add_argument("--argument", default=None)
    options = parser.parse_args()
    with Toil(options) as toil:
        if options.kind == "reads":
            root = Job.wrapJobFn(reads, toil.importFile(Path(options.argument).as_uri()), **SMALL)
        elif options.argument is not None:
            root = Job.wrapJobFn(globals()[options.kind], options.argument, **SMALL)
        else:
            root = Job.wrapJobFn(globals()[options.kind], **SMALL)
        value = toil.restart() if options.restart else toil.start(root)
    print("result", repr(value))


if __name__ == "__main__":
    main()
