"""`toilcache cache`: what it shows of a node's cache, and that it says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.cache_nodes import BIG, Child, Node, node_in, write
from toilcache.cli import main


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path / "node") as made:
        yield made


def test_it_shows_files_jobs_and_sums(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    file_id = node.uploaded(b"x" * BIG)
    store = str(node.where / "store")
    with node.job("the holder", disk=BIG) as fs:
        for _ in range(3):
            fs.readGlobalFile(file_id)
        assert main(["cache", store, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert main(["cache", store]) == 0
        text = capsys.readouterr().out
    assert (shown["hits"], shown["misses"], shown["evictions"]) == (2, 1, 0)
    [file] = shown["files"]
    assert (file["id"], file["size"], file["state"], file["pins"]) == (file_id, BIG, "cached", 3)
    [job] = shown["jobs"]
    assert (job["disk"], job["alive"]) == (BIG, True)
    assert shown["findings"] == []
    assert "the holder" in text
    assert file_id in text
    assert "agree" in text


def test_it_says_what_is_wrong(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    with node.job() as fs:
        fs.readGlobalFile(node.uploaded())
    [payload] = node.payloads()
    payload.rename(payload.with_name("moved"))
    assert main(["cache", str(node.where / "store")]) == 1
    shown = capsys.readouterr().out
    assert f"its payload {payload} is missing" in shown
    assert "no row speaks of it" in shown
    payload.with_name("moved").rename(payload)


def test_without_a_cache_it_says_so(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", str(node.where / "store")]) == 1
    assert "there is none on this node" in capsys.readouterr().err
    node.cache.adopt_dead()


def test_what_is_to_be_kept_of_a_dead_job_is_kept(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", cleanWorkDir="never")

    def work(child: Child) -> None:
        with node.job() as fs:
            fs.getCacheUnusedJobRequirement()
            write("evidence", b"1")
            child.reach(fs.localTempDir)

    worker = Child(work)
    evidence = Path(worker.hear(), "evidence")
    worker.kill()
    assert main(["cache", str(node.where / "store")]) == 0
    assert evidence.exists()
