"""The ladder from reflink over hard link to copy."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from toilcache import links, vfs
from toilcache.links import copy_bytes, link_or_copy

NAMES = ["plain", "a 'b' \"c\"\n", "-dash", "\u00fc" * 100, "\udcff"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"content" * 1000)
    path.chmod(0o640)
    return path


@pytest.fixture(autouse=True)
def _forget_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_without_reflinks", set())


@pytest.fixture
def reflinks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A kernel that makes reflinks, or answers with the error number that is put in."""
    answers: list[int] = []

    def ioctl(target: int, request: int, origin: int) -> int:
        assert request == 0x40049409
        if answers:
            raise OSError(answers[0], os.strerror(answers[0]))
        os.write(target, os.pread(origin, 1 << 20, 0))
        return 0

    monkeypatch.setattr(vfs, "ioctl", ioctl)
    return answers


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rung", ["reflink", "hardlink", "copy"])
def test_each_rung(rung: str, name: str, source: Path, reflinks: list[int]) -> None:
    target = source.parent / name
    how = link_or_copy(source, target, reflink=rung == "reflink", hardlink=rung == "hardlink")
    assert how == rung
    assert (target.read_bytes(), mode(target)) == (source.read_bytes(), 0o640)
    assert target.samefile(source) is (rung == "hardlink")


@pytest.mark.parametrize("hardlink", [True, False])
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM])
def test_without_a_reflink_the_next_rung(
    number: int, hardlink: bool, source: Path, reflinks: list[int]
) -> None:
    reflinks.append(number)
    target = source.parent / "target"
    assert link_or_copy(source, target, hardlink=hardlink) == ("hardlink" if hardlink else "copy")
    assert target.read_bytes() == source.read_bytes()


def test_a_file_system_without_reflinks_is_asked_once(source: Path, reflinks: list[int]) -> None:
    reflinks.append(errno.EXDEV)
    link_or_copy(source, source.parent / "1")
    reflinks[0] = errno.EOPNOTSUPP
    link_or_copy(source, source.parent / "2")
    reflinks.clear()
    assert link_or_copy(source, source.parent / "3") == "copy"


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_without_a_hard_link_a_copy(number: int, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(vfs, "link", link)
    assert link_or_copy(source, source.parent / "target", reflink=False, hardlink=True) == "copy"


@pytest.mark.parametrize("rung", ["reflink", "hardlink", "copy"])
def test_a_real_failure_is_raised_and_leaves_nothing(
    rung: str, source: Path, reflinks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    reflinks.append(errno.ENOSPC)
    monkeypatch.setattr(vfs, "link", fail)
    if rung == "copy":
        monkeypatch.setattr(vfs, "sendfile", fail)
    with pytest.raises(OSError, match=r"full|No space"):
        link_or_copy(source, source.parent / "target", reflink=rung == "reflink", hardlink=rung == "hardlink")
    assert list(source.parent.iterdir()) == [source]


@pytest.mark.parametrize("rung", ["reflink", "hardlink", "copy"])
def test_an_existing_destination_is_left_alone(rung: str, source: Path, reflinks: list[int]) -> None:
    target = source.parent / "target"
    target.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        link_or_copy(source, target, reflink=rung == "reflink", hardlink=rung == "hardlink")
    assert target.read_bytes() == b"old"
    target.unlink()
    target.symlink_to(source.parent / "nowhere")
    with pytest.raises(FileExistsError):
        link_or_copy(source, target, reflink=rung == "reflink", hardlink=rung == "hardlink")


def test_a_mode_of_its_own_forbids_the_hard_link(source: Path) -> None:
    target = source.parent / "target"
    assert link_or_copy(source, target, reflink=False, hardlink=True, mode=0o444) == "copy"
    assert (mode(target), mode(source)) == (0o444, 0o640)
    source.chmod(0o444)
    assert link_or_copy(source, source.parent / "2", reflink=False, hardlink=True, mode=0o444) == "hardlink"


def test_a_reflink_gets_the_mode(source: Path, reflinks: list[int]) -> None:
    assert link_or_copy(source, source.parent / "target", mode=0o400) == "reflink"
    assert mode(source.parent / "target") == 0o400


def test_a_link_stands_for_its_file(source: Path) -> None:
    link = source.parent / "link"
    link.symlink_to("source")
    target = source.parent / "target"
    assert link_or_copy(link, target, reflink=False, hardlink=True) == "hardlink"
    assert (target.is_symlink(), target.samefile(source)) == (False, True)


def test_this_file_system_takes_some_rung(source: Path) -> None:
    assert link_or_copy(source, source.parent / "target") in ("reflink", "copy")
    assert (source.parent / "target").read_bytes() == source.read_bytes()
    assert not (source.parent / "target").samefile(source)


def test_copies_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "source").write_bytes(data)
    monkeypatch.setattr(links, "_CHUNK", 1_000_001)
    link_or_copy(tmp_path / "source", tmp_path / "one", reflink=False)
    assert (tmp_path / "one").read_bytes() == data

    def sendfile(*_: object) -> int:
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(vfs, "sendfile", sendfile)
    link_or_copy(tmp_path / "source", tmp_path / "two", reflink=False)
    assert (tmp_path / "two").read_bytes() == data


def test_a_copy_goes_on_after_a_broken_off_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"abcdef")
    write = os.write
    monkeypatch.setattr(vfs, "write", lambda descriptor, data: write(descriptor, bytes(data)[:2]))
    monkeypatch.setattr(vfs, "sendfile", lambda *_: 0)
    source, target = (
        os.open(tmp_path / "source", os.O_RDONLY),
        os.open(tmp_path / "t", os.O_WRONLY | os.O_CREAT),
    )
    copy_bytes(source, target)
    os.close(source)
    os.close(target)
    assert (tmp_path / "t").read_bytes() == b"abcdef"
