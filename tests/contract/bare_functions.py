"""Functions that are not given their job, for the tests of them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any


def value(what: Any = "a value") -> Any:
    return what


def where(path: str) -> tuple[int, int]:
    """Say who runs this and for whom, and that it runs in an empty directory of its own."""
    assert os.listdir(".") == []
    assert os.stat(".").st_mode & 0o777 == 0o711
    Path(path).write_text(os.getcwd(), encoding="utf-8")
    print("printed")
    return os.getpid(), os.getppid()


def wait_for(gate: str) -> str:
    """Say that this runs, then wait until a file appears."""
    Path(f"{gate}.{os.getpid()}.running").touch()
    while not os.path.exists(gate):
        time.sleep(0.005)
    return "has waited"


def leave_files() -> str:
    Path("left").write_bytes(bytes(100_000))
    return "has left a file"


def large(size: int) -> bytes:
    return bytes(size)


def nameless() -> Any:
    """Return what only goes by value."""
    return lambda: 42


def unpicklable() -> Any:
    return open(os.devnull, "rb")


def fail() -> None:
    print("printed before")
    raise ValueError("no such luck")


def call_exit() -> None:
    sys.exit(4)


def exit_at_once() -> None:
    os._exit(0)


def fork_and_return() -> str:
    """Return in two processes; the child is done first, and leaves its parent the directory."""
    pid = os.fork()
    if pid == 0:
        return "child"
    os.waitpid(pid, 0)
    Path("made later").touch()
    return "parent"


def fork_and_fail() -> str:
    """Return in the parent, when a child that it has forked has raised."""
    pid = os.fork()
    if pid == 0:
        raise ValueError("in the child")
    os.waitpid(pid, 0)
    return "parent"


def leave_a_child(path: str) -> str:
    """Leave a forked child behind, which has all descriptors of this process."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(1)
    Path(path).write_text(str(pid), encoding="ascii")
    return "left"


def close_all(path: str) -> str:
    """Close all but the standard descriptors, as daemons do."""
    os.closerange(3, 1024)
    return "closed"


def close_all_and_open(path: str) -> str:
    """Have a file, and pipes, in the place of each of them."""
    os.closerange(3, 1024)
    while os.open(path, os.O_RDWR) < 100:
        os.pipe()
    return "closed"


def remove_directory(size: int) -> bytes:
    """Leave the process in no directory."""
    os.rmdir(os.getcwd())
    return bytes(size)


def replace_directory(size: int) -> bytes:
    """Have a file where the directory was."""
    path = os.getcwd()
    os.rmdir(path)
    Path(path).touch()
    return bytes(size)


class Once:
    """Notes each time that it is pickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        with open(self.path, "a", encoding="ascii") as times:
            times.write(".")
        return bytes, (b"\0" * 10_000,)


def once(path: str) -> Any:
    """Return what is too large to be handed over, and had better be pickled once only."""
    return Once(path)


class Counted:
    """Notes each time that it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        with open(self.path, "a", encoding="ascii") as times:
            times.write(".")


def fail_with(counted: Counted) -> None:
    raise ValueError("no such luck")
