"""Directories and files: modes, names, and nothing half-written."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toilcache import io as tio
from toilcache import vfs

HOSTILE = ["plain", "a b", 'it\'s "x"', "new\nline", "-dash", "\u00fc\u4e2d", "x" * 255, "\udcff", ".hidden"]


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture(params=[0o022, 0o077, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def forbid(monkeypatch: pytest.MonkeyPatch, name: str, number: int = errno.ENOSPC) -> None:
    """Let a system call fail from now on."""

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(vfs, name, fail)


# Names and directories


def test_random_names_are_hexadecimal_and_differ() -> None:
    assert re.fullmatch("[0-9a-f]{12}", tio.random_name())
    assert [len(tio.random_name(n)) for n in range(9)] == list(range(9))
    assert len({tio.random_name() for _ in range(1000)}) == 1000


def test_mkdtemp_is_0711_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path = tio.mkdtemp(suffix=" s", prefix="p-", dir=tmp_path)
    assert mode(path) == 0o711
    assert os.path.dirname(path) == str(tmp_path)
    assert re.fullmatch("p-[0-9a-f]{12} s", os.path.basename(path))
    assert tio.mkdtemp(dir=tmp_path) != tio.mkdtemp(dir=tmp_path)


def test_mkdtemp_is_absolute_and_draws_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = iter(["taken", "taken", "free"])
    monkeypatch.setattr(tio, "random_name", lambda: next(names))
    assert tio.mkdtemp(dir=".") == str(tmp_path / "tmptaken")
    assert tio.mkdtemp(dir=".") == str(tmp_path / "tmpfree")


def test_mkdtemp_uses_the_place_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert os.path.dirname(tio.mkdtemp()) == str(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.delenv("TEMP", raising=False)
    monkeypatch.delenv("TMP", raising=False)
    assert tio.default_temp_dir() == "/tmp"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert tio.default_temp_dir() == os.getcwd()


def test_mkdtemp_says_where_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tio.mkdtemp(dir=tmp_path / "missing")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_public_directory_gets_the_suggested_name_once(name: str, tmp_path: Path, umask: int) -> None:
    first = tio.make_public_dir(tmp_path, name)
    assert first == os.path.join(tmp_path, name)
    assert mode(first) == 0o777
    second = tio.make_public_dir(tmp_path, name)
    assert re.fullmatch("[0-9a-f]{4}", os.path.basename(second))
    assert mode(second) == 0o777


def test_random_public_names_grow_while_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tio, "random_name", lambda n: "x" * n)
    lengths = [len(os.path.basename(tio.make_public_dir(tmp_path))) for _ in range(29)]
    assert lengths == list(range(4, 33))
    with pytest.raises(FileExistsError, match="free name"):
        tio.make_public_dir(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "/etc/x", "nul\0"])
def test_a_suggested_name_is_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a path"):
        tio.make_public_dir(tmp_path / "inner", name)
    assert list(tmp_path.iterdir()) == []


def test_the_size_of_a_file_system(tmp_path: Path) -> None:
    free, total = tio.getFileSystemSize(str(tmp_path))
    assert 0 <= free < total
    with pytest.raises(FileNotFoundError):
        tio.getFileSystemSize(tmp_path / "missing")


def test_free_is_what_a_common_user_may_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.statvfs_result((4096, 512, 1000, 300, 200, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    assert tio.getFileSystemSize("/") == (512 * 200, 512 * 1000)


# Whole files


@pytest.mark.parametrize("name", HOSTILE)
def test_a_durable_write_replaces_the_whole_file(name: str, tmp_path: Path, umask: int) -> None:
    path = tmp_path / name
    for data in (b"first and long", b"", b"\0\xff"):
        tio.write_durable(path, data)
        assert path.read_bytes() == data
        assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    tio.write_durable(path, b"x", mode=0o400, sync=False)
    assert mode(path) == 0o400


def test_a_durable_write_syncs_the_file_and_then_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_sync(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_rename(src: str, dst: str) -> None:
        assert os.path.dirname(src) == str(tmp_path), "in the same directory"
        steps.append("rename")
        rename(src, dst)

    monkeypatch.setattr(vfs, "fsync", note_sync)
    monkeypatch.setattr(vfs, "rename", note_rename)
    tio.write_durable(tmp_path / "a", b"x")
    assert steps == ["file", "rename", "directory"]
    steps.clear()
    tio.write_durable(tmp_path / "a", b"x", sync=False)
    assert steps == ["rename"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_failed_write_changes_nothing(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        forbid(patch, call)
        with pytest.raises(OSError, match="No space"):
            tio.write_durable(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    def fail(descriptor: int) -> None:
        os.write(descriptor, b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), tio.atomic_create(tmp_path / "file") as descriptor:
        fail(descriptor)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with tio.atomic_create(path) as descriptor:
        os.write(descriptor, b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"


def test_a_relative_path_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tio.write_durable("name", b"x")
    assert (tmp_path / "name").read_bytes() == b"x"


def test_exclusive_creation_happens_once(tmp_path: Path) -> None:
    path = tmp_path / "new\nfile"
    tio.create_exclusive(path, b"mine", sync=True)
    assert (path.read_bytes(), mode(path)) == (b"mine", 0o600)
    with pytest.raises(FileExistsError):
        tio.create_exclusive(path, b"yours")
    assert path.read_bytes() == b"mine"
    tio.create_exclusive(tmp_path / "empty", mode=0o440)
    assert mode(tmp_path / "empty") == 0o440


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_exclusive_creation_that_fails_leaves_no_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, call)
    with pytest.raises(OSError, match="No space"):
        tio.create_exclusive(tmp_path / "new", b"x", sync=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_directory_is_not_synced() -> None:
    with pytest.raises(NotADirectoryError):
        tio.sync_directory(__file__)


# Copies


@pytest.mark.parametrize("name", HOSTILE)
def test_a_copy_has_content_and_executable_bit(name: str, tmp_path: Path, umask: int) -> None:
    source, target = tmp_path / "source", tmp_path / name
    data = os.urandom(100_000)
    source.write_bytes(data)
    for source_mode, asked, wanted in [
        (0o600, None, 0o666),
        (0o700, None, 0o777),
        (0o400, True, 0o777),
        (0o755, False, 0o666),
    ]:
        source.chmod(source_mode)
        tio.atomic_copy(source, target, executable=asked)
        assert target.read_bytes() == data
        assert mode(target) == wanted & ~umask
    assert sorted(tmp_path.iterdir()) == sorted({source, target})


def test_a_copy_never_touches_the_old_file_s_inode(tmp_path: Path) -> None:
    source, target, other = (tmp_path / name for name in ("source", "target", "other"))
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    os.link(target, other)
    tio.atomic_copy(str(source), str(target))
    assert (target.read_bytes(), other.read_bytes()) == (b"new", b"old")


def test_a_copy_over_a_link_replaces_the_link(tmp_path: Path) -> None:
    source, target, far = (tmp_path / name for name in ("source", "target", "far"))
    source.write_bytes(b"new")
    far.write_bytes(b"far")
    target.symlink_to(far)
    tio.atomic_copy(source, target)
    assert (target.is_symlink(), far.read_bytes()) == (False, b"far")


def test_a_copy_follows_the_source_and_reads_files_of_unknown_size(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/proc/self/cmdline")
    tio.atomic_copy(link, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == Path("/proc/self/cmdline").read_bytes()


def test_copies_that_fail_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        tio.atomic_copy(tmp_path / "missing", tmp_path / "target")
    with pytest.raises(IsADirectoryError):
        tio.atomic_copy(tmp_path, tmp_path / "target")
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        tio.atomic_copy(source, tmp_path / "directory")
    forbid(monkeypatch, "sendfile")
    with pytest.raises(OSError, match="No space"):
        tio.atomic_copy(source, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "source"]


def test_an_open_file_is_copied_from_where_it_stands(tmp_path: Path, umask: int) -> None:
    stream = io.BytesIO(b"skipped" + b"x" * 50_000)
    stream.seek(7)
    tio.atomic_copyobj(stream, tmp_path / "target", length=1000)
    assert (tmp_path / "target").read_bytes() == b"x" * 50_000
    assert mode(tmp_path / "target") == 0o666 & ~umask
    tio.atomic_copyobj(io.BytesIO(), str(tmp_path / "target"), executable=True)
    assert (os.path.getsize(tmp_path / "target"), mode(tmp_path / "target")) == (0, 0o777 & ~umask)


def test_a_stream_that_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionResetError("gone")

    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(ConnectionResetError):
        tio.atomic_copyobj(Broken(), tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target").read_bytes() == b"old"


def test_pipes_and_devices_are_written_to_not_replaced(tmp_path: Path) -> None:
    source, fifo = tmp_path / "source", tmp_path / "fifo"
    source.write_bytes(b"data")
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    tio.atomic_copy(source, fifo)
    assert os.read(reader, 10) == b"data"
    tio.atomic_copyobj(io.BytesIO(b"more"), fifo)
    assert os.read(reader, 10) == b"more"
    os.close(reader)
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    tio.atomic_copy(source, link)
    assert link.is_symlink()
    assert stat.S_ISFIFO(os.stat(fifo).st_mode)


def test_a_worker_imports_nothing_heavy_with_it() -> None:
    code = "import sys; before = set(sys.modules); import toilcache.io, toilcache.retry, toilcache.units; "
    code += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = (
        "logging threading subprocess tempfile typing dataclasses inspect json shutil random ctypes warnings"
    )
    assert not set(heavy.split()) & set(done.stdout.split())
