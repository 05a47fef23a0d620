"""The job functions of the examples, driven without an engine: what they read, write, add and return."""

from __future__ import annotations

import argparse
import random
import re
import runpy
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toilcache

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HOSTILE = "-o 'b' \"c\"\nd é " + "x" * 150


class FakeFileStore:
    """Global files in a directory: ids are names that say nothing of the file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reads: list[str] = []

    def _fresh(self, kind: str) -> Path:
        return self.directory / f"{kind} {len(list(self.directory.iterdir()))}"

    def getLocalTempFile(self) -> str:
        path = self._fresh("temp")
        path.touch()
        return str(path)

    def writeGlobalFile(self, path: str) -> str:
        stored = self._fresh("global")
        shutil.copyfile(path, stored)
        return stored.name

    def readGlobalFile(self, file_id: str) -> str:
        self.reads.append(file_id)
        copy = self._fresh("copy")
        shutil.copyfile(self.directory / file_id, copy)
        return str(copy)


class FakeJob:
    """Runs each added function at once, so that a promise is the value itself."""

    ran: list[str]
    fileStore: FakeFileStore

    class Runner:
        @staticmethod
        def getDefaultArgumentParser(jobstore_as_flag: bool = False) -> argparse.ArgumentParser:
            parser = argparse.ArgumentParser()
            parser.add_argument("--jobStore" if jobstore_as_flag else "jobStore")
            parser.add_argument("--restart", action="store_true")
            return parser

    def __init__(self, function: Callable[..., Any], *args: Any, with_job: bool = True) -> None:
        self.function, self.args, self.with_job = function, args, with_job
        self.value: Any = None

    def run(self) -> FakeJob:
        FakeJob.ran.append(self.function.__name__)
        self.value = self.function(self, *self.args) if self.with_job else self.function(*self.args)
        return self

    def addChildJobFn(self, function: Callable[..., Any], *args: Any, **needs: Any) -> FakeJob:
        return FakeJob(function, *args).run()

    def addChildFn(self, function: Callable[..., Any], *args: Any, **needs: Any) -> FakeJob:
        return FakeJob(function, *args, with_job=False).run()

    addFollowOnJobFn = addChildJobFn
    addFollowOnFn = addChildFn

    @staticmethod
    def wrapJobFn(function: Callable[..., Any], *args: Any, **needs: Any) -> FakeJob:
        return FakeJob(function, *args)

    def rv(self) -> Any:
        return self.value


class FakeToil:
    """Runs the root job; a restart answers what the last start left."""

    stores: list[str]
    result: Any = None

    def __init__(self, options: argparse.Namespace) -> None:
        assert Path(options.jobStore).parent.is_dir()
        FakeToil.stores.append(options.jobStore)

    def __enter__(self) -> FakeToil:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def import_file(self, source: str) -> str:
        return FakeJob.fileStore.writeGlobalFile(source)

    def export_file(self, file_id: str, destination: str) -> None:
        assert Path(destination).is_absolute()
        shutil.copyfile(FakeJob.fileStore.directory / file_id, destination)

    def start(self, root: FakeJob) -> Any:
        FakeToil.result = root.run().value
        return FakeToil.result

    def restart(self) -> Any:
        return FakeToil.result


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / HOSTILE
    directory.mkdir()
    monkeypatch.setattr(FakeJob, "ran", [], raising=False)
    monkeypatch.setattr(FakeJob, "fileStore", FakeFileStore(directory), raising=False)
    monkeypatch.setattr(FakeToil, "stores", [], raising=False)
    monkeypatch.setattr(toilcache, "Job", FakeJob, raising=False)
    monkeypatch.setattr(toilcache, "Toil", FakeToil, raising=False)
    monkeypatch.syspath_prepend(str(EXAMPLES))


def run_example(name: str, *argv: str) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *argv])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """Options for 40 pairs of a random genome; every fourth second mate is junk, one answer is far off."""
    rng = random.Random(5)
    genome = "".join(rng.choices("ACGT", k=3000))
    mates: tuple[list[str], list[str]] = ([], [])
    answers = ["read\tmate\tstrand\tposition\tmapq\n"]
    for number in range(40):
        start = 50 * number
        junk = "".join(rng.choices("ACGT", k=80)) if number % 4 == 0 else None
        end = genome[start + 200 : start + 280].translate(str.maketrans("ACGT", "TGCA"))[::-1]
        mates[0].append(f"@r{number}/1\n{genome[start : start + 80]}\n+\n{'I' * 80}\n")
        mates[1].append(f"@r{number}/2\n{junk or end}\n+\n{'I' * 80}\n")
        answers.append(f"r{number}\t1\t+\t{start + (12 if number == 7 else 1)}\t42\n")
        answers.append(f"r{number}\t2\t-\t{0 if junk else start + 201}\t42\n")
    texts = {"genome": [">g\n", genome], "reads1": mates[0], "reads2": mates[1], "answers": answers}
    for name, lines in texts.items():
        (tmp_path / name).write_text("".join(lines))
    return [word for name in texts for word in (f"--{name}", str(tmp_path / name))]


LINE = re.compile(r"aligned 70 of 80 mates; 69 within 10 bases of bowtie2; (\d+) jobs in \d+\.\d s\n")


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("parts", [None, 1, 8, 50])
def test_the_last_line_counts_mates_and_jobs(
    small: list[str], capsys: pytest.CaptureFixture[str], parts: int | None
) -> None:
    run_example("demo.py", *small, *([] if parts is None else ["--parts", str(parts)]))
    out, err = capsys.readouterr()
    found = LINE.fullmatch(out)
    assert found, out
    assert int(found[1]) == len(FakeJob.ran) == (parts or 16) + 3
    assert FakeJob.ran.count("map_slice") == (parts or 16)
    assert err == ""


@pytest.mark.usefixtures("engine")
def test_every_mapping_job_reads_the_index_through_the_file_store(small: list[str]) -> None:
    run_example("demo.py", *small, "--parts", "8")
    reads = Counter(FakeJob.fileStore.reads)
    assert sorted(reads.values()) == [1] * 11 + [
        8,
        8,
        8,
    ]  # genome, answers, 8 + 1 tables; index, two read files


@pytest.mark.usefixtures("engine")
def test_a_temporary_store_is_removed(small: list[str]) -> None:
    run_example("demo.py", *small)
    (store,) = FakeToil.stores
    assert not Path(store).parent.exists()


@pytest.mark.usefixtures("engine")
def test_a_named_store_is_used_and_restarted(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / HOSTILE / "store")
    run_example("demo.py", *small, "--jobStore", store)
    run_example("demo.py", *small, "--jobStore", store, "--restart")
    assert FakeToil.stores == [store, store]
    first, again = capsys.readouterr().out.splitlines(keepends=True)
    assert LINE.fullmatch(first)
    assert LINE.fullmatch(again)
    assert FakeJob.ran.count("map_reads") == 1


@pytest.mark.usefixtures("engine")
def test_the_table_is_written_where_it_is_asked_for(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_example("demo.py", *small, "--output=-o mapped.tsv")
    lines = (tmp_path / "-o mapped.tsv").read_text().splitlines()
    assert len(lines) == 80
    assert "r7\t1\t+\t351" in lines
    assert "r8\t2\t+\t0" in lines


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--parts", "0"], "cannot map in 0 parts; give 1 or more"),
        (["--restart"], "cannot restart a temporary job store; name the store with --jobStore"),
    ],
)
def test_bad_options_are_refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_example("demo.py", *argv)
    assert exit_info.value.code == 2
    assert said in capsys.readouterr().err
    assert FakeToil.stores == []


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("option", ["--genome", "--reads1", "--reads2", "--answers"])
def test_an_input_that_cannot_be_read_starts_nothing(small: list[str], tmp_path: Path, option: str) -> None:
    missing = str(tmp_path / HOSTILE / "missing")
    with pytest.raises(FileNotFoundError, match="No such file"):
        run_example("demo.py", *small, option, missing)
    assert FakeJob.ran == []
    assert not Path(FakeToil.stores[0]).parent.exists()


@pytest.mark.usefixtures("engine")
def test_hello_adds_squares_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("hello.py", str(tmp_path / HOSTILE / "store"))
    assert capsys.readouterr().out == "sum of squares: 285\n"
    assert FakeJob.ran == ["spread", *["square"] * 10, "total"]
