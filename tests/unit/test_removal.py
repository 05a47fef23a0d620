"""Removing trees, whatever they look like and whoever else is at it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toilcache import removal, vfs
from toilcache.io import robust_rmtree

HOSTILE = ["plain", "a 'b' \"c\"\n", "-rf", "\u00fc\u4e2d", "x" * 255, "\udcff", "...", "*"]


def test_a_tree_of_everything(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    tree = tmp_path / "tree"
    for name in HOSTILE:
        (tree / name / "inner").mkdir(parents=True)
        (tree / name / "file").touch()
        (tree / name / "link to a directory").symlink_to(outside)
        (tree / name / "dangling").symlink_to("nowhere")
        os.mkfifo(tree / name / "fifo")
    robust_rmtree(str(tree))
    assert not tree.exists()
    assert (outside / "kept").read_text() == "kept"


@pytest.mark.parametrize("name", HOSTILE)
def test_single_files_and_links(name: str, tmp_path: Path) -> None:
    target = tmp_path / "directory"
    target.mkdir()
    path = tmp_path / name
    path.touch(0o000)
    robust_rmtree(path)
    path.symlink_to(target)
    robust_rmtree(f"{path}/")
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_gone_is_fine(tmp_path: Path) -> None:
    robust_rmtree(tmp_path / "missing")
    robust_rmtree(tmp_path / "missing" / "inner")


@pytest.mark.parametrize("path", ["", "/", "//"])
def test_the_root_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="one file or directory"):
        robust_rmtree(path)


def test_deeper_than_names_and_recursion_reach(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    here = os.open(tree, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("directory", dir_fd=here)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here))
        inner = os.open("directory", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    before = len(os.listdir("/proc/self/fd"))
    robust_rmtree(tree)
    assert not tree.exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_directories_without_permissions_are_opened_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").touch()
    for path in (tree / "a" / "b", tree / "a", tree):
        path.chmod(0o000)
    _as_a_common_user(monkeypatch)
    robust_rmtree(tree)
    assert not tree.exists()


def _as_a_common_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let root meet the refusals that the kernel spares it."""
    if os.geteuid() != 0:
        return
    real = os.open

    def guarded(name: Any, flags: int, *args: Any, dir_fd: int | None = None) -> int:
        descriptor = real(name, flags, *args, dir_fd=dir_fd)
        if not flags & os.O_PATH and not os.fstat(descriptor).st_mode & stat.S_IRUSR:
            os.close(descriptor)
            raise PermissionError(errno.EACCES, "Permission denied", name)
        return descriptor

    monkeypatch.setattr(os, "open", guarded)


def test_modes_are_widened_only_inside_the_tree(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(0o500)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(outside)
    (tmp_path / "tree").chmod(0o500)
    robust_rmtree(tmp_path / "tree")
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def racing(monkeypatch: pytest.MonkeyPatch, name: str, before: Callable[[Any], None]) -> None:
    """Do something right before each call of a system call."""
    module = vfs if hasattr(vfs, name) and name != "open" else os
    real = getattr(module, name)

    def call(path: Any, *args: Any, **kwargs: Any) -> Any:
        before(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(module, name, call)


def test_someone_else_removes_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    for name in ("a", "b", "c"):
        (tree / name).mkdir(parents=True)
        (tree / name / "file").touch()
    unlink, rmdir = os.unlink, os.rmdir

    def take_files(name: Any) -> None:
        for path in [*tree.glob("*/file")]:
            unlink(path)

    def take_directories(name: Any) -> None:
        for path in [*tree.glob("*")]:
            rmdir(path)

    racing(monkeypatch, "unlink", take_files)
    racing(monkeypatch, "rmdir", take_directories)
    robust_rmtree(tree)
    assert not tree.exists()


def test_files_that_appear_meanwhile_go_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    late = ["one", "two"]

    def add(_: Any) -> None:
        if late:
            (tree / late.pop()).touch()

    racing(monkeypatch, "rmdir", add)
    robust_rmtree(tree)
    assert not tree.exists()


def test_a_tree_that_never_gets_empty_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    racing(monkeypatch, "rmdir", lambda _: (tree / "again").touch())
    with pytest.raises(OSError, match="not empty") as caught:
        robust_rmtree(tree)
    assert caught.value.errno == errno.ENOTEMPTY


def test_a_link_put_in_place_of_a_directory_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    outside.mkdir()
    (outside / "kept").touch()
    real = removal._open_dir

    def swapped(name: str, parent: int | None) -> int:
        if parent is not None:
            (tree / "inner").rmdir()
            (tree / "inner").symlink_to(outside)
        return real(name, parent)

    monkeypatch.setattr(removal, "_open_dir", swapped)
    with pytest.raises(OSError, match=r"directory|symbolic"):
        robust_rmtree(tree)
    assert (outside / "kept").exists()


def test_a_refusal_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(vfs, "unlink", refuse)
    with pytest.raises(PermissionError):
        robust_rmtree(tmp_path / "file")
    assert (tmp_path / "file").exists()
