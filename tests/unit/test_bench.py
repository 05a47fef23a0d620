"""The benchmark command: its arithmetic, its choices, and one small real run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toilcache.bench import command, containers, peers, rows
from toilcache.cli import main
from toilcache.errors import ConfigError


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that take no time."""
    figures = iter([10.0, 30.0, 20.0])
    monkeypatch.setitem(rows.ROWS, "fan-out", (lambda directory: next(figures), "jobs/s"))
    theirs = iter([5.0, 5.0, 40.0])
    row = peers.PeerRow("fan-out", lambda python, directory: next(theirs), "jobs/s")
    monkeypatch.setitem(peers.PEERS["parsl"], "parsl fan-out", row)


@pytest.mark.usefixtures("quick")
def test_medians_and_paired_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "fan-out", "--peers", "parsl", "--dir", str(tmp_path), "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"]["fan-out"] == {
        "unit": "jobs/s",
        "min": 10.0,
        "median": 20.0,
        "max": 30.0,
        "runs": [10.0, 30.0, 20.0],
    }
    assert report["ratios"] == {"parsl fan-out": 2.0}  # the median of 2, 6 and 0.5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_the_table_names_units_and_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "fan-out", "--peers", "parsl", "--dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "fan-out                 20        10        30  jobs/s" in out
    assert "ours / parsl fan-out: 2" in out


def test_unknown_rows_and_peers_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "fan-in"]) == 1
    assert "cannot measure 'fan-in'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="cannot compare with 'dask'"):
        peers.rows_of("dask", ["fan-out"])
    assert peers.rows_of("", ["fan-out"]) == {}
    assert list(peers.rows_of("toil,parsl", ["empty"])) == ["toil empty"]


def test_containers_are_measured_beside_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = {(50, False): 1.0, (450, False): 2.0, (50, True): 3.0, (450, True): 5.2}

    def run(kind: str, size: int, directory: str, *options: str) -> dict[str, float]:
        return {"seconds": seconds[size, bool(options)]}

    monkeypatch.setattr(containers, "run_workflow", run)
    arguments = ["bench", "container", "--repeat", "1", "--dir", str(tmp_path), "--json"]
    assert main([*arguments, "--container", "image"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"]["container"]
    assert (row["unit"], row["median"]) == ("ms/job", pytest.approx(3.0))
    assert main(arguments) == 1
    assert "add --container IMAGE" in capsys.readouterr().err


def test_a_small_workflow_is_really_run(tmp_path: Path) -> None:
    figures = rows.run_workflow("pids", 3, str(tmp_path))
    assert figures["distinct_pids"] == 3
    assert figures["wall"] > figures["seconds"] > 0
    assert rows.run_leader(5, str(tmp_path))["peak_memory"] > 0
    assert rows.children(str(tmp_path), 5) > 0
    assert command.ROWS is rows.ROWS


def test_a_bench_that_is_terminated_leaves_nothing(tmp_path: Path) -> None:
    bench = subprocess.Popen([sys.executable, "-m", "toilcache", "bench", "children-10k", "--dir", tmp_path])
    while not list(tmp_path.glob("*/children-*")) + list(tmp_path.glob("*/disk/children-*")):
        assert bench.poll() is None
        time.sleep(0.01)
    bench.terminate()
    assert bench.wait(100) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
