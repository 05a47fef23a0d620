"""The documents are true: files, functions and links named in them exist, and the README's example runs."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.repository import ROOT, run

DOCUMENTS = [*sorted(path.name for path in ROOT.glob("*.md")), "tests/spec.md", "examples/data/README.md"]
FOLDERS = ("toilcache", "batch", "containers", "examples")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
PATH = re.compile(r"`((?:toilcache|batch|containers|examples|tests)/[\w./-]+)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def files() -> Iterator[str]:
    """Name every file of the product and the examples, from the repository's root, symlinks left aside."""
    for folder in FOLDERS:
        for place, below, names in os.walk(ROOT / folder):
            below[:] = sorted(set(below) - {"__pycache__"})
            yield from (str(Path(place, name).relative_to(ROOT)) for name in sorted(names))


def section(title: str) -> str:
    """Give the text of a chapter of ARCHITECTURE.md."""
    _, _, rest = ARCHITECTURE.partition(f"\n## {title}\n")
    assert rest, f"there is no chapter {title!r}"
    return rest.partition("\n## ")[0]


def defined(path: str) -> set[str]:
    """Name all functions and classes that a file defines."""
    nodes = list(ast.walk(ast.parse((ROOT / path).read_bytes())))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def headings(document: str) -> set[str]:
    """Give the anchors of a document's headings, as they are made on the web."""
    lines = (ROOT / document).read_text("utf-8").splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}


def python_example(document: str) -> str:
    """Give the first block of Python in a document."""
    found = re.search(
        r"^```python\n(.*?)^```$", (ROOT / document).read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert found, f"{document} has no example"
    return found[1]


def test_every_file_has_its_line() -> None:
    rooms = re.findall(r"^\| `([^`]+)` \|", section("Rooms"), re.MULTILINE)
    assert [path for path in files() if path not in rooms] == []
    assert sorted(rooms) == sorted(set(rooms)), "a file has two lines"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_is_named_exists(document: str) -> None:
    named = PATH.findall((ROOT / document).read_text("utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_function_of_the_way_is_where_it_is_said_to_be() -> None:
    rows = re.findall(r"^\|[^|]*\| `([^`]+)` \|([^|]+)\|$", section("The way of one job"), re.MULTILINE)
    assert len(rows) > 20
    missing = {path: set(re.findall(r"`(\w+)`", names)) - defined(path) for path, names in rows}
    assert {path: names for path, names in missing.items() if names} == {}


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "tests/spec.md"])
def test_every_test_that_is_named_exists(name: str) -> None:
    named = TEST.findall((ROOT / name).read_text("utf-8"))
    assert [f"{path}::{test}" for path, test in named if test not in defined(path)] == []


def test_every_invariant_has_a_test_or_comes_later() -> None:
    rows = [row.split("|") for row in section("Invariants").splitlines() if row.startswith("| I")]
    assert [row[1].strip() for row in rows] == [f"I{number}" for number in range(1, 12)]
    assert [row[1] for row in rows if not TEST.search(row[3]) and "*later*" not in row[3]] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for link in LINK.findall((ROOT / document).read_text("utf-8")):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / document).parent / path).resolve() if path else ROOT / document
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in headings(str(target.relative_to(ROOT))), link


def test_the_commands_of_the_readme_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    texts = [(ROOT / document).read_text("utf-8") for document in ("README.md", "CONTRIBUTING.md")]
    named = [name for text in texts for name in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)]
    assert "demo" in named
    assert set(named) <= targets


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    script = tmp_path / "my_workflow.py"
    script.write_text(python_example("README.md"))
    readme = (ROOT / "README.md").read_text("utf-8")
    promised = re.search(r"^\$ .venv/bin/python my_workflow.py ./store\n(.+)\n```", readme, re.MULTILINE)
    assert promised
    status, output = run([sys.executable, str(script), "./store"], cwd=tmp_path)
    assert (status, output) == (0, promised[1] + "\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_workflow.py"]


def test_what_the_readme_says_of_options_and_commands_is_so(tmp_path: Path) -> None:
    script = tmp_path / "my_workflow.py"
    script.write_text(python_example("README.md"))
    readme = (ROOT / "README.md").read_text("utf-8")
    helps = ([str(script)], ["-m", "toilcache", "node-cleanup"])
    options = "".join(run([sys.executable, *program, "--help"], cwd=tmp_path)[1] for program in helps)
    assert [flag for flag in re.findall(r"(?<![\w-])--[a-zA-Z]+", readme) if flag not in options] == []
    _, commands = run([sys.executable, "-m", "toilcache", "--help"], cwd=tmp_path)
    named = re.findall(r"^\.venv/bin/toilcache ([\w-]+)", readme, re.MULTILINE)
    assert len(named) >= 3
    assert set(named) <= set(commands.split())
