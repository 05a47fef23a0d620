"""A workflow that goes wrong in the way that ``--kind`` names, unless the environment has MENDED.

Run as a script by the tests of bad input.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

from toilcache import Job, Toil

SMALL = {"cores": 1, "memory": "10M", "disk": "10M"}
NINE_HUNDRED = "900 TiB"
LARGE = b"kept" * 50_000


def mended() -> bool:
    """Whether the cause was removed before this run."""
    return "MENDED" in os.environ


def witness(name: str) -> None:
    """Leave a mark that a job has run, each time."""
    with open(os.path.join(os.environ["WITNESS"], name), "a", encoding="ascii") as mark:
        mark.write(".")


def ok() -> str:
    return "mended"


def raises() -> str:
    if not mended():
        raise ValueError("the\nvalue is wrong")
    return "mended"


def exits() -> str:
    if not mended():
        sys.exit(0)
    return "mended"


def osexit() -> str:
    if not mended():
        print("printed before the end", flush=True)
        os._exit(3)
    return "mended"


def segfault() -> str:
    if not mended():
        import ctypes

        ctypes.string_at(0)
    return "mended"


def hungry() -> str:
    """Take far more memory than there is, page by page, so that the kernel steps in."""
    if not mended():
        taken = bytearray()
        while True:
            taken += b"x" * (8 << 20)
    return "mended"


def unpicklable_value() -> Any:
    return "mended" if mended() else {"answer": [threading.Lock()]}


def unpicklable_argument(job: Job) -> Any:
    argument: Any = "mended" if mended() else {"conn": [threading.Lock()]}
    return job.addChildFn(hand_back, argument, **SMALL).rv()


def hand_back(x: Any) -> Any:
    return x


def bad_size(job: Job) -> Any:
    return job.addChildFn(ok, memory="10M" if mended() else "2 Gigs").rv()


def promise_used(job: Job) -> Any:
    promise = job.addChildFn(ok, **SMALL).rv()
    return "mended" if mended() else promise + "!"


def promise_early(job: Job) -> Any:
    """Hand the promise of a follow-on to a child, which runs first."""
    late = job.addFollowOnFn(ok, **SMALL)
    return job.addChildFn(hand_back, "mended" if mended() else late.rv(), **SMALL).rv()


def giant_child(job: Job) -> Any:
    """One child that fits nowhere among three that do."""
    for number in range(3):
        job.addChildFn(witness, f"small {number}", **SMALL)
    return job.addChildFn(ok, **(SMALL if mended() else {**SMALL, "memory": NINE_HUNDRED})).rv()


def failing_child(job: Job) -> Any:
    """One child that fails between two that do not; each run of one leaves a mark."""
    values = [job.addChildFn(value, number, **SMALL).rv() for number in (1, 2)]
    values.append(job.addChildFn(raises, **SMALL).rv())
    return job.addFollowOnFn(hand_back, values, **SMALL).rv()


def value(number: int) -> int:
    witness(f"value {number}")
    return number


def uploads(job: Job) -> Any:
    """Keep a value, then write ten million bytes to the store."""
    first = job.addChildFn(value, 7, **SMALL)
    second = first.addChildJobFn(upload, memory="10M", disk="20M")
    return job.addFollowOnFn(hand_back, [first.rv(), second.rv()], **SMALL).rv()


def upload(job: Job) -> int:
    if "FILL" in os.environ:
        fill_the_disk()
    Path("large").write_bytes(bytes(10_000_000))
    file_id = job.fileStore.writeGlobalFile("large")
    return int(job.fileStore.getGlobalFileSize(file_id))


def fill(path: str) -> None:
    """Take all space that there is on a file system, to the last byte."""
    with open(path, "wb", buffering=0) as ballast:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


def fill_the_disk() -> None:
    """Leave no byte for what the job has to write at its end, and say under which pid it runs."""
    if not mended():
        fill(os.environ["FILL"])
        Path(os.environ["WITNESS"], "pid").write_text(str(os.getpid()), encoding="ascii")


def full_small() -> str:
    witness("ran")
    fill_the_disk()
    return "kept"


def full_large() -> bytes:
    """Return a value that is too large for the record."""
    witness("ran")
    fill_the_disk()
    return LARGE


def full_upload(job: Job) -> int:
    """Write a file that goes to the store when the job has ended."""
    witness("ran")
    Path("large").write_bytes(bytes(10_000_000))
    fill_the_disk()
    file_id = job.fileStore.writeGlobalFile("large")
    return int(job.fileStore.getGlobalFileSize(file_id))


def full_births(job: Job) -> Any:
    """Add jobs that hang together, one of them with a body too large for its record."""
    witness("ran")
    fill_the_disk()
    values = [job.addChildFn(value, number, **SMALL).rv() for number in (1, 2)]
    values.append(job.addChildFn(hand_back, LARGE, **SMALL).addChildFn(value, 3, **SMALL).rv())
    return job.addFollowOnFn(hand_back, values, **SMALL).rv()


def full_raises() -> str:
    witness("ran")
    fill_the_disk()
    return raises()


def quits_later(job: Job) -> Any:
    """Have a function called after the commit that would end the process; a child follows."""
    job.defer(sys.exit, 3)
    return job.addChildFn(ok, **SMALL).rv()


def closes_all(job: Job) -> Any:
    """Close every file there is, as programs do that become a daemon; a child follows."""
    os.closerange(3, 1024)
    return job.addChildFn(ok, **SMALL).rv()


def imports(job: Job) -> Any:
    if not mended():
        job.fileStore.import_file("file:///no/such file")
    return "mended"


class Server(Job.Service):
    """A service, which nothing starts."""

    def start(self, job: Job) -> str:
        return "never"

    def stop(self, job: Job) -> None:
        return


def serves(job: Job) -> Any:
    if not mended():
        job.addService(Server(memory="10M", cores=1, disk="10M"))
    return "mended"


def cycle() -> Job:
    top = Job.wrapFn(ok)
    top.addChildFn(ok).addChild(top)
    return top


def roots() -> Job:
    top, other = Job.wrapFn(ok), Job.wrapFn(raises)
    other.addChild(top.addChildFn(ok))
    return top


def giant_root() -> Job:
    return Job.wrapFn(ok, memory="10M" if mended() else NINE_HUNDRED)


def size_root() -> Job:
    return Job.wrapFn(ok, memory="2 Gigs")


def unpicklable_root() -> Job:
    return Job.wrapFn(hand_back, threading.Lock())


def promise_of_nobody() -> Job:
    return Job.wrapFn(hand_back, Job.wrapFn(ok).rv())


ROOTS = (cycle, roots, giant_root, size_root, unpicklable_root, promise_of_nobody)


def main() -> None:
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--kind", default="ok")
    options = parser.parse_args()
    with Toil(options) as toil:
        if options.kind == "missing_import":
            toil.import_file("file:///no/such%20file")
        if options.kind == "directory_import":
            toil.import_file("/")
        if options.restart:
            result = toil.restart()
        else:
            function = globals().get(options.kind, ok)
            takes_job = function.__code__.co_varnames[:1] == ("job",)
            wrap = Job.wrapJobFn if takes_job else Job.wrapFn
            result = toil.start(function() if function in ROOTS else wrap(function, **SMALL))
    print("result", repr(result))


if __name__ == "__main__":
    main()
