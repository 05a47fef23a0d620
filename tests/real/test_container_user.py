"""Apptainer as a person without privileges: the engine, and a workflow whose jobs run in it."""

from __future__ import annotations

import ast
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import toilcache
from tests.testbed.fixtures import Engines
from toilcache.containers.model import STORE_LABEL
from toilcache.containers.singularity import SingularityEngine

pytestmark = pytest.mark.real
SCRIPT = Path(__file__).parents[1] / "contract" / "container_workflow.py"
USER = pwd.getpwnam("nobody")
NEEDS = ("cloudpickle", "filelock", "fsspec", "psutil", "sh")
PATIENCE = 300.0


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the other user's, with an engine and a script that they can read."""
    directory = Path(tempfile.mkdtemp(prefix="toilcache-user-", dir="/tmp"))
    engine = directory / "engine"
    shutil.copytree(os.path.dirname(toilcache.__file__), engine / "toilcache")
    for name in NEEDS:
        spec = PathFinder.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin)
        if spec.submodule_search_locations:
            shutil.copytree(source.parent, engine / name)
        else:
            shutil.copy(source, engine)
    shutil.copy(SCRIPT, directory / "script.py")
    (directory / "work").mkdir()
    for path in (directory, directory / "work"):
        os.chown(path, USER.pw_uid, USER.pw_gid)
    yield directory
    shutil.rmtree(directory)


def run(place: Path, engines: Engines, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the other user, with the machine's own Python."""
    who = [f"--reuid={USER.pw_uid}", f"--regid={USER.pw_gid}", "--clear-groups"]
    options = ["--workDir", str(place / "work"), "--container-engine", "singularity", "--retryCount", "0"]
    return subprocess.run(
        ["setpriv", *who, "/usr/bin/python3", "script.py", "store", *options, *arguments],
        cwd=place,
        env={**engines.environment, "PYTHONPATH": str(place / "engine"), "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("python", ["py311", "py313"])
def test_jobs_of_another_user_run_in_containers(place: Path, engines: Engines, python: str) -> None:
    done = run(place, engines, "--container", engines.image("singularity", python), "--kind", "looks")
    assert done.returncode == 0, done.stderr
    seen = ast.literal_eval(done.stdout.removeprefix("result "))
    assert (seen["uid"], seen["boxed"]) == (USER.pw_uid, True)
    assert seen["python"] == [3, int(python[3:])]
    assert [name for name, writable in seen["writable"].items() if not writable] == [
        "root",
        "script",
        "engine",
    ]
    engine = SingularityEngine(os.path.join(engines.programs, "apptainer"))
    assert engine.find({STORE_LABEL: str(place / "store")}) == []
    assert os.listdir(place / "work") == []
    assert sys.prefix not in done.stderr
