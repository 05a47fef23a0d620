"""Small promises of public names that no other test keeps; and every built name has a row in the table."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.job_stores import KINDS, Bench
from tests.unit import test_spec as spec
from tests.unit.repository import run
from toilcache import AbstractFileStore, AbstractJobStore, Job, runner

WHOLE_PAGE = 100
"""A row of more lines than this is about names as such and says nothing of a single one."""


def rows() -> list[tuple[int, int]]:
    """Give the first and last line of each range that a row is about."""
    matches = [spec.ROW.match(row) for row in spec.spec_rows()]
    parts = [part.strip().split("-") for match in matches if match for part in match["lines"].split(",")]
    return [(int(part[0]), int(part[-1])) for part in parts if int(part[-1]) - int(part[0]) <= WHOLE_PAGE]


def test_every_built_name_has_a_row() -> None:
    """A row within the lines from the name's heading to the next one."""
    starts = sorted({int(entry["line"]) for entry in spec.API} | {10**6})
    ranges = rows()
    missing = []
    for entry in spec.API:
        first = int(entry["line"])
        after = next(start for start in starts if start > first)
        if not any(begin < after and end >= first for begin, end in ranges):
            missing.append(f"{first} {spec.full_name(entry)}")
    assert missing == []


def test_the_rows_are_in_the_order_of_the_page() -> None:
    numbers = [[int(number) for number in re.findall(r"\d+", row.split("|")[1])] for row in spec.spec_rows()]
    assert numbers == sorted(numbers, key=lambda row: (row[0], row[-1]))


# Job.Runner


def test_default_options_are_those_of_a_command_line_with_a_job_store_only(tmp_path: Path) -> None:
    store = str(tmp_path / "a store")
    for as_flag in (False, True):
        parser = Job.Runner.getDefaultArgumentParser(jobstore_as_flag=as_flag)
        given = parser.parse_args(["--jobStore", store] if as_flag else [store])
        assert Job.Runner.getDefaultOptions(store, jobstore_as_flag=as_flag) == given
        assert given.jobStore == store
    assert Job.Runner.getDefaultOptions(jobstore_as_flag=True).jobStore is None


def test_the_job_store_is_an_argument_or_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Job.Runner.getDefaultArgumentParser().parse_args([])
    assert "JOBSTORE" in capsys.readouterr().err
    parser = argparse.ArgumentParser()
    Job.Runner.addToilOptions(parser, jobstore_as_flag=True)
    assert parser.parse_args([]).jobStore is None


class RecordedToil:
    """Stands in for a workflow: notes what is asked of it."""

    asked: tuple[Any, ...]

    def __init__(self, options: argparse.Namespace) -> None:
        self.config = options

    def __enter__(self) -> RecordedToil:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, job: Job) -> str:
        type(self).asked = ("start", job)
        return "started"

    def restart(self) -> str:
        type(self).asked = ("restart",)
        return "restarted"


def test_start_toil_starts_or_restarts_and_returns_the_roots_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Toil", RecordedToil)
    job = Job()
    assert Job.Runner.startToil(job, argparse.Namespace(restart=False)) == "started"
    assert RecordedToil.asked == ("start", job)
    assert Job.Runner.startToil(job, argparse.Namespace(restart=True)) == "restarted"
    assert RecordedToil.asked == ("restart",)


# Stores


@pytest.mark.parametrize("kind", [AbstractJobStore, AbstractFileStore])
def test_the_abstract_stores_cannot_be_made(kind: Any) -> None:
    with pytest.raises(TypeError, match="abstract"):
        kind(*["argument"] * (1 if kind is AbstractJobStore else 4))


@pytest.mark.parametrize("kind", KINDS)
def test_the_roots_id_is_in_the_shared_file_of_its_name(kind: str, tmp_path: Path) -> None:
    store = Bench(kind, tmp_path).store
    store.set_root_job("0123456789abcdef")
    with store.read_shared_file_stream(store.rootJobStoreIDFileName) as stream:
        assert stream.read() == b"0123456789abcdef"


DEFERRING = """
from toilcache import Job

def note(path, text):
    with open(path, "a") as stream:
        stream.write(text)

def root(job, path, fails):
    job.defer(note, path, "called second;")
    job.defer(note, path, text="called first;")
    note(path, "ran;")
    if fails:
        raise ValueError

if __name__ == "__main__":
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("path")
    parser.add_argument("fails", nargs="?")
    options = parser.parse_args()
    Job.Runner.startToil(Job.wrapJobFn(root, options.path, options.fails), options)
"""


@pytest.mark.parametrize("fails", [False, True])
def test_deferred_functions_are_called_when_the_attempt_is_over(tmp_path: Path, fails: bool) -> None:
    (tmp_path / "script.py").write_text(DEFERRING)
    notes = tmp_path / "notes"
    argv = [
        sys.executable,
        "script.py",
        "store",
        str(notes),
        *(["yes"] if fails else []),
        "--retryCount",
        "0",
    ]
    assert run(argv, cwd=tmp_path)[0] == int(fails)
    assert notes.read_text() == "ran;called first;called second;"
