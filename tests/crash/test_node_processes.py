"""Ending what a job left running, and clean-up after users that were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from toilcache.node import ending
from toilcache.node.coordination import node_dirs
from toilcache.node.machine import end_marked_processes, is_process, process_start_time
from toilcache.node.remains import cleanup

pytestmark = pytest.mark.crash

MARKER = f"TOILCACHE_MARK='a \n=ü{os.getpid()}"  # not that of another process of tests
PYTHON = "import os, signal, sys\ndef say(*words): print(*words, flush=True)\n"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python programs that are killed in the end; their first line has been read."""
    started: list[subprocess.Popen[str]] = []

    def start_one(body: str, *arguments: str, mark: bool = True) -> subprocess.Popen[str]:
        name, _, value = MARKER.partition("=")
        process = subprocess.Popen(
            [sys.executable, "-c", PYTHON + body, *arguments],
            env={**os.environ, **({name: value} if mark else {})},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout
        assert process.stdout.readline()
        return process

    yield start_one
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout
        process.stdout.close()


WAIT = "say('here')\nsignal.pause()\n"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAIT


def test_marked_processes_end_and_others_live(start: Start) -> None:
    marked = [start(WAIT), start(WAIT)]
    other = start(WAIT, mark=False)
    assert end_marked_processes(MARKER) == sorted(process.pid for process in marked)
    assert [process.wait() for process in marked] == [-signal.SIGTERM] * 2
    assert other.poll() is None
    assert end_marked_processes(MARKER) == []


def test_who_ends_the_others_is_spared(start: Start) -> None:
    body = """
from toilcache.node.machine import end_marked_processes
say("here")
say(end_marked_processes(sys.argv[1]))
"""
    other = start(WAIT)
    ender = start(body, MARKER)
    assert ender.stdout
    assert ender.stdout.readline() == f"[{other.pid}]\n"
    assert ender.wait() == 0


def test_part_of_a_marker_is_no_marker(start: Start) -> None:
    process = start(WAIT)
    assert end_marked_processes(MARKER[:-1]) == []
    assert end_marked_processes(MARKER.partition("=")[0]) == []
    assert process.poll() is None


def test_who_ignores_the_request_is_killed(start: Start) -> None:
    process = start(STUBBORN)
    assert end_marked_processes(MARKER, grace=0.05) == [process.pid]
    assert process.wait() == -signal.SIGKILL


def test_a_stopped_process_ends_too(start: Start) -> None:
    process = start(WAIT)
    process.send_signal(signal.SIGSTOP)
    assert end_marked_processes(MARKER, grace=0.05) == [process.pid]
    assert process.wait() == -signal.SIGKILL


def test_what_is_started_on_the_way_out_is_found(start: Start) -> None:
    body = """
import subprocess
def leave(*_):
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
"""
    process = start(body + WAIT)
    ended = end_marked_processes(MARKER)
    assert len(ended) == 2
    assert process.pid in ended
    assert process.wait() == 0


def test_forked_members_of_a_session_end_with_it(start: Start) -> None:
    body = """
for _ in range(3):
    if not os.fork():
        signal.pause()
"""
    process = start(body + WAIT, mark=False)
    children = [child.pid for child in psutil.Process(process.pid).children()]
    assert end_marked_processes("NOT=there", session=process.pid) == sorted([process.pid, *children])


def test_without_process_descriptors_it_works_too(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", missing)
    gentle, stubborn = start(WAIT), start(STUBBORN)
    assert end_marked_processes(MARKER, grace=0.3) == sorted([gentle.pid, stubborn.pid])
    monkeypatch.delattr(os, "pidfd_open")
    last = start(WAIT)
    assert end_marked_processes(MARKER) == [last.pid]


def test_who_may_not_be_signalled_is_left_and_not_reported(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    spared, other = start(WAIT), start(WAIT)
    send = ending._send

    def refuse(pid: int, descriptor: int | None, number: int) -> None:
        if pid == spared.pid:
            raise PermissionError
        send(pid, descriptor, number)

    monkeypatch.setattr(ending, "_send", refuse)
    assert end_marked_processes(MARKER) == [other.pid]
    assert spared.poll() is None


def test_a_pid_given_to_another_process_is_not_signalled(start: Start) -> None:
    process = start(WAIT)
    found = [[(process.pid, 1)], []]  # seen once, and not there any more when looked again
    assert ending.end_processes(lambda: found.pop(0) if found else [], 0.1) == [process.pid]
    assert process.poll() is None


def test_a_zombie_is_no_process(start: Start) -> None:
    process = start("say('here')\n")
    began = process_start_time(os.getpid())
    assert began is not None
    psutil.Process(process.pid).parent()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert process_start_time(process.pid) is None
    assert not is_process(process.pid, began)


HOLD = """
from toilcache.node.coordination import node_dirs
hold = node_dirs("wf", sys.argv[1], sys.argv[2], create=False).hold(run=1)
say("here")
if len(sys.argv) > 3 and not os.fork():
    say("forked")
signal.pause()
"""


def test_clean_up_waits_for_nobody_who_was_killed(start: Start, tmp_path: Path) -> None:
    bases = str(tmp_path / "a 'b"), str(tmp_path / "-c\n")
    user = start(HOLD, *bases, mark=False)
    dirs = node_dirs("wf", *bases, create=False)
    assert not cleanup("wf", *bases, run=1)
    assert os.path.isdir(dirs.jobs)
    user.kill()
    user.wait()
    assert cleanup("wf", *bases, run=1)
    assert [os.listdir(base) for base in bases] == [[], []]


def test_a_forked_child_does_not_hold_for_its_dead_parent(start: Start, tmp_path: Path) -> None:
    bases = str(tmp_path / "a"), str(tmp_path / "b")
    user = start(HOLD, *bases, "fork", mark=False)
    assert user.stdout
    assert user.stdout.readline() == "forked\n"
    assert not cleanup("wf", *bases)
    user.kill()
    user.wait()
    assert cleanup("wf", *bases)
