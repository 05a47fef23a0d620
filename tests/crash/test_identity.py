"""Names of processes live exactly as long as their processes, whatever these do: fork, exec, die, hide."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from toilcache.node.identity import get_process_name, living_process_names, process_name_exists

pytestmark = pytest.mark.crash

HEAD = """
import os, sys
from toilcache.node import identity, locks
from toilcache.node.identity import get_process_name, living_process_names, process_name_exists
base = sys.argv[1]
def say(*words): print(*words, flush=True)
def fork_waiting():  # a child that waits for ever; it runs Python already when the parent goes on
    inside, outside = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(outside, b".")
        os.read(0, 1)
        os._exit(0)
    os.read(inside, 1)
    return pid
"""
NAME = "say(get_process_name(base))\nsys.stdin.readline()\n"


class Script:
    """A Python process that speaks a line at a time."""

    def __init__(self, base: Path, body: str, *launcher: str) -> None:
        self.process = subprocess.Popen(
            [*launcher, sys.executable, "-c", HEAD + body, str(base)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the process ended with {self.process.wait()} instead of speaking"
        return line.rstrip("\n")

    def tell(self, line: str = "") -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "-no de\n'\"ü"
    path.mkdir()
    return path


def exists(base: Path, name: str) -> bool:
    return process_name_exists(str(base), name)


def files(base: Path) -> list[str]:
    return sorted(os.listdir(base / "names"))


@pytest.fixture
def orphan_pid() -> Iterator[list[int]]:
    """Pids to kill in the end."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_name_dies_with_its_process_and_is_removed_by_who_asks(base: Path) -> None:
    with Script(base, NAME) as other:
        name = other.hear()
        assert exists(base, name)
        assert files(base) == [name]
        other.kill()
        assert files(base) == [name]
        assert not exists(base, name)
        assert files(base) == []
        assert not exists(base, name)


def test_a_stopped_process_is_alive(base: Path) -> None:
    with Script(base, NAME) as other:
        name = other.hear()
        other.process.send_signal(signal.SIGSTOP)
        assert psutil.Process(other.process.pid).pid
        assert exists(base, name)


FORK_AND_WAIT = """
name = get_process_name(base)
pid = fork_waiting()
say(name, pid)
sys.stdin.readline()
"""


def test_a_forked_child_does_not_keep_its_dead_parent_alive(base: Path, orphan_pid: list[int]) -> None:
    with Script(base, FORK_AND_WAIT) as other:
        name, pid = other.hear().split()
        orphan_pid.append(int(pid))
        assert exists(base, name)
        other.kill()
        assert psutil.pid_exists(int(pid))
        assert not exists(base, name)


def test_a_program_started_does_not_keep_its_dead_parent_alive(base: Path, orphan_pid: list[int]) -> None:
    body = """
import subprocess
name = get_process_name(base)
child = subprocess.Popen(["sleep", "600"], close_fds=False)
say(name, child.pid)
sys.stdin.readline()
"""
    with Script(base, body) as other:
        name, pid = other.hear().split()
        orphan_pid.append(int(pid))
        other.kill()
        assert psutil.pid_exists(int(pid))
        assert not exists(base, name)


def test_a_forked_child_has_a_name_of_its_own_and_does_not_take_its_parents(base: Path) -> None:
    body = """
name = get_process_name(base)
inside, outside = os.pipe()
pid = os.fork()
if not pid:
    own = get_process_name(base)
    assert own == get_process_name(base) and process_name_exists(base, own)
    assert process_name_exists(base, name), "the child cannot see its parent"
    os.write(outside, own.encode())
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert process_name_exists(base, name) and get_process_name(base) == name
say(name, os.read(inside, 100).decode())
sys.stdin.readline()
"""
    with Script(base, body) as other:
        parent, child = other.hear().split()
        assert parent != child
        assert exists(base, parent)
        assert not exists(base, child)


def test_a_child_that_no_handler_saw_takes_its_own_name(base: Path, orphan_pid: list[int]) -> None:
    body = """
import ctypes
name = get_process_name(base)
inside, outside = os.pipe()
pid = ctypes.PyDLL(None).fork()  # as a library in C would
if not pid:
    os.write(outside, get_process_name(base).encode())
    os.read(0, 1)
    os._exit(0)
say(name, os.read(inside, 100).decode(), pid)
sys.stdin.readline()
"""
    with Script(base, body) as other:
        parent, child, pid = other.hear().split()
        orphan_pid.append(int(pid))
        assert parent != child
        assert exists(base, parent)
        assert exists(base, child)
        other.kill()
        assert not exists(base, parent)
        assert exists(base, child)


def test_a_fork_waits_while_a_thread_opens_a_lock_file(base: Path, orphan_pid: list[int]) -> None:
    body = """
import threading, warnings
warnings.simplefilter("ignore")
opened, go_on = threading.Event(), threading.Event()
whole = locks._beyond_standard
def slow(fd):
    opened.set()
    go_on.wait(0.2)  # the fork would happen now
    return whole(fd)
locks._beyond_standard = slow
names = []
thread = threading.Thread(target=lambda: names.append(get_process_name(base)))
thread.start()
opened.wait()
pid = fork_waiting()
thread.join()
say(names[0], pid)
sys.stdin.readline()
"""
    with Script(base, body) as other:
        name, pid = other.hear().split()
        orphan_pid.append(int(pid))
        assert exists(base, name)
        other.kill()
        assert not exists(base, name)


def unshare() -> list[str]:
    """Return how to start a program in a PID namespace of its own, or skip."""
    program = shutil.which("unshare")
    for options in (["-p", "-f"], ["-r", "-p", "-f"]):
        if program and not subprocess.run([program, *options, "true"], capture_output=True).returncode:
            return [program, *options, "--kill-child"]
    pytest.skip("this system lets us make no PID namespace (unshare, as root or with user namespaces)")


def test_processes_of_two_pid_namespaces_see_each_other(base: Path) -> None:
    body = """
name = get_process_name(base)
say(name, os.getpid())
for line in sys.stdin:
    say(process_name_exists(base, line.strip()))
"""
    launcher = unshare()
    with Script(base, body, *launcher) as one, Script(base, body, *launcher) as two:
        name_one, pid_one = one.hear().split()
        name_two, pid_two = two.hear().split()
        assert pid_one == pid_two == "1"
        assert name_one != name_two
        two.tell(name_one)
        assert two.hear() == "True"
        inner = psutil.Process(one.process.pid).children()[0]
        inner.kill()
        one.process.wait()
        two.tell(name_one)
        assert two.hear() == "False"
        assert exists(base, name_two)


def test_a_replaced_file_is_no_sign_of_life(base: Path) -> None:
    body = "for line in sys.stdin: say(get_process_name(base))\n"
    with Script(base, body) as other:
        other.tell()
        first = other.hear()
        (base / "new").touch()
        (base / "new").rename(base / "names" / first)
        other.tell()
        second = other.hear()
        assert second != first
        assert exists(base, second)
        assert not exists(base, first)


def test_looking_at_the_own_file_frees_nothing(base: Path) -> None:
    body = """
name = get_process_name(base)
path = os.path.join(base, "names", name)
open(path).close()  # POSIX locks would fall here
assert process_name_exists(base, name)
assert identity._is_locked_else_remove(path)
assert living_process_names(base) == [name]
say(name)
sys.stdin.readline()
"""
    with Script(base, body) as other:
        assert exists(base, other.hear())


def test_who_closes_descriptors_that_are_not_his_loses_only_the_name(base: Path) -> None:
    body = """
first = get_process_name(base)
fd = identity._by_real_path[os.path.realpath(base)].file.fd
os.closerange(3, 1000)
while True:  # now a file of somebody else has our number
    stranger = os.open("/dev/null", os.O_RDONLY)
    if stranger == fd:
        break
pid = os.fork()
if not pid:
    os.fstat(fd)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0, "the fork handler closed a stranger's file"
second = get_process_name(base)
os.fstat(fd)
say(first, second)
sys.stdin.readline()
"""
    with Script(base, body) as other:
        first, second = other.hear().split()
        assert first != second
        assert exists(base, second)
        assert not exists(base, first)


def test_a_name_never_sits_on_a_standard_descriptor(base: Path) -> None:
    body = """
os.close(0)
name = get_process_name(base)
numbers = [named.file.fd for named in identity._by_real_path.values()]
assert min(numbers) > 2, numbers
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
say(process_name_exists(base, name))
"""
    with Script(base, body) as other:
        assert other.hear() == "True"


def test_a_removed_directory_means_a_new_name(base: Path) -> None:
    with Script(base, "for line in sys.stdin: say(get_process_name(base))\n") as other:
        other.tell()
        first = other.hear()
        shutil.rmtree(base)
        base.mkdir()
        other.tell()
        second = other.hear()
        assert second != first
        assert exists(base, second)


def test_thirty_processes_at_once(base: Path) -> None:
    """All take names, half are killed, and the living all ask at once: nobody is mistaken for another."""
    body = """
sys.stdin.readline()
say(get_process_name(base))
for line in sys.stdin:
    say(*(int(process_name_exists(base, name)) for name in line.split()))
"""
    with ExitStack() as stack:
        others = [stack.enter_context(Script(base, body)) for _ in range(30)]
        for other in others:
            other.tell()
        names = [other.hear() for other in others]
        assert len(set(names)) == 30
        assert files(base) == sorted(names)
        ask_all(others, names, alive=30)
        for other in others[15:]:
            other.kill()
        ask_all(others[:15], names, alive=15)
        assert files(base) == sorted(names[:15])
        own = get_process_name(str(base))
        assert living_process_names(str(base)) == sorted([own, *names[:15]])


def ask_all(others: list[Script], names: list[str], alive: int) -> None:
    for other in others:
        other.tell(" ".join(names))
    expected = " ".join("1" * alive + "0" * (len(names) - alive))
    assert {other.hear() for other in others} == {expected}
