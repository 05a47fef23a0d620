"""The benchmark command: its arithmetic, its choices, and one small real run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toilcache import __version__
from toilcache.bench import command, containers, peers, rows, surroundings
from toilcache.bench.row import Budget, PeerRow, Row
from toilcache.bench.table import table
from toilcache.cli import main
from toilcache.errors import ConfigError


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that take no time."""
    figures = iter([10.0, 30.0, 20.0])
    monkeypatch.setitem(rows.ROWS, "fan-out", Row(lambda directory: next(figures), "jobs/s", Budget(15.0)))
    theirs = iter([5.0, 5.0, 40.0])
    row = PeerRow("fan-out", lambda python, directory: next(theirs), "jobs/s", Budget(2, least=True))
    monkeypatch.setitem(peers.PEERS["parsl"], "parsl fan-out", row)
    found = {"parsl": {"version": "1.2", "python": "3.9.1"}}
    monkeypatch.setattr(
        command, "describe_peers", lambda python, names: {name: found[name] for name in names}
    )
    monkeypatch.setattr(surroundings, "_installation", lambda: (surroundings.EDITABLE, None))
    monkeypatch.setattr(surroundings, "commit_of", lambda directory: "abcdef012345-dirty")
    loads = iter([(1.5, 0.0, 0.0), (2.5, 0.0, 0.0)])
    monkeypatch.setattr(os, "getloadavg", lambda: next(loads))


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
    assert report["budgets"] == {
        "fan-out": {"budget": "<= 15", "met": False},
        "parsl fan-out": {"budget": ">= 2", "met": True},
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_report_says_what_it_stands_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "fan-out", "--peers", "parsl", "--dir", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(report["machine"]) == ["cores", "cpu", "kernel", "memory"]
    assert (report["toilcache"], report["installation"]) == (__version__, "editable")
    assert report["python"] == ".".join(map(str, sys.version_info[:3]))
    assert report["commit"] == "abcdef012345-dirty"
    assert report["peers"] == {"parsl": {"version": "1.2", "python": "3.9.1"}}
    assert report["load"] == {"begin": 1.5, "end": 2.5}


@pytest.mark.usefixtures("quick")
def test_the_table_names_units_ratios_and_budgets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "fan-out", "--peers", "parsl", "--dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "fan-out                 20        10        30  jobs/s      <= 15: MISSED" in lines
    assert "parsl fan-out            5         5        40  jobs/s" in lines
    assert lines[-1] == "ours / parsl fan-out: 2  >= 2: met"


REPORT = {
    "machine": {"cpu": "A Chip", "cores": 2.0, "memory": 3 << 30, "kernel": "6.1"},
    **{"python": "3.13.0", "toilcache": "0.1.0", "installation": "editable", "commit": "abcdef012345"},
    **{"peers": {"toil": {"version": "9.6.0", "python": "3.12.1"}}, "load": {"begin": 1.52, "end": 2.0}},
    **{"directory": "fresh ext4", "ratios": {}, "budgets": {"empty": {"budget": "<= 0.5", "met": True}}},
    "rows": {"empty": {"unit": "s", "min": 0.25, "median": 0.25, "max": 0.25, "runs": [0.25]}},
}


def test_the_table_says_what_it_stands_on() -> None:
    lines = table(REPORT).splitlines()
    assert lines[:4] == [
        "toilcache 0.1.0 (an editable installation, commit abcdef012345), Python 3.13.0",
        "A Chip, 2 cores, 3 GiB, Linux 6.1",
        "load 1.5 at the begin, 2.0 at the end; on fresh ext4",
        "beside toil 9.6.0, Python 3.12.1",
    ]
    assert lines[4].startswith(
        "empty: of an editable installation, which starts slower; a regular one is made by"
    )
    assert f"-m pip install {surroundings.SOURCE}" in lines[4]
    assert lines[-1] == "empty                 0.25      0.25      0.25  s           <= 0.5: met"


@pytest.mark.parametrize("change", [{"installation": "regular"}, {"rows": {}}])
def test_the_table_warns_only_of_rows_that_an_installation_slows(change: dict[str, object]) -> None:
    assert "starts slower" not in table({**REPORT, **change})


def test_a_budget_is_met_at_its_limit() -> None:
    assert [Budget(3).is_met(figure) for figure in (2.9, 3.0, 3.1)] == [True, True, False]
    assert [Budget(3, least=True).is_met(figure) for figure in (2.9, 3.0, 3.1)] == [False, True, True]


def test_the_fixed_budgets_are_those_of_the_document() -> None:
    assert str(rows.ROWS["children-100k"].budget) == "<= 600"  # us for each of 100,000: 60 s for all
    assert str(rows.ROWS["leader-memory"].budget) == "<= 1024"  # MiB
    assert str(rows.ROWS["leader"].budget) == ">= 2000"
    assert str(peers.PEERS["parsl"]["parsl shared"].ratio) == ">= 3"


def test_unknown_rows_and_peers_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "fan-in"]) == 1
    assert "cannot measure 'fan-in'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="cannot compare with 'dask'"):
        peers.rows_of("dask", ["fan-out"])
    with pytest.raises(ConfigError, match="cannot compare with 'dask'"):
        peers.peers_in("toil,dask")
    assert peers.rows_of("", ["fan-out"]) == {}
    assert list(peers.rows_of("toil,parsl", ["empty"])) == ["toil empty"]


def test_parsl_has_our_sizes_beside_the_shared_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate is a difference of two sizes, so another pair of sizes is another figure."""
    asked: list[int] = []

    def script(
        python: str, name: str, directory: str, size: str, *rest: str
    ) -> tuple[dict[str, float], float]:
        asked.append(int(size))
        return {"seconds": int(size) / 100}, 0.0

    monkeypatch.setattr(peers, "_script", script)
    row = peers.PEERS["parsl"]["parsl shared"]
    assert row.measure("python", "/nowhere") == pytest.approx(100)
    ours: list[int] = []

    def run(kind: str, size: int, directory: str, *options: str) -> dict[str, float]:
        ours.append(size)
        return {"seconds": size / 50}

    monkeypatch.setattr(rows, "run_workflow", run)
    assert rows.ROWS[row.beside].measure("/nowhere") == pytest.approx(50)
    assert asked == ours


def test_the_leader_is_timed_at_two_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "run_leader", lambda size, directory: {"seconds": size**2 / 1e10})
    figures = {name: rows.ROWS[name].measure("/nowhere") for name in ("leader-10k", "leader-100k")}
    assert figures == {"leader-10k": pytest.approx(1.0), "leader-100k": pytest.approx(10.0)}
    assert {rows.ROWS[name].unit for name in figures} == {"us/job"}


def test_the_processor_is_named(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A Chip: 2 GHz\n\nprocessor\t: 1\nmodel name\t: Another\n")
    assert surroundings.cpu_model(str(info)) == "A Chip: 2 GHz"
    info.write_text("processor\t: 0\nCPU part\t: 0xd0c\n")
    assert surroundings.cpu_model(str(info)) == os.uname().machine
    assert surroundings.cpu_model(str(tmp_path / "none")) == os.uname().machine


class FakeDistribution:
    """What an installer has recorded, and where it put the package."""

    def __init__(self, record: object, place: str) -> None:
        self._record, self._place = record, place

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self._record is None else json.dumps(self._record)

    def locate_file(self, name: str) -> str:
        return os.path.join(self._place, name)


@pytest.mark.parametrize(
    ("record", "place", "expected"),
    [
        ({"dir_info": {"editable": True}, "url": "file:///x"}, "/packages", ("editable", None)),
        ({"dir_info": {}, "url": "file:///x"}, surroundings.SOURCE, ("regular", None)),
        ({"vcs_info": {"commit_id": "abc"}, "url": "git"}, surroundings.SOURCE, ("regular", "abc")),
        (None, surroundings.SOURCE, ("regular", None)),
        ({"vcs_info": {"commit_id": "abc"}, "url": "git"}, "/packages", ("none", None)),
    ],
)
def test_an_installation_is_known_by_its_record(
    monkeypatch: pytest.MonkeyPatch, record: object, place: str, expected: tuple[str, str | None]
) -> None:
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: FakeDistribution(record, place))
    assert surroundings._installation() == expected


def test_a_package_that_nobody_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert surroundings._installation() == ("none", None)


def test_a_commit_is_that_of_the_checkout_itself(tmp_path: Path) -> None:
    place = tmp_path / "a checkout"
    packages = place / "packages"
    packages.mkdir(parents=True)
    (place / "file").write_text("one")
    assert surroundings.commit_of(str(place)) is None
    (place / ".git").write_text("gitdir: nowhere")
    assert surroundings.commit_of(str(place)) is None
    (place / ".git").unlink()
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    first, tag = [*who, "commit", "-q", "-m", "one"], [*who, "tag", "-a", "-m", "one", "v1"]
    for words in (["init", "-q"], ["add", "file"], first, tag):
        subprocess.run(["git", "-C", place, *words], check=True)
    asked = subprocess.run(["git", "-C", place, "rev-parse", "HEAD"], check=True, capture_output=True)
    commit = asked.stdout.decode()[:12]
    assert surroundings.commit_of(str(place)) == commit
    (place / "file").write_text("two")
    assert surroundings.commit_of(str(place)) == f"{commit}-dirty"
    assert surroundings.commit_of(str(packages)) is None  # where a regular installation may stand


def test_peers_are_asked_for_by_their_own_python(tmp_path: Path) -> None:
    found = surroundings.describe_peers(sys.executable, ["pytest"])
    assert found == {
        "pytest": {"version": pytest.__version__, "python": ".".join(map(str, sys.version_info[:3]))}
    }
    assert surroundings.describe_peers(str(tmp_path / "none"), []) == {}
    with pytest.raises(ConfigError, match="does not have it; name one that does by --peers-python"):
        surroundings.describe_peers(sys.executable, ["no-such-peer"])


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
