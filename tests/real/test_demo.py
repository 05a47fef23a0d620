"""The examples as a person runs them: a process each, real reads, the real engine, a fresh directory."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DATA = EXAMPLES / "data"
LINE = re.compile(r"aligned (\d+) of 20000 mates; (\d+) within 10 bases of bowtie2; (\d+) jobs in \d+\.\d s")
PATIENCE = 600  # seconds after which a run counts as hanging; no measure of speed


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A fresh working directory whose name is hard to handle."""
    directory = tmp_path / "-d 'e' \"m\"\no é"
    directory.mkdir()
    return directory


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The directory for temporary files of the run."""
    directory = tmp_path / "t m'p"
    directory.mkdir()
    return directory


def run(example: str, *argv: str, cwd: Path, temporary: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / example), *argv],
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(temporary), "COLUMNS": "40"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def read_line(done: subprocess.CompletedProcess[str]) -> tuple[int, int, int]:
    """N, M and J of the last line."""
    assert done.returncode == 0, done.stderr
    found = LINE.fullmatch(done.stdout.splitlines()[-1])
    assert found, done.stdout
    return int(found[1]), int(found[2]), int(found[3])


def mapped_without_an_engine() -> list[str]:
    """The lines that the mapper gives for all reads in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        mapper = importlib.import_module("mapper")
    index = mapper.build_index(mapper.read_genome(str(DATA / "lambda_virus.fa.gz")))
    pairs = mapper.read_pairs(str(DATA / "reads_1.fq.gz"), str(DATA / "reads_2.fq.gz"))
    rows = [mapper.table_rows(pair.name, mapper.map_pair(index, pair.first, pair.second)) for pair in pairs]
    return "".join(rows).splitlines()


def test_the_demo_maps_real_reads_and_leaves_nothing(here: Path, temporary: Path) -> None:
    aligned, agreeing, jobs = read_line(run("demo.py", cwd=here, temporary=temporary))
    assert aligned >= 18000
    assert agreeing >= 17500
    assert jobs == 19
    assert list(here.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_the_workflow_does_not_change_what_the_mapper_says(here: Path, temporary: Path) -> None:
    options = ["--jobStore", "my store", "--parts", "8", "--output", "mapped.tsv"]
    _, _, jobs = read_line(run("demo.py", *options, cwd=here, temporary=temporary))
    assert jobs == 11
    assert sorted((here / "mapped.tsv").read_text().splitlines()) == sorted(mapped_without_an_engine())


def test_a_missing_input_is_one_line_that_names_it(here: Path, temporary: Path) -> None:
    done = run("demo.py", "--genome", "no such genome.fa", cwd=here, temporary=temporary)
    assert done.returncode != 0
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: cannot import 'no such genome.fa'")
    assert list(temporary.iterdir()) == []


def test_an_input_of_another_kind_is_told_without_a_traceback_of_the_script(
    here: Path, temporary: Path
) -> None:
    options = ["--genome", str(DATA / "README.md"), "--retryCount", "0"]
    done = run("demo.py", *options, cwd=here, temporary=temporary)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert "cannot read a genome: " in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot finish the workflow")
    assert list(temporary.iterdir()) == []


def test_hello_says_its_sum(here: Path, temporary: Path) -> None:
    done = run("hello.py", "my store", cwd=here, temporary=temporary)
    assert (done.returncode, done.stdout) == (0, "sum of squares: 285\n"), done.stderr
