"""The parts of the file stores: names, directories, modes, streams, logs, the thread of a commit."""

from __future__ import annotations

import _thread
import io
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from toilcache.file_store import scratch, user_stream
from toilcache.file_store.access import AccessLog
from toilcache.file_store.commit import Commit
from toilcache.file_store.local_names import encoded_name, fresh_path, is_inside
from toilcache.file_store.private_copy import make_private
from toilcache.file_store.scratch import (
    Spare,
    fresh_scratch,
    is_alone,
    make_scratch,
    remove_if_empty,
    used_bytes,
)
from toilcache.file_store.user_stream import read_user_stream
from toilcache.file_store.worker_log import worker_log

HOSTILE = ["-rf", "a b'\"$(x)", "new\nline", "ünï\u202ecode", "..", ".hidden", "x" * 300, "tail\ud800"]


@pytest.mark.parametrize("name", [*HOSTILE, "../../etc/passwd", "/etc/passwd", "a/..", "a/", "", "nul\0"])
def test_a_local_name_is_one_printable_part_of_a_path(name: str) -> None:
    made = encoded_name(name)
    assert "/" not in made
    assert made.isascii()
    assert made.isprintable()
    assert len(made) <= 120
    assert made[0] not in ".-"


def test_a_local_name_keeps_the_suffix_and_is_new_each_time() -> None:
    assert encoded_name("own/ab/1/" + "y" * 200 + ".fastq.gz").endswith(".fastq.gz")
    assert len({encoded_name("same") for _ in range(50)}) == 50


@pytest.mark.parametrize("name", [text for text in HOSTILE if len(text) < 200 and "\ud800" not in text])
def test_a_fresh_path_stays_in_its_directory(tmp_path: Path, name: str) -> None:
    path = fresh_path(str(tmp_path), suffix=name, prefix=name)
    assert os.path.dirname(path) == str(tmp_path)
    assert os.path.basename(path).startswith(name)
    assert path.endswith(name)
    assert not os.path.lexists(path)


@pytest.mark.parametrize("bad", ["/x", "../x", "a/b", "nul\0"])
@pytest.mark.parametrize("which", ["suffix", "prefix"])
def test_a_fresh_path_leads_nowhere_else(tmp_path: Path, bad: str, which: str) -> None:
    with pytest.raises(ValueError, match="cannot name a temporary file"):
        fresh_path(str(tmp_path), **{"suffix": None, "prefix": None, which: bad})


def test_a_name_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="shorten prefix and suffix") as caught:
        fresh_path(str(tmp_path), "é" * 130, None)
    assert caught.value.errno == 36


def test_a_fresh_path_avoids_what_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter(["taken", "dangling", "free"])
    monkeypatch.setattr("toilcache.file_store.local_names.random_name", lambda n: next(draws))
    (tmp_path / "tmptaken").touch()
    (tmp_path / "tmpdangling").symlink_to("nowhere")
    assert fresh_path(str(tmp_path), None, None) == str(tmp_path / "tmpfree")


def test_inside_means_really_inside(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "home-other"
    (home / "deep").mkdir(parents=True)
    other.mkdir()
    (home / "out").symlink_to(other)
    (other / "in").symlink_to(home)
    inside = ["x", "deep/x", "deep/../x"]
    assert [is_inside(str(home), str(home / name)) for name in inside] == [True] * 3
    assert is_inside(str(home), str(other / "in" / "x"))
    assert not is_inside(str(home), str(home / "out" / "x"))
    assert not is_inside(str(home), str(other / "x"))
    assert not is_inside(str(home), str(tmp_path / "x"))


def test_a_scratch_directory_can_be_traversed_but_not_listed_by_others(tmp_path: Path) -> None:
    parent = tmp_path / "not yet" / "there\n"
    umask = os.umask(0o077)
    try:
        made = make_scratch(str(parent))
    finally:
        os.umask(umask)
    assert os.path.dirname(made) == str(parent)
    assert stat.S_IMODE(os.stat(made).st_mode) == 0o711


@pytest.fixture
def spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spare]:
    monkeypatch.setattr(
        scratch, "is_alone", lambda: True
    )  # other tests may have left threads in this process
    home = os.getcwd()
    yield Spare(fresh_scratch(str(tmp_path)))
    os.chdir(home)


def test_a_directory_without_a_trace_is_handed_on(spare: Spare) -> None:
    spare.enter()
    first = os.getcwd()
    for _ in range(3):
        assert spare.is_untouched(first)
        os.chdir("/")
        spare.enter()
        assert os.getcwd() == first
    assert stat.S_IMODE(os.stat(".").st_mode) == 0o711


@pytest.mark.parametrize("clock", ["goes on", "stands"])
@pytest.mark.parametrize("trace", ["file", "directory", "mode", "gone", "attribute"])
def test_a_directory_with_a_trace_is_not(
    spare: Spare, trace: str, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older kernels give files the time of the last 4 to 10 ms: what follows at once has the same."""
    if clock == "stands":
        monkeypatch.setattr(scratch, "_mark", lambda path: (os.lstat(path).st_ino, os.lstat(path).st_mode))
    spare.enter()
    path = os.getcwd()
    time.sleep(0.1)
    if trace == "mode":
        os.chmod(path, 0o777)
    elif trace == "attribute":
        os.setxattr(path, "user.trace", b"x")
    elif trace == "directory":
        os.mkdir(".trace")
    else:
        Path("trace").touch()
        if trace == "gone":
            os.remove("trace")
    if clock == "goes on" or trace not in ("gone", "attribute"):
        assert not spare.is_untouched(path)


@pytest.mark.parametrize("runs", [True, False])
def test_a_directory_of_which_a_process_may_know_is_given_up(
    spare: Spare, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "is_alone", is_alone)
    spare.enter()
    path = os.getcwd()
    with subprocess.Popen(["sleep", "60" if runs else "0"]) as process:
        try:
            time.sleep(0 if runs else 0.1)
            assert not spare.is_untouched(path)
        finally:
            process.kill()
    for _ in range(2):
        spare.enter()
        assert os.getcwd() != path
        assert not spare.is_untouched(os.getcwd())


def test_a_directory_that_was_kept_or_removed_is_replaced(spare: Spare) -> None:
    spare.enter()
    kept = os.getcwd()
    Path("result").touch()
    assert not spare.is_untouched(kept)
    spare.enter()
    another = os.getcwd()
    assert another != kept
    assert os.listdir() == []
    assert not spare.is_untouched(another)  # it goes with its job
    os.remove(f"{kept}/result")
    os.rmdir(kept)
    spare.enter()
    assert os.getcwd() == kept
    os.rmdir(kept)
    assert not spare.is_untouched(kept)
    for _ in range(2):
        spare.enter()
        assert os.getcwd() == kept
        os.rmdir(kept)


def test_only_an_empty_directory_is_removed_at_once(tmp_path: Path) -> None:
    full = tmp_path / "full"
    (full / "x").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    assert remove_if_empty(str(tmp_path / "empty"))
    assert remove_if_empty(str(tmp_path / "gone"))
    assert not remove_if_empty(str(full))
    assert full.exists()


def test_disk_usage_is_blocks_of_each_inode_once(tmp_path: Path) -> None:
    one = tmp_path / "dir" / "one"
    one.parent.mkdir()
    one.write_bytes(os.urandom(100_000))
    os.link(one, tmp_path / "again")
    (tmp_path / "link").symlink_to(one)
    with open(tmp_path / "sparse", "wb") as sparse:
        sparse.truncate(2**30)
    expected = sum(
        path.lstat().st_blocks for path in (one, one.parent, tmp_path / "link", tmp_path / "sparse")
    )
    assert used_bytes(str(tmp_path)) == 512 * expected
    assert 100_000 <= used_bytes(str(tmp_path)) < 2**20


def test_disk_usage_takes_what_it_can_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    assert used_bytes(str(tmp_path / "gone")) == 0

    class Gone:
        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr("toilcache.file_store.scratch.os.scandir", lambda path: _Listing([Gone()]))
        assert used_bytes(str(tmp_path)) == 0


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user may work in; the test is the old user again afterwards."""
    user = os.geteuid()
    with TemporaryDirectory(dir="/tmp") as path:
        os.chmod(path, 0o777)
        yield Path(path)
        os.seteuid(user)


class _Listing(list[object]):
    def __enter__(self) -> _Listing:
        return self

    def __exit__(self, *failure: object) -> None:
        pass


@pytest.mark.parametrize("executable", [False, True])
@pytest.mark.parametrize("mode", [0o444, 0o644, 0o400])
def test_a_private_file_gets_the_mode(tmp_path: Path, mode: int, executable: bool) -> None:
    path = tmp_path / "file\n"
    path.write_bytes(b"content")
    path.chmod(0o700 if executable else 0o600)
    inode = path.stat().st_ino
    make_private(str(path), mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode | ((mode & 0o444) >> 2 if executable else 0)
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("mode", [0o644, 0o755])
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_link_is_replaced_where_it_could_be_written_through(
    tmp_path: Path, link: Callable[[str, str], None], mode: int
) -> None:
    store, path = tmp_path / "store", tmp_path / "path"
    store.write_bytes(b"precious")
    store.chmod(mode)
    link(str(store), str(path))
    make_private(str(path), 0o644)
    assert not path.is_symlink()
    path.write_bytes(b"scribble")
    assert store.read_bytes() == b"precious"
    assert stat.S_IMODE(store.stat().st_mode) == mode
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert sorted(os.listdir(tmp_path)) == ["path", "store"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_read_only_link_stays_where_this_process_cannot_come_to_write(
    open_dir: Path, link: Callable[[str, str], None]
) -> None:
    store, path = open_dir / "store", open_dir / "path"
    store.write_bytes(b"precious")
    store.chmod(0o444)
    link(str(store), str(path))
    if os.geteuid() == 0:
        os.seteuid(65534)
        make_private(str(path), 0o444)
        assert path.samefile(store)
    make_private(str(path), 0o644)
    assert not path.samefile(store)


def test_accesses_are_told_one_line_each() -> None:
    log = AccessLog()
    assert log.describe() == ""
    log.add("id\nforged line", None)
    log.add("other", "/tmp/a b")
    assert log.entries == [("id\nforged line", None), ("other", "/tmp/a b")]
    assert log.describe().splitlines() == [
        r"read file 'id\nforged line' as a stream",
        "read file 'other' to '/tmp/a b'",
    ]


def test_of_many_accesses_the_latest_are_told() -> None:
    log = AccessLog()
    for number in range(1000):
        log.add(f"file{number}", None)
    lines = log.describe().splitlines()
    assert lines[0] == "950 earlier reads"
    assert lines[-1] == "read file 'file999' as a stream"
    assert len(lines) == 51


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"", ""), ("ünï\n".encode(), "ünï\n"), (b"bad \xff byte", "bad \ufffd byte"), (b"\0", "\0")],
)
def test_a_user_stream_is_text(data: bytes, text: str) -> None:
    assert read_user_stream(io.BytesIO(data)) == text


def test_a_user_stream_may_be_open_as_text() -> None:
    assert read_user_stream(io.StringIO("ünï")) == "ünï"


def test_of_a_long_user_stream_the_end_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_stream, "MAX_BYTES", 100_000)
    data = b"start" + b"x" * 300_000 + b"the end"
    text = read_user_stream(io.BytesIO(data))
    first, _, rest = text.partition("\n")
    assert first == f"[{len(data) - len(rest)} bytes left out]"
    assert rest.endswith("xthe end")
    assert 100_000 <= len(rest) <= 100_000 + 2**16
    assert read_user_stream(io.BytesIO(b"x" * 100_000)) == "x" * 100_000


def test_the_worker_log_is_the_logger_where_there_is_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        worker_log(logging.WARNING, "100 %s\nhere")
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.WARNING, "100 %s\nhere")]


@pytest.mark.parametrize(
    ("level", "name"),
    [(50, "CRITICAL"), (45, "ERROR"), (30, "WARNING"), (20, "INFO"), (10, "DEBUG"), (0, "DEBUG")],
)
def test_the_worker_log_is_standard_error_elsewhere(
    level: int, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "logging")
    worker_log(level, "text")
    assert capsys.readouterr().err == f"{name}: text\n"


def test_a_process_without_standard_error_logs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "logging")
    monkeypatch.setattr(sys, "stderr", None)
    worker_log(20, "text")


def test_a_commit_runs_beside_and_is_waited_for() -> None:
    gate = _thread.allocate_lock()
    gate.acquire()
    seen: list[int] = []

    def work() -> None:
        gate.acquire()
        seen.append(_thread.get_ident())

    commit = Commit(work)
    assert seen == []
    gate.release()
    commit.wait()
    commit.wait()
    assert len(seen) == 1
    assert seen[0] != _thread.get_ident()


def test_a_commit_raises_what_went_wrong_at_each_wait() -> None:
    def fail() -> None:
        raise SystemExit("out")

    commit = Commit(fail)
    for _ in range(2):
        with pytest.raises(SystemExit, match="out"):
            commit.wait()


def test_a_commit_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", no_thread)
    seen: list[int] = []
    Commit(lambda: seen.append(_thread.get_ident())).wait()
    assert seen == [_thread.get_ident()]
