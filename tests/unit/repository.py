"""Where the repository's own files are, and copies of it to break: shared by the tests of the gates."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent.parent
PRODUCT = ("toilcache", "batch", "containers")
BIN = Path(sys.executable).parent


def pyproject() -> dict[str, dict[str, object]]:
    """Read pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def modules(*folders: str, base: Path = ROOT) -> Iterator[Path]:
    """Find the Python files below folders of the repository, without following symlinks."""
    for folder in folders:
        for place, below, names in os.walk(base / folder):
            below[:] = sorted(set(below) - {"__pycache__"})
            yield from (Path(place, name) for name in sorted(names) if name.endswith(".py"))


def copy_product(destination: Path) -> Path:
    """Copy what is installed, with pyproject.toml and the symlinks, to a place where it may be broken."""
    destination.mkdir(parents=True)
    for folder in PRODUCT:
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, destination / folder, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, destination)
    return destination


def bare_product(destination: Path) -> Path:
    """Make the product's shape without its content: enough for a tool that reads pyproject.toml, and fast."""
    for folder in PRODUCT:
        (destination / folder).mkdir(parents=True)
        (destination / folder / "__init__.py").write_text('"""Planted."""\n')
    for name in ("batch", "containers"):
        (destination / "toilcache" / name).symlink_to(f"../{name}")
    shutil.copy(ROOT / "pyproject.toml", destination)
    return destination


def bare_layers(destination: Path) -> Path:
    """Make the product's shape with an empty module for each name in the layer contract."""
    place = bare_product(destination)
    for name in layer_names():
        if (ROOT / "toilcache" / name).is_dir():
            (place / "toilcache" / name).mkdir(exist_ok=True)
            (place / "toilcache" / name / "__init__.py").touch()
        else:
            (place / "toilcache" / f"{name}.py").touch()
    return place


def layer_names() -> list[str]:
    """Name every module and package in the layer contract, from the top down."""
    tool: Any = pyproject()["tool"]
    (contract,) = [found for found in tool["importlinter"]["contracts"] if found["id"] == "layers"]
    return [name for line in contract["layers"] for name in re.findall(r"\w+", line)]


def run(argv: list[str], cwd: Path, **environment: str) -> tuple[int, str]:
    """Run a tool of the virtual environment and give its exit code and all it said."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("COV_", "COVERAGE_", "MAKE", "MFLAGS", "PYTEST_", "PYTHON"))
    }
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout
