"""House rules that no tool checks: sizes, leftovers, and nothing that only exists on one machine."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.unit.repository import PRODUCT, ROOT, modules

FILE_LIMIT, TEST_FILE_LIMIT, FUNCTION_LIMIT = 400, 700, 60
LEFTOVER = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
FOLDERS = (*PRODUCT, "tests", "examples", ".ci")


def long_functions(path: Path) -> Iterator[str]:
    """Name the functions of a file that are too long."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LIMIT:
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines"


def texts() -> Iterator[tuple[Path, str]]:
    """Read every text of the repository, documents and scripts included."""
    inside = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")))
    for path in (*inside, *sorted(ROOT.iterdir())):
        if path.is_file() and "__pycache__" not in path.parts:
            try:
                yield path, path.read_text("utf-8")
            except UnicodeDecodeError:
                continue  # data of a test or an example


def test_files_have_one_purpose() -> None:
    sizes = {path: path.read_bytes().count(b"\n") for path in modules(*PRODUCT, "examples", "tests")}
    limits = {path: TEST_FILE_LIMIT if ROOT / "tests" in path.parents else FILE_LIMIT for path in sizes}
    assert [f"{path.relative_to(ROOT)}: {n} lines" for path, n in sizes.items() if n > limits[path]] == []


def test_functions_fit_on_a_page() -> None:
    assert [found for path in modules(*PRODUCT, "examples") for found in long_functions(path)] == []


def test_nothing_is_left_for_later() -> None:
    assert [f"{path}: {found[0]}" for path, text in texts() if (found := LEFTOVER.search(text))] == []


def test_no_path_of_this_machine_is_written_down() -> None:
    here = {ROOT, Path.home(), Path(sys.base_prefix).resolve()} - {Path("/usr"), Path("/usr/local")}
    paths = [re.escape(str(path)) for path in here if len(path.parts) > 2]
    assert paths, "nothing to look for"
    pattern = re.compile(rf"(?:{'|'.join(paths)})(?![\w.-])")
    assert [f"{path}: {found[0]}" for path, text in texts() if (found := pattern.search(text))] == []
