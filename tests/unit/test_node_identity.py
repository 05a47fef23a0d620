"""Names of processes: what one process alone can show."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from toilcache import vfs
from toilcache.node import identity
from toilcache.node.identity import (
    get_process_name,
    living_process_names,
    process_name_exists,
    release_process_name,
    remove_some_dead_names,
)
from toilcache.node.locks import LockFile


@pytest.fixture
def base(tmp_path: Path) -> str:
    path = tmp_path / "-no de\n'\"ü"
    path.mkdir()
    return str(path)


def names(base: str) -> list[str]:
    return sorted(os.listdir(os.path.join(base, "names")))


def test_a_process_has_one_name_per_directory(base: str, tmp_path: Path) -> None:
    name = get_process_name(base)
    assert get_process_name(base) == name
    assert process_name_exists(base, name)
    assert names(base) == [name]
    other = tmp_path / "other"
    other.mkdir()
    assert get_process_name(str(other)) != name
    assert not process_name_exists(str(other), name)


def test_spellings_of_one_directory_give_one_name(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to(base)
    monkeypatch.chdir(base)
    found = {get_process_name(spelled) for spelled in (base, str(link), ".", base + "/")}
    assert len(found) == 1
    assert names(base) == [*found]


def test_a_relative_directory_follows_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    first = get_process_name(".")
    monkeypatch.chdir(tmp_path / "b")
    assert get_process_name(".") != first


def test_threads_share_the_name(base: str) -> None:
    found: list[str] = []
    barrier = threading.Barrier(8)

    def take() -> None:
        barrier.wait()
        found.append(get_process_name(base))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert names(base) == [*set(found)]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/etc/passwd", "a/b", "x" * 300, "0" * 16 + "\n", "0\0" * 8, "0123456789ABCDEF"],
)
def test_what_is_no_name_is_nobody(base: str, name: str) -> None:
    get_process_name(base)
    assert not process_name_exists(base, name)


def test_nobody_lives_where_nobody_was(tmp_path: Path) -> None:
    assert not process_name_exists(str(tmp_path), "0" * 16)
    assert living_process_names(str(tmp_path)) == []
    (tmp_path / "names").touch()
    assert not process_name_exists(str(tmp_path), "0" * 16)


def test_a_symlink_is_nobody_and_is_not_followed(base: str, tmp_path: Path) -> None:
    get_process_name(base)
    (tmp_path / "precious").touch()
    os.symlink(tmp_path / "precious", os.path.join(base, "names", "0" * 16))
    assert not process_name_exists(base, "0" * 16)
    assert (tmp_path / "precious").exists()


def test_a_file_that_may_not_be_opened_counts_as_alive(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(vfs, "open", refuse)
    assert process_name_exists(base, "0" * 16)


def test_any_other_error_is_told(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(vfs, "open", refuse)
    with pytest.raises(OSError, match="too many"):
        process_name_exists(base, "0" * 16)


def test_modes_let_others_pass_and_not_look(base: str) -> None:
    before = os.umask(0o077)
    try:
        name = get_process_name(base)
    finally:
        os.umask(before)
    folder = os.path.join(base, "names")
    assert os.stat(folder).st_mode & 0o777 == 0o711
    assert os.stat(os.path.join(folder, name)).st_mode & 0o777 == 0o600


def test_a_name_is_locked_before_it_is_seen(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    link = os.link

    def looking(source: str, target: str, **more: bool) -> None:
        with open(source) as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        seen.append(os.path.basename(target))
        link(source, target, **more)

    monkeypatch.setattr(vfs, "link", looking)
    name = get_process_name(base)
    assert seen == [name]


def test_a_sweep_between_making_and_locking_costs_another_try(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = LockFile.lock
    swept: list[str] = []

    def sweep_first(self: LockFile, *, shared: bool, wait: bool) -> bool:
        if not swept:
            swept.append(self.path)
            assert living_process_names(base) == []
            assert not os.path.exists(self.path)
        return lock(self, shared=shared, wait=wait)

    monkeypatch.setattr(LockFile, "lock", sweep_first)
    name = get_process_name(base)
    assert len(swept) == 1
    assert process_name_exists(base, name)
    assert names(base) == [name]


def test_one_who_asks_in_between_costs_another_try(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = LockFile.lock
    askers: list[int] = []

    def ask_first(self: LockFile, *, shared: bool, wait: bool) -> bool:
        if not askers:
            askers.append(os.open(self.path, os.O_RDONLY))
            fcntl.flock(askers[0], fcntl.LOCK_SH)
        return lock(self, shared=shared, wait=wait)

    monkeypatch.setattr(LockFile, "lock", ask_first)
    name = get_process_name(base)
    os.close(askers[0])
    assert names(base) == [name]


def test_a_directory_that_eats_every_file_is_an_error(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LockFile, "lock", lambda self, *, shared, wait: False)
    with pytest.raises(OSError, match="cannot take a process name"):
        get_process_name(base)
    assert names(base) == []


def test_a_crash_while_taking_a_name_leaves_nothing_seen(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vfs, "link", crash)
        with pytest.raises(KeyboardInterrupt):
            get_process_name(base)
        patch.setattr(vfs, "flock", crash)
        with pytest.raises(KeyboardInterrupt):
            get_process_name(base)
    assert names(base) == []
    assert process_name_exists(base, get_process_name(base))


def test_a_sweep_removes_the_unborn_and_the_dead_only(base: str) -> None:
    name = get_process_name(base)
    for dead in (".unborn-" + "1" * 16, "2" * 16):
        with open(os.path.join(base, "names", dead), "w"):
            pass
    with open(os.path.join(base, "names", "notes"), "w"):
        pass
    assert living_process_names(base) == [name]
    assert names(base) == sorted([name, "notes"])


def test_a_released_name_is_gone_and_the_next_is_another(base: str, tmp_path: Path) -> None:
    name = get_process_name(base)
    (tmp_path / "link").symlink_to(base)
    get_process_name(str(tmp_path / "link"))
    release_process_name(base)
    assert names(base) == []
    assert not process_name_exists(base, name)
    release_process_name(base)
    assert get_process_name(base) != name


def test_release_after_the_directory_went(base: str) -> None:
    get_process_name(base)
    os.rename(os.path.join(base, "names"), os.path.join(base, "old"))
    release_process_name(base)
    assert get_process_name(base) == names(base)[0]


def test_names_come_from_the_kernel(base: str) -> None:
    assert identity._NAME.fullmatch(get_process_name(base))


def test_two_who_ask_at_once_do_not_take_each_other_for_the_owner(base: str) -> None:
    get_process_name(base)
    dead = "2" * 16
    with open(os.path.join(base, "names", dead), "w") as asker:
        fcntl.flock(asker, fcntl.LOCK_SH)
        assert not process_name_exists(base, dead)


def test_names_of_the_dead_do_not_pile_up(tmp_path: Path) -> None:
    mine = get_process_name(str(tmp_path))
    names = tmp_path / "names"
    for number in range(30):
        (names / f"{number:016x}").touch()
    for _ in range(8):
        remove_some_dead_names(str(tmp_path), most=8)
    assert len(os.listdir(names)) <= 31 - 8
    for _ in range(100):
        remove_some_dead_names(str(tmp_path), most=8)
    assert os.listdir(names) == [mine]
    remove_some_dead_names(str(tmp_path / "nowhere"))
