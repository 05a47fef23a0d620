"""What people and programs get wrong, met through the cache: one clear error, and nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.cache_nodes import BIG, Node, node_in, write
from toilcache.errors import CacheUnbalancedError, CoordinationDirError, NoSuchFileException
from toilcache.file_store.caching import CachingFileStore
from toilcache.job.job import Job
from toilcache.node import places
from toilcache.node.coordination import NodeDirs

DATA = b"x" * BIG


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path / "node ü'\n") as made:
        yield made


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("mutable", [False, True])
@pytest.mark.parametrize("kind", ["file", "directory", "dangling symlink"])
def test_a_path_that_exists_is_named_and_left_alone(
    node: Node, kind: str, mutable: bool, cached: bool
) -> None:
    file_id = node.uploaded(DATA)
    with node.job() as fs:
        if cached:
            fs.readGlobalFile(file_id)
        readers, place = fs.getFileReaderCount(file_id), Path(fs.localTempDir, "there")
        if kind == "file":
            place.write_bytes(b"mine")
        elif kind == "directory":
            place.mkdir()
        else:
            place.symlink_to("nowhere")
        before = place.lstat()
        with pytest.raises(FileExistsError, match="path that exists"):
            fs.readGlobalFile(file_id, str(place), mutable=mutable)
        assert place.lstat() == before
        assert fs.getFileReaderCount(file_id) == readers
        assert Path(fs.readGlobalFile(file_id, "new", mutable=mutable)).read_bytes() == DATA


def test_a_file_that_was_deleted(node: Node) -> None:
    gone, kept = node.uploaded(DATA), node.uploaded(DATA)
    node.store.delete_file(gone)
    with node.job() as fs:
        for mutable in (False, True):
            with pytest.raises(NoSuchFileException):
                fs.readGlobalFile(gone, mutable=mutable)
        with pytest.raises(NoSuchFileException), fs.readGlobalFileStream(gone):
            pytest.fail("was opened")
        with pytest.raises(FileNotFoundError):
            fs.deleteLocalFile(gone)
        fs.deleteGlobalFile(kept)
        with pytest.raises(FileNotFoundError):
            fs.readGlobalFile(kept)
        assert node.states() == {}
        assert node.findings() == []


def test_a_text_that_no_id_can_be(node: Node) -> None:
    node.uploaded(DATA)
    with node.job() as fs:
        for text in ("\udcff", "kept/\udcff", "", "a\nb", "../../etc/passwd"):
            with pytest.raises(NoSuchFileException):
                fs.readGlobalFile(text)
            with pytest.raises(NoSuchFileException), fs.readGlobalFileStream(text):
                pass


def test_the_file_of_another_workflow(node: Node, tmp_path: Path) -> None:
    with node_in(tmp_path / "another") as other:
        theirs = other.uploaded(DATA)
        with other.job() as their_fs:
            their_fs.readGlobalFile(theirs)
            with node.job() as fs:
                with pytest.raises(NoSuchFileException):
                    fs.readGlobalFile(theirs)
                fs.deleteGlobalFile(theirs)
                assert not fs.fileIsCached(theirs)
            assert their_fs.fileIsCached(theirs)
        assert other.stored(theirs) == DATA


def test_a_first_job_that_asks_for_more_than_the_disk_has(node: Node) -> None:
    file_id = node.uploaded(DATA)
    with node.job("the giant", disk=1 << 60) as fs:
        with pytest.raises(CacheUnbalancedError, match="the giant") as caught:
            fs.readGlobalFile(file_id)
        assert str(1 << 60) in str(caught.value)
        assert os.listdir(fs.localTempDir) == []
    with node.job() as fs:
        assert Path(fs.readGlobalFile(file_id)).read_bytes() == DATA


def on_the_network(node: Node, dirs: NodeDirs, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(places, "file_system_type", lambda path: "nfs4")
    return "nfs4, a network file system"


def somebody_elses(node: Node, dirs: NodeDirs, patch: pytest.MonkeyPatch) -> str:
    os.makedirs(dirs.coordination)
    owner = os.geteuid()
    patch.setattr(os, "geteuid", lambda: owner + 1)
    return "belongs to user"


def a_planted_symlink(node: Node, dirs: NodeDirs, patch: pytest.MonkeyPatch) -> str:
    os.symlink(node.where / "victim", dirs.coordination)
    return "not a directory"


@pytest.mark.parametrize("trouble", [on_the_network, somebody_elses, a_planted_symlink])
def test_a_coordination_directory_that_cannot_be_trusted(
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[Node, NodeDirs, pytest.MonkeyPatch], str],
) -> None:
    """A job that was given a directory of no node's looks for one as the configuration says."""
    victim = node.where / "victim"
    for path in (victim, node.where / "jobs", node.where / "shared"):
        path.mkdir()
    (victim / "precious").write_bytes(DATA)
    config = node.store.config
    config.coordinationDir = str(node.where / "shared")
    dirs = NodeDirs(str(config.workflowID), str(config.workDir), config.coordinationDir)
    file_id = node.uploaded(DATA)
    fs = CachingFileStore(node.store, node.new_job(), str(node.where / "jobs"), bool)
    with fs.open(Job()), monkeypatch.context() as patch:
        words = trouble(node, dirs, patch)
        for call in (fs.readGlobalFile, lambda _: fs.writeGlobalFile(write("mine", DATA))):
            with pytest.raises(CoordinationDirError, match=words) as caught:
                call(file_id)
            assert "\n" not in str(caught.value).replace(str(node.where), "")
        assert Path("mine").read_bytes() == DATA
    assert os.listdir(victim) == ["precious"]
    assert node.stored(file_id) == DATA
