"""A workflow's directories on a node: made safely, held by their users, removed when nobody uses them."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from toilcache import vfs
from toilcache.errors import CoordinationDirError
from toilcache.node import own, places, remains
from toilcache.node.coordination import NodeDirs, boot_id, leader_lock, node_dirs
from toilcache.node.identity import get_process_name
from toilcache.node.locks import LockFile, acquire
from toilcache.node.remains import cleanup
from toilcache.removal import robust_rmtree

WORKFLOW = "wf-1"
ELSEWHEN = "0" * 8


class Node:
    """Two directories, given by name, and what a workflow has in them."""

    def __init__(self, top: Path) -> None:
        self.work = top / "work 'd\n-ü"
        self.coordination = top / '-coor "d'
        self.work.mkdir()
        self.coordination.mkdir()

    def dirs(self, create: bool = False) -> NodeDirs:
        return node_dirs(WORKFLOW, str(self.work), str(self.coordination), create=create)

    def cleanup(self, run: int | None = None) -> bool:
        return cleanup(WORKFLOW, str(self.work), str(self.coordination), run=run)

    def left(self) -> list[str]:
        return sorted(path.name for base in (self.work, self.coordination) for path in base.iterdir())


@pytest.fixture(autouse=True)
def _no_other_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own temporary directories out."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(places, "_FALLBACKS", (str(tmp_path / "tmp"),))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def shared_between_nodes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the work directory lie on a network file system."""

    def fs_type(path: str) -> str:
        return "nfs4" if path.startswith(str(node.work)) else "ext4"

    for module in (own, remains):
        monkeypatch.setattr(module, "file_system_type", fs_type)


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_paths_carry_workflow_and_boot(node: Node) -> None:
    dirs = node.dirs()
    tag = f"toilcache-wf-1-{boot_id()[:8]}"
    assert dirs.coordination == str(node.coordination / tag)
    assert dirs.work == str(node.work / f"{tag}.work")
    assert dirs.jobs == os.path.join(dirs.work, "jobs")
    assert dirs.names_base == dirs.coordination
    assert dirs.host_note("ab.note") == os.path.join(dirs.coordination, "hosts", "ab.note")
    assert node.left() == []


def test_the_lock_of_a_leader_goes_by_the_store(node: Node) -> None:
    places = (str(node.work), str(node.coordination))
    locks = {leader_lock(store, *places) for store in ("file:/a", "file:/b\n/../c", "file:/a")}
    assert len(locks) == 2
    assert {os.path.dirname(lock) for lock in locks} == {str(node.coordination)}
    assert node.left() == []


def test_one_directory_serves_for_both(tmp_path: Path) -> None:
    dirs = node_dirs(WORKFLOW, str(tmp_path), str(tmp_path))
    assert {dirs.coordination, dirs.work, dirs.lock_path} == {
        str(tmp_path / f"toilcache-wf-1-{boot_id()[:8]}{end}") for end in ("", ".work", ".lock")
    }
    assert cleanup(WORKFLOW, str(tmp_path), str(tmp_path))


def test_made_directories_can_be_passed_and_not_listed(node: Node) -> None:
    before = os.umask(0o077)
    try:
        dirs = node.dirs(create=True)
    finally:
        os.umask(before)
    for path in (dirs.coordination, dirs.work, dirs.jobs, dirs.notes):
        assert mode(path) == 0o711
    node.dirs(create=True)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b"])
def test_notes_stay_in_their_directory(node: Node, name: str) -> None:
    with pytest.raises(ValueError, match="name of a note"):
        node.dirs().host_note(name)


@pytest.mark.parametrize(
    "workflow_id", ["", "..", "../x", "a/b", "a\nb", "a b", "x" * 65, "-x", "a.work", "é"]
)
def test_workflow_ids_stay_in_their_directory(node: Node, workflow_id: str) -> None:
    with pytest.raises(CoordinationDirError, match="workflow id"):
        node_dirs(workflow_id, str(node.work), str(node.coordination))
    with pytest.raises(CoordinationDirError, match="workflow id"):
        cleanup(workflow_id, str(node.work), str(node.coordination))


def test_a_planted_symlink_is_not_followed(node: Node, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    dirs = node.dirs()
    os.symlink(victim, dirs.work)
    with pytest.raises(CoordinationDirError, match="not a directory"):
        dirs.make()
    assert node.cleanup()
    assert node.left() == []
    assert victim.is_dir()
    assert list(victim.iterdir()) == []


def test_a_planted_lock_is_not_followed(node: Node, tmp_path: Path) -> None:
    dirs = node.dirs()
    os.symlink(tmp_path / "made", dirs.lock_path)
    with pytest.raises(OSError, match="symbolic links"):
        dirs.hold()
    assert not (tmp_path / "made").exists()


def test_what_others_may_write_to_is_refused(node: Node) -> None:
    dirs = node.dirs(create=True)
    os.chmod(dirs.coordination, 0o777)
    with pytest.raises(CoordinationDirError, match="chmod go-w"):
        node.dirs(create=True)


def test_what_belongs_to_others_is_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    dirs = node.dirs(create=True)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(CoordinationDirError, match="belongs to user"):
        dirs.make()
    with pytest.raises(CoordinationDirError, match="belongs to another user"):
        dirs.hold()
    assert node.cleanup()
    assert os.path.isdir(dirs.work)


def test_root_cleans_for_others(node: Node) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    dirs = node.dirs()
    dirs.hold().close()
    for path in (dirs.coordination, dirs.work, dirs.lock_path):
        os.chown(path, 12345, 12345)
    assert node.cleanup()
    assert node.left() == []


def test_a_hold_makes_the_directories_and_keeps_clean_up_away(node: Node) -> None:
    with node.dirs().hold() as hold:
        assert os.path.isdir(hold.dirs.jobs)
        with node.dirs().hold():
            assert not node.cleanup()
        assert not node.cleanup()
        assert os.path.isdir(hold.dirs.jobs)
        assert os.path.isdir(hold.dirs.notes)
    assert node.cleanup()
    assert node.left() == []


def test_clean_up_of_nothing_is_done(node: Node) -> None:
    assert node.cleanup()
    assert cleanup(WORKFLOW)
    assert cleanup(WORKFLOW, "/nonexistent", "/nonexistent")


def test_clean_up_of_a_full_disk(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock can be made beside the work directory, where there is none; those that stand can be taken."""

    def take(path: str, *, shared: bool, wait: bool) -> LockFile | None:
        if not os.path.exists(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return acquire(path, shared=shared, wait=wait)

    monkeypatch.setattr(remains, "acquire", take)
    with node.dirs(create=True).hold():
        assert not node.cleanup()
    assert node.cleanup()
    assert node.left() == []


def test_clean_up_removes_deep_and_odd_things(node: Node) -> None:
    with node.dirs().hold(run=1) as hold:
        get_process_name(hold.dirs.names_base)
        deep = Path(hold.dirs.jobs, *["x" * 200] * 15)
        deep.mkdir(parents=True)
        (deep / "-f\n").write_text("x")
        deep.chmod(0)
    assert node.cleanup()
    assert node.left() == []


def test_other_workflows_are_left_alone(node: Node) -> None:
    others = ["wf", "wf-1-1", "wf-11", "wf-1-00000000"]
    for other in others:
        node_dirs(other, str(node.work), str(node.coordination)).hold().close()
    (node.work / f"toilcache-wf-1-{ELSEWHEN}x").mkdir()
    before = node.left()
    node.dirs().hold().close()
    assert node.cleanup()
    assert node.left() == before


def test_an_earlier_boots_directories_go_too(node: Node) -> None:
    for path in (
        node.work / f"toilcache-wf-1-{ELSEWHEN}.work",
        node.coordination / f"toilcache-wf-1-{ELSEWHEN}",
        node.coordination / f"toilcache-wf-1-{ELSEWHEN}.gone-0123456789ab",
    ):
        (path / "x").mkdir(parents=True)
    (node.coordination / f"toilcache-wf-1-{ELSEWHEN}.lock").touch()
    with node.dirs().hold():
        assert not node.cleanup()
        assert not [name for name in node.left() if ELSEWHEN in name]
    assert node.cleanup()
    assert node.left() == []


def test_a_late_clean_up_leaves_a_restarted_workflow_alone(node: Node) -> None:
    node.dirs().hold(run=9).close()
    node.dirs().hold(run=10).close()
    assert not node.cleanup(run=9)
    assert set(node.left()) & {os.path.basename(node.dirs().work)}
    assert node.cleanup(run=10)
    node.dirs().hold(run=3).close()
    assert node.cleanup()
    assert node.left() == []


def test_clean_up_finds_a_coordination_directory_that_it_was_not_told_of(node: Node) -> None:
    """The work directory's note says where the lock is."""
    with node.dirs().hold():
        assert not cleanup(WORKFLOW, str(node.work))
    assert cleanup(WORKFLOW, str(node.work))
    assert node.left() == []


def test_a_lost_lock_file_does_not_open_the_door(node: Node) -> None:
    """Something that ages temporary files may remove the lock; the directories themselves are held too."""
    with node.dirs().hold() as hold:
        os.unlink(hold.dirs.lock_path)
        assert not node.cleanup()
        assert os.path.isdir(hold.dirs.jobs)
    assert node.cleanup()
    assert node.left() == []


@pytest.mark.usefixtures("shared_between_nodes")
def test_on_a_shared_file_system_other_nodes_are_left_alone(node: Node) -> None:
    mine, others, unknown = (node.work / f"toilcache-wf-1-{digit * 8}.work" for digit in "123")
    for path in (mine, others, unknown):
        path.mkdir()
    (mine / "node").write_bytes(os.fsencode(os.uname().nodename) + b"\0/nonexistent")
    (others / "node").write_bytes(b"another-node\0/nonexistent")
    with node.dirs().hold():
        assert not node.cleanup()
    assert node.cleanup()
    assert node.left() == [others.name, unknown.name]


@pytest.mark.usefixtures("shared_between_nodes")
def test_on_a_shared_file_system_the_note_still_leads_to_the_lock(node: Node) -> None:
    with node.dirs().hold():
        assert not cleanup(WORKFLOW, str(node.work))
    assert cleanup(WORKFLOW, str(node.work))
    assert node.left() == []


def test_a_file_system_without_locks_is_refused_with_advice(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(vfs, "flock", no_locks)
    with pytest.raises(CoordinationDirError, match="TOILCACHE_COORDINATION_DIR"):
        node.dirs().hold()


def test_a_work_directory_without_locks_is_used_all_the_same(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = LockFile.lock

    def no_locks(self: LockFile, *, shared: bool, wait: bool) -> bool:
        if self.path.endswith(".work"):
            raise OSError(37, "No locks available")
        return lock(self, shared=shared, wait=wait)

    monkeypatch.setattr(LockFile, "lock", no_locks)
    with node.dirs().hold():
        assert not node.cleanup()
    assert node.cleanup()


def test_who_waits_for_a_removal_gets_whole_new_directories(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    dirs = node.dirs()
    dirs.hold().close()
    waiting, holds = threading.Event(), []
    rmtree, lock = robust_rmtree, LockFile.lock

    def lock_telling(self: LockFile, *, shared: bool, wait: bool) -> bool:
        if wait:
            waiting.set()
        return lock(self, shared=shared, wait=wait)

    def rmtree_slowly(path: str) -> None:
        if not holds_thread.ident:
            holds_thread.start()
        waiting.wait()
        rmtree(path)

    holds_thread = threading.Thread(target=lambda: holds.append(dirs.hold()))
    monkeypatch.setattr(LockFile, "lock", lock_telling)
    monkeypatch.setattr(remains, "robust_rmtree", rmtree_slowly)
    assert node.cleanup()
    holds_thread.join()
    with holds[0]:
        assert os.path.isdir(dirs.jobs)
        assert os.path.isdir(dirs.notes)
        assert os.path.exists(dirs.lock_path)
        assert not node.cleanup()
    assert node.cleanup()
    assert node.left() == []


def test_directories_removed_while_one_takes_them_are_made_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clean-up that was told of another coordination directory, and so holds another lock."""
    dirs, lock = node.dirs(), LockFile.lock
    removed: list[str] = []

    def remove_first(self: LockFile, *, shared: bool, wait: bool) -> bool:
        if self.path == dirs.work and not removed:
            removed.append(self.path)
            robust_rmtree(dirs.work)
        return lock(self, shared=shared, wait=wait)

    monkeypatch.setattr(LockFile, "lock", remove_first)
    with dirs.hold():
        assert removed
        assert os.path.isdir(dirs.jobs)
        assert not cleanup(WORKFLOW, str(node.work))


class Crash(BaseException):
    """What a kill looks like from inside."""


def crash_at(number: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Let the n-th change of the file system never happen, nor any later one."""
    steps = [0]

    def counting(real: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **more: object) -> object:
            steps[0] += 1
            if steps[0] >= number:
                raise Crash
            return real(*args, **more)

        return step

    for name in ("mkdir", "rename", "rmdir", "unlink", "chmod"):
        patch.setattr(vfs, name, counting(getattr(vfs, name)))
    return steps


def assert_whole_or_gone(dirs: NodeDirs) -> None:
    assert sorted(os.listdir(dirs.work)) == ["jobs", "node"] if os.path.exists(dirs.work) else True
    assert (
        sorted(os.listdir(dirs.coordination)) == ["hosts", "runs"]
        if os.path.exists(dirs.coordination)
        else True
    )


@pytest.mark.parametrize("verb", ["hold", "cleanup"])
def test_a_crash_at_any_step_leaves_nothing_that_the_next_cannot_use_or_remove(node: Node, verb: str) -> None:
    number = 0
    while True:
        number += 1
        if verb == "cleanup":
            node.dirs().hold(run=1).close()
            Path(node.dirs().jobs, "x").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            steps = crash_at(number, patch)
            try:
                node.dirs().hold().close() if verb == "hold" else node.cleanup()
            except Crash:
                pass
            else:
                break
        assert steps[0] >= number
        if verb == "cleanup":
            assert_whole_or_gone(node.dirs())
        with node.dirs().hold() as hold:
            assert os.path.isdir(hold.dirs.jobs)
            assert os.path.isdir(hold.dirs.notes)
            get_process_name(hold.dirs.names_base)
        assert node.cleanup()
        assert node.left() == []
    assert number > 5


def test_boot_id_is_the_kernels() -> None:
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert len(boot_id()) == 36


def test_no_boot_id_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    with pytest.raises(CoordinationDirError, match="mount /proc"):
        boot_id.__wrapped__()
