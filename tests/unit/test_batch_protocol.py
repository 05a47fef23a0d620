"""Messages over a socket pair."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from toilcache.batch import protocol

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_messages_keep_their_bounds_and_their_order(pair: Pair) -> None:
    messages = [
        (protocol.RUN, "id", 1, 0),
        (protocol.ENDED, "id", 1, 9, 123, b"\0log\xff"),
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
    message = (protocol.ENDED, "id", 1, 9, 0, os.urandom(protocol.LOG_TAIL))
    protocol.send(pair[0], *message)
    assert protocol.receive(pair[1]) == message


def test_a_message_too_long_is_an_error_and_not_cut(pair: Pair) -> None:
    with pytest.raises(OSError, match="too long"):
        protocol.send(pair[0], protocol.BROKEN, "x" * 10_000_000)
    with pytest.raises(BlockingIOError):
        protocol.receive(pair[1], block=False)
