"""What a worker asks of the kernel, as far as one process can show it."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from toilcache import vfs
from toilcache.worker import posix


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    directory = tmp_path / "-it's a\n'directory' ü"
    directory.mkdir()
    return str(directory)


def test_a_file_without_a_name(hostile: str) -> None:
    descriptor = posix.unlinked_file(hostile)
    try:
        assert os.listdir(hostile) == []
        os.write(descriptor, b"one ")
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, b"two")  # appended, wherever the position is
        assert os.pread(descriptor, 100, 0) == b"one two"
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_a_file_without_a_name_where_the_file_system_has_no_such_thing(
    hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "not supported")
        return really_open(path, flags, mode)

    monkeypatch.setattr(vfs, "open", refuse)
    test_a_file_without_a_name(hostile)


@pytest.mark.parametrize(
    ("content", "tail"), [(b"", b""), (b"abc", b"abc"), (b"abcd", b"abcd"), (b"abcdef", b"cdef")]
)
def test_the_tail_of_a_file(hostile: str, content: bytes, tail: bytes) -> None:
    descriptor = posix.unlinked_file(hostile)
    try:
        os.write(descriptor, content)
        assert posix.tail(descriptor, 4) == tail
    finally:
        os.close(descriptor)


def test_numpy_draws_other_numbers_after_reseeding() -> None:
    import numpy.random as numpy_random

    numpy_random.seed(17)
    plain = numpy_random.random(4).tolist()
    numpy_random.seed(17)
    posix.reseed()
    assert numpy_random.random(4).tolist() != plain


def test_reseeding_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy.random", raising=False)
    random.seed(17)
    plain = random.random()
    random.seed(17)
    posix.reseed()
    assert random.random() == plain
    assert "numpy.random" not in sys.modules


def test_the_score_for_the_kernel_is_written_where_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    reader, writer = os.pipe()
    monkeypatch.setattr(vfs, "open", lambda path, flags: writer)
    monkeypatch.setattr(vfs, "write", lambda descriptor, data: written.append(data))
    posix.be_killed_first()
    assert written == [b"500"]
    monkeypatch.undo()
    os.close(reader)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)


@pytest.mark.parametrize("call", ["open", "write"])
def test_a_container_that_forbids_the_score_is_put_up_with(
    call: str, monkeypatch: pytest.MonkeyPatch, hostile: str
) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "forbidden")

    descriptor = os.open(os.path.join(hostile, "score"), os.O_WRONLY | os.O_CREAT)
    monkeypatch.setattr(vfs, "open", lambda path, flags: descriptor)
    monkeypatch.setattr(vfs, call, refuse)
    posix.be_killed_first()
    monkeypatch.undo()
    if call == "open":
        os.close(descriptor)


def test_a_process_without_children_has_no_orphans() -> None:
    pid = os.fork()  # the process of the tests may have children of other tests
    if pid == 0:
        os._exit(len(posix.orphans_of(b"MARKER=none", os.getpid(), set())))
    assert os.waitpid(pid, 0)[1] == 0


class Refuses:
    """A stream that cannot be flushed."""

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_flushing_what_can_be_flushed() -> None:
    closed, fine = io.StringIO(), io.BytesIO()
    closed.close()
    buffered = io.BufferedWriter(fine)  # type: ignore[type-var]
    buffered.write(b"last words")
    posix.flush(closed, None, Refuses(), buffered)
    assert fine.getvalue() == b"last words"


def test_only_the_children_asked_for_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By marker and by session; what is known or somebody else's stays, and what has ended is reaped."""
    argv = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    marked, in_session, known, other = (
        subprocess.Popen(
            argv, env={**os.environ, "MARK": mark}, start_new_session=session, stdout=subprocess.PIPE
        )
        for mark, session in (("yes", False), ("no", True), ("yes", False), ("no", False))
    )
    processes = (marked, in_session, known, other)
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # while it is being loaded, its environment is not told
        before = posix.orphans_of(b"MARK=nobody", -1, set())
        posix.kill_orphans(b"MARK=yes", in_session.pid, {known.pid, *before})
        for process, alive in ((marked, False), (in_session, False), (known, True), (other, True)):
            assert os.path.exists(f"/proc/{process.pid}") == alive
    finally:
        for process in processes:
            process.kill()
            process.communicate()
