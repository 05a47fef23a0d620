"""The block in which a job runs: its directory, where it works, what is left, over every file store."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.fakes.file_stores import CASE_NAMES, CASES, Bench, bench_of
from toilcache.file_store.abstract import AbstractFileStore
from toilcache.job.description import JobDescription
from toilcache.job.job import Job


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


def test_a_job_works_in_its_temporary_directory(bench: Bench) -> None:
    before, fs = os.getcwd(), bench.file_store()
    with fs.open(Job()):
        home = os.getcwd()
        assert home == fs.localTempDir
        assert os.path.dirname(home) == str(bench.home)
        assert stat.S_IMODE(os.stat(home).st_mode) == 0o711
        Path("left behind").write_text("x")
        os.chdir("/")
    assert os.getcwd() == before
    assert os.listdir(bench.home) == []


def test_a_failing_job_leaves_nothing_either(bench: Bench) -> None:
    before, fs = os.getcwd(), bench.file_store()

    def fail() -> None:
        with fs.open(Job()):
            Path(fs.getLocalTempDir(), "x").write_bytes(b"x" * 5000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.getcwd() == before
    assert os.listdir(bench.home) == []
    assert fs.get_disk_usage()


def test_whatever_the_job_did_to_its_directory_it_goes(bench: Bench) -> None:
    fs = bench.file_store()
    with fs.open(Job()):
        deep = Path("locked")
        deep.mkdir()
        (deep / "file\n").touch()
        (deep / "dangling").symlink_to("nowhere")
        deep.chmod(0)
        os.chmod(".", 0o500)
    assert os.listdir(bench.home) == []
    with fs.open(Job()):
        os.rmdir(fs.localTempDir)
    assert fs.get_disk_usage() == 0
    with fs.open(Job()):
        os.rename(fs.localTempDir, bench.home / "moved")
        Path(fs.localTempDir).write_text("not a directory")
    assert os.listdir(bench.home) == ["moved"]


def test_a_directory_that_cannot_be_removed_fails_no_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    fs = bench.file_store()
    monkeypatch.setattr("toilcache.file_store.abstract.robust_rmtree", refuse)
    with fs.open(Job()):
        Path("x").touch()
    [(level, text)] = fs.messages
    assert level == 30
    assert "cannot remove the temporary directory" in text


def test_the_old_directory_may_be_gone_meanwhile(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = bench.home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    fs = bench.file_store()
    with fs.open(Job()):
        gone.rmdir()
    with fs.open(Job()):
        assert os.getcwd() == fs.localTempDir
    assert os.listdir(bench.home) == []


def test_a_forked_child_that_leaves_the_block_changes_nothing(bench: Bench) -> None:
    fs, parent = bench.file_store(), os.getpid()
    status = None
    try:
        with fs.open(Job()):
            Path("kept").touch()
            child = os.fork()
            if child == 0:
                raise ZeroDivisionError
            _, status = os.waitpid(child, 0)
            assert os.listdir(".") == ["kept"]
    finally:
        if os.getpid() != parent:
            os._exit(3)
    assert os.waitstatus_to_exitcode(status) == 3
    assert os.listdir(bench.home) == []


def test_outside_the_block_files_are_refused(bench: Bench) -> None:
    fs, file_id = bench.file_store(), bench.uploaded()
    calls: list[Callable[[], Any]] = [
        fs.getLocalTempDir,
        fs.getLocalTempFile,
        fs.getLocalTempFileName,
        lambda: fs.writeGlobalFile("x"),
        lambda: fs.writeGlobalFileStream().__enter__(),
        lambda: fs.readGlobalFile(file_id),
        lambda: fs.readGlobalFileStream(file_id).__enter__(),
        lambda: fs.deleteLocalFile(file_id),
        lambda: fs.deleteGlobalFile(file_id),
        lambda: fs.import_file("/etc/hostname"),
        lambda: fs.export_file(file_id, str(bench.home / "x")),
    ]
    with fs.open(Job()), pytest.raises(RuntimeError, match="close it first"), fs.open(Job()):
        pass
    for call in calls:
        with pytest.raises(RuntimeError, match="only while it runs"):
            call()
    fs.startCommit(jobState=True)
    fs.waitForCommit()
    assert bench.store.load_job(str(bench.desc.jobStoreID)).filesToDelete == []


def test_a_subclass_can_wrap_the_block(bench: Bench) -> None:
    from contextlib import contextmanager

    class Wrapped(bench.kind):  # type: ignore[name-defined, misc]
        @contextmanager
        def open(self, job: Job) -> Iterator[None]:
            with super().open(job):
                yield

    fs = Wrapped(bench.store, bench.desc, str(bench.home), bool)
    with fs.open(Job()):
        assert os.getcwd() == fs.localTempDir
    assert os.listdir(bench.home) == []


def test_local_names_are_new_and_inside(fs: AbstractFileStore) -> None:
    directory, file, name = (
        fs.getLocalTempDir(),
        fs.getLocalTempFile(".bam", "a b\n"),
        fs.getLocalTempFileName("é"),
    )
    assert {os.path.dirname(path) for path in (directory, file, name)} == {fs.localTempDir}
    assert os.path.isdir(directory)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o711
    assert os.path.getsize(file) == 0
    assert os.path.basename(file).startswith("a b\n")
    assert file.endswith(".bam")
    assert not os.path.lexists(name)
    with pytest.raises(ValueError, match="slashes"):
        fs.getLocalTempFile("/../../escape")
    with pytest.raises(ValueError, match="slashes"):
        fs.getLocalTempFileName(prefix="../")


def test_disk_usage_is_what_lay_there_at_the_end(bench: Bench) -> None:
    fs = bench.file_store()
    assert fs.get_disk_usage() is None
    with fs.open(Job()):
        pass
    assert fs.get_disk_usage() == 0
    with fs.open(Job()):
        Path("big").write_bytes(os.urandom(300_000))
        Path("removed").write_bytes(os.urandom(300_000))
        os.unlink("removed")
    assert 300_000 <= cast(int, fs.get_disk_usage()) < 400_000
    assert fs.messages == []


def test_a_job_that_needs_more_disk_than_it_asked_for_is_told(bench: Bench) -> None:
    fs = bench.file_store()
    bench.desc.disk = 1000
    with fs.open(Job()):
        Path("big").write_bytes(os.urandom(100_000))
    [(level, text)] = fs.messages
    assert level == 30
    assert "larger disk requirement" in text
    silent = JobDescription({}, "asks for nothing")
    fs = bench.file_store(silent)
    with fs.open(Job()):
        Path("big").write_bytes(os.urandom(100_000))
    assert fs.messages == []
