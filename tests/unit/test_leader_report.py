"""What a person sees of a workflow."""

from __future__ import annotations

import errno
import io
import logging
import sys
from pathlib import Path

import pytest

from tests.fakes.job_stores import Bench
from toilcache.config import Config
from toilcache.errors import JobStoreUnavailableError
from toilcache.job.description import JobDescription
from toilcache.leader.journal import Counts
from toilcache.leader.report import LAST_LINES, Reporter

LOGGER = "toilcache.leader.report"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench("memory", tmp_path)


def reporter(logs: Path | None = None) -> Reporter:
    return Reporter(Config(disableProgress=True, writeLogs=None if logs is None else str(logs)))


def failed(bench: Bench, text: bytes | None) -> JobDescription:
    """A job whose last attempt failed and printed this."""
    desc = bench.job("it's a\njob")
    desc.failure = "ValueError: no"
    if text is not None:
        desc.logJobStoreFileID = reporter().save_log(bench.store, str(desc.jobStoreID), text)
    return desc


def test_messages_of_a_job_keep_their_level(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    desc = bench.job("a job")
    desc.messages = [(logging.WARNING, "careful"), (logging.DEBUG, "details")]
    with caplog.at_level(logging.DEBUG, LOGGER):
        reporter().messages(desc)
    assert [
        (record.levelno, record.getMessage().endswith(text))
        for record, text in zip(caplog.records, ["careful", "details"], strict=True)
    ] == [(logging.WARNING, True), (logging.DEBUG, True)]
    assert "a job" in caplog.text


def test_a_failure_shows_why_and_the_last_lines(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    desc = failed(bench, b"".join(b"line %d \xff\n" % number for number in range(100)))
    with caplog.at_level(logging.DEBUG, LOGGER):
        reporter().failure(bench.store, desc, 2)
    assert "ValueError: no" in caplog.text
    assert "2 tries left" in caplog.text
    assert "(100 in all)" in caplog.text
    assert caplog.text.count("    | line") == LAST_LINES
    assert "| line 99 " in caplog.text
    assert "| line 79 " not in caplog.text


@pytest.mark.parametrize(("left", "words"), [(0, "failed for good"), (1, "1 try left"), (2, "2 tries left")])
def test_a_failure_says_what_is_left(
    bench: Bench, caplog: pytest.LogCaptureFixture, left: int, words: str
) -> None:
    reporter().failure(bench.store, failed(bench, None), left)
    assert words in caplog.text
    assert "last lines" not in caplog.text


def test_a_log_that_is_gone_does_not_hide_the_failure(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    desc = failed(bench, b"printed\n")
    bench.store.delete_file(str(desc.logJobStoreFileID))
    reporter().failure(bench.store, desc, 1)
    assert "ValueError: no" in caplog.text


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "Permission denied"), JobStoreUnavailableError("cannot write: not ours")]
)
def test_a_log_that_the_store_refuses_is_shown_at_once(
    error: Exception, bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise error

    desc = bench.job("a job")
    monkeypatch.setattr(bench.store, "write_file_stream", refuse)
    with caplog.at_level(logging.DEBUG, LOGGER):
        log_id = reporter().save_log(bench.store, str(desc.jobStoreID), b"one\nlast words \xff\n")
    assert log_id is None
    assert str(error) in caplog.text
    assert "    | last words " in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_log_that_finds_no_room_waits_for_it(
    code: int, bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(code, "not now")

    desc = bench.job("a job")
    monkeypatch.setattr(bench.store, "write_file_stream", refuse)
    with pytest.raises(OSError, match="not now"):
        reporter().save_log(bench.store, str(desc.jobStoreID), b"last words\n")
    assert caplog.text == ""


def test_nothing_printed_makes_no_log(bench: Bench) -> None:
    assert reporter().save_log(bench.store, "0123456789abcdef", b"") is None


def test_logs_are_written_inside_their_directory(bench: Bench, tmp_path: Path) -> None:
    logs = tmp_path / "new" / "the 'logs'\n"
    desc = failed(bench, b"printed\n")
    for number, name in enumerate(["../../up", "/etc/x", "..", ".hidden", "new\nline", "x" * 300, "ünï"]):
        desc.displayName = name
        desc.version = number + 1
        reporter(logs).failure(bench.store, desc, 1)
    written = list(logs.iterdir())
    assert len(written) == 7
    assert {path.read_bytes() for path in written} == {b"printed\n"}
    assert not any(path.name.startswith(".") or "\n" in path.name for path in written)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name == "new") == ["new"]


def test_streams_of_a_job_are_written_too(bench: Bench, tmp_path: Path) -> None:
    desc = bench.job("a job")
    desc.user_streams = [("a/stream", "its text")]
    reporter(tmp_path / "logs").messages(desc)
    (path,) = (tmp_path / "logs").iterdir()
    assert path.read_text() == "its text"


def test_no_progress_line_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    plain = Reporter(Config())
    plain.progress(Counts())
    plain.close()
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_progress_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    shown = Reporter(Config())
    counts = Counts()
    counts.known, counts.done, counts.running, counts.failed = 10, 4, 2, 1
    shown.progress(counts)
    shown.close()
    assert "4/10" in terminal.getvalue()
    assert "2 running" in terminal.getvalue()
    assert "1 failed" in terminal.getvalue()
