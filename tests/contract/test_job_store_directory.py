"""What the job store in a directory promises beyond the others: private files, on disks that fail."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.job_stores import Bench
from tests.unit.repository import ROOT
from toilcache import vfs
from toilcache.config import Config
from toilcache.errors import (
    ConcurrentFileModificationException,
    JobStoreExistsException,
    JobStoreUnavailableError,
    JobStoreVersionError,
    NoSuchJobException,
    NoSuchJobStoreException,
    ToilcacheError,
)
from toilcache.job.description import JobDescription
from toilcache.job_store import layout
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.removal import robust_rmtree

NOBODY = 65534


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench("file", tmp_path)


def in_child(call: Callable[[], int]) -> int:
    """Run in a forked child and return its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        with suppress(BaseException):
            code = call()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# Being made, found and removed


@pytest.mark.parametrize("spelling", ["{}", "file:{}", "FILE://{}", "file://localhost{}"])
def test_one_store_by_all_its_names(tmp_path: Path, spelling: str) -> None:
    store = FileJobStore(str(tmp_path / "store"))
    store.initialize(Config())
    other = FileJobStore(spelling.format(tmp_path / "store"))
    other.resume()
    assert other.locator == store.locator == FileJobStore(store.locator).locator


@pytest.mark.parametrize("locator", ["aws:us-west-2:name", "s3://bucket", "file://elsewhere/x", "google:p:n"])
def test_a_store_that_is_no_directory(locator: str) -> None:
    with pytest.raises(ToilcacheError, match="cannot use"):
        FileJobStore(locator)


def test_a_new_store_is_small_and_private(bench: Bench) -> None:
    paths = list(Path(bench.where).rglob("*"))
    assert len(paths) < 25
    bench.job()
    job_id = str(bench.job().jobStoreID)
    for cleanup in (True, False):
        bench.store.write_file(bench.local(mode=0o777), job_id, cleanup)
    bench.store.write_file(bench.local())
    bench.store.import_file(bench.local())
    bench.store.claim_run()
    bench.store.beat(1)
    bench.store.append_journal(1).close()
    bench.store.register_node("n", {})
    bench.store.write_logs("x")
    for path in (Path(bench.where), *Path(bench.where).rglob("*")):
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o777)
    FileJobStore(str(tmp_path / "store")).initialize(Config())
    FileJobStore(str(tmp_path / "store")).resume()
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


def test_something_else_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("do not remove")
    (tmp_path / "file").write_text("do not remove")
    for path in (mine, tmp_path / "file"):
        store = FileJobStore(str(path))
        for call in (lambda store=store: store.initialize(Config()), store.resume, store.destroy):
            with pytest.raises(
                JobStoreUnavailableError, match="something else is there; choose another path"
            ):
                call()
    assert (mine / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "do not remove"
    assert os.listdir(mine) == ["thesis.txt"]


def test_a_store_below_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for parent in ("nothing", "file"):
        with pytest.raises(JobStoreUnavailableError, match="its parent is no directory"):
            FileJobStore(str(tmp_path / parent / "store")).initialize(Config())


def test_no_store_to_resume(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("nothing", "empty"):
        with pytest.raises(NoSuchJobStoreException, match=name):
            FileJobStore(str(tmp_path / name)).resume()
    FileJobStore(str(tmp_path / "nothing")).destroy()


def test_a_store_of_another_version(bench: Bench) -> None:
    (Path(bench.where) / "version").write_text("toilcache job store 999\n")
    for call in (bench.another().resume, lambda: bench.another().initialize(Config())):
        with pytest.raises(JobStoreVersionError, match="999"):
            call()
    (Path(bench.where) / "version").write_text("something else\n")
    with pytest.raises(JobStoreUnavailableError, match="something else is there"):
        bench.another().resume()


def test_a_half_made_store_is_made_anew(tmp_path: Path) -> None:
    store = FileJobStore(str(tmp_path / "store"))

    def die() -> int:
        store.write_kill_flag = lambda kill=False: os._exit(7)  # type: ignore[method-assign]
        store.initialize(Config())
        return 0

    assert in_child(die) == 7
    with pytest.raises(NoSuchJobStoreException):
        FileJobStore(store.path).resume()
    again = FileJobStore(store.path)
    again.initialize(Config())
    assert sorted(os.listdir(store.path)) == sorted(
        {name.split("/")[0] for name in layout.DIRECTORIES} | {"version", "reserve"}
    )


def test_a_store_that_is_just_being_made_exists(tmp_path: Path) -> None:
    store = FileJobStore(str(tmp_path / "store"))
    refused = []

    def meanwhile(kill: bool = False) -> None:
        with pytest.raises(JobStoreExistsException):
            FileJobStore(store.path).initialize(Config())
        refused.append(True)

    store.write_kill_flag = meanwhile  # type: ignore[method-assign]
    store.initialize(Config())
    assert refused == [True]
    FileJobStore(store.path).resume()


@pytest.mark.parametrize(("code", "works"), [(errno.ENOLCK, True), (errno.EIO, False)])
def test_a_file_system_without_locks_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, works: bool
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(vfs, "flock", no_locks)
    store = FileJobStore(str(tmp_path / "store"))
    with nullcontext() if works else pytest.raises(JobStoreUnavailableError, match="Input/output error"):
        store.initialize(Config())
    assert os.path.exists(f"{store.path}/version") is works


def test_making_a_store_fails_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(vfs, "link", no_links)
    with pytest.raises(JobStoreUnavailableError, match="no hard links"):
        FileJobStore(str(tmp_path / "store")).initialize(Config())
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileJobStore, "keep_reserve", full)
    with pytest.raises(JobStoreUnavailableError, match="No space left"):
        FileJobStore(str(tmp_path / "store")).initialize(Config())
    assert os.listdir(tmp_path) == []


def test_destroying_goes_on_after_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.job()

    def fails_at_last(path: str) -> None:
        if path.endswith("/trash"):
            raise OSError(errno.EIO, "Input/output error")
        robust_rmtree(path)

    monkeypatch.setattr("toilcache.job_store.file_job_store.robust_rmtree", fails_at_last)
    with pytest.raises(JobStoreUnavailableError, match="Input/output error"):
        bench.store.destroy()
    monkeypatch.undo()
    assert sorted(os.listdir(bench.where)) == ["leader", "trash", "version", "work"]
    bench.another().destroy()
    assert not os.path.exists(bench.where)


def test_a_directory_that_others_can_write_is_not_trusted(bench: Bench) -> None:
    for mode in (0o702, 0o720):
        os.chmod(bench.where, mode)
        with pytest.raises(JobStoreUnavailableError, match="other users can write there"):
            bench.another().resume()


def test_a_store_that_vanishes_under_its_users(bench: Bench) -> None:
    bench.another(resume=True).destroy()
    for write in (
        lambda: bench.job(),
        lambda: bench.store.write_file(bench.local()),
        lambda: bench.store.set_root_job("x"),
        lambda: bench.store.write_logs("x"),
        lambda: bench.store.register_node("x", {}),
    ):
        with pytest.raises(JobStoreUnavailableError, match="it was removed or is not mounted here"):
            write()
    assert not os.path.exists(bench.where)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_what_another_user_cannot_do(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    (tmp_path / "locked").mkdir(mode=0o755)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)

    def as_nobody() -> int:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with pytest.raises(JobStoreUnavailableError, match="Permission denied; run as its owner"):
            FileJobStore(str(tmp_path / "locked" / "store")).initialize(Config())
        mine = FileJobStore(str(open_to_all / "mine"))
        mine.initialize(Config())
        (open_to_all / "local").write_bytes(b"content")
        file_id = mine.write_file(str(open_to_all / "local"))
        out = open_to_all / "out"
        for symlink in (False, True, True):
            mine.read_file(file_id, str(out), symlink)
            assert out.read_bytes() == b"content"
            out.chmod(0o600)
            with out.open("r+b") as stream:
                stream.write(b"CHANGED")
            with mine.read_file_stream(file_id) as stream:
                assert stream.read() == b"content"
        mine.read_file(file_id, str(out))
        mine.read_file(file_id, str(out))
        assert [name for name in os.listdir(open_to_all) if name.startswith(".")] == []
        os.chmod(f"{mine.path}/jobs", 0o500)
        with pytest.raises(JobStoreUnavailableError, match="Permission denied"):
            mine.assign_job_id(JobDescription({}, "x"))
        return 0

    assert in_child(as_nobody) == 0
    # Root may look after anybody's store; nobody may trust that of another.
    FileJobStore(str(open_to_all / "mine")).resume()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")
def test_the_store_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    store = FileJobStore(str(tmp_path / "store"))
    store.initialize(Config())
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    os.chown(store.path, 12345, 12345)
    os.chmod(store.path, 0o755)

    def as_nobody() -> int:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with pytest.raises(JobStoreUnavailableError, match="other users can write there"):
            FileJobStore(store.path).resume()
        return 0

    assert in_child(as_nobody) == 0


# One winner


def test_eight_processes_race_for_one_version(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    gate, opened = os.pipe()
    pids = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            code = 99
            with suppress(BaseException):
                code = _race(bench, job_id, gate, opened, number)
            os._exit(code)
        pids.append(pid)
    os.close(opened)
    os.close(gate)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sorted(codes) == [0, *[1] * 7]
    assert bench.store.load_job(job_id).failure == str(codes.index(0))
    assert [name for name in os.listdir(f"{bench.where}/{layout.job_scope(job_id)}") if name[0] == "."] == []


def _race(bench: Bench, job_id: str, gate: int, opened: int, number: int) -> int:
    description = bench.store.load_version(job_id, 1)
    description.failure = str(number)
    os.close(opened)
    os.read(gate, 1)
    try:
        bench.store.update_job(description)
    except ConcurrentFileModificationException:
        return 1
    return 0


def test_a_late_link_into_a_deleted_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.job()
    link = os.link

    def delete_first(*arguments: Any) -> None:
        monkeypatch.setattr(vfs, "link", link)
        bench.another(resume=True).delete_job(str(job.jobStoreID))
        link(*arguments)

    monkeypatch.setattr(vfs, "link", delete_first)
    with pytest.raises(NoSuchJobException):
        bench.store.update_job(job)
    assert os.listdir(f"{bench.where}/trash") == []
    assert not bench.store.job_exists(str(job.jobStoreID))


def test_a_job_is_gone_as_a_whole_before_any_of_its_records_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(path: str) -> None:
        raise Killed

    job = bench.job()
    bench.store.update_job(job)
    monkeypatch.setattr(vfs, "unlink", die)
    with pytest.raises(Killed):
        bench.store.delete_job(str(job.jobStoreID))
    monkeypatch.undo()
    assert str(job.jobStoreID) not in bench.store.job_ids()
    bench.store._backend.sweep()
    assert os.listdir(f"{bench.where}/trash") == []


def test_clean_removes_what_a_deletion_left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    root, job = bench.job(), bench.job()
    bench.store.set_root_job(str(root.jobStoreID))

    def busy(path: str) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr("toilcache.job_store.directory._remove", busy)
    bench.store.delete_job(str(job.jobStoreID))
    assert len(os.listdir(f"{bench.where}/trash")) == 1
    monkeypatch.undo()
    bench.store.clean()
    assert os.listdir(f"{bench.where}/trash") == []


def test_a_link_that_a_server_did_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.job()
    link = os.link

    def retransmitted(*arguments: Any) -> None:
        link(*arguments)
        link(*arguments)

    monkeypatch.setattr(vfs, "link", retransmitted)
    bench.store.update_job(job)
    assert job.version == 2


def test_a_stale_handle_means_look_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = str(bench.job().jobStoreID)
    real, failed = os.open, []

    def stale_once(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("/1") and not failed:
            failed.append(path)
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", stale_once)
    assert bench.store.load_job(job_id).version == 1
    assert failed


def test_what_nfs_keeps_for_open_files_is_nobodys(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    bench.store.write_logs("message")
    for scope in (layout.LOGS_NEW, layout.JOURNAL, layout.NODES, layout.job_scope(job_id)):
        for name in (".nfs0001", ".tmp-123"):
            Path(bench.where, scope, name).write_bytes(b"remains")
    assert bench.store.read_logs(lambda _: None) == 1
    assert bench.store.nodes() == {}
    assert bench.store.journals() == []
    assert bench.store.load_job(job_id).version == 1


# Disks that fail


CALLS = ("open", "write", "close", "link", "unlink", "read", "rename")
CLOSE = os.close
"""A close that fails has closed all the same."""


class Fault:
    """Lets the n-th system call fail, before or after it did its work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, after: bool, code: int) -> None:
        self.left = step
        self.after = after
        self.code = code
        for name in CALLS:
            for module in (os, vfs):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, self.wrap(getattr(module, name)))

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left != 0:
                return call(*arguments, **options)
            if self.after or call is CLOSE:
                result = call(*arguments, **options)
                if call.__name__ == "open":
                    CLOSE(result)  # nobody learns of it
            raise OSError(self.code, os.strerror(self.code))

        return wrapped


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_update_survives_a_failure_at_each_step(bench: Bench, after: bool, code: int) -> None:
    for step in range(1, 100):
        job = bench.job()
        job.failure = f"step {step}"
        with pytest.MonkeyPatch.context() as monkeypatch:
            fault = Fault(monkeypatch, step, after, code)
            with suppress(JobStoreUnavailableError):
                bench.store.update_job(job)
        newest = bench.another(resume=True).load_job(str(job.jobStoreID))
        assert newest.version >= job.version
        if job.version == 1:
            bench.store.update_job(job)
        assert bench.store.load_job(str(job.jobStoreID)).failure == f"step {step}"
        assert (job.version, newest.version) in ((2, 1), (2, 2))
        if fault.left > 0:
            assert step > 8
            return
    pytest.fail("the update never completed")


@pytest.mark.parametrize("after", [False, True])
def test_a_file_is_whole_or_absent_after_a_failure_at_each_step(bench: Bench, after: bool) -> None:
    local = bench.local(b"content" * 1000)
    with bench.store.write_shared_file_stream("shared") as stream:
        stream.write(b"before")
    for step in range(1, 200):
        with pytest.MonkeyPatch.context() as monkeypatch:
            fault = Fault(monkeypatch, step, after, errno.ENOSPC)
            with suppress(JobStoreUnavailableError, OSError):
                bench.store.write_file(local)
                with bench.store.write_shared_file_stream("shared") as stream:
                    stream.write(b"after")
        for path in Path(bench.where, "free").glob("*/[!.]*"):
            assert path.stat().st_size == 7000
        with bench.store.read_shared_file_stream("shared") as stream:
            assert stream.read() in (b"before", b"after")
        if fault.left > 0:
            assert step > 8
            return
    pytest.fail("the write never completed")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB."""
    libc = ctypes.CDLL(None, use_errno=True)
    mount = tmp_path / "disk"
    mount.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(mount), b"tmpfs", 0, b"size=20m,mode=0755") != 0:
        pytest.skip(f"cannot mount a small tmpfs: {os.strerror(ctypes.get_errno())}")
    yield mount
    assert libc.umount2(os.fsencode(mount), 2) == 0


@pytest.mark.real
@pytest.mark.parametrize("inside", [True, False])
def test_a_full_disk(small_disk: Path, inside: bool) -> None:
    """Nothing fails but what needs space; the reserve is enough to say why; afterwards all goes on."""
    store = FileJobStore(str(small_disk / "store" if inside else small_disk))
    store.initialize(Config())
    job = JobDescription({}, "x")
    store.assign_job_id(job)
    store.create_root_job(job)
    big = small_disk.parent / "big"
    big.write_bytes(os.urandom(30_000_000))
    for write in (lambda: store.write_file(str(big)), lambda: _stream(store, big.read_bytes())):
        with pytest.raises(JobStoreUnavailableError, match="No space left on device; free some space"):
            write()
    assert list(Path(store.path).rglob(".tmp*")) == []
    filler = small_disk / ("filler" if inside else "trash/filler")
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    job.failure = "x" * 100_000
    with pytest.raises(JobStoreUnavailableError, match="No space left"):
        store.update_job(job)
    with pytest.raises(JobStoreUnavailableError, match="No space left"):
        [store.write_logs("x" * 4096) for _ in range(100)]
    assert sorted(os.listdir(f"{store.path}/{layout.job_scope(str(job.jobStoreID))}")) == ["1"]
    store.release_reserve()
    with store.append_journal(1) as journal:
        journal.write(b"the disk is full")
    filler.unlink()
    store.update_job(job)
    store.keep_reserve()
    assert store.load_root_job().version == 2
    FileJobStore(store.path).resume()
    store.destroy()
    assert not inside or os.listdir(small_disk) == []


def _stream(store: FileJobStore, data: bytes) -> None:
    with store.write_file_stream() as (stream, _):
        stream.write(data)


# What a worker pays


def test_a_worker_that_opens_a_store_imports_little(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    program = (
        "import sys; sys.path.append(sys.argv[3])\n"
        "from toilcache.job_store.file_job_store import FileJobStore\n"
        "store = FileJobStore(sys.argv[1]); store.resume(); job = store.load_job(sys.argv[2])\n"
        "store.begin_attempt(job.jobStoreID, 1); job.detach_body(); store.update_job(job)\n"
        "print(*sys.modules)\n"
    )
    plain = str(bench.home / "store")
    os.rename(bench.where, plain)
    outcome = subprocess.run(
        [sys.executable, "-S", "-c", program, plain, job_id, str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {
        *(
            "logging",
            "threading",
            "subprocess",
            "tempfile",
            "typing",
            "dataclasses",
            "inspect",
            "json",
            "shutil",
        ),
        *("random", "uuid", "urllib", "ctypes", "datetime", "fsspec", "filelock", "sh", "psutil", "sqlite3"),
    }
    assert set(outcome.stdout.split()) & heavy == set()


def test_a_hot_path_lists_nothing_but_the_job_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    local = bench.local()
    listed = []
    listdir, scandir = os.listdir, os.scandir

    @contextmanager
    def watched(path: Any) -> Iterator[Iterator[os.DirEntry[str]]]:
        """Whoever reads only the beginning of a directory does not list it."""
        with scandir(path) as entries:
            yield (listed.append(path) or entry if number else entry for number, entry in enumerate(entries))

    monkeypatch.setattr(os, "listdir", lambda path=".": listed.append(path) or listdir(path))
    monkeypatch.setattr(os, "scandir", watched)
    job = bench.job()
    job_id = str(job.jobStoreID)
    bench.store.load_version(job_id, 1)
    bench.store.update_job(job)
    file_id = bench.store.write_file(local, job_id)
    bench.store.read_file(file_id, str(bench.home / "out"))
    bench.store.delete_file(file_id)
    assert listed == []
    bench.store.load_job(job_id)
    bench.store.job_exists(job_id)
    bench.store.discard_attempts(job_id, None)
    bench.store.delete_job(job_id)
    assert {os.path.basename(path.rstrip("/")) for path in listed if f"/{job_id}" in path} == {job_id}
    assert [path for path in listed if job_id not in path and "/trash/" not in path] == []


def test_files_that_are_gone_leave_no_directories(bench: Bench) -> None:
    job_id = str(bench.job().jobStoreID)
    ids = [bench.store.write_file(bench.local(), job_id) for _ in range(2)]
    for file_id in ids:
        bench.store.delete_file(file_id)
    bench.store.delete_job(job_id)
    assert [path for path in Path(bench.where).rglob("*") if job_id in str(path)] == []
    assert os.listdir(f"{bench.where}/trash") == []


def test_a_first_record_of_which_a_part_was_left_is_written_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails takes neither the whole record nor the removal of a part; nobody else is at it."""
    store, desc = bench.store, JobDescription({"cores": 1, "memory": 1, "disk": 1}, "job")
    store.assign_job_id(desc)
    write, unlink = vfs.write, vfs.unlink

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def writes_a_part(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(vfs, "write", fails)
        return write(descriptor, data[: len(data) // 2])

    for broken in (fails, writes_a_part):
        monkeypatch.setattr(vfs, "write", broken)
        monkeypatch.setattr(vfs, "unlink", fails)
        with pytest.raises(JobStoreUnavailableError, match="Input/output error"):
            store.create_job(desc)
        monkeypatch.setattr(vfs, "write", write)
        monkeypatch.setattr(vfs, "unlink", unlink)
    store.create_job(desc)
    assert store.load_job(str(desc.jobStoreID)).token == desc.token
    with pytest.raises(ConcurrentFileModificationException):
        store.create_job(desc)
    with pytest.raises(ConcurrentFileModificationException):
        store.create_job(desc)
