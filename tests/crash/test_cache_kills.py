"""A worker is killed at step n of everything it does with the cache; a living one passes; nothing is wrong.

Each operation runs in a forked child that is killed right before its n-th step, for n = 1, 2, ... until it
comes through. Steps are the calls of `toilcache.vfs` that change something and the statements of SQLite. The
number of steps of each operation is printed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import faults
from tests.fakes.cache_nodes import BIG, Node, commit, node_in, write
from toilcache.file_store.caching import CachingFileStore
from toilcache.job.job import Job
from toilcache.job_store.file_id import FileID

pytestmark = pytest.mark.crash

LIMIT = 12 * BIG
MOST_STEPS = 400
STRIDE = 17


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path / "node", disk=2 * BIG) as made:
        made.cache.set_limit(LIMIT)
        yield made


class Operation:
    """What a worker does; `prepare` runs before it, in a living process."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.fs = node.file_store()
        self.data = os.urandom(BIG)
        self.file_id: FileID = node.uploaded(self.data)
        self.prepare()

    def prepare(self) -> None:
        return

    def __call__(self) -> None:
        with self.fs.open(Job()):
            self.work(self.fs)

    def work(self, fs: CachingFileStore) -> None:
        raise NotImplementedError

    def fill(self, count: int = 1) -> None:
        """Have files in the cache that nobody holds."""
        for _ in range(count):
            with self.node.job() as fs:
                fs.readGlobalFile(self.node.uploaded(os.urandom(BIG)))


class Read(Operation):
    """A file that the cache does not have."""

    def work(self, fs: CachingFileStore) -> None:
        assert Path(fs.readGlobalFile(self.file_id)).read_bytes() == self.data


class ReadCached(Read):
    def prepare(self) -> None:
        with self.node.job() as fs:
            fs.readGlobalFile(self.file_id)


class ReadCopies(Operation):
    """Copies of what the cache has and of what it has not, and a stream."""

    def work(self, fs: CachingFileStore) -> None:
        for _ in range(2):
            assert Path(fs.readGlobalFile(self.file_id, mutable=True)).read_bytes() == self.data
        with fs.readGlobalFileStream(self.file_id) as stream:
            assert stream.read() == self.data


class WriteAndCommit(Operation):
    """A small file, a large one, their upload, the commit."""

    def work(self, fs: CachingFileStore) -> None:
        fs.commits_aside = False
        for size in (10, BIG):
            fs.writeGlobalFile(write(f"file {size}", os.urandom(size)))
        commit(fs)


class Evict(Operation):
    """A file for which others must go."""

    def prepare(self) -> None:
        self.fill(LIMIT // BIG + 1)

    def work(self, fs: CachingFileStore) -> None:
        assert Path(fs.readGlobalFile(self.file_id, mutable=True)).read_bytes() == self.data


class Adopt(Operation):
    """What a worker left that died with a file half fetched, another one not uploaded, and one held."""

    def prepare(self) -> None:
        def die() -> None:
            with self.node.job() as fs:
                fs.writeGlobalFile(write("not uploaded", os.urandom(BIG)))
                fs.readGlobalFile(self.node.uploaded(os.urandom(BIG)))
                fs.jobStore.read_file = lambda *arguments: os._exit(0)  # type: ignore[method-assign]
                fs.readGlobalFile(self.file_id)

        self.node.close()
        assert faults.in_child(faults.Plan(self.node.where / "dying"), die) == 0

    def work(self, fs: CachingFileStore) -> None:
        assert Path(fs.readGlobalFile(self.file_id)).read_bytes() == self.data


class Delete(Operation):
    """Local copies, then the file itself, with the commit."""

    def work(self, fs: CachingFileStore) -> None:
        fs.commits_aside = False
        for _ in range(2):
            fs.readGlobalFile(self.file_id)
        fs.deleteLocalFile(self.file_id)
        doomed = fs.writeGlobalFile(write("doomed", os.urandom(BIG)))
        fs.deleteGlobalFile(doomed)
        commit(fs)


OPERATIONS = [Read, ReadCached, ReadCopies, WriteAndCommit, Evict, Adopt, Delete]


def killed_at_each_step(
    node: Node, kind: type[Operation], then: str, steps: Iterator[int]
) -> Iterator[tuple[int, Operation]]:
    """Kill a worker at one step after the other; yields after each, and last when none was killed."""
    for step in steps:
        operation = kind(node)
        plan = faults.Plan(node.where / f"trace-{step}", step, then)
        node.close()
        status = faults.in_child(plan, operation)
        assert status == (-9 if plan.killed else 0)
        yield step, operation
        if not plan.killed:
            return
        assert step < MOST_STEPS


def look_after(node: Node, operation: Operation) -> None:
    """What must be true once a living worker has passed."""
    assert node.findings() == []
    # A directory that no row knows of yet is empty; it goes with the node.
    assert [path for path in Path(node.dirs.jobs).rglob("*") if path.parent != Path(node.dirs.jobs)] == []
    assert set(node.states()) <= {"cached"}
    with node.job() as fs:
        assert Path(fs.readGlobalFile(operation.file_id)).read_bytes() == operation.data
    assert node.findings() == []


def sample(kind: type[Operation]) -> Iterator[int]:
    """Every so many steps, from another first one for each operation."""
    return itertools.count(1 + len(kind.__name__) % STRIDE, STRIDE)


def kill_at(node: Node, kind: type[Operation], then: str, steps: Iterator[int]) -> None:
    kills = -1
    for _, operation in killed_at_each_step(node, kind, then, steps):
        look_after(node, operation)
        kills += 1
    print(f"{kind.__name__}, {then}: killed at {kills} steps")
    assert kills >= 1


@pytest.mark.parametrize("then", [faults.KILL_BEFORE, faults.KILL_AFTER])
@pytest.mark.parametrize("kind", OPERATIONS, ids=lambda kind: kind.__name__)
def test_killed_at_some_steps(node: Node, kind: type[Operation], then: str) -> None:
    kill_at(node, kind, then, sample(kind))


@pytest.mark.soak
@pytest.mark.parametrize("then", [faults.KILL_BEFORE, faults.KILL_AFTER])
@pytest.mark.parametrize("kind", OPERATIONS, ids=lambda kind: kind.__name__)
def test_killed_at_each_step(node: Node, kind: type[Operation], then: str) -> None:
    kill_at(node, kind, then, itertools.count(1))


BIRTHS_AND_ENDS = ["first use", "shutdown", "damaged"]


@pytest.mark.parametrize("operation", BIRTHS_AND_ENDS)
def test_the_cache_comes_and_goes_whatever_dies(tmp_path: Path, operation: str) -> None:
    """Making the first generation, removing all, and making another one: killed at some steps."""
    come_and_go(tmp_path, operation, itertools.count(len(operation), STRIDE))


@pytest.mark.soak
@pytest.mark.parametrize("operation", BIRTHS_AND_ENDS)
def test_the_cache_comes_and_goes_killed_at_each_step(tmp_path: Path, operation: str) -> None:
    come_and_go(tmp_path, operation, itertools.count(1))


def come_and_go(tmp_path: Path, operation: str, steps: Iterator[int]) -> None:
    kills = 0
    for step in steps:
        node = Node(tmp_path / str(step), disk=2 * BIG)
        data = os.urandom(BIG)
        file_id = node.uploaded(data)
        if operation != "first use":
            with node.job() as fs:
                fs.readGlobalFile(file_id)
        damage = Path(node.dirs.cache, "1", "cache.db")
        node.close()
        if operation == "damaged":
            damage.write_bytes(b"nonsense" * 1000)

        def work(node: Node = node, file_id: FileID = file_id, data: bytes = data) -> None:
            if operation == "shutdown":
                CachingFileStore.shutdown((node.dirs.coordination, node.dirs.work))
                return
            with node.job() as fs:
                assert Path(fs.readGlobalFile(file_id)).read_bytes() == data

        plan = faults.Plan(tmp_path / f"trace-{step}", step)
        status = faults.in_child(plan, work)
        # It may have hit the other process by which a new database is tried.
        assert status == 0 or (status == -9 and plan.killed)
        with node.job() as fs:
            assert Path(fs.readGlobalFile(file_id)).read_bytes() == data
        assert node.findings() == []
        assert len(node.payloads()) == 1
        node.close()
        if not plan.killed:
            break
        kills += 1
    print(f"{operation}: killed at {kills} steps")
    assert kills >= 1
