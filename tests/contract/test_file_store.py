"""What every file store promises a job, over every job store."""

from __future__ import annotations

import errno
import io
import os
import pickle
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from tests.fakes.file_stores import CASE_NAMES, CASES, Bench, bench_of
from toilcache.config import Config
from toilcache.errors import ChangedFileError, ConcurrentFileModificationException, NoSuchFileException
from toilcache.file_store.abstract import AbstractFileStore
from toilcache.file_store.caching import CachingFileStore
from toilcache.file_store.plain import NonCachingFileStore
from toilcache.job.description import JobDescription
from toilcache.job.job import Job
from toilcache.job_store.file_id import FileID
from toilcache.job_store.file_job_store import FileJobStore

NAMES = ["-rf", "a b'\"$(x)", "new\nline", "ünï\u202ecode", ".hidden", "x" * 255, "%2e%2e%2f", "..."]
NOBODY = 65534


@pytest.fixture(params=CASES, ids=CASE_NAMES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with bench_of(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def fs(bench: Bench) -> Iterator[AbstractFileStore]:
    """A file store while its job runs."""
    file_store = bench.file_store()
    with file_store.open(Job()):
        yield file_store


# Writing


@pytest.mark.parametrize("name", NAMES)
def test_a_written_file_is_read_again(bench: Bench, fs: AbstractFileStore, name: str) -> None:
    Path(name).write_bytes(name.encode())
    file_id = fs.writeGlobalFile(name)
    assert isinstance(file_id, FileID)
    assert (file_id.size, file_id.executable) == (len(name.encode()), False)
    Path(name).write_bytes(b"changed afterwards")
    finish_uploads(fs)
    assert bench.stored(file_id) == name.encode()
    copy = fs.readGlobalFile(file_id)
    assert os.path.dirname(copy) == fs.localTempDir
    assert Path(copy).read_bytes() == name.encode()
    assert Path(fs.readGlobalFile(file_id, userPath=f"in {name}"[:255])).read_bytes() == name.encode()


def test_a_file_may_be_empty(bench: Bench, fs: AbstractFileStore) -> None:
    file_id = fs.writeGlobalFile(fs.getLocalTempFile())
    finish_uploads(fs)
    assert (file_id.size, bench.stored(file_id)) == (0, b"")
    with fs.writeGlobalFileStream() as (_, stream_id):
        pass
    assert (stream_id.size, bench.stored(stream_id)) == (0, b"")


def test_a_relative_name_is_under_the_temporary_directory(bench: Bench, fs: AbstractFileStore) -> None:
    Path("here").write_bytes(b"1")
    os.mkdir("sub")
    os.chdir("sub")
    file_id = fs.writeGlobalFile("here")
    assert fs.readGlobalFile(file_id, userPath="sub/../there") == os.path.join(fs.localTempDir, "there")


@pytest.mark.parametrize("mutable", [False, True])
def test_an_executable_stays_one(bench: Bench, fs: AbstractFileStore, mutable: bool) -> None:
    for executable in (False, True):
        path = Path("run me")
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755 if executable else 0o644)
        file_id = fs.writeGlobalFile(str(path))
        assert file_id.executable == executable
        for known in (
            file_id,
            str(file_id),
            pickle.loads(pickle.dumps(file_id)),
            FileID.unpack(file_id.pack()),
        ):
            copy = fs.readGlobalFile(known, mutable=mutable)
            assert bool(os.stat(copy).st_mode & 0o111) == executable
            assert os.access(copy, os.X_OK) == executable


def test_what_is_no_regular_file_is_refused(fs: AbstractFileStore) -> None:
    os.mkdir("directory")
    os.mkfifo("pipe")
    with pytest.raises(FileNotFoundError):
        fs.writeGlobalFile("missing")
    with pytest.raises(IsADirectoryError):
        fs.writeGlobalFile("directory")
    with pytest.raises(OSError, match="not a regular file"):
        fs.writeGlobalFile("pipe")


def test_a_stream_knows_its_size_when_the_block_ends(bench: Bench, fs: AbstractFileStore) -> None:
    with fs.writeGlobalFileStream(basename="../../n\n") as (stream, file_id):
        stream.write(b"12345")
        assert file_id.size == 5
        stream.write(b"678")
    assert file_id.size == 8
    assert bench.stored(file_id) == b"12345678"
    assert fs.getGlobalFileSize(file_id) == fs.getGlobalFileSize(str(file_id)) == 8


def test_a_stream_that_went_back_has_its_real_size(bench: Bench, fs: AbstractFileStore) -> None:
    with fs.writeGlobalFileStream() as (stream, file_id):
        stream.write(b"12345")
        stream.seek(0)
        stream.write(b"ab")
    assert bench.stored(file_id) == b"ab345"
    assert file_id.size == 5


def test_a_text_stream_counts_bytes(bench: Bench, fs: AbstractFileStore) -> None:
    with fs.writeGlobalFileStream(encoding="utf-16-le", errors="replace") as (stream, file_id):
        stream.write("é\n")
    assert bench.stored(file_id) == "é\n".encode("utf-16-le")
    assert file_id.size == 4
    with fs.readGlobalFileStream(file_id, encoding="utf-16-le") as text:
        assert text.read() == "é\n"
    with fs.readGlobalFileStream(file_id, "ascii", errors="replace") as text:
        assert text.read() == "\ufffd\0\n\0"


def test_a_stream_that_fails_leaves_no_file(bench: Bench, fs: AbstractFileStore) -> None:
    ids: list[FileID] = []

    def fail() -> None:
        with fs.writeGlobalFileStream() as (stream, file_id):
            ids.append(file_id)
            stream.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [bench.store.file_exists(file_id) for file_id in ids] == [False]


def test_a_write_waits_for_the_job_before(bench: Bench) -> None:
    def refused() -> None:
        raise ConcurrentFileModificationException("the job before")

    fs, file_id = bench.file_store(wait=refused), bench.uploaded()
    with fs.open(Job()):
        Path("x").touch()
        writes: list[Callable[[], Any]] = [
            lambda: fs.writeGlobalFile("x"),
            lambda: fs.writeGlobalFileStream().__enter__(),
            lambda: fs.import_file("x"),
        ]
        for write in writes:
            with pytest.raises(ConcurrentFileModificationException):
                write()
        fs.readGlobalFile(file_id)
        fs.startCommit(jobState=True)
        with pytest.raises(ConcurrentFileModificationException):
            fs.waitForCommit()
    assert bench.store.load_job(str(bench.desc.jobStoreID)).version == 1


def test_cleanup_files_go_with_the_job(bench: Bench, fs: AbstractFileStore) -> None:
    Path("x").write_bytes(b"x")
    goes, stays = fs.writeGlobalFile("x", cleanup=True), fs.writeGlobalFile("x")
    with fs.writeGlobalFileStream(cleanup=True) as (_, goes_too):
        pass
    finish_uploads(fs)
    bench.store.delete_job(str(bench.desc.jobStoreID))
    assert [bench.store.file_exists(f) for f in (goes, goes_too, stays)] == [False, False, True]


def finish_uploads(fs: AbstractFileStore) -> None:
    """Wait until the job store has what was written."""
    fs.startCommit()
    fs.waitForCommit()


# Reading


@pytest.mark.parametrize("symlink", [False, True])
@pytest.mark.parametrize("mutable", [False, True])
def test_what_a_job_does_to_its_copy_stays_with_it(bench: Bench, mutable: bool, symlink: bool) -> None:
    """Where all it can get is a link that root may write through, that is noticed: the job is run again."""
    file_id, fs = bench.uploaded(b"precious"), bench.file_store()
    noticed = False
    with suppress(ChangedFileError) if bench.kind is CachingFileStore and not mutable else nullcontext():
        noticed = True
        with fs.open(Job()):
            first, second = (fs.readGlobalFile(file_id, mutable=mutable, symlink=symlink) for _ in range(2))
            assert first != second
            vandalise(first)
            assert bench.stored(file_id) == b"precious"
            assert Path(fs.readGlobalFile(file_id)).read_bytes() == b"precious"
            noticed = Path(second).read_bytes() != b"precious"
        assert not noticed


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("symlink", [False, True])
@pytest.mark.parametrize("mutable", [False, True])
def test_nor_does_a_job_without_privileges_change_the_store(
    tmp_path_factory: pytest.TempPathFactory, mutable: bool, symlink: bool
) -> None:
    home = Path("/tmp", f"toilcache-test-{os.getpid()}-{mutable}-{symlink}")
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    store = FileJobStore(str(home / "store"))
    before = os.getcwd()
    os.seteuid(NOBODY)
    try:
        store.initialize(Config())
        bench = Bench(NonCachingFileStore, store, home)
        file_id = bench.uploaded(b"precious")
        os.chdir("/")
        fs = bench.file_store()
        with fs.open(Job()):
            path = fs.readGlobalFile(file_id, mutable=mutable, symlink=symlink)
            assert os.access(path, os.W_OK, effective_ids=True) == mutable
            vandalise(path)
        assert bench.stored(file_id) == b"precious"
    finally:
        os.seteuid(0)
        os.chdir(before)
        store.destroy()
        os.system(f"rm -rf '{home}'")


def vandalise(path: str) -> None:
    """Write into a file, where that is not refused: root can write into any."""
    with suppress(PermissionError), open(path, "r+b") as file:
        file.write(b"scribble all over it")


def test_only_a_mutable_copy_says_it_may_be_written(bench: Bench, fs: AbstractFileStore) -> None:
    file_id = bench.uploaded()
    assert stat.S_IMODE(os.stat(fs.readGlobalFile(file_id)).st_mode) & 0o222 == 0
    assert stat.S_IMODE(os.stat(fs.readGlobalFile(file_id, mutable=True)).st_mode) == 0o644


def test_a_copy_elsewhere_obeys_the_umask(bench: Bench, fs: AbstractFileStore) -> None:
    umask = os.umask(0o027)
    try:
        path = fs.readGlobalFile(bench.uploaded(executable=True), str(bench.home / "elsewhere"), mutable=True)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o750 & 0o777 & ~0o022 | 0o640


@pytest.mark.parametrize("there", ["file", "directory", "dangling"])
def test_the_destination_must_not_exist(bench: Bench, fs: AbstractFileStore, there: str) -> None:
    path = Path(f"my {there}\n")
    if there == "file":
        path.write_bytes(b"mine")
    elif there == "directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(FileExistsError) as caught:
        fs.readGlobalFile(bench.uploaded(), userPath=str(path))
    assert caught.value.filename == os.path.join(fs.localTempDir, path)
    assert there != "file" or path.read_bytes() == b"mine"
    assert fs.accesses == []


def test_the_directory_of_the_destination_must_exist(bench: Bench, fs: AbstractFileStore) -> None:
    with pytest.raises(FileNotFoundError):
        fs.readGlobalFile(bench.uploaded(), userPath="missing/name")
    with pytest.raises(OSError, match="File name too long"):
        fs.readGlobalFile(bench.uploaded(), userPath="x" * 256)
    assert fs.accesses == []


@pytest.mark.parametrize(
    "bad",
    ["", "..", "../../etc/passwd", "/etc/passwd", "new\nline", "x" * 300, "free/../free/x", "nul\0", "ünï"],
)
def test_an_id_from_outside_never_leaves_the_store(bench: Bench, fs: AbstractFileStore, bad: str) -> None:
    with pytest.raises(NoSuchFileException):
        fs.readGlobalFile(bad)
    with pytest.raises(NoSuchFileException), fs.readGlobalFileStream(bad):
        pass
    with pytest.raises(FileNotFoundError):
        fs.deleteLocalFile(bad)
    assert os.listdir(fs.localTempDir) == []


def test_what_could_not_be_made_private_is_not_left(
    bench: Bench, fs: AbstractFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, mode: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr("toilcache.file_store.plain.make_private", full)
    with pytest.raises(OSError, match="No space"):
        fs.readGlobalFile(bench.uploaded(), cache=False)
    assert os.listdir(fs.localTempDir) == []


def test_reads_are_remembered(bench: Bench, fs: AbstractFileStore) -> None:
    file_id = bench.uploaded()
    path = fs.readGlobalFile(file_id)
    with fs.readGlobalFileStream(file_id) as stream:
        assert stream.read() == b"content"
    assert fs.accesses == [(str(file_id), path), (str(file_id), None)]
    assert repr(path) in fs.describe_accesses()


def test_the_size_is_the_ids_else_the_stores(bench: Bench, fs: AbstractFileStore) -> None:
    file_id = bench.uploaded(b"12345")
    assert fs.getGlobalFileSize(FileID(str(file_id), 99)) == 99
    assert fs.getGlobalFileSize(str(file_id)) == 5


# Deleting


def test_local_copies_are_deleted_the_stored_file_stays(bench: Bench, fs: AbstractFileStore) -> None:
    Path("written").write_bytes(b"1")
    file_id = fs.writeGlobalFile("written")
    copies = [fs.readGlobalFile(file_id), fs.readGlobalFile(str(file_id), userPath="sub name", mutable=True)]
    fs.deleteLocalFile(file_id)
    assert not any(os.path.lexists(path) for path in ("written", *copies))
    with pytest.raises(OSError, match="this job has none") as caught:
        fs.deleteLocalFile(file_id)
    assert caught.value.errno == errno.ENOENT
    assert Path(fs.readGlobalFile(file_id)).read_bytes() == b"1"


def test_what_is_outside_or_a_symlink_is_never_deleted(bench: Bench, fs: AbstractFileStore) -> None:
    outside = bench.home / "original"
    outside.write_bytes(b"1")
    Path("link").symlink_to(outside)
    Path("way out").symlink_to(bench.home)
    for name in (str(outside), "link", "way out/original"):
        file_id = fs.writeGlobalFile(name)
        assert bench.stored(file_id) == b"1"
        with pytest.raises(FileNotFoundError):
            fs.deleteLocalFile(file_id)
        fs.deleteGlobalFile(file_id)
    file_id = bench.uploaded(b"2")
    elsewhere = fs.readGlobalFile(file_id, userPath=str(bench.home / "elsewhere"))
    with pytest.raises(FileNotFoundError):
        fs.deleteLocalFile(file_id)
    assert Path(elsewhere).read_bytes() == b"2"
    assert outside.read_bytes() == b"1"
    assert os.path.islink("link")


def test_copies_that_are_gone_already_do_not_count(bench: Bench, fs: AbstractFileStore) -> None:
    file_id = bench.uploaded()
    first, second = fs.readGlobalFile(file_id), fs.readGlobalFile(file_id)
    os.unlink(first)
    os.mkdir(first)
    fs.deleteLocalFile(file_id)
    assert os.path.isdir(first)
    assert not os.path.lexists(second)
    os.unlink(fs.readGlobalFile(file_id))
    with pytest.raises(FileNotFoundError):
        fs.deleteLocalFile(file_id)


def test_a_deleted_file_goes_with_the_commit(bench: Bench) -> None:
    fs, file_id = bench.file_store(), bench.uploaded()
    with fs.open(Job()):
        copy = fs.readGlobalFile(file_id)
        fs.deleteGlobalFile(file_id)
        fs.deleteGlobalFile(str(file_id))
        assert not os.path.lexists(copy)
        reads: list[Callable[[], Any]] = [
            lambda: fs.readGlobalFile(str(file_id)),
            lambda: fs.readGlobalFileStream(file_id).__enter__(),
            lambda: fs.export_file(file_id, str(bench.home / "x")),
        ]
        for read in reads:
            with pytest.raises(FileNotFoundError, match="this job has deleted"):
                read()
        assert bench.stored(file_id) == b"content"
    fs.startCommit()
    fs.waitForCommit()
    assert bench.store.load_job(str(bench.desc.jobStoreID)).filesToDelete == []
    for _ in range(2):
        fs.startCommit(jobState=True)
        fs.waitForCommit()
    assert bench.store.load_job(str(bench.desc.jobStoreID)).filesToDelete == [str(file_id)]
    assert bench.stored(file_id) == b"content"


# Import and export


def test_import_and_export(bench: Bench, fs: AbstractFileStore) -> None:
    source = bench.home / "ein gabe\n"
    source.write_bytes(b"original")
    source.chmod(0o755)
    file_id = fs.import_file(str(source))
    assert isinstance(file_id, FileID)
    assert (file_id.size, file_id.executable) == (8, True)
    source.write_bytes(b"changed later")
    target = bench.home / "aus gabe\n"
    fs.export_file(file_id, str(target))
    assert target.read_bytes() == b"original"
    assert os.access(target, os.X_OK)
    assert fs.import_file(str(source), "shared_name") is None
    source.write_bytes(b"changed again")
    with bench.store.read_shared_file_stream("shared_name") as stream:
        assert stream.read() == b"changed later"
    with pytest.raises(FileNotFoundError):
        fs.import_file(str(bench.home / "missing"))


def test_a_file_of_the_job_can_be_imported(bench: Bench) -> None:
    fs = bench.file_store()
    with fs.open(Job()):
        Path("mine").write_bytes(b"1")
        file_id = fs.import_file(os.path.abspath("mine"))
    assert bench.stored(cast(FileID, file_id)) == b"1"


def test_older_names_say_so(bench: Bench, fs: AbstractFileStore) -> None:
    source = bench.home / "source"
    source.write_bytes(b"1")
    with pytest.warns(DeprecationWarning, match="import_file"):
        file_id = fs.importFile(str(source))
    with pytest.warns(DeprecationWarning, match="export_file"):
        fs.exportFile(cast(FileID, file_id), str(bench.home / "target"))
    assert (bench.home / "target").read_bytes() == b"1"


# Messages and the commit


def test_messages_and_streams_travel_with_the_commit(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    fs = bench.file_store()
    fs.log_to_leader("hello\nyou")
    fs.log_to_leader("bad", level=40)
    fs.log_user_stream("container log", io.BytesIO("ünï\n".encode()))
    fs.startCommit()
    fs.waitForCommit()
    assert len(fs.messages) == 2
    fs.startCommit(jobState=True)
    fs.waitForCommit()
    desc = bench.store.load_job(str(bench.desc.jobStoreID))
    assert desc.messages == [(20, "hello\nyou"), (40, "bad")]
    assert desc.user_streams == [("container log", "ünï\n")]
    assert (fs.messages, fs.user_streams) == ([], [])


def test_a_commit_is_the_state_as_it_was_when_started(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, update = bench.file_store(), bench.store.update_job
    bench.desc.result_refs = ["before"]

    def change_then_update(desc: JobDescription) -> None:
        bench.desc.result_refs.append("after")
        update(desc)

    monkeypatch.setattr(bench.store, "update_job", change_then_update)
    fs.startCommit(jobState=True)
    assert fs.waitForCommit() is True
    loaded = bench.store.load_job(str(bench.desc.jobStoreID))
    assert loaded.result_refs == ["before"]
    assert bench.desc.version == loaded.version == 2
    assert bench.desc.token == loaded.token


def test_a_commit_may_follow_a_commit(bench: Bench) -> None:
    fs = bench.file_store()
    assert fs.waitForCommit() is True
    for version in (2, 3, 4):
        fs.startCommit(jobState=True)
        fs.waitForCommit()
        assert bench.store.load_job(str(bench.desc.jobStoreID)).version == version


def test_a_refused_commit_is_raised_and_final(bench: Bench) -> None:
    newer = bench.store.load_job(str(bench.desc.jobStoreID))
    bench.store.update_job(newer)
    fs = bench.file_store()
    fs.startCommit(jobState=True)
    for wait in (fs.waitForCommit, fs.waitForCommit, lambda: fs.startCommit(jobState=True)):
        with pytest.raises(ConcurrentFileModificationException):
            wait()
    assert bench.desc.version == 1
    assert bench.store.load_job(str(bench.desc.jobStoreID)).version == 2


def test_a_failed_commit_can_be_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(desc: JobDescription) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fs = bench.file_store()
    fs.log_to_leader("kept")
    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "update_job", full)
        for _ in range(2):
            fs.startCommit(jobState=True)
            with pytest.raises(OSError, match="No space"):
                fs.waitForCommit()
    fs.startCommit(jobState=True)
    fs.waitForCommit()
    desc = bench.store.load_job(str(bench.desc.jobStoreID))
    assert (desc.version, desc.messages) == (2, [(20, "kept")])


# Making and ending file stores


@pytest.mark.parametrize("caching", [None, False])
def test_the_factory_makes_one(bench: Bench, caching: bool | None) -> None:
    fs = AbstractFileStore.createFileStore(bench.store, bench.desc, str(bench.home), bool, caching)
    assert isinstance(fs, AbstractFileStore)
    assert caching is None or type(fs) is NonCachingFileStore


def test_the_shutdown_cleans_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "toilcache.node.remains.cleanup", lambda *args, **options: seen.append((args, options))
    )
    AbstractFileStore.shutdownFileStore("workflow", str(tmp_path), None)
    assert seen == [(("workflow", str(tmp_path), None), {"run": None})]
