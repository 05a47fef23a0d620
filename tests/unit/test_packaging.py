"""The package map, the symlinks and the folders say the same, and what is built from them is whole."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.unit.repository import PRODUCT, ROOT, copy_product, modules, pyproject, run

MAPPED = {"toilcache.batch": "batch", "toilcache.containers": "containers"}
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]), file=sys.stderr)
"""


def setuptools_table() -> Any:
    tool: Any = pyproject()["tool"]
    return tool["setuptools"]


def installed_names() -> set[str]:
    """Name every module as it is installed: batch/local.py is toilcache/batch/local.py."""
    names = {path.relative_to(ROOT).as_posix() for path in modules(*PRODUCT)}
    return {name if name.startswith("toilcache/") else f"toilcache/{name}" for name in names}


def test_every_folder_is_a_package_of_pyproject() -> None:
    folders = {Path(name).parent.as_posix().replace("/", ".") for name in installed_names()}
    assert sorted(setuptools_table()["packages"]) == sorted(folders)


def test_every_package_has_an_init() -> None:
    folders = {Path(name).parent for name in installed_names()}
    assert {folder / "__init__.py" for folder in folders} <= {Path(name) for name in installed_names()}


def test_package_dir_and_symlinks_agree() -> None:
    mapped = {
        name: folder for name, folder in setuptools_table()["package-dir"].items() if name != "toilcache"
    }
    assert mapped == MAPPED
    for package, folder in mapped.items():
        link = ROOT / package.replace(".", "/")
        assert os.readlink(link) == f"../{folder}"
        assert link.resolve() == ROOT / folder


def test_every_symlink_resolves_inside_the_repository() -> None:
    for place, below, names in os.walk(ROOT):
        below[:] = [name for name in below if not name.startswith((".venv", ".git", ".cache"))]
        for path in (Path(place, name) for name in [*below, *names]):
            if path.is_symlink():
                assert path.exists(), f"{path} points nowhere"
                assert path.resolve().is_relative_to(ROOT)
                assert not os.readlink(path).startswith("/")


def build(kind: str, source: Path, destination: Path) -> Path:
    destination.mkdir(exist_ok=True)
    code, output = run([sys.executable, "-c", BUILD, f"build_{kind}", str(destination)], cwd=source)
    assert code == 0, output
    (built,) = destination.iterdir()
    return built


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the sdist from the repository, and the wheel from the unpacked sdist."""
    place = tmp_path_factory.mktemp("build")
    sdist = build("sdist", copy_product(place / "a clone"), place / "sdist")
    (place / "unpacked").mkdir()
    subprocess.run(["tar", "-xzf", sdist, "-C", place / "unpacked"], check=True)
    (source,) = (place / "unpacked").iterdir()
    return sdist, build("wheel", source, place / "wheel")


@pytest.fixture(scope="module")
def wheel_names(built: tuple[Path, Path]) -> list[str]:
    with zipfile.ZipFile(built[1]) as archive:
        return archive.namelist()


def test_sdist_has_each_file_once(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    sources = [name for name in names if name.endswith(".py")]
    assert sorted(sources) == sorted(path.relative_to(ROOT).as_posix() for path in modules(*PRODUCT))


def test_wheel_has_each_module_once_under_toilcache(wheel_names: list[str]) -> None:
    assert sorted(name for name in wheel_names if name.endswith(".py")) == sorted(installed_names())
    assert wheel_names.count("toilcache/batch/__init__.py") == 1
    assert wheel_names.count("toilcache/containers/__init__.py") == 1


def test_wheel_puts_nothing_beside_toilcache(wheel_names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"toilcache"}
    assert "toilcache/py.typed" in wheel_names


def test_the_wheel_installs_and_imports(built: tuple[Path, Path], tmp_path: Path) -> None:
    place = tmp_path / "scratch"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = str(place / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    code, output = run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(built[1])], cwd=tmp_path)
    assert code == 0, output
    imports = "import toilcache.batch, toilcache.containers; print(toilcache.batch.__file__)"
    code, output = run([python, "-c", imports], cwd=tmp_path)
    assert (code, Path(output.strip()).parts[-3:]) == (0, ("toilcache", "batch", "__init__.py")), output
    assert output.startswith(str(place))
    assert run([python, "-c", "import batch"], cwd=tmp_path)[0] == 1
    assert os.access(place / "bin" / "toilcache", os.X_OK)


def test_find_python_passes_over_what_does_not_run(tmp_path: Path) -> None:
    shim, bare = tmp_path / "a shim", tmp_path / "without venv"
    shim.write_text("#!/bin/sh\necho 'no such version' >&2\nexit 127\n")
    bare.write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\necho 3.11\n')
    for path in (shim, bare):
        path.chmod(0o755)
    finder = str(ROOT / ".ci" / "find-python")
    assert run([finder, str(shim), "absent", sys.executable], cwd=tmp_path) == (0, f"{sys.executable}\n")
    code, output = run([finder, str(shim), str(bare)], cwd=tmp_path)
    assert code == 1
    assert output.endswith("run: apt-get install python3.11-venv\n")
    assert output.count("\n") == 1
    code, output = run([finder, str(shim)], cwd=tmp_path)
    assert code == 1
    assert output.endswith("run: apt-get install python3 python3-venv\n")
    assert output.count("\n") == 1


def test_make_refuses_other_systems_in_one_line(tmp_path: Path) -> None:
    code, output = run(
        ["make", "-C", str(ROOT), "--no-print-directory", "UNAME=Darwin", "demo"], cwd=tmp_path
    )
    assert code == 2
    assert "Linux only" in output
    assert output.count("\n") == 1
