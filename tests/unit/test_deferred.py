"""What a job defers: written down before it is promised, read only from what is ours, then called."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from toilcache import vfs
from toilcache.errors import CoordinationDirError, JobException
from toilcache.job.job import Job
from toilcache.node import locks
from toilcache.node.deferred import CALLED, CallFile, files_in
from toilcache.worker.deferred import Call, Deferred, Surroundings, label_of, read, written

HEAD = b"somewhere"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "it's\n-deferred" / "job.1")


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """The locks that a process has are given back with its end, which is here the end of a test."""
    yield
    for _, file in list(locks._open.values()):
        file.close()


def made(path: str, *calls: bytes) -> CallFile:
    os.makedirs(os.path.dirname(os.path.dirname(path)), exist_ok=True)
    file = CallFile.create(path, HEAD)
    for call in calls:
        file.append(call)
    return file


def taken(path: str) -> CallFile:
    file = CallFile.take_over(path)
    assert file is not None
    return file


# The file


def test_calls_are_found_by_who_comes_next(path: str) -> None:
    made(path, b"one", b"", b"x" * 100_000).close()
    file = taken(path)
    assert (file.head, file.calls, file.states) == (HEAD, [b"one", b"", b"x" * 100_000], [0, 0, 0])
    assert file.waiting() == [2, 1, 0]
    file.remove()
    assert CallFile.take_over(path) is None
    assert files_in(os.path.dirname(path)) == []


def test_nobody_has_a_file_while_its_process_lives(path: str) -> None:
    with_lock = made(path, b"one")
    assert CallFile.take_over(path) is None
    with_lock.close()
    taken(path).close()


def test_nobody_sees_a_file_before_it_is_locked(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    link = vfs.link

    def look(*args: Any, **more: Any) -> None:
        seen.append(files_in(os.path.dirname(path)))
        link(*args, **more)
        seen.append([CallFile.take_over(found) for found in files_in(os.path.dirname(path))])

    monkeypatch.setattr(vfs, "link", look)
    made(path).close()
    assert seen == [[], [None]]


def test_a_name_is_given_once(path: str) -> None:
    first = made(path, b"one")
    with pytest.raises(FileExistsError):
        CallFile.create(path, HEAD)
    assert os.listdir(os.path.dirname(path)) == ["job.1"]
    first.close()
    assert taken(path).calls == [b"one"]


def test_states_are_seen_by_others(path: str) -> None:
    file = made(path, b"one", b"two", b"three")
    other = CallFile.read(path)
    other.set_state(1, CALLED)
    other.set_state(2, 3)
    file.refresh()
    assert file.states == [0, CALLED, 3]
    assert file.waiting() == [2, 0]
    file.append(b"four")
    assert CallFile.read(path).calls == [b"one", b"two", b"three", b"four"]


@pytest.mark.parametrize("cut", range(1, 30))
def test_what_a_crash_has_torn_is_no_call(path: str, cut: int) -> None:
    file = made(path, b"one")
    whole = os.path.getsize(path)
    file.append(b"two" * 5)
    file.close()
    os.truncate(path, max(whole, os.path.getsize(path) - cut))
    assert taken(path).calls == [b"one"]


def test_a_changed_byte_is_noticed(path: str) -> None:
    made(path, b"one", b"two").close()
    content = bytearray(Path(path).read_bytes())
    content[-1] ^= 1
    Path(path).write_bytes(content)
    assert taken(path).calls == [b"one"]


@pytest.mark.parametrize("content", [b"", b"toilcache deferred 2\n", b"x" * 100])
def test_what_is_no_such_file_has_no_calls(path: str, content: bytes) -> None:
    made(path, b"one").close()
    Path(path).write_bytes(content)
    file = taken(path)
    assert (file.head, file.waiting()) == (b"", [])


@pytest.mark.parametrize("part", [0, 5])
def test_a_call_for_which_there_is_no_room_is_not_promised(
    path: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = made(path, b"one")
    size = os.path.getsize(path)
    write = vfs.write
    sizes = [part] if part else []

    def full(fd: int, data: Any) -> int:
        if sizes:
            return write(fd, bytes(data[: sizes.pop()]))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(vfs, "write", full)
        with pytest.raises(OSError, match="No space left"):
            file.append(b"two")
    assert os.path.getsize(path) == size
    file.append(b"three")
    assert CallFile.read(path).calls == [b"one", b"three"]


# Whose it is


def test_files_and_their_directory_are_for_nobody_else(path: str) -> None:
    before = os.umask(0)
    try:
        made(path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


def planted_symlink(path: str) -> None:
    os.rename(path, path + ".elsewhere")
    os.symlink(path + ".elsewhere", path)


def planted_fifo(path: str) -> None:
    os.unlink(path)
    os.mkfifo(path)


def planted_directory(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


def open_to_others(path: str) -> None:
    os.chmod(path, 0o622)


def given_away(path: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    os.chown(path, 12345, 12345)


PLANTS = [planted_symlink, planted_fifo, planted_directory, open_to_others, given_away]


@pytest.mark.parametrize("plant", PLANTS)
def test_a_file_that_is_not_ours_is_not_read(path: str, plant: Callable[[str], None]) -> None:
    made(path, b"one").close()
    plant(path)
    with pytest.raises(CoordinationDirError, match="only you can write"):
        CallFile.take_over(path)


@pytest.mark.parametrize("plant", [planted_symlink, open_to_others, given_away])
def test_a_directory_that_is_not_ours_is_not_looked_into(path: str, plant: Callable[[str], None]) -> None:
    made(path, b"one").close()
    plant(os.path.dirname(path))
    with pytest.raises(CoordinationDirError):
        files_in(os.path.dirname(path))
    with pytest.raises(CoordinationDirError):
        CallFile.create(os.path.join(os.path.dirname(path), "job.2"), HEAD)


# The calls


def note(place: str, text: str) -> None:
    with open(place, "a", encoding="utf-8") as stream:
        stream.write(text)


class Noting(Job):
    """A job of a class, with something that no pickle takes when it runs."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def tidy(self, text: str) -> None:
        note(self.place, text)


class Context:
    """As much of a worker's surroundings as is needed."""

    def __init__(self, path: str) -> None:
        self.path = path

    def call_file(self) -> str:
        return self.path

    def surroundings(self) -> Surroundings:
        return Surroundings(
            ("0123456789abcdef", 3), ("/dir", "__toilcache_main__", False, "it's\n\udcff.py"), ["/a"], None
        )


def deferred(path: str, job: object = None) -> Deferred:
    os.makedirs(os.path.dirname(os.path.dirname(path)), exist_ok=True)
    return Deferred(cast(Any, Context(path)), cast(Any, "'a job' 01 v3"), job)


def test_a_job_that_defers_nothing_leaves_no_trace(path: str) -> None:
    deferred(path).make_calls()
    assert not os.path.exists(os.path.dirname(path))


def test_a_promise_is_on_the_disk_when_it_is_given(path: str, tmp_path: Path) -> None:
    mine = deferred(path)
    words = ["as it is now"]
    mine.add(note, str(tmp_path / "notes"), text=words[0])
    mine.add(print, words, end="")
    words.append("later")
    file = CallFile.read(path)
    assert [label_of(call) for call in file.calls] == [
        "note of job 'a job' 01 v3",
        "print of job 'a job' 01 v3",
    ]
    call = read(file.calls[1])
    assert (call.function, call.args, call.kwargs) == (print, (["as it is now"],), {"end": ""})
    read(file.calls[0]).make()
    assert (tmp_path / "notes").read_text() == "as it is now"


def test_the_head_says_where_and_is_read_without_trust(path: str) -> None:
    mine = deferred(path)
    mine.add(print)
    where = Surroundings.load(CallFile.read(path).head)
    assert where is not None
    assert where.attempt == ("0123456789abcdef", 3)
    assert where.main == ("/dir", "__toilcache_main__", False, "it's\n\udcff.py")
    assert where.sys_path == ["/a"]
    assert where.are_like(Context(path).surroundings())
    assert not where.are_like(Surroundings(where.attempt, where.main, [], "an image"))
    assert not where.are_like(Surroundings(where.attempt, None, [], None))


@pytest.mark.parametrize("head", [b"", b"\xff", b"__import__('os').getcwd()", b"(1, 2", b"7", b"('a', 'b')"])
def test_a_damaged_head_is_none(head: bytes) -> None:
    assert Surroundings.load(head) is None


def test_calls_are_made_the_last_promise_first_and_then_forgotten(path: str, tmp_path: Path) -> None:
    mine, place = deferred(path), str(tmp_path / "notes")
    for text in ("third;", "second;", "first;"):
        mine.add(note, place, text)
    mine.make_calls()
    mine.make_calls()
    assert Path(place).read_text() == "first;second;third;"
    assert os.listdir(os.path.dirname(path)) == []


def test_a_made_call_is_marked_before_the_next_is_made(path: str) -> None:
    seen: list[list[int]] = []

    def look() -> None:
        seen.append(CallFile.read(path).waiting())

    mine = deferred(path)
    mine.add(look)
    mine.add(look)
    mine.make_calls()
    assert seen == [[1, 0], [0]]


def test_a_method_of_the_job_may_be_deferred(path: str, tmp_path: Path) -> None:
    job = Noting(str(tmp_path / "notes"))
    job._file_store = cast(Any, threading.Lock())
    mine = deferred(path, job)
    mine.add(job.tidy, "tidied")
    call = read(CallFile.read(path).calls[0])
    assert str(call) == "Noting.tidy"
    call.make()
    assert (tmp_path / "notes").read_text() == "tidied"


def test_what_cannot_be_pickled_is_named(path: str) -> None:
    mine = deferred(path, Noting("here"))
    with pytest.raises(
        JobException, match=r"cannot save what job 'a job' 01 v3 defers: argument 'key' \['x'\] "
    ):
        mine.add(print, key={"x": threading.Lock()})
    with pytest.raises(JobException, match=r"argument 1 .*is no data; pass what the job returns"):
        mine.add(print, Noting("elsewhere"))
    with pytest.raises(JobException, match="cannot defer 'print': it cannot be called"):
        mine.add(cast(Any, "print"))
    assert not os.path.exists(path)


def test_a_process_that_the_job_forked_neither_promises_nor_calls(path: str, tmp_path: Path) -> None:
    mine, place = deferred(path), str(tmp_path / "notes")
    mine.add(note, place, "once")
    pid = os.fork()
    if pid == 0:
        try:
            mine.make_calls()
            mine.add(note, place, "of the child")
        except JobException as error:
            os._exit(0 if "forked by the job" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not os.path.exists(place)
    mine.make_calls()
    assert Path(place).read_text() == "once"


def test_a_file_of_the_same_attempt_is_left_to_who_adopts(path: str, tmp_path: Path) -> None:
    earlier = deferred(path)
    earlier.add(note, str(tmp_path / "notes"), "of the earlier")
    later = deferred(path)
    later.add(note, str(tmp_path / "notes"), "of the later")
    assert len(files_in(os.path.dirname(path))) == 2
    later.make_calls()
    assert files_in(os.path.dirname(path)) == [path]
    assert (tmp_path / "notes").read_text() == "of the later"


def test_a_label_is_one_line_in_any_case() -> None:
    label = label_of(written(Call(print, (), {}), "a\njob \udcff", None))
    assert label == "print of job a job \\udcff"
