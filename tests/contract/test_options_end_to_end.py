"""Each option does what its help says, and the commands too, through real processes."""

from __future__ import annotations

import ast
import json
import os
import pty
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.contract import options_workflow
from tests.runs import Finished, Place

GIB = 1 << 30


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, options_workflow.__file__)


def result(done: Finished) -> Any:
    """The value that the workflow has returned."""
    assert done.status == 0, done.err
    return ast.literal_eval(done.out.partition(" ")[2])


# What is kept


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("always", ""), ("never", "success failure"), ("onSuccess", "failure"), ("onError", "success")],
)
def test_clean(place: Place, policy: str, kept: str) -> None:
    place.run("--clean", policy).check_result("spoke")
    assert place.store.exists() is ("success" in kept)
    place.store = place.base / "another store"
    place.run("--clean", policy, FAIL="1").check_refused("told to fail")
    assert place.store.exists() is ("failure" in kept)
    place.check_clean()


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("always", ""), ("never", "success failure"), ("onSuccess", "failure"), ("onError", "success")],
)
def test_clean_work_dir(place: Place, policy: str, kept: str) -> None:
    for outcome, environment in (("success", {}), ("failure", {"FAIL": "1"})):
        place.store = place.base / f"store of a {outcome}"
        place.run("--cleanWorkDir", policy, "--clean", "always", **environment)
        left = list(place.work.rglob("left here"))
        assert len(left) == (outcome in kept), f"{outcome}: {left}"
        if left:
            assert left[0].read_text(encoding="ascii") == "left"
            left[0].unlink()
        else:
            assert not list(place.work.rglob("job-*")) or kept
    assert place.processes() == []


# What is said


def test_messages_of_jobs_reach_the_leader(place: Place) -> None:
    done = place.run("--logLevel", "INFO")
    done.check_result("spoke")
    assert "WARNING: speaks: logged as a warning" in done.err
    assert "INFO: speaks: logged as information" in done.err
    assert "first step\nsecond step" in done.err
    assert "printed by the job" not in done.err


def test_log_level(place: Place) -> None:
    quiet = place.run("--logWarning")
    assert "logged as a warning" in quiet.err
    assert "logged as information" not in quiet.err
    assert place.run("--logLevel", "OFF").err == ""


def test_log_file(place: Place) -> None:
    log = place.base / "the log"
    log.write_text("of before\n", encoding="utf-8")
    done = place.run("--logFile", str(log))
    text = log.read_text(encoding="utf-8")
    assert text.startswith("of before\n")
    assert "logged as a warning" in text
    assert "logged as a warning" in done.err


def test_a_log_file_that_cannot_be_written(place: Place) -> None:
    place.run("--logFile", str(place.base / "missing" / "log")).check_refused("missing")
    place.check_clean()
    assert not place.store.exists()


def test_write_logs_of_failed_jobs(place: Place) -> None:
    logs = place.base / "logs"
    place.run("--writeLogs", str(logs)).check_result("spoke")
    assert [path.name for path in logs.iterdir() if "of_steps" not in path.name] == []
    place.run("--writeLogs", str(logs), FAIL="1").check_refused()
    (log,) = [path for path in logs.iterdir() if "of_steps" not in path.name]
    text = log.read_text(encoding="utf-8")
    assert text.startswith("printed by the job\n")
    assert "ValueError: told to fail" in text
    assert log.name.startswith("speaks-")


def test_write_logs_of_all_jobs(place: Place) -> None:
    logs = place.base / "logs"
    place.run("--writeLogs", str(logs), "--writeLogsFromAllJobs").check_result("spoke")
    texts = [path.read_text(encoding="utf-8") for path in logs.iterdir()]
    assert any("printed by the job" in text for text in texts)
    assert any("second step" in text for text in texts)


def test_logs_that_cannot_be_written_fail_no_workflow(place: Place) -> None:
    file = place.base / "no directory"
    file.touch()
    done = place.run("--writeLogs", str(file), "--writeLogsFromAllJobs")
    done.check_result("spoke")
    assert "cannot write a log" in done.err


def test_logs_of_all_jobs_without_a_directory(place: Place) -> None:
    place.run("--writeLogsFromAllJobs").check_refused("--writeLogs DIR")
    assert not place.store.exists()


@pytest.mark.parametrize("disabled", [False, True])
def test_progress_is_shown_at_a_terminal_only(place: Place, disabled: bool) -> None:
    ours, theirs = pty.openpty()
    argv = place.argv(*(["--disableProgress"] if disabled else []))
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=theirs, env=place.environment)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass  # how a terminal says that its last writer has gone
    os.close(ours)
    out, _ = child.communicate()
    assert out == b"result 'spoke'\n"
    assert (b"jobs" in shown) is not disabled
    assert b"logged as a warning" in shown


# How jobs are run


def test_a_job_that_runs_too_long(place: Place) -> None:
    place.run("--kind", "sleeps", "--maxJobDuration", "0.1").check_refused(
        "longer than --maxJobDuration 0.1 s"
    )
    place.check_clean()
    place.restart("--maxJobDuration", "1h", MENDED="1").check_result("woke up")


def test_retries(place: Place, tmp_path: Path) -> None:
    tries = str(tmp_path / "tries")
    done = place.run("--kind", "fails_at_first", "--retryCount", "2", "--retryBackoff", "0.01", TRIES=tries)
    done.check_result(3)
    assert "try 1 (2 tries left)" in done.err
    assert "try 2 (1 try left)" in done.err


def test_no_more_retries_than_allowed(place: Place, tmp_path: Path) -> None:
    options = ("--retryCount", "1", "--retryBackoff", "0.01")
    place.run("--kind", "fails_at_first", *options, TRIES=str(tmp_path / "tries")).check_refused("try 2")
    assert (tmp_path / "tries").read_text(encoding="ascii") == ".."


def test_one_job_at_a_time(place: Place) -> None:
    spans = sorted(result(place.run("--kind", "together", "--maxLocalJobs", "1")))
    assert all(ended <= began for (_, ended), (began, _) in pairwise(spans))


def test_preloading(place: Place, tmp_path: Path) -> None:
    counts = {}
    for option in ("--preload", "--noPreload"):
        file = tmp_path / option.strip("-")
        pids = result(place.run("--kind", "family", option, IMPORTS=str(file)))
        loaded = file.read_text(encoding="ascii").split()
        assert len(loaded) == len(set(loaded)), "a process has run the script twice"
        counts[option] = len(set(loaded) & set(map(str, pids)))
    assert counts == {"--preload": 0, "--noPreload": 4}


def test_jobs_that_share_processes(place: Place) -> None:
    options = ("--kind", "crew", "--shareProcess", "--maxCores", "1", "--disableChaining")
    sober, drunk, after = result(place.run(*options, "--retryCount", "1", TRIES=str(place.base / "tries")))
    assert len(set(sober)) == 1, "several processes where one would do"
    assert drunk not in sober, "a process in which a job has failed goes on with another try"
    assert after == [True, True], "a job does not begin in a directory of its own, or the marker is another's"


def test_what_a_job_is_given_that_asks_for_nothing(place: Place) -> None:
    options = [
        "--defaultMemory",
        "64M",
        "--defaultCores",
        "0.5",
        "--defaultDisk",
        "1 MB",
        "--defaultPreemptible",
    ]
    assert result(place.run("--kind", "asks", *options)) == [64 << 20, 0.5, 10**6, True]
    place.store = place.base / "another"
    assert result(place.run("--kind", "asks")) == [2 * GIB, 1.0, 2 * GIB, False]


@pytest.mark.parametrize(
    ("option", "limit", "asked", "words"),
    [
        ("--maxCores", "1", ["cores", "2"], ["asks for 2 of cores", "has 1;"]),
        ("--maxMemory", "64M", ["memory", "65M"], ["asks for 65 MiB of memory", "has 64 MiB"]),
        ("--maxDisk", "64M", ["disk", "65M"], ["asks for 65 MiB of disk", "has 64 MiB"]),
        ("--defaultCores", "1", ["accelerators", "999"], ["asks for 999 of accelerators"]),
    ],
)
def test_limits(place: Place, option: str, limit: str, asked: list[str], words: list[str]) -> None:
    place.run(option, limit, "--ask", *asked).check_refused(*words)
    place.check_clean()


@pytest.mark.parametrize(
    "option", [["--caching", "false"], ["--caching", "true"], ["--disableCaching"]], ids=" ".join
)
def test_caching_changes_no_result(place: Place, option: list[str]) -> None:
    place.run(*option).check_result("spoke")


def test_imports_by_copy_and_by_link(place: Place, tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.write_text("as imported", encoding="ascii")
    run = ("--kind", "reads", "--clean", "always")
    place.run(*run, "--symlinkImports", "false", ORIGINAL=str(original)).check_result("as imported")
    original.write_text("as imported", encoding="ascii")
    place.run(*run, ORIGINAL=str(original)).check_refused(
        "cannot read imported file", "since it was imported"
    )


def test_settings_of_environment_and_file(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "set tings.toml"
    file.write_text('defaultMemory = "32M"\ndefaultDisk = "8M"\ndefaultCores = 2\n', encoding="ascii")
    run = ("--kind", "asks", "--config", str(file), "--defaultCores", "1")
    assert result(place.run(*run, TOILCACHE_DEFAULT_DISK="16M")) == [32 << 20, 1.0, 16 << 20, False]


# Leaders


def test_a_second_leader_is_refused(place: Place, tmp_path: Path) -> None:
    started = tmp_path / "started"
    leader = place.begin("--kind", "sleeps", STARTED=str(started))
    place.wait_for(started.exists, leader)
    place.run().check_refused("it exists")
    place.restart().check_refused("it is being led by a process on this machine")
    command(place, "clean").check_cli_refused("it is being led")
    assert command(place, "kill").status == 0
    done = place.finish(leader)
    assert done.status == 1
    assert "stopped by the kill flag; continue with --restart" in done.err
    place.check_clean()
    place.restart(MENDED="1").check_result("woke up")


def test_a_leader_that_seems_to_live_on_another_node(place: Place) -> None:
    place.run(FAIL="1").check_refused()
    (place.store / "leader" / "1.ended").unlink()
    claim = place.store / "leader" / "1"
    token, pid, start, _ = claim.read_text(encoding="utf-8").split(" ")
    claim.write_text(f"{token} {pid} {start} another-node\n", encoding="utf-8")
    place.restart().check_refused("it is being led from another-node", "--forceRestart")
    place.run("--forceRestart").check_result("spoke")
    place.check_clean()


# The commands


class _Command(Finished):
    def check_cli_refused(self, *words: str) -> None:
        assert self.status == 1
        assert self.err.startswith("toilcache: error: cannot ")
        assert self.err.count("\n") == 1
        assert all(word in self.err for word in words), self.err


def command(place: Place, *words: str) -> _Command:
    argv = [sys.executable, "-m", "toilcache", *words, "--", str(place.store)]
    return _Command(*place.finish(place.spawn(argv)))


def test_status_and_clean(place: Place) -> None:
    place.run(FAIL="1").check_refused()
    failed = command(place, "status")
    assert failed.status == 1
    assert failed.out.startswith("ended (run 1): 0 of 1 jobs done")
    assert "told to fail" in failed.out
    place.restart("--clean", "never").check_result("spoke")
    done = command(place, "status", "--json")
    assert done.status == 0, done.out
    (line,) = done.out.splitlines()
    told = json.loads(line)
    assert told["ended"] is True
    assert told["run"] == 2
    assert command(place, "clean").status == 0
    assert not place.store.exists()


@pytest.mark.parametrize("names", [[], [".being-made", "leader"]])
def test_clean_removes_what_a_kill_has_left_half_made(place: Place, names: list[str]) -> None:
    place.store.mkdir()
    for name in names:
        (place.store / name).mkdir() if name == "leader" else (place.store / name).touch()
    assert command(place, "clean").status == 0
    assert not place.store.exists()


def test_status_of_a_running_workflow(place: Place, tmp_path: Path) -> None:
    started = tmp_path / "started"
    leader = place.begin("--kind", "sleeps", STARTED=str(started))
    place.wait_for(started.exists, leader)
    done = command(place, "status")
    assert done.status == 0
    assert "1 issued" in done.out
    assert "sleeps" in done.out
    leader.terminate()
    assert place.finish(leader).status == 143


@pytest.mark.parametrize("verb", ["status", "kill", "clean"])
def test_commands_about_what_is_no_job_store(place: Place, verb: str) -> None:
    command(place, verb).check_cli_refused("it does not exist")
    place.store.mkdir()
    (place.store / "thesis.txt").write_text("mine", encoding="ascii")
    command(place, verb).check_cli_refused("something else is there")
    assert (place.store / "thesis.txt").read_text(encoding="ascii") == "mine"
