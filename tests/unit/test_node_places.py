"""The places for the engine's directories on a node: which one is taken, and why others are refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from toilcache.errors import CoordinationDirError
from toilcache.node import places
from toilcache.node.places import coordination_base, possible_bases, why_unsafe, work_base

EXISTING = "toilcache-wf-00000000"


@pytest.fixture
def fallbacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    paths = [tmp_path / "fall back\n1", tmp_path / "-2", tmp_path / "3"]
    for path in paths:
        path.mkdir()
    monkeypatch.setattr(places, "_FALLBACKS", tuple(map(str, paths)))
    return paths


@pytest.fixture
def work(tmp_path: Path) -> str:
    path = tmp_path / "wörk '"
    path.mkdir()
    return str(path)


def on_network(monkeypatch: pytest.MonkeyPatch, *paths: str) -> None:
    monkeypatch.setattr(places, "file_system_type", lambda path: "nfs4" if path in paths else "tmpfs")


def test_a_named_work_directory_is_made_and_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert work_base(str(tmp_path / "link" / "new" / "er")) == str(tmp_path / "new" / "er")
    monkeypatch.chdir(tmp_path)
    assert work_base("relative") == str(tmp_path / "relative")
    monkeypatch.setenv("TOILCACHE_WORK_DIR", str(tmp_path / "variable"))
    assert work_base() == str(tmp_path / "variable")
    assert work_base("relative") == str(tmp_path / "relative")


def test_without_a_name_work_goes_where_temporary_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert work_base() == str(tmp_path)


def test_a_place_that_is_made_can_be_passed_whatever_the_umask(tmp_path: Path) -> None:
    usual = os.umask(0o077)
    try:
        work_base(str(tmp_path / "a" / "b"))
    finally:
        os.umask(usual)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")] == [0o711] * 2


def test_a_named_place_that_cannot_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CoordinationDirError, match=r"cannot make the directory .*file/x.*TOILCACHE_WORK_DIR"):
        work_base(str(tmp_path / "file" / "x"))
    with pytest.raises(CoordinationDirError, match=r"file.*TOILCACHE_COORDINATION_DIR"):
        coordination_base(str(tmp_path / "file"), str(tmp_path), EXISTING)


@pytest.mark.parametrize("named", [True, False])
def test_a_directory_open_to_all_is_refused_unless_sticky(tmp_path: Path, named: bool) -> None:
    tmp_path.chmod(0o777)
    assert "rename" in why_unsafe(str(tmp_path), trusted=named)
    tmp_path.chmod(0o1777)
    assert why_unsafe(str(tmp_path), trusted=named) == ""


def test_a_groups_directory_is_for_those_who_name_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    assert why_unsafe(str(tmp_path), trusted=True) == ""
    assert "other people" in why_unsafe(str(tmp_path), trusted=False)


def test_what_is_no_directory_or_not_ours_to_write_is_unsafe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert why_unsafe(str(tmp_path / "none"), trusted=True) == "no such file or directory"
    (tmp_path / "file").touch()
    assert why_unsafe(str(tmp_path / "file"), trusted=True) == "it is not a directory"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert why_unsafe(str(tmp_path), trusted=True) == "it is not writable for you"


def test_unfit_work_directories_are_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(CoordinationDirError, match=r"as the work directory: everybody may rename.*--workDir"):
        work_base(str(tmp_path))


def test_a_named_coordination_directory_wins(
    tmp_path: Path, work: str, fallbacks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (fallbacks[0] / EXISTING).mkdir()
    monkeypatch.setenv("TOILCACHE_COORDINATION_DIR", str(tmp_path / "variable"))
    assert coordination_base(None, work, EXISTING) == str(tmp_path / "variable")
    assert coordination_base(str(tmp_path / "given"), work, EXISTING) == str(tmp_path / "given")


def test_a_named_network_file_system_is_refused_with_advice(
    work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_network(monkeypatch, work)
    with pytest.raises(
        CoordinationDirError, match=r"nfs4, a network file system.*TOILCACHE_COORDINATION_DIR"
    ):
        coordination_base(work, work, EXISTING)


@pytest.mark.usefixtures("fallbacks")
def test_without_a_name_it_stands_beside_the_work_directory(work: str) -> None:
    assert coordination_base(None, work, EXISTING) == work


def test_a_work_directory_on_the_network_is_passed_over(
    work: str, fallbacks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_network(monkeypatch, work, str(fallbacks[0]))
    assert coordination_base(None, work, EXISTING) == str(fallbacks[1])


def test_a_place_without_room_is_passed_over(
    work: str, fallbacks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_room", lambda path: 0 if path == work else places.ROOM_NEEDED)
    assert coordination_base(None, work, EXISTING) == str(fallbacks[0])


def test_where_the_workflow_already_is_wins_over_room(
    work: str, fallbacks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (fallbacks[1] / EXISTING).mkdir()
    monkeypatch.setattr(places, "_room", lambda path: 0 if path == str(fallbacks[1]) else 1 << 40)
    assert coordination_base(None, work, EXISTING) == str(fallbacks[1])


def test_where_nothing_fits_every_place_is_named(
    work: str, fallbacks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_network(monkeypatch, work)
    fallbacks[0].rmdir()
    fallbacks[1].chmod(0o777)
    monkeypatch.setattr(places, "_room", lambda path: 5 << 20)
    with pytest.raises(CoordinationDirError) as caught:
        coordination_base(None, work, EXISTING)
    message = str(caught.value)
    for part in ("nfs4", "no such file", "chmod +t", "5 MiB free of the 64 needed", "--coordinationDir"):
        assert part in message


def test_clean_up_looks_at_every_place_that_exists(
    work: str, fallbacks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(fallbacks[2]))
    fallbacks[1].rmdir()
    assert possible_bases(work, "/nonexistent") == [work, str(fallbacks[2]), str(fallbacks[0])]
    assert not os.path.exists("/nonexistent")
