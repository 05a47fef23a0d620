"""Names of processes on one node: the same seen from the host, from Docker and from Apptainer (I4)."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.fixtures import Engines
from toilcache.containers.docker_engine import DockerEngine
from toilcache.containers.kit import FIRST, make_kit
from toilcache.containers.model import ContainerSpec, Engine, Mount
from toilcache.containers.singularity import SingularityEngine
from toilcache.node.identity import get_process_name, process_name_exists, release_process_name

pytestmark = pytest.mark.real
DEADLINE = 120.0
LABEL = "toilcache.test"
# Takes a name, tells it, and answers whenever there is a new question: whether each of the names in it lives.
PROGRAM = """
import os, sys, time
kit, base, me = sys.argv[1:]
sys.path.insert(0, kit)
from toilcache.node.identity import get_process_name, process_name_exists
def tell(name, text):
    with open(os.path.join(base, name + ".part"), "w") as file:
        file.write(text)
    os.rename(os.path.join(base, name + ".part"), os.path.join(base, name))
tell(me, get_process_name(base))
number = 0
while True:
    question = os.path.join(base, "question-%d" % number)
    if os.path.exists(question):
        names = open(question).read().split()
        tell("%s-%d" % (me, number), " ".join(str(process_name_exists(base, name)) for name in names))
        number += 1
    time.sleep(0.01)
"""


class Node:
    """The host and its containers around one directory."""

    def __init__(self, base: Path, kit: str, engines: Engines) -> None:
        self.base = base
        self.kit = kit
        self.token = secrets.token_hex(6)
        program = os.path.join(engines.programs, "apptainer")
        self.engines: dict[str, Engine] = {
            "docker": DockerEngine(engines.docker_host),
            "singularity": SingularityEngine(program),
        }
        self.images = {kind: self.engines[kind].resolve(engines.image(kind)) for kind in self.engines}
        self.containers: dict[str, tuple[Engine, str]] = {}
        self.questions = 0

    def start(self, who: str, kind: str) -> str:
        """Start a container that takes a name; return the name."""
        mounts = (Mount(str(self.base), str(self.base), read_only=False), Mount(self.kit, self.kit))
        argv = ("python3", "-c", PROGRAM, os.path.join(self.kit, FIRST), str(self.base), who)
        spec = ContainerSpec(
            self.images[kind], argv, f"test-{self.token}-{who}", mounts, labels={LABEL: self.token}
        )
        self.containers[who] = (self.engines[kind], self.engines[kind].run(spec))
        return self.read(who)

    def read(self, name: str) -> str:
        """Wait for what a container tells."""
        end = time.monotonic() + DEADLINE
        while not (self.base / name).exists():
            assert time.monotonic() < end, f"{name} was not told"
            time.sleep(0.01)
        return (self.base / name).read_text()

    def ask(self, who: list[str], names: list[str]) -> dict[str, list[bool]]:
        """Ask the host and these containers which of these names live."""
        question = self.base / f"question-{self.questions}"
        part = question.with_suffix(".part")
        part.write_text(" ".join(names))
        part.rename(question)
        answers = {one: self.read(f"{one}-{self.questions}").split() for one in who}
        self.questions += 1
        told = {one: [word == "True" for word in words] for one, words in answers.items()}
        return told | {"host": [process_name_exists(str(self.base), name) for name in names]}

    def close(self) -> None:
        for engine, container in self.containers.values():
            engine.remove(container)
        for engine in self.engines.values():
            assert engine.find({LABEL: self.token}) == []
            engine.close()


@pytest.fixture
def node(tmp_path: Path, engines: Engines) -> Iterator[Node]:
    base = tmp_path / "a base"
    base.mkdir()
    make_kit(str(tmp_path / "kit"))
    made = Node(base, str(tmp_path / "kit"), engines)
    yield made
    made.close()
    release_process_name(str(base))


def test_all_see_who_lives_and_who_was_killed(node: Node) -> None:
    who = ["docker-1", "docker-2", "singularity"]
    names = [node.start(one, one.partition("-")[0]) for one in who] + [get_process_name(str(node.base))]
    assert len(set(names)) == 4
    assert node.ask(who, names) == dict.fromkeys([*who, "host"], [True] * 4)
    for victim in ("docker-2", "singularity"):
        engine, container = node.containers[victim]
        engine.kill(container)
        names = [names[who.index(victim)], *(name for name in names if name != names[who.index(victim)])]
        who = [one for one in who if one != victim]
        expected = [False] + [True] * (len(names) - 1)
        assert node.ask(who, names) == dict.fromkeys([*who, "host"], expected)
        names = names[1:]
