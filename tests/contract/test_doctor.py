"""`toilcache doctor` as a person runs it: a fake engine everywhere, Docker and Apptainer where they are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_container_hosts import REAL, Boxes, fake_boxes, make
from tests.fakes.apptainers import FakeApptainer
from tests.runs import Finished
from toilcache.cli import main
from toilcache.node import mounts

ASKED = ("container", "same paths", "users", "locks", "SQLite", "file system", "space", "clock")
SQUASHED = ("capsh", "--drop=cap_dac_override,cap_dac_read_search", "--", "-c", 'exec "$0" "$@"')


class Patient:
    """A node that is looked at through an engine, and what was said of it."""

    def __init__(self, boxes: Boxes) -> None:
        self.boxes = boxes
        self.image = boxes.image
        self.engine = "docker" if boxes.kind == "docker" else "singularity"

    def argv(self, *arguments: str) -> list[str]:
        boxed = ["--container", self.image] if self.image else []
        command = [sys.executable, "-m", "toilcache", "doctor", str(self.boxes.store)]
        return [*command, *self.boxes.directories, *boxed, "--containerEngine", self.engine, *arguments]

    def run(self, *arguments: str, under: tuple[str, ...] = ()) -> Finished:
        done = self.boxes.finish(self.boxes.spawn([*under, *self.argv(*arguments)]))
        self.check_clean()
        return done

    def findings(self, *arguments: str, under: tuple[str, ...] = ()) -> list[dict[str, str]]:
        done = self.run("--json", *arguments, under=under)
        assert done.status in (0, 1), done.err
        report = json.loads(done.out)
        found: list[dict[str, str]] = report["findings"]
        assert report["ok"] == (done.status == 0) == all(row["verdict"] != "change" for row in found)
        assert all(row["change"] for row in found if row["verdict"] != "ok")
        return found

    def red(self, *arguments: str, under: tuple[str, ...] = ()) -> dict[str, str]:
        """The only thing that has to be changed, by topic; it is one line."""
        rows = [row for row in self.findings(*arguments, under=under) if row["verdict"] == "change"]
        assert len({row["topic"] for row in rows}) == 1, rows
        assert all("\n" not in row["found"] + row["change"] for row in rows)
        return rows[0]

    def check_clean(self) -> None:
        self.boxes.check_clean()
        left = [path for path in self.boxes.base.iterdir() if path.name.startswith(".toilcache")]
        assert left == []
        assert list(self.boxes.coordination.iterdir()) == []


@pytest.fixture(params=["fake", pytest.param("docker", marks=REAL), pytest.param("singularity", marks=REAL)])
def patient(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Patient]:
    boxes = make(request.param, request, tmp_path)
    yield Patient(boxes)
    left = boxes.containers()
    boxes.engine.close()
    assert left == []


@pytest.fixture
def fake(tmp_path: Path) -> FakeApptainer:
    return FakeApptainer(tmp_path / "fake")


@pytest.fixture
def faked(fake: FakeApptainer, tmp_path: Path) -> Patient:
    return Patient(fake_boxes(fake, tmp_path))


def test_a_sound_node_is_sound(patient: Patient) -> None:
    done = patient.run()
    assert done.status == 0, done.out + done.err
    assert all(f"\nok      {topic} " in done.out for topic in ASKED)
    assert "change" not in done.out
    assert "->" not in done.out
    assert done.err == ""


def test_without_an_image_two_processes_of_the_machine_are_looked_at(faked: Patient) -> None:
    faked.image = ""
    rows = faked.findings()
    assert {row["topic"] for row in rows if row["verdict"] == "ok"} >= {"locks", "SQLite", "space", "clock"}
    (row,) = [row for row in rows if row["verdict"] == "note"]
    assert (row["topic"], "--container IMAGE" in row["change"]) == ("container", True)


def test_without_an_engine_nothing_is_said_to_be_wrong_with_it(faked: Patient) -> None:
    faked.engine = "none"
    (row,) = [row for row in faked.findings() if row["verdict"] == "note"]
    assert row["found"].startswith("none was asked for")


def test_a_missing_image_is_named(patient: Patient) -> None:
    patient.image = "docker-daemon:no-such-image:1" if patient.engine == "docker" else "/no/such.sif"
    red = patient.red()
    assert red["topic"] == "image"
    assert patient.image in red["found"]


def test_an_engine_that_does_not_answer_is_named(fake: FakeApptainer, faked: Patient) -> None:
    fake.fail("no-answer")
    red = faked.red()
    assert red["topic"] == "engine"
    assert "configuration file is not owned by root" in red["found"]


def test_an_engine_that_starts_nothing_is_named(fake: FakeApptainer, faked: Patient) -> None:
    fake.fail("no-start")
    red = faked.red()
    assert red["topic"] == "container"
    assert "no loop devices" in red["found"] + red["change"]


def test_an_image_without_python_is_named(fake: FakeApptainer, faked: Patient) -> None:
    fake.python.unlink()
    fake.fail("bare")
    red = faked.red()
    assert red["topic"] == "container"
    assert '"python3": executable file not found' in red["found"] + red["change"]


def test_a_place_below_a_file_is_named(faked: Patient) -> None:
    faked.boxes.store = faked.boxes.base / "file" / "store"
    faked.boxes.store.parent.write_text("")
    red = faked.red()
    assert red["topic"] == "job store"
    assert "file/" in red["found"]
    assert "no directory" in red["found"]


def test_a_coordination_directory_on_a_network_is_named(
    faked: Patient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernel's table says that everything lies on NFS."""
    device = os.stat(faked.boxes.base).st_dev
    table = f"1 0 {os.major(device)}:{os.minor(device)} / / rw - nfs4 server:/ rw\n"
    monkeypatch.setattr(mounts, "read_mounts", lambda: mounts.parse_mountinfo(table))
    assert main(["doctor", *faked.boxes.directories, "--containerEngine", "none", "--json"]) == 1
    (red,) = [row for row in json.loads(capsys.readouterr().out)["findings"] if row["verdict"] == "change"]
    assert red["topic"] == "directories"
    assert "nfs4, a network file system" in red["found"]
    assert "--coordinationDir" in red["change"]
    faked.check_clean()


def test_too_little_room_is_named(faked: Patient) -> None:
    red = faked.red("--defaultDisk", "1P")
    assert red["topic"] == "space"
    assert "work directory" in red["found"]
    assert "1 PiB" in red["change"]


def test_what_cannot_be_understood_is_no_verdict(faked: Patient) -> None:
    assert faked.run("--defaultDisk", "much").status == 2
    assert faked.run("--containerEngine", "none-such").status in (1, 2)


def test_options_may_stand_in_the_environment(
    faked: Patient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["doctor", *faked.boxes.directories, "--containerEngine", "none", "--json"]
    monkeypatch.setenv("TOILCACHE_DEFAULT_DISK", "1P")
    assert main(arguments) == 1
    assert "1 PiB" in capsys.readouterr().out
    assert main([*arguments, "--defaultDisk", "1M"]) == 0
    monkeypatch.setenv("TOILCACHE_DEFAULT_DISK", "much")
    capsys.readouterr()
    assert main(arguments) == 1
    assert "TOILCACHE_DEFAULT_DISK" in capsys.readouterr().err
    assert main(["cache", str(faked.boxes.store)]) == 1
    assert "TOILCACHE_DEFAULT_DISK" not in capsys.readouterr().err


def test_who_is_asked_to_stop_leaves_nothing(fake: FakeApptainer, faked: Patient) -> None:
    fake.python.unlink()
    fake.python.write_text('#!/bin/sh\ntouch "$0.runs"\nexec sleep 1000\n')
    fake.python.chmod(0o755)
    process = faked.boxes.spawn(faked.argv())
    faked.boxes.wait_for(fake.python.with_name("python3.runs").exists, process)
    process.send_signal(signal.SIGTERM)
    assert faked.boxes.finish(process).status == 128 + 15
    faked.check_clean()


@pytest.fixture(params=[pytest.param("docker", marks=REAL), pytest.param("singularity", marks=REAL)])
def real_patient(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Patient]:
    boxes = make(request.param, request, tmp_path)
    yield Patient(boxes)
    left = boxes.containers()
    boxes.engine.close()
    assert left == []


def test_a_bind_that_is_left_out_is_named(real_patient: Patient, tmp_path: Path) -> None:
    """The engine of a site puts writable memory in the place of what was to be mounted."""
    patient, boxes = real_patient, real_patient.boxes
    metadata = tmp_path / "site" / "forgetful-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: forgetful\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[toilcache.container_engines]\nforgetful = forgetful:make\n")
    shutil.copy(
        Path(__file__).parents[1] / "fakes" / "forgetful_engine.py", tmp_path / "site" / "forgetful.py"
    )
    (tmp_path / "others").mkdir()
    boxes.environment |= {"PYTHONPATH": str(tmp_path / "site"), "TMPDIR": str(tmp_path / "others")}
    boxes.environment["FORGETFUL"] = boxes.kind
    patient.engine = "forgetful"
    for forgotten, name in ((boxes.base, "job store"), (boxes.coordination, "coordination directory")):
        boxes.environment["FORGET"] = str(forgotten)
        red = patient.red()
        assert red["topic"] in ("same paths", "container")
        assert name in red["found"] + red["change"] or "work directory" in red["found"]
        assert "bind" in red["change"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A place for job stores on a file system of half a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_file_system_is_named(real_patient: Patient, small: Path) -> None:
    real_patient.boxes.store = small / "store"
    red = real_patient.red()
    assert red["topic"] == "space"
    assert red["found"].startswith("job store ")
    assert "small takes no file: no space left on device" in red["found"]
    assert "make room" in red["change"]
    assert list(small.iterdir()) == []


def test_a_place_that_root_may_not_enter_is_named(real_patient: Patient) -> None:
    """A directory of another user's, as root sees it where the server squashes him."""
    closed = real_patient.boxes.base / "closed"
    closed.mkdir(0o700)
    os.chown(closed, 65534, 65534)
    real_patient.boxes.store = closed / "store"
    red = real_patient.findings(under=SQUASHED)[0]  # such a root cannot start Apptainer either
    assert (red["topic"], red["verdict"]) == ("job store", "change")
    assert "permission denied" in red["found"].lower()
