"""What dead workflows have left on a node goes; what the living, the idle and others have there stays."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from toilcache.config import Config
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.job_store.liveness import Verdict, note_of
from toilcache.node import places, remains
from toilcache.node.coordination import NodeDirs, NodeHold, boot_id, node_dirs
from toilcache.node.remains import IN_USE, LATER_RUN, Remains, others_are_here, remains_here
from toilcache.worker import sweep
from toilcache.worker.sweep import FAILED, LEFT, REMOVED, WOULD_GO, Finding, sweep_besides, sweep_one

ELSEWHEN = "0" * 8
DAYS = 4 * 86400.0


class Node:
    """Two directories, given by name, and workflows with stores beside them."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.work = top / "work 'd\n-ü"
        self.coordination = top / '-coor "d'
        self.work.mkdir()
        self.coordination.mkdir()

    def dirs(self, name: str = "wf-1") -> NodeDirs:
        return node_dirs(name, str(self.work), str(self.coordination), create=False)

    def store(self, name: str = "wf-1") -> FileJobStore:
        """Make the job store of a workflow, with a run of a leader."""
        store = FileJobStore(str(self.top / f"store of {name}"))
        store.reserve()
        store.initialize(Config())
        return store

    def hold(self, name: str = "wf-1", run: int = 1) -> NodeHold:
        locator = FileJobStore(str(self.top / f"store of {name}")).locator
        return self.dirs(name).hold(run, note_of(locator))

    def idle(self, name: str = "wf-1") -> FileJobStore:
        """Leave the directories of a workflow that lives and has nobody here just now."""
        store = self.store(name)
        self.hold(name).close()
        return store

    def dead(self, name: str = "wf-1") -> None:
        """Leave those of one whose store is gone."""
        self.idle(name).destroy()

    def remains(self) -> list[Remains]:
        return remains_here(str(self.work), str(self.coordination))

    def one(self) -> Remains:
        (remains,) = self.remains()
        return remains

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


def said(finding: Finding) -> tuple[str, str]:
    return finding.action, finding.why


# One workflow


def test_the_remains_of_a_dead_workflow_go(node: Node) -> None:
    node.dead()
    Path(node.dirs().jobs, "x" * 200).mkdir()
    finding = sweep_one(node.one())
    assert said(finding) == (REMOVED, "its job store is gone")
    assert finding.workflow_id == "wf-1"
    assert finding.boot == boot_id()[:8]
    assert set(finding.paths) >= {node.dirs().work, node.dirs().coordination}
    assert node.left() == []
    assert node.remains() == []


def test_an_idle_workflow_is_not_dead(node: Node) -> None:
    node.idle()
    before = node.left()
    action, why = said(sweep_one(node.one()))
    assert action == LEFT
    assert why.startswith("its leader has been silent for")
    assert node.left() == before


def test_nobodys_directories_are_touched_while_somebody_uses_them(node: Node) -> None:
    node.dead()
    with node.hold() as hold:
        assert said(sweep_one(node.one())) == (LEFT, IN_USE)
        assert said(sweep_one(node.one(), force=True)) == (LEFT, IN_USE)
        assert os.path.isdir(hold.dirs.jobs)
        os.unlink(hold.dirs.lock_path)
        assert said(sweep_one(node.one())) == (LEFT, IN_USE)
    assert sweep_one(node.one()).action == REMOVED


def test_a_workflow_that_has_ended_is_dead(node: Node) -> None:
    store = node.idle()
    store.mark_ended(1)
    assert said(sweep_one(node.one())) == (REMOVED, "it has ended")
    assert node.left() == []


def test_what_a_later_run_has_used_stays(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart that begins just after the workflow was judged."""
    node.idle().mark_ended(1)
    node.hold(run=2).close()
    assert said(sweep_one(node.one())) == (LEFT, LATER_RUN)
    assert said(sweep_one(node.one(), force=True, run=1)) == (LEFT, LATER_RUN)
    assert sweep_one(node.one(), force=True, run=2).action == REMOVED


def test_what_was_asked_to_be_kept_is_kept(node: Node) -> None:
    node.dead()
    node.dirs().keep()
    before = node.left()
    assert said(sweep_one(node.one())) == (LEFT, "it was asked to be kept (--cleanWorkDir)")
    assert node.left() == before
    node.dirs().keep(False)
    assert sweep_one(node.one()).action == REMOVED


def test_force_spares_only_who_is_here(node: Node) -> None:
    node.idle()
    node.dirs().keep()
    assert said(sweep_one(node.one(), force=True)) == (REMOVED, "nobody uses it")
    assert node.left() == []


def test_a_dry_run_changes_nothing(node: Node) -> None:
    node.dead()
    before = {path: path.stat() for base in (node.work, node.coordination) for path in base.rglob("*")}
    finding = sweep_one(node.one(), dry_run=True)
    assert said(finding) == (WOULD_GO, "its job store is gone")
    after = {path: path.stat() for base in (node.work, node.coordination) for path in base.rglob("*")}
    assert {path: one.st_mtime_ns for path, one in before.items()} == {
        path: one.st_mtime_ns for path, one in after.items()
    }


def test_an_earlier_boot_is_dead_by_definition(node: Node) -> None:
    node.idle()
    for path in (node.dirs().work, node.dirs().coordination, node.dirs().lock_path):
        os.rename(path, path.replace(boot_id()[:8], ELSEWHEN))
    finding = sweep_one(node.one())
    assert said(finding) == (REMOVED, "the node has been started anew since")
    assert finding.boot == ELSEWHEN
    assert node.left() == []


def test_a_removal_that_was_broken_off_is_completed(node: Node) -> None:
    node.dead()
    for path in (node.dirs().work, node.dirs().coordination):
        os.rename(path, f"{path}.gone-0123456789ab")
    os.unlink(node.dirs().lock_path)
    old = time.time() - DAYS
    for base in (node.work, node.coordination):
        for path in base.rglob("*"):
            os.utime(path, (old, old))
    assert said(sweep_one(node.one())) == (REMOVED, "its job store is gone")
    assert node.left() == []


def test_without_a_note_it_takes_days(node: Node) -> None:
    node.dirs().hold().close()
    assert said(sweep_one(node.one()))[0] == LEFT
    old = time.time() - DAYS
    for base in (node.work, node.coordination):
        for path in base.rglob("*"):
            os.utime(path, (old, old))
    assert said(sweep_one(node.one())) == (REMOVED, "nobody has used it for 4d")


def test_other_users_are_left_alone(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    node.dead()
    for path in (node.dirs().work, node.dirs().coordination, node.dirs().lock_path):
        os.chown(path, 12345, 12345)
    before = node.left()
    assert said(sweep_one(node.one())) == (LEFT, "it belongs to user 12345")
    assert node.left() == before
    assert said(sweep_one(node.one(), everyone=True)) == (REMOVED, "its job store is gone")
    assert node.left() == []


def test_what_another_user_put_beside_ours_is_none_of_ours(node: Node) -> None:
    """His note would say that our job store is gone."""
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    node.idle()
    theirs = Path(places._FALLBACKS[0], os.path.basename(node.dirs().coordination))
    (theirs / "runs").mkdir(parents=True)
    (theirs / "store").write_bytes(b"file:/nonexistent\0" + note_of("file:/nonexistent")[1].encode())
    os.chown(theirs, 12345, 12345)
    actions = {
        remains.owner: sweep_one(remains, everyone=True, dry_run=True).action for remains in node.remains()
    }
    assert actions == {0: LEFT, 12345: WOULD_GO}


def test_a_store_that_does_not_answer_keeps_nobody_waiting(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.dead()
    answer = threading.Event()

    def hang(note: list[str], last_used: float) -> Verdict:
        answer.wait()
        return Verdict(True, "too late")

    monkeypatch.setattr(sweep, "judge", hang)
    monkeypatch.setattr(sweep, "ANSWER_SECONDS", 0.01)
    action, why = said(sweep_one(node.one()))
    answer.set()
    assert action == LEFT
    assert why.endswith("store%20of%20wf-1' does not answer")


def test_a_planted_lock_is_an_error_that_names_it(node: Node, tmp_path: Path) -> None:
    node.dead()
    os.unlink(node.dirs().lock_path)
    os.symlink(tmp_path / "made", node.dirs().lock_path)
    action, why = said(sweep_one(node.one()))
    assert action == FAILED
    assert ".lock" in why
    assert not (tmp_path / "made").exists()


def test_what_only_bears_such_a_name_is_not_ours(node: Node) -> None:
    for name in ("toilcache-tests-0a1b2c3d", f"toilcache-wf-{boot_id()[:8]}.work"):
        (node.work / name / "test_0").mkdir(parents=True)
    (node.work / "toilcache-wf-0a1b2c3d.lock.txt").touch()
    assert node.remains() == []


def test_an_earlier_boot_on_a_shared_file_system_takes_days(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node may have the same name, and use them just now."""
    node.dirs().hold().close()
    shutil.rmtree(node.dirs().coordination)
    earlier = node.dirs().work.replace(boot_id()[:8], ELSEWHEN)
    os.rename(node.dirs().work, earlier)

    def fs_type(path: str) -> str:
        return "nfs4" if path.startswith(str(node.work)) else "ext4"

    monkeypatch.setattr(remains, "file_system_type", fs_type)
    (mine,) = [one for one in node.remains() if not one.is_of_this_boot]
    assert said(sweep_one(mine))[0] == LEFT
    old = time.time() - DAYS
    for path in (earlier, f"{earlier}/jobs"):
        os.utime(path, (old, old))
    assert said(sweep_one(mine)) == (REMOVED, "nobody has used it for 4d")


# Locks of leaders


def leader_lock_of(node: Node, age: float) -> str:
    path = str(node.coordination / f"toilcache-leader-0123456789abcdef-{os.geteuid()}.lock")
    Path(path).touch()
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_the_lock_of_a_leader_that_was_killed_days_ago_goes(node: Node) -> None:
    path = leader_lock_of(node, DAYS)
    with node.hold() as hold:
        assert others_are_here(hold.dirs)
        sweep_besides(hold.dirs)
        assert not os.path.exists(path)
        assert not others_are_here(hold.dirs)


def test_the_lock_of_a_leader_that_leads_for_days_stays(node: Node) -> None:
    from filelock import FileLock

    path = leader_lock_of(node, 0)
    with FileLock(path, timeout=0, mode=0o600), node.hold() as hold:
        os.utime(path, (time.time() - DAYS, time.time() - DAYS))
        sweep_besides(hold.dirs)
        assert os.path.exists(path)


def test_the_lock_of_a_leader_that_was_killed_just_now_stays(node: Node) -> None:
    path = leader_lock_of(node, 3600)
    with node.hold() as hold:
        sweep_besides(hold.dirs)
    assert os.path.exists(path)


# Beside a workflow


def test_a_workflow_sweeps_besides_itself(node: Node) -> None:
    for name in ("dead", "dead-too"):
        node.dead(name)
    node.idle("idle")
    node.idle("own")
    shutil.copytree(node.dirs("own").work, node.dirs("own").work.replace(boot_id()[:8], ELSEWHEN))
    with node.hold("busy"), node.hold("own") as own:
        assert others_are_here(own.dirs)
        found = sweep_besides(own.dirs)
        actions = {(finding.workflow_id, finding.boot): finding.action for finding in found}
        here = boot_id()[:8]
        assert actions == {
            ("busy", here): LEFT,
            ("dead", here): REMOVED,
            ("dead-too", here): REMOVED,
            ("idle", here): LEFT,
            ("own", ELSEWHEN): REMOVED,
        }
        assert os.path.isdir(own.dirs.jobs)
    assert {remains.workflow_id for remains in node.remains()} == {"busy", "idle", "own"}


def test_alone_there_is_nothing_to_sweep(node: Node) -> None:
    (node.work / "toilcache-leader-0123456789abcdef-0.lock").touch()
    (node.work / "something else").mkdir()
    with node.hold() as hold:
        assert not others_are_here(hold.dirs)


def test_others_of_other_users_are_no_reason_to_sweep(node: Node) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    node.dead("other")
    for path in (node.dirs("other").work, node.dirs("other").coordination, node.dirs("other").lock_path):
        os.chown(path, 12345, 12345)
    with node.hold() as hold:
        assert not others_are_here(hold.dirs)


def test_the_shutdown_of_one_workflow_leaves_the_other(node: Node) -> None:
    from toilcache.file_store.abstract import AbstractFileStore

    for name in ("wf-1", "wf-1-1", "wf"):
        node.idle(name)
    with node.hold("wf") as other:
        AbstractFileStore.shutdownFileStore("wf-1", str(node.work), str(node.coordination))
        AbstractFileStore.shutdownFileStore("wf", str(node.work), str(node.coordination))
        assert {remains.workflow_id for remains in node.remains()} == {"wf", "wf-1-1"}
        assert os.path.isdir(other.dirs.jobs)


def test_a_late_shutdown_of_an_earlier_run_leaves_a_restarted_workflow(node: Node) -> None:
    from toilcache.file_store.abstract import AbstractFileStore

    node.idle()
    node.hold(run=2).close()
    before = node.left()
    AbstractFileStore.shutdownFileStore("wf-1", str(node.work), str(node.coordination), 1)
    assert node.left() == before
    AbstractFileStore.shutdownFileStore("wf-1", str(node.work), str(node.coordination), 2)
    assert node.left() == []
