"""What becomes of what a dead worker leaves, state by state, and whose a thing is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.cache_nodes import BIG, Child, Node, node_in, spoil, write
from toilcache.cache.check import check
from toilcache.job.job import Job

MB = 1 << 20


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path / "node") as made:
        yield made


def die(*arguments: Any, **options: Any) -> Any:
    os._exit(0)


def dies_fetching(node: Node, file_id: str) -> None:
    with node.job() as fs:
        node.store.read_file = die  # type: ignore[method-assign]
        fs.readGlobalFile(file_id)


def dies_before_uploading(node: Node, file_id: str) -> None:
    with node.job() as fs:
        fs.writeGlobalFile(write("x", b"x" * BIG))
        die()


def dies_uploading(node: Node, file_id: str) -> None:
    with node.job() as fs:
        node.store.upload_reserved = die  # type: ignore[method-assign]
        fs.writeGlobalFile(write("x", b"x" * BIG))
        fs.commits_aside = False
        fs.startCommit()


def dies_evicting(node: Node, file_id: str) -> None:
    with node.job() as fs:
        fs.readGlobalFile(file_id)
    from toilcache.cache import payloads

    payloads.remove = die
    fs.adjustCacheLimit(1)


STATES = [
    (dies_fetching, "downloading", {}),
    (dies_before_uploading, "uploadable", {"cached": 1}),
    (dies_uploading, "uploading", {"cached": 1}),
    (dies_evicting, "deleting", {}),
]


@pytest.mark.parametrize(("work", "left", "becomes"), STATES, ids=[state for _, state, _ in STATES])
def test_what_each_state_becomes(
    node: Node, monkeypatch: pytest.MonkeyPatch, work: Any, left: str, becomes: dict[str, int]
) -> None:
    file_id = node.uploaded(b"x" * BIG)
    assert Child(lambda child: work(node, file_id)).end() == 0
    with monkeypatch.context() as patch:
        patch.setattr("toilcache.cache.adoption.process_name_exists", lambda place, name: True)
        assert node.states() == {left: 1}
    cache = node.cache
    assert check(cache) != []
    assert cache.adopt_dead()
    assert not cache.adopt_dead()
    assert check(cache) == []
    assert node.states() == becomes
    assert len(node.payloads()) == sum(becomes.values())
    con = cache.generation.database.con
    assert con.execute("SELECT * FROM jobs").fetchall() == []
    assert os.listdir(node.dirs.jobs) == []
    cache.set_limit(1 << 40)
    with node.job() as fs:
        assert Path(fs.readGlobalFile(file_id)).read_bytes() == b"x" * BIG


def test_a_dead_workers_job_goes_with_its_directory(node: Node) -> None:
    file_id, outside = node.uploaded(b"x" * BIG), node.where / "outside"

    def work(child: Child) -> None:
        with node.job() as fs:
            fs.readGlobalFile(file_id)
            fs.readGlobalFile(file_id, userPath=str(outside))
            Path("more", "below").parent.mkdir()
            child.reach("reading")

    child, cache = Child(work), node.cache
    assert child.hear() == "reading"
    assert not cache.adopt_dead()
    assert check(cache) == []
    child.kill()
    assert cache.adopt_dead()
    assert os.listdir(node.dirs.jobs) == []
    assert outside.read_bytes() == b"x" * BIG
    con = cache.generation.database.con
    assert [con.execute(f"SELECT COUNT(*) FROM {table}").fetchone() for table in ("refs", "jobs")] == [
        (0,),
        (0,),
    ]


def test_a_directory_that_we_did_not_make_is_left_alone(node: Node) -> None:
    precious = node.where / "precious"
    precious.mkdir()
    with node.cache.transaction() as con:
        con.execute("INSERT INTO jobs VALUES ('id', 1, 'n', ?, 0, 'dead', NULL)", (str(precious),))
    assert node.cache.adopt_dead()
    assert precious.is_dir()


def test_a_file_that_its_dead_writer_had_changed_is_dropped(node: Node) -> None:
    def work(child: Child) -> None:
        node.cache.reflinks = False
        with node.job() as fs:
            child.note(fs.writeGlobalFile(write("x", b"x" * BIG)))
            spoil("x", "append")
            os._exit(0)

    child = Child(work)
    file_id = child.hear()
    assert child.end() == 0
    assert node.findings() == []
    with node.job() as fs:
        assert not fs.fileIsCached(file_id)


def test_a_zombie_takes_nothing_from_its_successor(node: Node) -> None:
    """Two attempts at one job on one node: each has its row, its references and its directory."""
    file_id, desc = node.uploaded(b"x" * BIG), node.new_job()
    zombie = node.file_store(desc=desc)
    newer = node.store.load_job(str(desc.jobStoreID))
    node.store.update_job(newer)
    successor = node.file_store(desc=newer)
    assert (desc.version, newer.version) == (1, 2)
    with successor.open(Job()):
        path = successor.readGlobalFile(file_id)
        with zombie.open(Job()):
            assert zombie.localTempDir != successor.localTempDir
            zombie.readGlobalFile(file_id)
            assert successor.getFileReaderCount(file_id) == 2
            zombie.deleteLocalFile(file_id)
        assert successor.getFileReaderCount(file_id) == 1
        successor.adjustCacheLimit(1)
        assert successor.fileIsCached(file_id)
        assert Path(path).read_bytes() == b"x" * BIG
        successor.adjustCacheLimit(1 << 40)
    assert os.listdir(node.dirs.jobs) == []


def test_an_idle_gap_is_not_taken_for_death(node: Node) -> None:
    """The cache lives as long as the workflow: nobody uses it for a while, then somebody does."""
    file_id = node.uploaded(b"x" * BIG)

    def work(child: Child) -> None:
        with node.job() as fs:
            fs.readGlobalFile(file_id)

    for _ in range(2):
        assert Child(work).end() == 0
    node.store.delete_file(file_id)
    with node.job() as fs:
        assert Path(fs.readGlobalFile(file_id)).read_bytes() == b"x" * BIG


def test_two_workflows_on_a_node_do_not_meet(node: Node, tmp_path: Path) -> None:
    with node_in(tmp_path / "another") as other:
        file_id, theirs = node.uploaded(), other.uploaded()
        with node.job() as fs, other.job() as their_fs:
            fs.readGlobalFile(file_id)
            their_fs.readGlobalFile(theirs)
            type(their_fs).shutdown((node.dirs.coordination, node.dirs.work))
            assert fs.fileIsCached(file_id)
            assert not fs.fileIsCached(theirs)
