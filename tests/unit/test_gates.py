"""The gates themselves: each is shown a fault and must be red, under this repository's own settings."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.unit.repository import BIN, ROOT, bare_layers, bare_product, run

RUFF = [str(BIN / "ruff"), "check", "--no-cache", "--output-format", "concise", "."]
LINT = [str(BIN / "lint-imports"), "--no-cache", "--no-logo"]
AGAINST_THE_LAYERS = {
    "upward, from the bottom": ("toilcache/errors.py", "import toilcache.cli"),
    "upward, inside a function": ("toilcache/errors.py", "def f():\n    import toilcache.job"),
    "upward, through a symlink": ("batch/planted.py", "import toilcache.leader"),
    "the reverse of batch to containers": ("containers/planted.py", "import toilcache.batch"),
    "worker to leader": ("toilcache/worker/planted.py", "import toilcache.leader"),
    "leader to worker": ("toilcache/leader/planted.py", "from toilcache.worker import __doc__"),
    "a module on no line": ("toilcache/planted.py", ""),
    "a circle on one line": ("toilcache/io.py", "import toilcache.retry"),
    "a circle in a package": ("toilcache/job/one.py", "import toilcache.job.two"),
}


def test_mypy_sees_a_type_error_once_and_through_the_symlink(tmp_path: Path) -> None:
    place = bare_product(tmp_path)
    (place / "batch" / "planted.py").write_text('"""Planted."""\n\nnumber: int = "text"\n')
    code, output = run([sys.executable, "-m", "mypy"], cwd=place)
    assert code == 1
    assert output.count("[assignment]") == 1
    assert "toilcache/batch/planted.py:3" in output


def test_mypy_asks_for_types(tmp_path: Path) -> None:
    place = bare_product(tmp_path)
    (place / "toilcache" / "planted.py").write_text('"""Planted."""\n\n\ndef untyped(x):\n    return x\n')
    code, output = run([sys.executable, "-m", "mypy"], cwd=place)
    assert code == 1
    assert "[no-untyped-def]" in output


def plant(place: Path, module: str, text: str) -> None:
    with (place / module).open("a") as file:
        file.write(f"{text}\n")


@pytest.mark.parametrize("fault", AGAINST_THE_LAYERS)
def test_an_import_against_the_layers_is_seen(fault: str, tmp_path: Path) -> None:
    place = bare_layers(tmp_path)
    plant(place, "toilcache/retry.py", "import toilcache.io" if "one line" in fault else "")
    plant(place, "toilcache/job/two.py", "import toilcache.job.one" if "a package" in fault else "")
    code, output = run(LINT, cwd=place)
    assert code == 0, output
    plant(place, *AGAINST_THE_LAYERS[fault])
    code, output = run(LINT, cwd=place)
    assert code == 1, output
    assert "BROKEN" in output


def test_an_upward_import_of_types_is_no_fault(tmp_path: Path) -> None:
    place = bare_layers(tmp_path)
    plant(place, "toilcache/errors.py", "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import toilcache.cli")
    assert run(LINT, cwd=place)[0] == 0


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("import batch", "TID251"),
        ("from containers import x", "TID251"),
        ("from . import x", "TID252"),
        ("import os", "F401"),
    ],
)
def test_ruff_sees_a_forbidden_import(line: str, rule: str, tmp_path: Path) -> None:
    place = bare_product(tmp_path)
    (place / "batch" / "planted.py").write_text(f'"""Planted."""\n\n{line}\n')
    code, output = run(RUFF, cwd=place)
    assert code == 1
    assert rule in output


def run_planted_tests(place: Path, text: str, *options: str, **environment: str) -> tuple[int, list[str]]:
    """Run tests under copies of our settings and conftest.py; give the exit code and the lines printed."""
    bare_product(place)
    (place / "tests").mkdir()
    for name in ("__init__.py", "conftest.py"):
        shutil.copy(ROOT / "tests" / name, place / "tests")
    shutil.copytree(ROOT / "tests" / "testbed", place / "tests" / "testbed")
    (place / "tests" / "test_planted.py").write_text(text)
    (place / "temporary").mkdir()
    environment["TMPDIR"] = str(place / "temporary")
    code, output = run([sys.executable, "-m", "pytest", *options], cwd=place, **environment)
    return code, output.splitlines()


def test_a_warning_is_an_error(tmp_path: Path) -> None:
    text = "import warnings\n\n\ndef test_it():\n    warnings.warn('planted', UserWarning)\n"
    code, lines = run_planted_tests(tmp_path, text)
    assert code == 1
    assert "1 failed" in lines[-1]


@pytest.mark.parametrize(("verdict", "kept"), [("True", 0), ("False", 1)])
def test_temporary_files_are_kept_for_a_look_only_after_a_failure(
    verdict: str, kept: int, tmp_path: Path
) -> None:
    text = f"def test_it(tmp_path):\n    (tmp_path / 'file').touch()\n    assert {verdict}\n"
    code, lines = run_planted_tests(tmp_path, text)
    assert code == kept
    left = list((tmp_path / "temporary").iterdir())
    assert [line for line in lines if line.startswith("kept")] == [f"kept for a look: {p}" for p in left]
    assert len(left) == kept


LEFT_OPEN = """
import os

import pytest


@pytest.fixture(scope="module")
def shared():
    reader, writer = os.pipe()
    yield
    os.close(reader)
    os.close(writer)


def test_shares(shared):
    os.close(os.open("/", os.O_RDONLY))


def test_leaves():
    os.open("/", os.O_RDONLY)


@pytest.mark.descriptors(1)
def test_says_so():
    os.open("/", os.O_RDONLY)


def test_fails():
    file = open(os.devnull)
    assert file.closed


def test_leaves_it_to_the_collector():
    circle = [open(os.devnull)]
    circle.append(circle)
"""


def test_a_descriptor_left_open_is_an_error(tmp_path: Path) -> None:
    code, lines = run_planted_tests(tmp_path, LEFT_OPEN, "-W", "ignore::ResourceWarning")
    assert code == 1
    assert "1 failed, 4 passed, 1 error" in lines[-1], "\n".join(lines)
    [error] = [line for line in lines if line.startswith("ERROR")]
    # Where CI is set pytest does not cut the line.
    assert error.startswith("ERROR tests/test_planted.py::test_leaves - AssertionError: left open by the t")


def test_processes_that_share_the_tests_say_what_they_left_out(tmp_path: Path) -> None:
    code, lines = run_planted_tests(tmp_path, REAL, "-n", "2", "--dist", "loadgroup", TESTBED="0")
    assert code == 0, "\n".join(lines)
    assert "1 passed, 1 skipped, 1 deselected" in lines[-1]
    assert lines[-3] == "did not run: 1 test (left out by -m 'not soak' or -k '')"


def test_what_shares_an_engine_runs_in_one_process(tmp_path: Path) -> None:
    options = ("-n", "3", "--dist", "loadgroup")
    code, lines = run_planted_tests(tmp_path, SHARED, *options, SEEN=str(tmp_path / "seen"))
    assert code == 0, "\n".join(lines)
    assert len(set((tmp_path / "seen").read_text().split())) == 1


def test_an_unknown_mark_is_an_error(tmp_path: Path) -> None:
    code, lines = run_planted_tests(
        tmp_path, "import pytest\n\n\n@pytest.mark.reel\ndef test_it():\n    pass\n"
    )
    assert code != 0
    assert "reel" in "\n".join(lines)


SHARED = """
import os

import pytest


@pytest.mark.parametrize("number", [f"real {number}" for number in range(12)])
def test_engine(number):
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(f"{os.getpid()}\\n")
"""

REAL = """
import os

import pytest


@pytest.mark.real
def test_engine():
    pytest.skip("no engine")


@pytest.mark.soak
def test_long():
    pass


def test_settings(monkeypatch):
    assert "TOILCACHE_WORK_DIR" not in os.environ
"""


def test_what_did_not_run_is_said_before_the_last_line(tmp_path: Path) -> None:
    code, lines = run_planted_tests(tmp_path, REAL, TESTBED="0", TOILCACHE_WORK_DIR="/nowhere")
    assert code == 0, "\n".join(lines)
    assert "1 passed, 1 skipped, 1 deselected" in lines[-1]
    assert lines[-3:-1] == [
        "did not run: 1 test (left out by -m 'not soak' or -k '')",
        "did not run: 1 test (real engines are brought up under TESTBED=1 only)",
    ]


def test_a_skipped_real_test_fails_on_the_test_bed(tmp_path: Path) -> None:
    code, lines = run_planted_tests(tmp_path, REAL, TESTBED="1")
    assert code == 1
    assert "1 failed, 1 passed, 1 deselected" in lines[-1]


@pytest.mark.parametrize(("testbed", "code"), [("0", 0), ("1", 1)])
def test_any_skipped_test_fails_on_the_test_bed(testbed: str, code: int, tmp_path: Path) -> None:
    text = "import pytest\n\n\ndef test_disk():\n    pytest.skip('may not mount here')\n"
    found, lines = run_planted_tests(tmp_path, text, TESTBED=testbed)
    assert found == code, "\n".join(lines)
    assert any("skipped under TESTBED=1: may not mount here" in line for line in lines) == (code == 1)


def test_coverage_follows_the_symlinks(tmp_path: Path) -> None:
    text = "import toilcache.batch.planted\n\n\ndef test_it():\n    assert toilcache.batch.planted.x\n"
    bare_product(tmp_path / "product")
    (tmp_path / "product" / "batch" / "planted.py").write_text("x = 1\nif x == 2:\n    x = 3\n")
    (tmp_path / "product" / "tests").mkdir()
    (tmp_path / "product" / "tests" / "test_planted.py").write_text(text)
    argv = [sys.executable, "-m", "pytest", "--cov", "--cov-report=term"]
    code, output = run(argv, cwd=tmp_path / "product", PYTHONPATH=str(tmp_path / "product"))
    assert code == 0, output
    (line,) = [line for line in output.splitlines() if line.startswith("batch/planted.py")]
    assert line.split()[1:5] == ["3", "1", "2", "1"]
