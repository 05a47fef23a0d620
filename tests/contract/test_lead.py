"""One leader per store, from before the store is made until after it is removed; signals all that time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.contract import lead_workflow
from tests.runs import DEADLINE, Place
from toilcache import leadership, vfs
from toilcache.config import Config
from toilcache.errors import JobStoreUnavailableError, LeaderAliveError
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.leadership import take_lead


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path, lead_workflow.__file__)
    (tmp_path / "text").write_text("hello", encoding="ascii")
    place.environment["FLAGS"] = str(tmp_path)
    return place


def pause(place: Place, tmp_path: Path, point: str, *arguments: str) -> subprocess.Popen[str]:
    """Begin the workflow and wait until it has come to a point."""
    leader = place.begin(*arguments, PAUSE=point)
    place.wait_for((tmp_path / point).exists, leader)
    return leader


def stored(place: Place) -> Config:
    store = FileJobStore(str(place.store))
    store.resume()
    return store.config


# Before there is a root


def test_a_second_start_leaves_a_leader_alone_that_has_no_root_yet(place: Place, tmp_path: Path) -> None:
    first = pause(place, tmp_path, "imported")
    workflow = stored(place).workflowID
    place.run().check_refused("it is being led by a process on this machine")
    elsewhere = tmp_path / "other coordination"
    place.run("--coordinationDir", str(elsewhere)).check_refused(f"it is being led by process {first.pid} on")
    assert stored(place).workflowID == workflow
    (tmp_path / "go").touch()
    place.finish(first).check_result("hello")
    place.check_clean()


def test_what_a_leader_left_that_died_without_a_root_is_taken_over(place: Place, tmp_path: Path) -> None:
    first = pause(place, tmp_path, "imported")
    first.kill()
    place.finish(first)
    place.run("--clean", "never").check_result("hello")
    assert sorted(path.name for path in (place.store / "leader").glob("[0-9]")) == ["1", "2"]
    assert len(list(place.store.glob("free/*/*-text"))) == 1, "what the dead leader imported is gone"


def test_a_leader_that_was_reserving_a_store_keeps_others_out(tmp_path: Path) -> None:
    first, second = (FileJobStore(str(tmp_path / "store")) for _ in range(2))
    assert first.reserve() == 1
    for call in (second.reserve, lambda: second.initialize(Config())):
        with pytest.raises(LeaderAliveError, match=f"by process {os.getpid()} on this machine"):
            call()
    first.initialize(Config())
    assert first.current_run() == 1
    with pytest.raises(LeaderAliveError):
        second.initialize(Config())


def test_of_two_that_take_over_at_the_same_time_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, first, second = (FileJobStore(str(tmp_path / "store")) for _ in range(3))
    old.reserve()
    old.initialize(Config())
    old.mark_ended()
    seen = second.check_unled()
    assert first.reserve() == 2
    first.initialize(Config())
    workflow = first.config.workflowID
    monkeypatch.setattr(second, "check_unled", lambda: seen)
    with pytest.raises(LeaderAliveError, match="began at the same time"):
        second.reserve()
    second.resume()
    assert second.config.workflowID == workflow


def test_a_reservation_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(vfs, "link", no_links)
    with pytest.raises(JobStoreUnavailableError, match="no hard links"):
        FileJobStore(str(tmp_path / "store")).reserve()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [1, 2])
def test_a_disk_that_fails_at_a_probe_leaves_a_place_for_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    unlink, probes = vfs.unlink, []

    def fails_once(path: str) -> None:
        if "/.probe-" in path:
            probes.append(path)
            if len(probes) == number:
                raise OSError(errno.EIO, "Input/output error")
        unlink(path)

    monkeypatch.setattr(vfs, "unlink", fails_once)
    with pytest.raises(JobStoreUnavailableError, match="Input/output error"):
        FileJobStore(str(tmp_path / "store")).reserve()
    monkeypatch.setattr(vfs, "unlink", unlink)
    again = FileJobStore(str(tmp_path / "store"))
    again.reserve()
    again.initialize(Config())
    assert not [name for name in os.listdir(tmp_path / "store") if name.startswith(".probe-")]


# Until the end


def test_the_lead_is_kept_while_results_are_exported(place: Place, tmp_path: Path) -> None:
    first = pause(place, tmp_path, "finished", "--clean", "never")
    place.restart("--clean", "always").check_refused("it is being led by a process on this machine")
    assert place.processes() != []
    (tmp_path / "go").touch()
    place.finish(first).check_result("hello")
    place.check_clean()
    place.restart("--clean", "always").check_result("hello")
    assert not place.store.exists()
    assert list(place.coordination.iterdir()) == []


def test_a_leader_that_ended_on_another_node_is_not_waited_for(place: Place) -> None:
    place.run("--clean", "never").check_result("hello")
    claim = place.store / "leader" / "1"
    token, pid, start, _ = claim.read_text(encoding="utf-8").split(" ")
    claim.write_text(f"{token} {pid} {start} another-node\n", encoding="utf-8")
    place.restart().check_result("hello")


def test_a_full_store_does_not_hide_why_a_leader_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileJobStore(str(tmp_path / "store"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def lead() -> None:
        with take_lead(store, str(tmp_path / "lock"), new=True, force=False):
            store.initialize(Config())
            monkeypatch.setattr(store._backend, "put", full)
            raise ValueError("the real error")

    with pytest.raises(ValueError, match="the real error"):
        lead()
    assert not store.is_ended()


def test_a_leader_shows_life_while_no_workflow_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadership, "BEAT_SECONDS", 0.01)
    store = FileJobStore(str(tmp_path / "store"))
    with take_lead(store, str(tmp_path / "lock"), new=True, force=False) as run:
        beat = tmp_path / "store" / "leader" / f"{run}.beat"
        end = time.monotonic() + DEADLINE
        while not beat.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
    assert store.is_ended()


def test_a_store_half_removed_is_no_workflow(place: Place) -> None:
    place.run("--clean", "never").check_result("hello")
    (place.store / "shared" / "rootJobStoreID").unlink()
    (place.store / "shared" / "config.pickle").unlink()
    place.restart().check_refused("it does not exist", "without --restart")
    place.run().check_result("hello")
    assert not place.store.exists()


# Options


def test_a_refused_restart_changes_no_option(place: Place, tmp_path: Path) -> None:
    first = pause(place, tmp_path, "running", "--retryCount", "7", "--disableChaining")
    before = vars(stored(place))
    place.restart("--retryCount", "2").check_refused("it is being led")
    assert vars(stored(place)) == before
    (tmp_path / "go").touch()
    place.finish(first).check_result("hello")


def test_a_restart_changes_only_the_options_that_are_given(place: Place, tmp_path: Path) -> None:
    usual = ("--defaultDisk", "5M", "--defaultCores", "0.5", "--disableChaining", "--clean", "never")
    place.run(*usual, "--maxJobDuration", "1h").check_result("hello")
    file = tmp_path / "options.toml"
    file.write_text("defaultMemory = '7 MiB'\n", encoding="ascii")
    given = ("--noDisableChaining", "--defaultCores", "1", "--config", str(file))
    place.restart(*given, TOILCACHE_RETRY_BACKOFF="3").check_result("hello")
    config = stored(place)
    assert (config.clean, config.defaultDisk, config.maxJobDuration) == ("never", 5 << 20, 3600)
    assert (config.disableChaining, config.defaultCores) == (False, 1.0)
    assert (config.defaultMemory, config.retryBackoff) == (7 << 20, 3.0)
    assert config.workflowAttemptNumber == 1
    place.run("--forceRestart").check_result("hello")
    place.restart().check_result("hello")
    assert not stored(place).forceRestart


# Signals

ADAPTER = "toilcache.batch.local:LocalAdapter"
STORE = "toilcache.job_store.file_job_store:FileJobStore"
FILE_STORE = "toilcache.file_store.abstract:AbstractFileStore"


@pytest.mark.parametrize(
    "point", [f"{STORE}.initialize", f"{STORE}.import_file", f"{STORE}.set_root_job", f"{STORE}.export_file"]
)
def test_a_signal_outside_of_a_run_cleans_up(place: Place, point: str) -> None:
    done = place.run(SIGNAL=point)
    assert done.status == 128 + signal.SIGTERM, done.err
    assert "stopped by SIGTERM" in done.err
    assert "Traceback" not in done.err
    place.check_clean()
    again: tuple[str, ...] = ("--restart",) if point.endswith("export_file") else ()
    place.run(*again).check_result("hello")
    place.check_clean()


@pytest.mark.parametrize("point", [f"{ADAPTER}.adopt", f"{STORE}.clean"])
def test_a_signal_before_a_restart_has_begun_cleans_up(place: Place, point: str) -> None:
    place.run("--clean", "never").check_result("hello")
    done = place.restart(SIGNAL=point)
    assert done.status == 128 + signal.SIGTERM, done.err
    place.check_clean()
    place.restart().check_result("hello")


@pytest.mark.parametrize(
    "point", [f"{ADAPTER}.shutdown", f"{FILE_STORE}.shutdownFileStore", f"{STORE}.destroy"]
)
def test_a_signal_while_cleaning_up_does_not_disturb_it(place: Place, point: str) -> None:
    done = place.run("--clean", "always", SIGNAL=point)
    done.check_result("hello")
    place.check_clean()
    assert not place.store.exists()


@pytest.mark.parametrize("point", [f"{ADAPTER}.shutdown", f"{FILE_STORE}.shutdownFileStore"])
def test_a_second_signal_does_not_keep_the_first_from_cleaning_up(
    place: Place, tmp_path: Path, point: str
) -> None:
    place.environment["SIGNAL"] = point
    leader = pause(place, tmp_path, "running")
    leader.send_signal(signal.SIGINT)
    done = place.finish(leader)
    assert done.status == 128 + signal.SIGINT, done.err
    assert "Traceback" not in done.err
    place.check_clean()


def test_signals_are_the_scripts_own_again_afterwards(tmp_path: Path) -> None:
    from toilcache.config import default_options
    from toilcache.workflow import Toil

    before: list[Any] = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    options = default_options(str(tmp_path / "store"))
    options.workDir = options.coordinationDir = str(tmp_path)
    options.clean = "always"
    with Toil(options):
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not (tmp_path / "store").exists()
