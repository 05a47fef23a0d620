"""Messages over a socket pair."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from toilcache.batch import protocol
from toilcache.batch.host_process import HostProcess, host_environment
from toilcache.batch.model import JobRequest

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_messages_keep_their_bounds_and_their_order(pair: Pair) -> None:
    messages = [
        (protocol.RUN, "id", 1, (0.5, 1, 1, 0)),
        (protocol.ENDED, "id", 1, 9, 123, b"\0log\xff", None),
        (protocol.SETUP, {"sys_path": ["it's a\n'path'"], "main": None}),
        (protocol.STOP,),
    ]
    for message in messages:
        protocol.send(pair[0], *message)
    assert [protocol.receive(pair[1]) for _ in messages] == messages


def test_nothing_there(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        protocol.receive(pair[1], block=False)
    assert pair[1].getblocking()


def test_the_peer_is_gone(pair: Pair) -> None:
    protocol.send(pair[0], protocol.STOP)
    pair[0].close()
    assert protocol.receive(pair[1]) == (protocol.STOP,)
    assert protocol.receive(pair[1]) is None
    assert protocol.receive(pair[1], block=False) is None
    with pytest.raises(BrokenPipeError):
        protocol.send(pair[1], protocol.STOP)


def test_the_peer_is_gone_with_messages_unread(pair: Pair) -> None:
    protocol.send(pair[1], protocol.STOP)
    pair[0].close()
    assert protocol.receive(pair[1]) is None


def test_the_longest_log_tail_fits(pair: Pair) -> None:
    message = (protocol.ENDED, "id", 1, 9, 0, os.urandom(protocol.LOG_TAIL), "0123456789abcdef")
    protocol.send(pair[0], *message)
    assert protocol.receive(pair[1]) == message


def test_a_message_too_long_is_an_error_and_not_cut(pair: Pair) -> None:
    with pytest.raises(OSError, match="too long"):
        protocol.send(pair[0], protocol.BROKEN, "x" * 10_000_000)
    with pytest.raises(BlockingIOError):
        protocol.receive(pair[1], block=False)


class NeverWaiting:
    """A socket on which waiting for room is an error."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner

    def send(self, data: bytes, flags: int = 0) -> int:
        assert flags & socket.MSG_DONTWAIT
        return self._inner.send(data, flags)


class HostWithoutProcess(HostProcess):
    """The adapter's side of a host; the other side is the test."""

    def __init__(self, ours: socket.socket) -> None:
        self._forget_everything()
        self.socket = cast(socket.socket, NeverWaiting(ours))


def request(number: int) -> JobRequest:
    return JobRequest(f"job{number}", 1, "job", 1.0, 1, 1, 0, False)


def test_a_host_that_does_not_read_keeps_nobody_waiting(pair: Pair) -> None:
    host = HostWithoutProcess(pair[0])
    for number in range(2000):
        host.run(request(number))
    assert host.events == select.POLLIN | select.POLLOUT
    received: list[str] = []
    while len(received) < 2000:
        try:
            message = protocol.receive(pair[1], block=False)
        except BlockingIOError:
            host.flush()
            continue
        assert message is not None
        received.append(message[1])
    assert received == [f"job{number}" for number in range(2000)]
    host.flush()
    assert host.events == select.POLLIN


def test_what_a_host_that_is_gone_was_to_hear_is_dropped(pair: Pair) -> None:
    host = HostWithoutProcess(pair[0])
    pair[1].close()
    host.run(request(1))
    host.stop()
    assert host.events == select.POLLIN
    assert set(host.running) == {"job1"}


def test_cancelling_what_a_host_has_and_what_not(pair: Pair) -> None:
    host = HostWithoutProcess(pair[0])
    host.run(request(1))
    host.queue(request(2).shape, [request(2)])
    assert [host.cancel(f"job{number}") for number in (1, 2, 3)] == [True, True, False]
    messages = [protocol.receive(pair[1]) for _ in range(4)]
    assert messages[2:] == [(protocol.CANCEL, "job1", 1), (protocol.CANCEL, "job2", 1)]
    assert host.forgotten("job2") == request(2)
    assert host.forgotten("job2") is None
    assert host.ended("job1", None) == (request(1), None)
    assert host.ended("job1", None) == (None, None)


def test_the_environment_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("OF_THE_LEADER", "it's\nmine")
    plain = host_environment("MARKER=x.1", 3, ())
    assert plain["OMP_NUM_THREADS"] == plain["OPENBLAS_NUM_THREADS"] == "3"
    assert plain["CUDA_VISIBLE_DEVICES"] == "7"
    assert plain["OF_THE_LEADER"] == "it's\nmine"
    assert host_environment("MARKER=x.1", 1, (0, 2))["CUDA_VISIBLE_DEVICES"] == "0,2"


def test_symbols_are_resolved_at_once_for_the_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_BIND_NOW", raising=False)
    made = host_environment("MARKER=x.1", 1, ())
    assert made["LD_BIND_NOW"]
    monkeypatch.setattr(os, "environ", made)
    protocol.forget_bind_now()
    assert "LD_BIND_NOW" not in made
    made["LD_BIND_NOW"] = "1"  # a person wants it for all programs
    assert host_environment("MARKER=x.1", 1, ())["LD_BIND_NOW"] == "1"
    protocol.forget_bind_now()
    assert made["LD_BIND_NOW"] == "1"
