"""Workers are killed at random moments, again and again, while others read, write, delete and make room.

The seed is printed. After each kill, once a living worker has passed, the cache is sound; in the end every
file of the job store can be read, as it was.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.cache_nodes import BIG, Child, Node, commit, node_in, write
from toilcache.errors import CacheUnbalancedError
from toilcache.file_store.caching import CachingFileStore
from toilcache.job_store.file_id import FileID

pytestmark = pytest.mark.crash

WORKERS = 8
SEED = 20
WAITS, LONG_SECS = "waits", 0.05


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path / "node", disk=BIG) as made:
        yield made


def works(node: Node, files: dict[FileID, bytes], seed: int) -> None:
    """Run jobs without an end; each does some of what jobs do."""
    chance = random.Random(seed)
    for number in range(10**6):
        try:
            with node.job(f"job {seed} {number}") as fs:
                fs.commits_aside = False
                do_something(fs, files, chance, node.where / WAITS)
        except CacheUnbalancedError:
            continue


def do_something(
    fs: CachingFileStore, files: dict[FileID, bytes], chance: random.Random, waits: Path
) -> None:
    for _ in range(chance.randrange(1, 6)):
        file_id = chance.choice(list(files))
        began = time.monotonic()
        path = fs.readGlobalFile(file_id, mutable=chance.random() < 0.3, cache=chance.random() < 0.9)
        if (waited := time.monotonic() - began) > LONG_SECS:
            with open(waits, "a") as log:
                log.write(f"{waited:.3f}\n")
        assert Path(path).read_bytes() == files[file_id]
        if chance.random() < 0.3:
            fs.deleteLocalFile(file_id)
        if chance.random() < 0.3:
            name = write(fs.getLocalTempFileName(), os.urandom(chance.choice([10, BIG // 2])))
            written = fs.writeGlobalFile(name)
            if chance.random() < 0.5:
                fs.deleteGlobalFile(written)
    if chance.random() < 0.5:
        commit(fs)


def kill_at_random(node: Node, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    print(f"seed {seed}, {kills} kills")
    files = {node.uploaded(data): data for data in (os.urandom(BIG // 2) for _ in range(12))}
    node.cache.set_limit((WORKERS + 4) * BIG)

    def start(number: int) -> Child:
        return Child(lambda child: works(node, files, number))

    workers = {number: start(number) for number in range(WORKERS)}
    try:
        for number in range(kills):
            # The moment is where the scheduler happens to be; a little work of ours moves it about.
            for _ in range(chance.randrange(20_000)):
                pass
            victim = chance.choice(list(workers))
            workers.pop(victim).kill()
            assert node.findings() == []
            workers[WORKERS + number] = start(WORKERS + number)
    finally:
        for child in workers.values():
            child.signal(signal.SIGKILL)
    assert [child.end() for child in workers.values()] == [-signal.SIGKILL] * WORKERS
    log = node.where / WAITS
    waits = [float(line) for line in log.read_text().split()] if log.exists() else []
    print(f"{len(waits)} reads took longer than {LONG_SECS} s, the longest {max(waits, default=0.0)} s")
    assert node.findings() == []
    assert set(node.states()) <= {"cached"}
    node.cache.set_limit(1 << 40)
    with node.job() as fs:
        for file_id, data in files.items():
            assert Path(fs.readGlobalFile(file_id)).read_bytes() == data


def test_random_kills(node: Node) -> None:
    kill_at_random(node, 20, SEED)


@pytest.mark.soak
def test_a_thousand_random_kills(node: Node) -> None:
    kill_at_random(node, 1000, random.SystemRandom().randrange(10**6))
