"""Records: what was written comes back or is refused."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilcache.errors import CorruptRecordError
from toilcache.job_store import records

TOKEN = bytes(range(16))


@given(st.binary(max_size=2000), st.binary(min_size=16, max_size=16))
def test_a_record_comes_back(data: bytes, token: bytes) -> None:
    record = records.encode(data, token)
    found, content = records.decode(record, "path")
    assert (found, bytes(content)) == (token, data)
    assert records.token_of(record[: records.HEADER_BYTES]) == token
    assert len(record) == records.HEADER_BYTES + len(data)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_flipped_bit_is_noticed(data: bytes, draw: st.DataObject) -> None:
    record = bytearray(records.encode(data, TOKEN))
    place = draw.draw(st.integers(0, len(record) - 1))
    record[place] ^= 1 << draw.draw(st.integers(0, 7))
    with pytest.raises(CorruptRecordError):
        records.decode(bytes(record), "path")


@given(st.binary(max_size=300), st.data())
def test_any_missing_end_is_noticed_and_is_torn(data: bytes, draw: st.DataObject) -> None:
    record = records.encode(data, TOKEN)
    cut = record[: draw.draw(st.integers(0, len(record) - 1))]
    with pytest.raises(CorruptRecordError, match="path"):
        records.decode(cut, "path")
    assert records.is_torn(cut)


@given(st.integers(1, 500))
def test_a_zeroed_end_is_torn(zeros: int) -> None:
    record = records.encode(pickle.dumps("x" * 1000), TOKEN)
    assert records.is_torn(record[:-zeros] + bytes(zeros))


def test_what_is_not_torn() -> None:
    record = records.encode(pickle.dumps("x" * 1000), TOKEN)
    for data in (record, record[:-1] + b"x", record + b"x", b"x" + record[1:], b"#!/bin/sh\n" * 10):
        assert not records.is_torn(data)


@pytest.mark.parametrize("head", [b"", b"x" * 100, records.encode(b"", TOKEN)[:-1], b"tcJR\0\2" + bytes(50)])
def test_what_has_no_token(head: bytes) -> None:
    assert records.token_of(head) is None


def test_tokens_are_never_the_same() -> None:
    assert len({records.new_token() for _ in range(1000)}) == 1000
