"""A person's directories where root is squashed: an engine mounts them all the same, and containers use them.

The server of a network file system takes root for nobody. The like of it here is a root without the two
capabilities that make him pass everywhere: he mounts what a worker's container is to see.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.test_container_user import USER, place
from tests.testbed.fixtures import Engines
from toilcache.batch.container_plan import HostContainer, mounts_of
from toilcache.containers.docker_engine import DockerEngine
from toilcache.containers.model import ContainerSpec, Exit, Mount
from toilcache.node.coordination import NodeDirs

__all__ = ["place"]  # a fixture

pytestmark = pytest.mark.real
PATIENCE = 300.0
AS_USER = (
    "setpriv",
    f"--reuid={USER.pw_uid}",
    f"--regid={USER.pw_gid}",
    "--clear-groups",
    "/usr/bin/python3",
)
SQUASHED = ("capsh", "--drop=cap_dac_override,cap_dac_read_search", "--", "-c", 'exec "$0" "$@"')

# What a workflow and its launcher make, under the umask of somebody who shares nothing.
MAKE = """
import json, os, sys
os.mkdir("base", 0o711)
os.umask(0o077)
from toilcache.config import Config
from toilcache.containers.kit import make_kit
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.node.coordination import node_dirs
store = FileJobStore("base/store")
store.initialize(Config())
open("base/file", "w").write("content")
file_id = store.write_file("base/file")
dirs = node_dirs("someone", os.path.abspath("base/work"), os.path.abspath("base/coordination"))
with dirs.hold():
    make_kit(dirs.engine)
print(json.dumps([store.path, os.path.dirname(dirs.work), os.path.dirname(dirs.coordination), file_id]))
"""
# What a job does, in a container.
USE = """
import os, sys
engine, store, work, file_id = sys.argv[1:]
sys.path.insert(0, engine + "/first")
from toilcache.job_store.file_job_store import FileJobStore
store = FileJobStore(store)
store.resume()
store.read_file(file_id, work + "/read")
print(os.getuid(), open(work + "/read").read(), store.file_exists(store.write_file(work + "/read")))
"""
# The same in Apptainer, which its user starts himself.
START = """
import json, sys
from toilcache.containers.model import ContainerSpec, Mount
from toilcache.containers.singularity import SingularityEngine
image, argv, mounts = json.loads(sys.argv[1])
engine = SingularityEngine("apptainer")
spec = ContainerSpec(engine.resolve(image), tuple(argv), "squash-test", tuple(Mount(*one) for one in mounts))
container = engine.run(spec)
ended = engine.wait(container)
print(engine.logs(container, 10000).decode(), end="")
engine.remove(container)
assert engine.find({}) == [], engine.find({})
sys.exit(ended.code)
"""


class Squashed:
    """Directories of the other user's, and mounts of them that a squashed root has made."""

    def __init__(self, place: Path, engines: Engines) -> None:
        self.place = place
        self.environment = {
            **engines.environment,
            "PYTHONPATH": str(place / "engine"),
            "HOME": "/nonexistent",
        }
        os.chmod(place, 0o711)
        store, work, coordination, self.file_id = json.loads(self.as_user(MAKE))
        self.dirs = NodeDirs("someone", work, coordination)
        self.store = store
        node = ("someone", work, coordination)
        wanted = HostContainer("docker", None, None, (store,), node)
        self.mounts = mounts_of(wanted, self.dirs, ())
        self.mirrors: list[tuple[str, Mount]] = []

    def as_user(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [*AS_USER, "-c", program, *arguments],
            cwd=self.place,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def mount(self) -> list[str]:
        """Have the squashed root mount all; return what he says of what he cannot."""
        said = []
        for number, mount in enumerate(self.mounts):
            mirror = self.place / f"mirror-{number}"
            mirror.mkdir() if os.path.isdir(mount.source) else mirror.touch()
            argv = [*SQUASHED, "mount", "--bind", mount.source, str(mirror)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                self.mirrors.append((str(mirror), mount))
            else:
                said.append(done.stderr)
        return said

    @property
    def argv(self) -> tuple[str, ...]:
        return ("python3", "-c", USE, self.dirs.engine, self.store, self.dirs.work, self.file_id)

    @property
    def seen(self) -> tuple[Mount, ...]:
        """Each place at its own path, from where the squashed root has mounted it."""
        return tuple(Mount(mirror, mount.target, mount.read_only) for mirror, mount in self.mirrors)

    def close(self) -> None:
        for mirror, _ in self.mirrors:
            subprocess.run(["umount", mirror], check=True)


@pytest.fixture
def squashed(place: Path, engines: Engines) -> Iterator[Squashed]:
    made = Squashed(place, engines)
    yield made
    made.close()


def test_a_directory_that_is_closed_cannot_be_mounted(squashed: Squashed) -> None:
    os.chmod(squashed.place, 0o700)
    said = squashed.mount()
    os.chmod(squashed.place, 0o711)
    assert len(said) == len(squashed.mounts)


def test_a_container_of_docker_reaches_its_files(squashed: Squashed, engines: Engines) -> None:
    assert squashed.mount() == []
    engine = DockerEngine(engines.docker_host)
    user: Any = (USER.pw_uid, USER.pw_gid)
    image = engine.resolve(engines.image("docker"))
    spec = ContainerSpec(image, squashed.argv, "toilcache-squash-test", squashed.seen, user=user)
    container = engine.run(spec)
    ended, words = engine.wait(container), engine.logs(container, 10000).decode()
    engine.remove(container)
    engine.close()
    assert (ended, words) == (Exit(0), f"{USER.pw_uid} content True\n")


def test_a_container_of_apptainer_reaches_its_files(squashed: Squashed, engines: Engines) -> None:
    assert squashed.mount() == []
    request = json.dumps([engines.image("singularity"), squashed.argv, squashed.seen])
    assert squashed.as_user(START, request) == f"{USER.pw_uid} content True\n"
