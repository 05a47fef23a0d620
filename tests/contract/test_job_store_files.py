"""What every job store promises about files: whole or absent, private, and known by attempt."""

from __future__ import annotations

import errno
import io
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tests.fakes.job_stores import KINDS, NAMES, NEVER_GIVEN_OUT, Bench
from toilcache.errors import ConcurrentFileModificationException, NoSuchFileException, NoSuchJobException
from toilcache.job_store.file_id import FileID
from toilcache.job_store.originals import ChangedOriginalError


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(request.param, tmp_path)


def test_a_file_comes_back(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local(b"\0content\r\n"))
    assert isinstance(file_id, FileID)
    assert (file_id.size, file_id.executable) == (10, False)
    assert bench.read(file_id) == b"\0content\r\n"
    assert bench.store.file_exists(file_id)
    assert bench.store.get_file_size(file_id) == 10
    bench.store.read_file(file_id, str(bench.home / "out"))
    assert (bench.home / "out").read_bytes() == b"\0content\r\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_kept_but_harmless(bench: Bench, name: str) -> None:
    job_id = str(bench.job().jobStoreID)
    path = bench.local(name.encode(), name[:200])
    for file_id in (
        bench.store.write_file(path),
        bench.store.write_file(path, job_id),
        bench.store.write_file(path, job_id, cleanup=True),
        bench.store.get_empty_file_store_id(basename=name),
        bench.store.import_file(path),
    ):
        assert file_id.isprintable()
        assert file_id.isascii()
        assert len(file_id) < 200
        assert bench.store.file_exists(file_id)


@pytest.mark.parametrize("file_id", NEVER_GIVEN_OUT)
def test_no_id_leads_out_of_the_store(bench: Bench, file_id: str) -> None:
    store = bench.store
    local = bench.local()
    before = sorted(bench.home.rglob("*"))
    assert not store.file_exists(file_id)
    assert store.get_file_size(file_id) == 0
    store.delete_file(file_id)
    for call in (
        lambda: store.read_file(file_id, str(bench.home / "out")),
        lambda: store.update_file(file_id, local),
        lambda: store.get_public_url(file_id),
        lambda: store.export_file(file_id, str(bench.home / "out")),
        lambda: store.read_file_stream(file_id).__enter__(),
        lambda: store.update_file_stream(file_id).__enter__(),
    ):
        with pytest.raises(NoSuchFileException):
            call()
    assert sorted(bench.home.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "x" * 201, "new\nline", ".hidden", "\0"]
)
def test_no_shared_name_leads_out_of_the_store(bench: Bench, name: str) -> None:
    before = sorted(bench.home.rglob("*"))
    for call in (
        lambda: bench.store.write_shared_file_stream(name).__enter__(),
        lambda: bench.store.read_shared_file_stream(name).__enter__(),
        lambda: bench.store.get_shared_public_url(name),
    ):
        with pytest.raises(ValueError, match="as the name of a shared file"):
            call()
    assert sorted(bench.home.rglob("*")) == before


def test_an_executable_file_stays_one(bench: Bench) -> None:
    out = bench.home / "out"
    for mode, executable in ((0o755, True), (0o700, True), (0o644, False), (0o400, False)):
        file_id = bench.store.write_file(bench.local(mode=mode, name=f"local {mode}"))
        assert file_id.executable is executable
        for known in (file_id, str(file_id)):
            bench.store.read_file(known, str(out))
            assert bool(out.stat().st_mode & stat.S_IXUSR) is executable
            assert bench.store.file_status(known) == (7, executable)
    bench.store.read_file(FileID(str(file_id), 7, True), str(out))
    assert out.stat().st_mode & stat.S_IXUSR


def test_what_is_read_cannot_change_the_store(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local())
    out = bench.home / "out"
    for symlink in (False, True):
        bench.store.read_file(file_id, str(out), symlink)
        try:
            with out.open("r+b") as stream:
                stream.write(b"CHANGED")
        except PermissionError:
            assert os.geteuid() != 0
        assert bench.read(file_id) == b"content"
    assert [path.name for path in bench.home.iterdir() if path.name.startswith(".tmp")] == []


def test_a_destination_is_replaced_in_one_step(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local())
    out = bench.home / "out"
    out.write_bytes(b"before")
    with out.open("rb") as before:
        bench.store.read_file(file_id, str(out))
        assert before.read() == b"before"
    assert out.read_bytes() == b"content"


def test_a_destination_that_cannot_be(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local())
    with pytest.raises(FileNotFoundError):
        bench.store.read_file(file_id, str(bench.home / "no such" / "out"))


def test_a_local_file_that_is_not_there(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    file_id = bench.store.write_file(bench.local())
    with pytest.raises(FileNotFoundError):
        bench.store.write_file(str(bench.home / "nothing"), job_id)
    with pytest.raises(FileNotFoundError):
        bench.store.update_file(file_id, str(bench.home / "nothing"))
    with pytest.raises(IsADirectoryError):
        bench.store.write_file(str(bench.home))


# Streams


def fail_after(stream: IO[Any], data: Any) -> None:
    stream.write(data)
    raise KeyError


def write_after(call: Callable[[str], object], argument: str, stream: IO[bytes]) -> None:
    call(argument)
    stream.write(b"late")
    stream.flush()


def test_a_stream_is_a_file_when_the_block_ends(bench: Bench) -> None:
    with bench.store.write_file_stream(basename="a name") as (stream, file_id):
        stream.write(b"some ")
        assert not bench.store.file_exists(file_id)
        assert bench.store.get_file_size(file_id) == 0
        stream.write(b"content")
    assert file_id.size == bench.store.get_file_size(file_id) == 12
    assert bench.read(file_id) == b"some content"
    assert "a%20name" in file_id


@pytest.mark.parametrize("encoding", [None, "utf-8"])
def test_a_failing_block_leaves_nothing(bench: Bench, encoding: str | None) -> None:
    file_id = bench.store.write_file(bench.local(b"before"))
    data: Any = b"half" if encoding is None else "half"
    with pytest.raises(KeyError), bench.store.write_file_stream(encoding=encoding) as (stream, other):
        fail_after(stream, data)
    with pytest.raises(KeyError), bench.store.update_file_stream(file_id, encoding) as stream:
        fail_after(stream, data)
    with pytest.raises(KeyError), bench.store.write_shared_file_stream("x", encoding=encoding) as stream:
        fail_after(stream, data)
    assert not bench.store.file_exists(other)
    assert bench.read(file_id) == b"before"
    with pytest.raises(NoSuchFileException), bench.store.read_shared_file_stream("x"):
        pass
    assert list(bench.home.rglob(".tmp*")) == []


def test_an_error_of_the_block_stays_what_it_is(bench: Bench) -> None:
    for error in (OSError(errno.ENOENT, "mine"), OSError(errno.EACCES, "mine"), OSError("mine")):
        with pytest.raises(OSError, match="mine") as caught, bench.store.write_file_stream():
            raise error
        assert caught.value is error


def test_text_streams(bench: Bench) -> None:
    with bench.store.write_file_stream(encoding="utf-16") as (stream, file_id):
        stream.write("né\r\n")
        stream.write("two")
    assert bench.read(file_id) == "né\r\ntwo".encode("utf-16")
    with bench.store.read_file_stream(file_id, encoding="utf-16") as stream:
        assert stream.read() == "né\r\ntwo"
    with bench.store.update_file_stream(file_id, "ascii", "xmlcharrefreplace") as stream:
        stream.write("né")
    assert bench.read(file_id) == b"n&#233;"
    with bench.store.write_file_stream() as (stream, file_id):
        stream.write(b"n\xff")
    with bench.store.read_file_stream(file_id, "utf-8", "replace") as stream:
        assert stream.read() == "n\ufffd"
    with pytest.raises(UnicodeDecodeError), bench.store.read_file_stream(file_id, "utf-8") as stream:
        stream.read()


def test_an_empty_file(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    for file_id in (
        bench.store.get_empty_file_store_id(),
        bench.store.get_empty_file_store_id(job_id, cleanup=True, basename="name"),
    ):
        assert bench.store.file_exists(file_id)
        assert file_id.size == bench.store.get_file_size(file_id) == 0
        bench.store.update_file(file_id, bench.local())
        assert bench.read(file_id) == b"content"


# Replacing and deleting


def test_a_replaced_file(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local(b"before"))
    bench.store.update_file(file_id, bench.local(b"after this"))
    assert bench.read(file_id) == b"after this"
    assert bench.store.get_file_size(str(file_id)) == 10
    with bench.store.update_file_stream(file_id) as stream:
        stream.write(b"again")
        assert bench.read(file_id) == b"after this"
    assert bench.read(file_id) == b"again"


def test_a_reader_keeps_what_it_was_given(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local(b"before"))
    bench.store.read_file(file_id, str(bench.home / "out"))
    with bench.store.read_file_stream(file_id) as stream:
        bench.store.update_file(file_id, bench.local(b"after"))
        assert stream.read() == b"before"
    assert (bench.home / "out").read_bytes() == b"before"


def test_a_deleted_file(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    for file_id in (
        bench.store.write_file(bench.local()),
        bench.store.write_file(bench.local(), job_id),
        bench.store.write_file(bench.local(), job_id, cleanup=True),
        bench.store.import_file(bench.local()),
    ):
        for _ in range(2):
            bench.store.delete_file(file_id)
        assert not bench.store.file_exists(file_id)
        assert bench.store.get_file_size(file_id) == 0
        with pytest.raises(NoSuchFileException, match=file_id.replace("+", r"\+")):
            bench.read(file_id)
        with pytest.raises(NoSuchFileException):
            bench.store.read_file(file_id, str(bench.home / "out"))
        with pytest.raises(NoSuchFileException):
            bench.store.update_file(file_id, bench.local())
        with pytest.raises(NoSuchFileException):
            bench.store.get_public_url(file_id)
        with pytest.raises(NoSuchFileException):
            bench.store.file_status(file_id)
    assert (bench.home / "local file").exists()


def test_a_file_that_is_deleted_while_it_is_replaced_stays_deleted(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local())
    with pytest.raises(NoSuchFileException), bench.store.update_file_stream(file_id) as stream:
        write_after(bench.store.delete_file, file_id, stream)
    assert not bench.store.file_exists(file_id)


# Files of jobs


def test_files_of_a_job_that_is_not_there(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    bench.store.delete_job(job_id)
    for unknown in (job_id, "0123456789abcdef"):
        for cleanup in (True, False):
            with pytest.raises(NoSuchJobException):
                bench.store.write_file(bench.local(), unknown, cleanup)
            with pytest.raises(NoSuchJobException):
                bench.store.get_empty_file_store_id(unknown, cleanup)


def test_a_job_that_is_deleted_while_a_file_is_written_for_it(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    with (
        pytest.raises(NoSuchJobException),
        bench.store.write_file_stream(job_id, cleanup=True) as (stream, file_id),
    ):
        write_after(bench.another(resume=True).delete_job, job_id, stream)
    assert not bench.store.file_exists(file_id)


def test_files_go_with_their_job_or_stay(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    goes = bench.store.write_file(bench.local(), job_id, cleanup=True)
    stays = bench.store.write_file(bench.local(), job_id)
    bench.store.delete_job(job_id)
    assert not bench.store.file_exists(goes)
    assert bench.read(stays) == b"content"


def test_what_given_up_attempts_wrote_is_discarded(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    before = [bench.store.write_file(bench.local(), job_id, cleanup) for cleanup in (True, False)]
    written = {}
    for attempt in (1, 2, 10):
        worker = bench.another(resume=True)
        worker.begin_attempt(job_id, attempt)
        written[attempt] = [worker.write_file(bench.local(), job_id, cleanup) for cleanup in (True, False)]
        other = worker.write_file(bench.local())
    bench.store.discard_attempts(job_id, keep=10)
    assert {n: [bench.store.file_exists(i) for i in ids] for n, ids in written.items()} == {
        1: [False, False],
        2: [False, False],
        10: [True, True],
    }
    bench.store.discard_attempts(job_id, keep=None)
    assert not any(bench.store.file_exists(file_id) for file_id in written[10])
    assert all(bench.store.file_exists(file_id) for file_id in (*before, other))
    assert bench.store.job_exists(job_id)


def test_an_attempt_that_was_discarded_uploads_nothing_more_even_when_its_job_is_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = str(bench.job().jobStoreID)
    zombies = {attempt: bench.another(resume=True) for attempt in (1, 2, 3)}
    for attempt, zombie in zombies.items():
        zombie.begin_attempt(job_id, attempt)
    zombies[1].write_file(bench.local(), job_id)
    before = sorted(bench.store._backend.names("kept"))
    for _ in range(2):
        bench.store.discard_attempts(job_id, keep=3)
    stays = zombies[3].write_file(bench.local(), job_id)
    bench.store.delete_job(job_id)
    for attempt in (1, 2):  # each has looked for its job a moment ago, as far as it knows
        monkeypatch.setattr(zombies[attempt]._backend, "has", lambda key: True)
        with pytest.raises(NoSuchJobException):
            zombies[attempt].write_file(bench.local(), job_id)
        with pytest.raises(ConcurrentFileModificationException):
            zombies[attempt].write_file(bench.local(), cleanup=True)
    assert bench.read(stays) == b"content"
    assert sorted(bench.store._backend.names("kept")) == before


def test_the_inline_body_can_be_read_by_its_name(bench: Bench) -> None:
    job = bench.job(body=b"the body")
    name, _ = job.get_body()
    assert bench.read(name) == b"the body"
    bench.commit(str(job.jobStoreID))
    with pytest.raises(NoSuchFileException):
        bench.read(name)


# Shared files


def test_a_shared_file_has_a_name_of_its_own(bench: Bench) -> None:
    with bench.store.write_shared_file_stream("some-name_1.txt", encrypted=False) as stream:
        stream.write(b"one")
    with bench.another(resume=True).read_shared_file_stream("some-name_1.txt", encoding="ascii") as stream:
        assert stream.read() == "one"
    with bench.store.write_shared_file_stream("some-name_1.txt", encoding="ascii") as stream:
        stream.write("two")
    with bench.store.read_shared_file_stream("some-name_1.txt") as stream:
        assert stream.read() == b"two"
    assert bench.store.sharedFileNameRegex.match("some-name_1.txt")


def test_a_shared_file_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(NoSuchFileException, match="absent"), bench.store.read_shared_file_stream("absent"):
        pass
    with pytest.raises(NoSuchFileException):
        bench.store.get_shared_public_url("absent")


def test_no_store_claims_to_encrypt(bench: Bench) -> None:
    with (
        pytest.raises(ValueError, match="encrypted"),
        bench.store.write_shared_file_stream("secret", encrypted=True),
    ):
        pass


# Imports by link


def test_an_import_by_link_stays_where_it_is(bench: Bench) -> None:
    path = bench.local(b"original", "näme\n.txt", 0o755)
    file_id = bench.store.import_file(path)
    assert (file_id.size, file_id.executable) == (8, True)
    assert bench.store.file_status(str(file_id)) == (8, True)
    assert bench.read(file_id) == b"original"
    out = bench.home / "out"
    for symlink in (False, True):
        bench.store.read_file(file_id, str(out), symlink)
        assert not out.is_symlink()
        assert out.stat().st_ino != os.stat(path).st_ino
        assert out.stat().st_mode & stat.S_IXUSR
        out.write_bytes(b"changed")
        assert Path(path).read_bytes() == b"original"


@pytest.mark.parametrize("change", ["bytes", "modified", "removed"])
def test_a_changed_original_is_noticed_and_named(bench: Bench, change: str) -> None:
    path = Path(bench.local(b"original"))
    file_id = bench.store.import_file(str(path))
    bench.store.import_file(str(path), "shared")
    if change == "bytes":
        path.write_bytes(b"longer than before")
    elif change == "modified":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    else:
        path.unlink()
    for call in (
        lambda: bench.read(file_id),
        lambda: bench.store.read_file(file_id, str(bench.home / "out")),
        lambda: bench.store.export_file(file_id, str(bench.home / "out")),
        lambda: bench.store.read_shared_file_stream("shared").__enter__(),
    ):
        with pytest.raises(
            ChangedOriginalError, match=f"local file.*{change}.* since it was imported"
        ) as error:
            call()
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert not (bench.home / "out").exists()


def change_after_reading(stream: IO[bytes], path: Path) -> None:
    stream.read()
    path.write_bytes(b"longer than before")


def test_an_original_that_changes_while_it_is_read(bench: Bench) -> None:
    path = Path(bench.local(b"original"))
    file_id = bench.store.import_file(str(path))
    with pytest.raises(ChangedOriginalError), bench.store.read_file_stream(file_id) as stream:
        change_after_reading(stream, path)


def test_a_linked_file_can_be_replaced_without_touching_the_original(bench: Bench) -> None:
    path = bench.local(b"original")
    file_id = bench.store.import_file(path)
    bench.store.update_file(file_id, bench.local(b"new", "other"))
    assert bench.read(file_id) == b"new"
    assert bench.store.get_file_size(str(file_id)) == 3
    bench.store.import_file(path, "shared")
    with bench.store.write_shared_file_stream("shared") as stream:
        stream.write(b"newer")
    with bench.store.read_shared_file_stream("shared") as stream:
        assert stream.read() == b"newer"
    bench.store.import_file(path, "shared")
    with bench.store.read_shared_file_stream("shared") as stream:
        assert stream.read() == b"original"
    bench.store.delete_file(file_id)
    assert not bench.store.file_exists(file_id)
    assert Path(path).read_bytes() == b"original"


# The id itself


def test_an_id_keeps_what_it_knows() -> None:
    file_id = FileID("a:b\n", 12, True)
    for other in (pickle.loads(pickle.dumps(file_id)), FileID.unpack(file_id.pack())):
        assert isinstance(other, FileID)
        assert (other, other.size, other.executable) == ("a:b\n", 12, True)
    assert {file_id: 1}["a:b\n"] == 1


@pytest.mark.parametrize("packed", ["", "x", "1:2", "1:0:", "x:0:id", "-1:0:id", "1:yes:id"])
def test_other_text_is_no_packed_id(packed: str) -> None:
    with pytest.raises(ValueError, match="cannot unpack"):
        FileID.unpack(packed)


def test_an_id_for_a_path(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    path.chmod(0o700)
    file_id = FileID.forPath("id", str(path))
    assert (file_id, file_id.size, file_id.executable) == ("id", 5, True)


def test_the_camel_case_names_warn_and_work(bench: Bench) -> None:
    store = bench.store
    job_id = str(bench.job().jobStoreID)
    with pytest.warns(DeprecationWarning, match="use write_file"):
        file_id = store.writeFile(bench.local(), job_id, False)
    with pytest.warns(DeprecationWarning, match="use file_exists"):
        assert store.fileExists(file_id)
    with pytest.warns(DeprecationWarning, match="use load_job"):
        assert store.load(job_id).jobStoreID == job_id
    with pytest.warns(DeprecationWarning, match="use read_file_stream"):
        assert store.readFileStream(file_id).__enter__().read() == b"content"


TWINS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "writeConfig": ("write_config", ()),
    "setRootJob": ("set_root_job", (1,)),
    "loadRootJob": ("load_root_job", ()),
    "createRootJob": ("create_root_job", (1,)),
    "getRootJobReturnValue": ("get_root_job_return_value", ()),
    "importFile": ("import_file", (1, 2, 3, 4)),
    "exportFile": ("export_file", (1, 2)),
    "getEnv": ("get_env", ()),
    "assignID": ("assign_job_id", (1,)),
    "create": ("create_job", (1,)),
    "exists": ("job_exists", (1,)),
    "load": ("load_job", (1,)),
    "update": ("update_job", (1,)),
    "delete": ("delete_job", (1,)),
    "getPublicUrl": ("get_public_url", (1,)),
    "getSharedPublicUrl": ("get_shared_public_url", (1,)),
    "writeFile": ("write_file", (1, 2, 3)),
    "writeFileStream": ("write_file_stream", (1, 2, 3, 4, 5)),
    "getEmptyFileStoreID": ("get_empty_file_store_id", (1, 2, 3)),
    "readFile": ("read_file", (1, 2, 3)),
    "readFileStream": ("read_file_stream", (1, 2, 3)),
    "deleteFile": ("delete_file", (1,)),
    "fileExists": ("file_exists", (1,)),
    "getFileSize": ("get_file_size", (1,)),
    "updateFile": ("update_file", (1, 2)),
    "updateFileStream": ("update_file_stream", (1, 2, 3)),
    "writeSharedFileStream": ("write_shared_file_stream", (1, 2, 3, 4)),
    "readSharedFileStream": ("read_shared_file_stream", (1, 2, 3)),
    "writeStatsAndLogging": ("write_logs", (1,)),
    "readStatsAndLogging": ("read_logs", (1, 2)),
}


@pytest.mark.parametrize("old", TWINS)
def test_each_old_name_calls_its_new_one(bench: Bench, monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    new, arguments = TWINS[old]
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(bench.store, new, lambda *given: calls.append(given))
    with pytest.warns(DeprecationWarning, match=rf"{old}\(\) is deprecated; use {new}\(\)"):
        getattr(bench.store, old)(*arguments)
    assert calls == [arguments]


def test_a_stream_for_a_store_is_an_ordinary_stream(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local(b"0123456789"))
    with bench.store.read_file_stream(file_id) as stream:
        stream.seek(5)
        assert isinstance(stream, io.IOBase)
        assert stream.read(2) == b"56"
