"""The project's own images: built from a wheel, run without privileges, lead a workflow and run its jobs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.fixtures import Engines
from tests.unit.repository import ROOT
from toilcache import __version__

pytestmark = [pytest.mark.real, pytest.mark.slow]
PATIENCE = 900.0
TAG = "toilcache-of-the-tests"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What of the repository the images are made of, links as they are, in a tree of its own."""
    copy = tmp_path / "the source"
    copy.mkdir()
    for name in ("toilcache", "batch", "containers"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "Dockerfile", ".dockerignore", "Singularity.def"):
        shutil.copy(ROOT / name, copy)
    return copy


def run(engines: Engines, *argv: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, **engines.environment, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture
def docker_image(engines: Engines, source: Path) -> Iterator[str]:
    """The image of the Dockerfile, on the test-bed's base."""
    run(
        engines,
        *("docker", "build", "--network", "host", "--build-arg", f"BASE={engines.image('docker')}"),
        *("--tag", TAG, "."),
        cwd=source,
        DOCKER_BUILDKIT="0",
    )
    yield TAG
    run(engines, "docker", "image", "rm", "--force", TAG, cwd=source)


def test_the_image_of_docker(engines: Engines, docker_image: str, source: Path) -> None:
    box = ("docker", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp:mode=1777")
    assert run(engines, *box, docker_image, "--version", cwd=source) == f"toilcache {__version__}\n"
    who = run(engines, *box, "--entrypoint", "id", docker_image, "-u", cwd=source)
    assert who == "1000\n"
    examples = ("--mount", f"type=bind,source={ROOT}/examples,target=/examples,readonly")
    hello = ("--entrypoint", "python3", docker_image, "/examples/hello.py", "/tmp/store")
    assert run(engines, *box, *examples, *hello, cwd=source) == "sum of squares: 285\n"


def test_the_image_of_apptainer(engines: Engines, source: Path) -> None:
    wheels = (
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        "dist",
        ".",
    )
    run(engines, sys.executable, *wheels, cwd=source)
    base = ("--build-arg", "bootstrap=localimage", "--build-arg", f"base={engines.image('singularity')}")
    fast = ("--mksquashfs-args", "-comp zstd -Xcompression-level 1")
    work = {"APPTAINER_CACHEDIR": str(source / "cache"), "APPTAINER_TMPDIR": str(source)}
    build = ("apptainer", "--quiet", "build", "--fakeroot", *base, *fast, "own.sif", "Singularity.def")
    run(engines, *build, cwd=source, **work)
    box = ("--containall", "--no-privs", "--bind", f"{ROOT}/examples:/examples:ro", "own.sif")
    assert (
        run(engines, "apptainer", "-q", "run", *box, "--version", cwd=source) == f"toilcache {__version__}\n"
    )
    hello = ("python3", "/examples/hello.py", "/tmp/store")
    assert run(engines, "apptainer", "-q", "exec", *box, *hello, cwd=source) == "sum of squares: 285\n"
