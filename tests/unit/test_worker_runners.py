"""Processes forked ahead: each takes one attempt, however many were forked, and none outlives its host."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from toilcache.file_store.scratch import Spare
from toilcache.worker import posix
from toilcache.worker.runners import MOST_AHEAD, Runners

# A host keeps the files of its jobs' output until it ends; a runner's pipes go when its end is told.
pytestmark = pytest.mark.descriptors(6 * MOST_AHEAD)


def _become(log: int) -> None:
    os.dup2(log, 1)
    os.dup2(log, 2)


def _run(job_id: str, version: int, order: bytes, spare: Spare | None) -> int:
    if job_id == "taking" and spare is not None:
        spare.enter()
    os.write(1, f"{job_id} at {version} in {os.getpid()}".encode())
    return version


@pytest.fixture
def runners(tmp_path: Path) -> Iterator[Runners]:
    made = Runners(str(tmp_path), _become, _run)
    yield made
    made.dismiss()


def _end_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_each_attempt_has_a_process_and_its_output_a_file(runners: Runners) -> None:
    pids = []
    for number in range(20):
        runner = runners.start(f"job{number}", number)
        assert _end_of(runner.pid) == number
        assert posix.tail(runner.log, 100) == b"job%d at %d in %d" % (number, number, runner.pid)
        os.ftruncate(runner.log, 0)
        runners.bury(runner)
        pids.append(runner.pid)
    assert len(set(pids)) == 20


def test_a_file_that_cannot_be_emptied_is_given_to_nobody(
    runners: Runners, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    runner = runners.start("job", 0)
    _end_of(runner.pid)
    monkeypatch.setattr(posix.vfs, "ftruncate", fails)
    runners.bury(runner)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(runner.log)


def test_the_first_is_forked_alone_and_later_ones_in_growing_numbers(runners: Runners) -> None:
    waiting = []
    for _ in range(20):
        pid = runners.start("job", 0).pid
        waiting.append(len(list(runners.pids)))
        _end_of(pid)
    assert waiting[:7] == [0, 1, 0, 3, 2, 1, 0]
    assert max(waiting) == MOST_AHEAD - 1


def test_one_that_dies_while_it_waits_is_passed_over(runners: Runners) -> None:
    for _ in range(2):
        _end_of(runners.start("job", 0).pid)
    (dead,) = runners.pids
    os.kill(dead, signal.SIGKILL)
    os.waitpid(dead, 0)
    pid = runners.start("job", 7).pid
    assert pid != dead
    assert _end_of(pid) == 7


def test_the_end_of_one_that_waits_is_nobodys_end(runners: Runners) -> None:
    for _ in range(2):
        _end_of(runners.start("job", 0).pid)
    (idle,) = runners.pids
    os.kill(idle, signal.SIGKILL)
    os.waitpid(idle, 0)
    assert runners.ended(idle)
    assert not runners.ended(idle)
    assert list(runners.pids) == []


def test_dismissed_they_are_gone(runners: Runners) -> None:
    for _ in range(4):
        _end_of(runners.start("job", 0).pid)
    idle = list(runners.pids)
    assert idle
    runners.dismiss()
    for pid in idle:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def test_they_end_by_themselves_when_nobody_can_give_them_work(runners: Runners) -> None:
    for _ in range(4):
        _end_of(runners.start("job", 0).pid)
    idle = list(runners.pids)
    for runner in runners._waiting.values():
        runner.close()
    runners._waiting.clear()
    assert [_end_of(pid) for pid in idle] == [0] * len(idle)


def test_without_a_process_to_spare_those_that_wait_do(
    runners: Runners, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        _end_of(runners.start("job", 0).pid)

    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    before = len(os.listdir("/proc/self/fd"))
    pid = runners.start("job", 3).pid
    assert _end_of(pid) == 3
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            runners.start("job", 4)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # at most a file for output, which is used again


@pytest.fixture
def staying(tmp_path: Path) -> Iterator[tuple[Runners, int]]:
    waking, wake = os.pipe()
    made = Runners(str(tmp_path), _become, _run, wake)
    yield made, waking
    made.dismiss()
    os.close(waking)
    os.close(wake)


def test_one_that_stays_does_all_that_goes_well(staying: tuple[Runners, int]) -> None:
    runners, waking = staying
    first = runners.start("job", 0)
    for number in range(1, 6):
        os.read(waking, 1)
        assert runners.finished() == [first.pid]
        assert runners.finished() == []
        runners.wait_again(first)
        assert runners.start(f"job{number}", 0) is first
    os.read(waking, 1)
    assert posix.tail(first.log, 16).endswith(str(first.pid).encode())
    runners.finished()
    runners.wait_again(first)


def test_one_that_stays_ends_with_what_goes_wrong(staying: tuple[Runners, int]) -> None:
    runners, waking = staying
    failing = runners.start("job", 3)
    assert _end_of(failing.pid) == 3
    assert runners.finished() == []
    runners.bury(failing)
    another = runners.start("job", 0)
    assert another.pid != failing.pid
    os.read(waking, 1)
    assert runners.finished() == [another.pid]
    runners.wait_again(another)


def test_what_its_jobs_had_goes_with_one_that_stays(staying: tuple[Runners, int], tmp_path: Path) -> None:
    runners, waking = staying
    runner = runners.start("taking", 0)
    os.read(waking, 1)
    (left,) = os.listdir(tmp_path)
    assert runners.finished() == [runner.pid]
    runners.wait_again(runner)
    assert runners.start("taking", 3) is runner
    assert _end_of(runner.pid) == 3
    assert os.listdir(tmp_path) == [left]
    runners.bury(runner)
    assert os.listdir(tmp_path) == []
