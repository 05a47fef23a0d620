"""The rooms and the arrows between them: every import points downward, and a worker imports little."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.unit.repository import BIN, ROOT, modules, run

LINT = [str(BIN / "lint-imports"), "--no-cache", "--no-logo"]

# What a worker imports, directly or not, is on the way of every job.
LIGHT_MODULES = ("errors", "io", "late", "links", "node.identity", "removal", "retry", "streams", "units")
LIGHT_PACKAGES = ("file_store", "job", "job_store", "worker")
FORBIDDEN = {
    *("cloudpickle", "ctypes", "dataclasses", "docker", "filelock", "fsspec", "inspect", "json", "logging"),
    *("psutil", "random", "rich", "sh", "shutil", "sqlite3", "subprocess", "tempfile", "threading", "typing"),
    *("urllib", "uuid"),
}
IMPORT_ONE_BY_ONE = """
import sys
sys.path.insert(0, sys.argv[1])
first = {}
for name in sys.argv[2:]:
    before = set(sys.modules)
    __import__(name)
    for new in set(sys.modules) - before:
        first.setdefault(new.partition(".")[0], name)
import json
print(json.dumps(first))
"""


def import_one_by_one(names: list[str], place: Path) -> dict[str, str]:
    """Import modules in a bare interpreter, without site-packages; give who was the first to import what."""
    code, output = run([sys.executable, "-I", "-S", "-c", IMPORT_ONE_BY_ONE, str(place), *names], cwd=place)
    assert code == 0, output
    first: dict[str, str] = json.loads(output)
    return first


def light_modules() -> list[str]:
    """Name the modules that must stay light."""
    below = [path.relative_to(ROOT) for name in LIGHT_PACKAGES for path in modules(f"toilcache/{name}")]
    named = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in below]
    return ["toilcache.worker", *(f"toilcache.{name}" for name in LIGHT_MODULES), *named]


def test_every_import_points_downward() -> None:
    code, output = run(LINT, cwd=ROOT)
    assert code == 0, output


def test_a_worker_imports_only_what_is_light() -> None:
    first = import_one_by_one([name for name in light_modules() if not name.endswith("__main__")], ROOT)
    assert {heavy: first[heavy] for heavy in FORBIDDEN & set(first)} == {}


def test_importing_the_package_imports_nothing_else() -> None:
    assert set(import_one_by_one(["toilcache"], ROOT)) <= {"toilcache", "__future__"}


@pytest.mark.parametrize("heavy", sorted(FORBIDDEN & sys.stdlib_module_names))
def test_a_heavy_import_is_seen(heavy: str, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(f"import {heavy}\n")
    assert import_one_by_one(["planted"], tmp_path)[heavy] == "planted"
