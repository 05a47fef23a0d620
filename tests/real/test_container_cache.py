"""The node's cache between containers of Docker and Apptainer: one download, whoever is killed (I5)."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.cache_nodes import Node, node_in
from tests.testbed.fixtures import Engines
from toilcache.cache.command import describe
from toilcache.containers.docker_engine import DockerEngine
from toilcache.containers.kit import FIRST, LAST, make_kit
from toilcache.containers.model import ContainerSpec, Engine, Exit, Mount
from toilcache.containers.singularity import SingularityEngine
from toilcache.node.mounts import read_mounts

pytestmark = [pytest.mark.real, pytest.mark.slow]
DEADLINE = 150.0
LABEL = "toilcache.test"
SIZE = 200 << 20
CONTAINERS = [f"{kind}-{number}" for number in range(4) for kind in ("docker", "singularity")]
JOBS_EACH = 8
READER = Path(__file__).with_name("cache_reader.py")


class Crowd:
    """Containers of both engines around one node, each with eight jobs."""

    def __init__(self, node: Node, engines: Engines) -> None:
        self.node = node
        self.told = node.where / "told"
        self.told.mkdir()
        shutil.copy(READER, node.where / "reader.py")
        make_kit(str(node.where / "kit"))
        self.token = secrets.token_hex(6)
        self.engines: dict[str, Engine] = {
            "docker": DockerEngine(engines.docker_host),
            "singularity": SingularityEngine(os.path.join(engines.programs, "apptainer")),
        }
        self.images = {kind: self.engines[kind].resolve(engines.image(kind)) for kind in self.engines}
        self.running: dict[str, tuple[Engine, str]] = {}
        self.jobs: dict[str, list[str]] = {}

    def start(self, who: str, file_id: str, mode: str = "") -> None:
        kind = who.partition("-")[0]
        engine, where, kit = self.engines[kind], str(self.node.where), self.node.where / "kit"
        self.jobs[who] = [
            str(self.node.new_job(f"{who} {number}", disk=SIZE).jobStoreID) for number in range(JOBS_EACH)
        ]
        argv = ("python3", f"{where}/reader.py", str(kit / FIRST), str(kit / LAST), where, mode, file_id)
        spec = ContainerSpec(
            self.images[kind],
            (*argv, *self.jobs[who]),
            f"test-{self.token}-{who}",
            (Mount(where, where, read_only=False),),
            labels={LABEL: self.token},
        )
        self.running[who] = (engine, engine.run(spec))

    def has_told(self, what: str, who: list[str]) -> Callable[[], bool]:
        paths = [self.told / f"{what} {job}" for one in who for job in self.jobs[one]]
        return lambda: all(path.exists() for path in paths)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, self.logs()
            for engine, container in self.running.values():
                assert engine.wait(container, 0.001) is None, self.logs()

    def logs(self) -> str:
        words = {who: engine.logs(container, 1000) for who, (engine, container) in self.running.items()}
        return "\n".join(f"{who}: {text.decode()}" for who, text in words.items() if text)

    def owner(self) -> str | None:
        """Who downloads."""
        found = self.node.cache.generation.database.con.execute(
            "SELECT owner FROM files WHERE state = 'downloading'"
        )
        row = found.fetchone()
        return None if row is None else str(row[0])

    def end(self) -> None:
        """Let all go on to their ends."""
        (self.told / "go").touch()
        for who, (engine, container) in self.running.items():
            assert engine.wait(container, DEADLINE) == Exit(0), (who, self.logs())
            engine.remove(container)

    def close(self) -> None:
        for engine, container in self.running.values():
            engine.remove(container)
        for engine in self.engines.values():
            assert engine.find({LABEL: self.token}) == []
            engine.close()
        assert [mount.point for mount in read_mounts() if str(self.node.where) in mount.point] == []


@pytest.fixture
def crowd(tmp_path: Path, engines: Engines) -> Iterator[Crowd]:
    with node_in(tmp_path / "a node") as node:
        made = Crowd(node, engines)
        try:
            yield made
        finally:
            made.close()


def blocks_below(directory: str) -> int:
    """The bytes that files below take on the disk, each once, whatever names it has."""
    found = {}
    for place, _, names in os.walk(directory):
        for name in names:
            status = os.lstat(os.path.join(place, name))
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def check_all_read_one(crowd: Crowd, who: list[str], content: bytes) -> None:
    """Each job has the same file, which is the only one on the disk, and was downloaded once."""
    words = {(crowd.told / f"read {job}").read_text() for one in who for job in crowd.jobs[one]}
    (payload,) = [path for path in crowd.node.payloads() if path.stat().st_size == SIZE]
    assert words == {f"{payload.stat().st_ino} {SIZE}"}
    assert payload.read_bytes() == content
    assert SIZE <= blocks_below(crowd.node.dirs.work) < SIZE + (8 << 20)
    found = describe(crowd.node.cache)
    assert (found["misses"], len(found["files"])) == (1, 1)
    assert found["hits"] == sum(len(crowd.jobs[one]) for one in who) - 1
    assert found["findings"] == []


def test_one_download_for_64_jobs_in_8_containers(crowd: Crowd) -> None:
    content = os.urandom(SIZE)
    file_id = crowd.node.uploaded(content)
    for who in CONTAINERS:
        crowd.start(who, file_id)
    crowd.wait_for(crowd.has_told("read", CONTAINERS))
    check_all_read_one(crowd, CONTAINERS, content)
    crowd.end()


@pytest.mark.parametrize("victim", ["docker-0", "singularity-0"])
def test_one_takes_over_from_a_container_that_is_killed(crowd: Crowd, victim: str) -> None:
    content = os.urandom(SIZE)
    file_id = crowd.node.uploaded(content)
    crowd.start(victim, file_id, "stall")
    crowd.wait_for((crowd.told / "halfway").exists)
    others = [who for who in CONTAINERS if who != victim]
    for who in others:
        crowd.start(who, file_id)
    crowd.wait_for(crowd.has_told("asks", others))
    dead = crowd.owner()
    assert dead is not None
    assert not any(path.name.startswith("read") for path in crowd.told.iterdir())
    engine, container = crowd.running.pop(victim)
    began = time.monotonic()
    engine.kill(container)
    killed = time.monotonic()
    crowd.wait_for(lambda: crowd.owner() != dead)
    print(f"{victim} ended {killed - began:.2f} s after the kill; another took over", end=" ")
    print(f"{time.monotonic() - began:.2f} s after it", flush=True)
    crowd.wait_for(crowd.has_told("read", others))
    assert engine.wait(container).code == 137
    engine.remove(container)
    assert crowd.node.findings() == []  # also takes over what the dead have left
    check_all_read_one(crowd, others, content)
    crowd.end()
