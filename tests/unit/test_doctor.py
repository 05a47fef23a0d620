"""What the answers of the doctor's probes mean, each finding once in red; and the probes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toilcache.doctor import probes, verdicts
from toilcache.doctor.probes import Probes, distance
from toilcache.doctor.verdicts import CHANGE, NOTE, OK, Finding
from toilcache.errors import ContainerError

ME = {"uid": 7, "gid": 7, "groups": [7, 9]}
FREE = {"while we hold it": False, "after we let go": True}
WAL = [{"mode": "wal"}, {"mode": "wal"}]
SEEN = {"type": "ext4", "free": 1 << 40}


def rows(*counts: int, sound: bool = True) -> list[dict[str, Any]]:
    return [{"rows": count, "sound": sound} for count in counts]


def check(finding: Finding, *words: str) -> None:
    """It is red, says these words, and what to change."""
    assert finding.verdict == CHANGE
    assert finding.change
    for word in words:
        assert word in f"{finding.found} -> {finding.change}"


def test_an_error_is_divided_into_what_is_and_what_to_do() -> None:
    finding = verdicts.of_error("image", ContainerError("cannot use image x: a; b; load it"))
    assert finding == Finding("image", CHANGE, "cannot use image x: a; b", "load it")
    check(verdicts.of_error("image", OSError("broken")), "broken")


def test_an_engine_is_wanted_or_not() -> None:
    error = ContainerError("cannot find a container engine: none")
    check(verdicts.no_engine(error, wanted=True), "cannot find", "install")
    assert verdicts.no_engine(error, wanted=False).verdict == NOTE


def test_a_place_that_is_not_the_same_is_red() -> None:
    fault = (
        "cannot use the job store /s in this container: it is not there; bind the directory at the same path"
    )
    check(verdicts.same_paths(fault), "job store /s", "bind the directory")
    assert verdicts.same_paths("").verdict == OK


def test_users() -> None:
    same = {"uid": 7}
    assert [found.verdict for found in verdicts.users(ME, ME, same, same)] == [OK]
    (other,) = verdicts.users(ME, {**ME, "uid": 0}, {"uid": 100000}, same)
    check(other, "user 7 here, 0 in", "belongs to user 100000", "without mapping")
    (foreign,) = verdicts.users(ME, ME, {"uid": 100000}, same)
    check(foreign, "100000")
    (unwritable,) = verdicts.users(ME, ME, {"error": "permission denied"}, same)
    check(unwritable, "permission denied")
    (unreadable,) = verdicts.users(ME, ME, same, {"error": "permission denied"})
    check(unreadable, "cannot read your files")
    fine, groups = verdicts.users(ME, {**ME, "groups": []}, same, same)
    assert (fine.verdict, groups.verdict) == (OK, NOTE)
    assert "groups 9" in groups.found


def test_locks() -> None:
    def judge(**changed: Any) -> Finding:
        answers = {tried: {"free": free} for tried, free in FREE.items()}
        return verdicts.locks("/c", answers | {tried.replace("_", " "): a for tried, a in changed.items()})

    assert judge().verdict == OK
    check(judge(while_we_hold_it={"free": True}), "/c", "while we hold it it is free", "--coordinationDir")
    check(judge(after_we_let_go={"free": False}), "after we let go it is taken")
    check(judge(after_we_let_go={"error": "no locks available"}), "no locks available")


def test_sqlite() -> None:
    def judge(answers: list[dict[str, Any]]) -> Finding:
        return verdicts.sqlite("/c", answers, 400)

    assert judge([*WAL, *rows(300, 350, 400, 400)]).verdict == OK
    check(judge([*WAL, *rows(300, 350, 400, 200)]), "of 400 rows one sees 200", "--coordinationDir")
    check(judge([*WAL, *rows(400, 400, sound=False)]), "damaged")
    check(judge([{"mode": "wal"}, {"mode": "delete"}, *rows(400, 400)]), "journal mode delete")
    check(judge([{"mode": "wal"}, {"error": "locking protocol"}]), "locking protocol")
    check(
        judge([{"mode": "wal"}, {"error": "no module named 'sqlite3'"}]), "take an image", "--caching false"
    )


def test_file_systems() -> None:
    def judge(inside: dict[str, Any], outside: dict[str, Any] = SEEN, local: bool = True) -> Finding:
        return verdicts.file_system("work directory", "/w", outside, inside, local=local)

    assert judge(SEEN) == Finding("file system", OK, "work directory /w is on ext4")
    check(judge({"type": "virtiofs"}), "ext4 outside, inside on virtiofs", "network", "local disk")
    check(judge({"type": "nfs4"}, {"type": "nfs4"}), "is on nfs4, a network file system")
    assert judge({"type": "nfs4"}, {"type": "nfs4"}, local=False).verdict == OK
    check(judge({"error": "permission denied"}), "cannot be seen inside: permission denied")
    check(judge(SEEN, {"error": "stale file handle"}), "cannot be seen: stale file handle")


def test_space() -> None:
    def judge(seen: dict[str, Any], filled: dict[str, Any]) -> Finding:
        return verdicts.space("work directory", "/w", seen, filled, 2 << 30)

    assert judge(SEEN, {"skew": 0.0}).verdict == OK
    check(judge(SEEN, {"error": "no space left on device"}), "takes no file: no space left", "2 GiB")
    check(judge({**SEEN, "free": 1 << 30}, {"skew": 0.0}), "1 GiB free of the 2 GiB", "make room")


def test_clocks() -> None:
    assert verdicts.clock("the other process", 0.5).verdict == OK
    check(verdicts.clock("the job store's file system", 90.0), "job store", "1m 30s", "NTP")
    assert distance(5.0, 4.0, 6.0) == 0
    assert distance(3.0, 4.0, 6.0) == 1
    assert distance(9.0, 4.0, 6.0) == 3


@pytest.fixture
def two() -> Any:
    made = Probes(), Probes()
    yield made
    for one in made:
        one.close()


def test_two_lock_against_each_other(two: tuple[Probes, Probes], tmp_path: Path) -> None:
    one, other = two
    path = str(tmp_path / "lock")
    assert one.answer("hold", path) == {"locked": True}
    assert other.answer("is_free", path) == {"free": False}
    one.answer("let_go", path)
    assert other.answer("is_free", path) == {"free": True}
    assert other.answer("is_free", str(tmp_path / "none"))["error"] == "no such file or directory"


def test_two_write_to_one_database(two: tuple[Probes, Probes], tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    assert [one.answer("open_database", path) for one in two] == [{"mode": "wal"}] * 2
    for number, one in enumerate(two):
        one.answer("add_rows", path, 3 * number, 3 * number + 3)
    assert [one.answer("count_rows", path) for one in two] == [{"rows": 6, "sound": True}] * 2
    assert "error" in two[0].answer("add_rows", path, 0, 1)


def test_a_python_without_sqlite_answers(two: tuple[Probes, Probes], monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(path: str, timeout: float) -> None:
        raise ModuleNotFoundError("No module named 'sqlite3'")

    monkeypatch.setattr(probes.vfs, "connect", connect)
    assert two[0].answer("open_database", "/x") == {"error": "no module named 'sqlite3'"}


def test_what_is_filled_is_removed(two: tuple[Probes, Probes], tmp_path: Path) -> None:
    assert two[0].answer("fill", str(tmp_path), 1 << 20)["skew"] < 60
    assert list(tmp_path.iterdir()) == []
    assert two[0].answer("fill", str(tmp_path / "none"), 1)["error"] == "no such file or directory"
    assert two[0].answer("place", str(tmp_path))["free"] > 0
