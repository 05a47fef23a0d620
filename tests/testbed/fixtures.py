"""Real engines for the tests: brought up once per session, at the first test that asks, and ended with it.

The script that does it is a child of the session with a pipe between them: whatever ends the session, the
pipe ends too, and the script takes down what it has brought up.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SCRIPT = Path(__file__).with_name("engines.sh")
ROOM = 4 << 30
SHARED: set[int] = set()
"""Descriptors that stay open for the session, whichever test was the first to ask for the engines."""
PATIENCE = 300.0  # seconds in which an engine that is told to end has ended


class Engines(NamedTuple):
    """Where the engines are: Docker's address, the directory of Apptainer's program, that of images."""

    docker_host: str
    programs: str
    images: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to find both."""
        return {"DOCKER_HOST": self.docker_host, "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}"}

    def restart_docker(self) -> None:
        """Kill the daemon, and what runs in it, and start it again."""
        place = os.path.dirname(self.docker_host.removeprefix("unix://"))
        subprocess.run([str(SCRIPT), "restart", place], check=True, timeout=PATIENCE)

    def image(self, engine: str, python: str = "py311") -> str:
        """The base image for an engine by name, with Python 3.11 or 3.13."""
        return f"testbed:{python}" if engine == "docker" else str(self.images / f"{python}.sif")


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    """Docker and Apptainer, as TESTBED=1 brings them up."""
    place = f"{_roomy_place()}/testbed-{secrets.token_hex(6)}"
    script = subprocess.Popen(
        [str(SCRIPT), "serve", place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # an interrupt of the session is not one of the script
    )
    assert script.stdin is not None
    assert script.stdout is not None
    SHARED.update((script.stdin.fileno(), script.stdout.fileno()))
    try:
        yield _read(script)
    finally:
        script.communicate(timeout=PATIENCE)
    assert not os.path.exists(place), "the engine was not taken down"


def _roomy_place() -> str:
    """A directory for the engine: in memory if there is room, where files come and go in no time."""
    return "/dev/shm" if shutil.disk_usage("/dev/shm").free > ROOM else "/tmp"


def _read(script: subprocess.Popen[str]) -> Engines:
    values = {}
    for line in script.stdout or ():
        if line == "READY\n":
            return Engines(
                values["DOCKER_HOST"], os.path.dirname(values["APPTAINER"]), Path(values["IMAGES"])
            )
        name, _, value = line.rstrip("\n").partition("=")
        values[name] = value
    raise AssertionError(f"the engines did not come up: {SCRIPT} ended with {script.wait()}")
