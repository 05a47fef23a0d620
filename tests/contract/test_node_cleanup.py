"""The command `toilcache node-cleanup`, and what workflows on one node do to each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import deferred_workflow
from tests.runs import Finished, Place
from toilcache.config import Config
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.job_store.liveness import note_of
from toilcache.node.coordination import NodeDirs, NodeHold, boot_id, node_dirs


class Node:
    """A place with directories of workflows, without processes unless the test starts some."""

    def __init__(self, base: Path) -> None:
        self.place = Place(base, deferred_workflow.__file__)
        self.place.environment["TMPDIR"] = str(self.place.work)
        self.begun: list[subprocess.Popen[str]] = []

    def dirs(self, name: str) -> NodeDirs:
        return node_dirs(name, str(self.place.work), str(self.place.coordination), create=False)

    def hold(self, name: str) -> NodeHold:
        return self.dirs(name).hold(1, note_of(self.store(name).locator))

    def store(self, name: str) -> FileJobStore:
        return FileJobStore(str(self.place.base / f"store of {name}"))

    def living(self, name: str) -> FileJobStore:
        """Leave the directories of a workflow that is idle here."""
        store = self.store(name)
        store.reserve()
        store.initialize(Config())
        self.hold(name).close()
        return store

    def dead(self, name: str) -> None:
        self.living(name).destroy()

    def cleanup(self, *options: str, **environment: str) -> Finished:
        argv = [sys.executable, "-m", "toilcache", "node-cleanup", *self.place.directories, *options]
        return self.place.finish(self.place.spawn(argv, **environment))

    def begin(self, name: str, how: str) -> subprocess.Popen[str]:
        """Start a workflow with a job store of its own in the common directories."""
        notes = str(self.notes(name))
        argv = self.place.argv("--kind", "end", "--how", how, "--place", notes, "--clean", "always")
        argv[2] = self.store(name).path
        self.begun.append(self.place.spawn(argv))
        return self.begun[-1]

    def notes(self, name: str) -> Path:
        return self.place.base / f"notes of {name}"

    def names(self) -> set[str]:
        """The workflows that have a work directory here."""
        return {path.name.split("-")[1] for path in self.place.work.glob("toilcache-*.work")}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    for process in node.begun:
        if process.poll() is None:  # the test has failed
            process.kill()
            process.communicate()


def lines(finished: Finished) -> dict[str, str]:
    """What was said of each workflow; the machine's own places may hold others."""
    assert finished.err == ""
    return dict(line.split(": ", 1) for line in finished.out.splitlines())


def test_each_workflow_has_a_line(node: Node) -> None:
    node.dead("one")
    node.dead("two")
    node.living("idle")
    node.living("busy")
    with node.hold("busy"):
        finished = node.cleanup("--all")
    assert finished.status == 0
    said = lines(finished)
    assert said["one"] == said["two"] == "removed: its job store is gone"
    assert said["busy"] == "left: somebody on this node uses it"
    assert said["idle"].startswith("left: its leader has been silent for ")
    assert said["idle"].endswith(" only")
    assert node.names() == {"idle", "busy"}
    again = node.cleanup("--all")
    assert again.status == 0
    assert not {"one", "two"} & lines(again).keys()
    assert node.names() == {"idle", "busy"}


def test_of_one_workflow_alone(node: Node) -> None:
    node.dead("one")
    node.dead("two")
    assert node.cleanup("--workflow", "one").out == "one: removed: its job store is gone\n"
    assert node.names() == {"two"}
    finished = node.cleanup("--workflow", "one")
    assert (finished.status, finished.out) == (0, "nothing is left on this node of workflow one\n")


def test_the_workflow_of_the_environment(node: Node) -> None:
    """A batch script's trap, and an epilog that has the job's environment."""
    node.dead("one")
    node.dead("two")
    assert node.cleanup(TOILCACHE_WORKFLOW="one.1").out == "one: removed: its job store is gone\n"
    assert node.names() == {"two"}


def test_an_epilog_of_an_earlier_run_spares_a_restarted_workflow(node: Node) -> None:
    node.living("one").mark_ended(1)
    node.dirs("one").hold(2).close()
    finished = node.cleanup("--force", "--workflow", "one.1")
    assert finished.out == "one: left: a later run of its leader has used it\n"
    assert node.names() == {"one"}


def test_by_force_it_goes_though_it_may_live(node: Node) -> None:
    node.living("one")
    with node.hold("one"):
        assert (
            node.cleanup("--workflow", "one", "--force").out == "one: left: somebody on this node uses it\n"
        )
    assert node.cleanup("--workflow", "one", "--force").out == "one: removed: nobody uses it\n"
    assert node.names() == set()


def test_a_dry_run_removes_nothing(node: Node) -> None:
    node.dead("one")
    finished = node.cleanup("--workflow", "one", "--dry-run")
    assert (finished.status, finished.out) == (0, "one: would be removed: its job store is gone\n")
    assert node.names() == {"one"}


def test_for_scripts_there_is_json(node: Node) -> None:
    node.dead("one")
    node.living("idle")
    earlier = node.dirs("one").work.replace(boot_id()[:8], "0" * 8)
    os.rename(node.dirs("one").work, earlier)
    answer = json.loads(node.cleanup("--all", "--json").out)
    assert (answer["node"], answer["dry_run"]) == (os.uname().nodename, False)
    rows = {(row["workflow"], row["boot"]): row for row in answer["workflows"]}
    assert rows["one", "0" * 8] == {
        "workflow": "one",
        "boot": "0" * 8,
        "action": "removed",
        "why": "the node has been started anew since",
        "paths": [earlier],
    }
    assert rows["one", boot_id()[:8]]["action"] == "removed"
    assert rows["idle", boot_id()[:8]]["action"] == "left"


def test_what_cannot_be_removed_is_an_error(node: Node) -> None:
    node.dead("one")
    os.unlink(node.dirs("one").lock_path)
    os.symlink("/nonexistent", node.dirs("one").lock_path)
    finished = node.cleanup("--workflow", "one")
    assert finished.status == 1
    assert finished.out.startswith("one: cannot be removed; try again, or remove it by hand: ")
    assert repr(node.dirs("one").lock_path) in finished.out
    assert "Traceback" not in finished.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give --workflow ID or --all, or set TOILCACHE_WORKFLOW"),
        (("--workflow", "../x"), "cannot use '../x' as a workflow"),
        (("--workflow", "a b"), "cannot use 'a b' as a workflow id"),
        (("--workflow", "one.x"), "give ID, or ID.RUN"),
        (("--all", "--force"), "give --force with --workflow ID"),
        (("--all", "--workflow", "one"), "not allowed with"),
    ],
)
def test_a_wrong_usage_says_what_is_right(options: tuple[str, ...], words: str, node: Node) -> None:
    finished = node.cleanup(*options)
    assert finished.status == 2
    assert words in finished.err
    assert finished.out == ""
    assert "Traceback" not in finished.err


def test_the_help_teaches(node: Node) -> None:
    finished = node.cleanup("--help")
    for word in ("SLURM_JOB_USER", "TOILCACHE_WORKFLOW", "3 days", "exit status", "--dry-run"):
        assert word in finished.out
    assert max(map(len, finished.out.splitlines())) < 100


# Workflows beside each other


def test_the_end_of_one_workflow_leaves_the_other_at_work(node: Node) -> None:
    one, other = node.begin("one", "wait"), node.begin("other", "wait")
    for name, process in (("one", one), ("other", other)):
        node.place.wait_for(node.notes(name).exists, process)
    assert len(node.names()) == 2
    Path(f"{node.notes('one')}.go").touch()
    assert node.place.finish(one).status == 0
    assert other.poll() is None
    assert len(node.names()) == 1
    said = lines(node.cleanup("--all"))
    assert [said[name] for name in node.names()] == ["left: somebody on this node uses it"]
    Path(f"{node.notes('other')}.go").touch()
    finished = node.place.finish(other)
    assert finished.status == 0, finished.err
    assert node.names() == set()
    assert node.notes("other").read_text() == "ran;first;second;"


def test_a_later_workflow_removes_what_a_dead_one_left(node: Node) -> None:
    node.dead("one")
    node.living("idle")
    process = node.begin("later", "return")
    finished = node.place.finish(process)
    assert finished.status == 0, finished.err
    assert node.names() == {"idle"}
