"""The engine as a user of the Slurm test-bed has it: an environment of its own in the shared directory.

Root's interpreter cannot be read by others, so Debian's is used, or the one that `SLURM_PYTHON` names. The
source is copied, as an installation would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("SLURM_PYTHON", "/usr/bin/python3"))
MAPPED = {"batch": "toilcache/batch", "containers": "toilcache/containers"}


def install_engine(place: Path) -> Path:
    """Make an environment with the engine and what it needs; return its interpreter."""
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", place], check=True)
    packages = next(place.glob("lib/python3*/site-packages"))
    ignored = shutil.ignore_patterns("__pycache__", "batch", "containers")
    shutil.copytree(ROOT / "toilcache", packages / "toilcache", ignore=ignored)
    for source, target in MAPPED.items():
        shutil.copytree(ROOT / source, packages / target, ignore=shutil.ignore_patterns("__pycache__"))
    _add_needs(packages)
    subprocess.run([place / "bin/python", "-m", "compileall", "-q", packages / "toilcache"], check=True)
    return place / "bin/python"


def _add_needs(packages: Path) -> None:
    """Of the same Python, our own environment has all that is needed; else pip brings it."""
    ours = Path(sys.prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    if ours.parent.name == packages.parent.name:
        (packages / "needs.pth").write_text(f"{ours}\n")
        return
    needs = ["cloudpickle", "docker", "filelock", "fsspec", "psutil", "rich", "sh"]
    subprocess.run([sys.executable, "-m", "pip", "-q", "install", "--target", packages, *needs], check=True)


if __name__ == "__main__":
    print(install_engine(Path(sys.argv[1])))
