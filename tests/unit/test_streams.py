"""A stream that counts what goes through it."""

from __future__ import annotations

import csv
import gzip
import io
import pickle
from pathlib import Path

import pytest

from toilcache.io import WriteWatchingStream


def test_listeners_hear_the_bytes_of_each_write() -> None:
    heard: list[int] = []
    stream = WriteWatchingStream(io.BytesIO())
    stream.onWrite(heard.append)
    assert stream.write(b"abc") == 3
    stream.writelines([b"", b"de"])
    assert stream.write(memoryview(b"xxxx").cast("I")) == 4
    assert heard == [3, 0, 2, 4]
    assert stream.bytes_written == 9
    assert stream.getvalue() == b"abcdexxxx"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "utf-8-sig"])
def test_text_counts_as_it_is_encoded(encoding: str) -> None:
    raw = io.BytesIO()
    stream = WriteWatchingStream(io.TextIOWrapper(raw, encoding=encoding, errors="replace"))
    assert stream.write("z\u00fc") == 2
    stream.write("\u4e2d\n")
    stream.flush()
    assert stream.bytes_written == len(raw.getvalue())


def test_only_what_was_written_counts(tmp_path: Path) -> None:
    class Short(io.BytesIO):
        def write(self, data: object) -> int:
            return super().write(bytes(data)[:2])  # type: ignore[call-overload]

    stream = WriteWatchingStream(Short())
    assert stream.write(b"abcdef") == 2
    assert stream.bytes_written == 2


def test_it_serves_where_a_file_is_expected(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        stream = WriteWatchingStream(file)
        pickle.dump([1, 2], stream)
        with gzip.GzipFile(fileobj=stream, mode="wb") as packed:
            packed.write(b"x" * 1000)
        text = io.TextIOWrapper(stream, write_through=True)
        csv.writer(text).writerow(["a", "b"])
        print("end", file=text)
        assert stream.tell() == stream.bytes_written
        assert (stream.fileno(), stream.name, stream.writable()) == (file.fileno(), file.name, True)
    assert stream.closed
    assert stream.bytes_written == (tmp_path / "file").stat().st_size


def test_it_closes_the_file_at_the_end_of_its_block(tmp_path: Path) -> None:
    with WriteWatchingStream(open(tmp_path / "file", "wb")) as stream:
        stream.write(b"x")
    assert stream.backingStream.closed
    with pytest.raises(AttributeError):
        _ = stream.no_such_attribute
