"""What a wait status means."""

from __future__ import annotations

import signal

import pytest

from toilcache.batch import protocol
from toilcache.batch.status import explain
from toilcache.job.exit_reason import BatchJobExitReason as Reason


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("status", "oom", "reason", "words"),
    [
        (exited(0), False, Reason.FINISHED, "ended"),
        (exited(3), False, Reason.FAILED, "exited with status 3 without a result"),
        (exited(255), True, Reason.FAILED, "status 255"),
        (protocol.CANCELLED, False, Reason.KILLED, "was cancelled"),
        (protocol.CANCELLED, True, Reason.KILLED, "was cancelled"),
        (protocol.NOT_STARTED, True, Reason.LOST, "could not be started"),
        (signal.SIGSEGV, False, Reason.FAILED, "crashed (SIGSEGV)"),
        (signal.SIGSEGV | 0x80, False, Reason.FAILED, "crashed (SIGSEGV)"),  # with a core dump
        (signal.SIGABRT, True, Reason.FAILED, "crashed (SIGABRT)"),
        (signal.SIGKILL, False, Reason.KILLED, "was killed (SIGKILL)"),
        (signal.SIGKILL, True, Reason.MEMLIMIT, "memory ran out"),
        (signal.SIGRTMIN + 3, False, Reason.FAILED, "signal 37"),
    ],
)
def test_a_status_in_words(status: int, oom: bool, reason: Reason, words: str) -> None:
    found, text = explain(status, oom_killed=oom)
    assert found == reason
    assert words in text


def test_every_status_that_a_process_can_have_is_explained() -> None:
    for status in [*map(exited, range(256)), *range(1, 65), *(number | 0x80 for number in range(1, 32))]:
        reason, text = explain(status)
        assert isinstance(reason, Reason)
        assert text
        assert (reason == Reason.FINISHED) == (status == 0)
