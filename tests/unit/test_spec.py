"""The public names are those of the specification, and the table of its promises names tests that exist.

`tests/data/api.json` lists every name of the specification's page: its holder (a class, null for the module),
kind, parameters, and the line of the page.
"""

from __future__ import annotations

import ast
import inspect
import json
import logging
import re
from functools import cached_property
from typing import Any

import pytest

import toilcache
from tests.unit.repository import ROOT
from toilcache.late import late

API: list[dict[str, Any]] = json.loads((ROOT / "tests" / "data" / "api.json").read_text("utf-8"))

# Public names whose place in the package is not `toilcache` itself.
ELSEWHERE = {"retry": "toilcache.retry:retry"}

# Named by the page without a description, or whose heading the page lost.
ALSO = (ROOT / "tests" / "data" / "api-also.txt").read_text("utf-8").split()

OLD_SPELLINGS = {
    "writeConfig": "write_config",
    "loadRootJob": "load_root_job",
    "getRootJobReturnValue": "get_root_job_return_value",
    "getEnv": "get_env",
    "exists": "job_exists",
    "getPublicUrl": "get_public_url",
    "load": "load_job",
    "delete": "delete_job",
    "writeFile": "write_file",
    "writeFileStream": "write_file_stream",
    "getEmptyFileStoreID": "get_empty_file_store_id",
    "readFile": "read_file",
    "readFileStream": "read_file_stream",
    "deleteFile": "delete_file",
    "fileExists": "file_exists",
    "getFileSize": "get_file_size",
    "updateFileStream": "update_file_stream",
    "readStatsAndLogging": "read_logs",
}


def full_name(entry: dict[str, Any]) -> str:
    return f"{entry['holder']}.{entry['name']}" if entry["holder"] else str(entry["name"])


CALLABLE = [entry for entry in API if entry["kind"] not in ("property", "attribute")]
DEPRECATED = [entry for entry in API if "deprecated_for" in entry]


def find(name: str) -> Any:
    """Look a name up as a person would, from the package downward."""
    top, _, rest = name.partition(".")
    value = late(ELSEWHERE.get(top, f"toilcache:{top}"))
    for part in filter(None, rest.split(".")):
        value = getattr(value, part)
    return value


def find_static(entry: dict[str, Any]) -> Any:
    """Look a class's own attribute up without binding it."""
    return inspect.getattr_static(find(entry["holder"]), entry["name"])


def wanted_default(text: str) -> Any:
    return logging.INFO if text == "logging.INFO" else ast.literal_eval(text)


def wanted_parameter(text: str) -> tuple[str, Any]:
    """Read `name`, `name=default`, `*name` or `**name`."""
    name, separator, default = text.partition("=")
    return name, wanted_default(default) if separator else inspect.Parameter.empty


def parameters_of(entry: dict[str, Any]) -> list[inspect.Parameter]:
    """List the parameters a caller gives, without self."""
    parameters = list(inspect.signature(find(full_name(entry))).parameters.values())
    plain = entry["kind"] in ("method", "abstract") and entry["holder"] is not None
    return parameters[1:] if plain else parameters


def shown(parameter: inspect.Parameter) -> tuple[str, Any]:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return stars.get(parameter.kind, "") + parameter.name, parameter.default


@pytest.mark.parametrize("entry", CALLABLE, ids=full_name)
def test_parameters_and_defaults(entry: dict[str, Any]) -> None:
    wanted = [wanted_parameter(text) for text in entry["params"]]
    found = parameters_of(entry)
    assert [shown(parameter) for parameter in found[: len(wanted)]] == wanted
    further = [
        parameter for parameter in found[len(wanted) :] if parameter.default is inspect.Parameter.empty
    ]
    assert all(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in further)


KINDS = {
    "property": (property, cached_property),
    "static": (staticmethod,),
    "classmethod": (classmethod,),
}


@pytest.mark.parametrize("entry", [entry for entry in API if entry["kind"] in KINDS], ids=full_name)
def test_kinds(entry: dict[str, Any]) -> None:
    assert isinstance(find_static(entry), KINDS[entry["kind"]])


@pytest.mark.parametrize("entry", [entry for entry in API if entry["kind"] == "attribute"], ids=full_name)
def test_attributes(entry: dict[str, Any]) -> None:
    value = find(full_name(entry))
    assert value == entry.get("value", value)


@pytest.mark.parametrize("entry", [entry for entry in API if entry.get("bases")], ids=full_name)
def test_bases(entry: dict[str, Any]) -> None:
    above = {base.__name__ for base in find(full_name(entry)).__mro__}
    assert {name.rpartition(".")[2] for name in entry["bases"]} <= above


@pytest.mark.parametrize("name", ALSO)
def test_names_without_a_description(name: str) -> None:
    holder, _, attribute = name.rpartition(".")
    names = dir(find(holder)) + sorted(inspect.get_annotations(find(holder))) if holder else dir(toilcache)
    assert attribute in names


@pytest.mark.parametrize("entry", DEPRECATED, ids=full_name)
def test_old_spellings_are_marked(entry: dict[str, Any]) -> None:
    old, new = find_static(entry), entry["deprecated_for"]
    assert new in getattr(old, "__func__", old).__deprecated__
    assert hasattr(find(entry["holder"]), new)


@pytest.mark.parametrize("old", OLD_SPELLINGS)
def test_old_spellings_whose_heading_was_lost_are_marked(old: str) -> None:
    function = inspect.getattr_static(find("AbstractJobStore"), old)
    assert OLD_SPELLINGS[old] in getattr(function, "__func__", function).__deprecated__


def test_both_lists_of_public_names_agree() -> None:
    tree = ast.parse((ROOT / "toilcache" / "__init__.py").read_bytes())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    typed = {
        alias.name: node.module.removeprefix("toilcache.")
        for node in imports
        for alias in node.names
        if node.module and alias.asname == alias.name
    }
    assert typed == toilcache._HOME_OF


@pytest.mark.parametrize("name", sorted(toilcache._HOME_OF))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(toilcache, name) is toilcache.__dict__[name]
    assert name in dir(toilcache)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Tool'"):
        toilcache.Tool  # type: ignore[attr-defined]  # noqa: B018


ROW = re.compile(r"^\| (?P<lines>[\d, -]+) \| (?P<promise>.+) \| `?(?P<test>[^`|]+?)`? \|$")


def spec_rows() -> list[str]:
    lines = (ROOT / "tests" / "spec.md").read_text("utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    return rows[2:]


def names_of_tests(path: str) -> set[str]:
    """Name the tests of a file as pytest does, without parameters."""
    names: set[str] = set()
    for node in ast.parse((ROOT / path).read_bytes()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names.update(f"{node.name}::{f.name}" for f in node.body if isinstance(f, ast.FunctionDef))
    return names


@pytest.mark.parametrize("row", spec_rows())
def test_every_row_names_a_test_that_exists(row: str) -> None:
    match = ROW.match(row)
    assert match, "a row is: | lines | promise | tests/path.py::test |"
    for named in re.split(r", |<br>", match["test"]):
        path, _, test = named.strip("` ").partition("::")
        assert test.partition("[")[0] in names_of_tests(path), f"{named} does not exist"
