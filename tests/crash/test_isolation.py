"""Jobs do not see that they are forks of one process, and nothing of them outlives a workflow."""

from __future__ import annotations

import ast
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.crash import isolation_workflow
from tests.runs import Finished, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, isolation_workflow.__file__)


def result(done: Finished) -> Any:
    """The value that the workflow has returned."""
    assert done.status == 0, done.err
    head, _, value = done.out.partition(" ")
    assert head == "result"
    return ast.literal_eval(value)


def flat(nested: list[Any]) -> list[Any]:
    """A list of lists of the same as one list."""
    found: list[Any] = []
    while nested:
        found.append(nested[0])
        nested = nested[1] if len(nested) > 1 else []
    return found


def test_siblings_share_no_process_no_numbers_and_no_state(place: Place) -> None:
    told = result(place.run("--kind", "siblings", "--count", "200"))
    place.check_clean()
    for what in ("pid", "random", "numpy"):
        assert len({job[what] for job in told}) == 200, f"two jobs have the same {what}"
    assert {job["changed"] for job in told} == {1}, "a global of the script was changed for another job"


def test_jobs_of_one_chain_share_no_directory(place: Place) -> None:
    told = flat(result(place.run("--kind", "chain", "--count", "10")))
    assert len(told) == 10
    assert len({job["pid"] for job in told}) < 10, "they were to run in one process"
    for what in ("cwd", "random", "numpy"):
        assert len({job[what] for job in told}) == 10, f"two jobs have the same {what}"
    place.check_clean()


def test_without_chaining_nothing_is_shared(place: Place) -> None:
    told = flat(result(place.run("--kind", "chain", "--count", "5", "--disableChaining")))
    assert len({job["pid"] for job in told}) == 5
    assert {job["changed"] for job in told} == {1}


def test_a_job_sees_the_leaders_environment_and_its_own_directory(place: Place) -> None:
    told = result(place.run("--kind", "look", OF_THE_LEADER="a 'b'\nc", OMP_NUM_THREADS="7"))
    assert told["variable"] == "a 'b'\nc"
    assert told["threads"] == "1"
    assert told["cwd"] == told["temporary"]
    assert told["cwd"].startswith(f"{place.work}/")
    assert not os.path.exists(told["cwd"])
    assert told["session"] == told["pid"]
    assert told["stdin"] == ""
    place.check_clean()


def test_libraries_get_as_many_threads_as_the_job_has_cores(place: Place) -> None:
    told = result(place.run("--kind", "threads"))
    assert [job["threads"] for job in told] == ["1", "1", "1", "2"]
    place.check_clean()


def test_signals_are_handled_as_in_any_process(place: Place) -> None:
    assert result(place.run("--kind", "handlers")) == []


def test_hostile_ids_and_names_never_leave_the_store(place: Place) -> None:
    victims = [place.base / "victim", place.base.parent / "victim", place.work / "victim"]
    for victim in victims:
        victim.write_text("mine", encoding="ascii")
    outside = _tree(place)
    done = place.run("--kind", "hostile", "--clean", "never", VICTIM=str(victims[0]))
    outcome = result(done)
    for call, came in outcome.items():
        verb = call.partition(" ")[0]
        if verb in ("read", "stream"):
            assert not came.startswith("gave"), f"{call!r} {came}"
        assert "mine" not in came, f"{call!r} {came}"
    assert all(victim.read_text(encoding="ascii") == "mine" for victim in victims)
    assert _tree(place) == outside, "something was written outside of the store"
    for entry in place.store.rglob("*"):
        assert "\n" not in entry.name
        assert len(entry.name) < 200


def _tree(place: Place) -> set[str]:
    """All names around the job store, but for what stands in it and for locks."""
    names = {str(path) for path in place.base.parent.rglob("*") if path.suffix != ".lock"}
    return {name for name in names if not name.startswith(str(place.store))}


def test_files_with_awkward_names_keep_their_content(place: Place) -> None:
    contents, names = result(place.run("--kind", "awkward_files"))
    assert contents == names
    place.check_clean()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_leader_leaves_no_process_and_can_go_on(
    place: Place, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    started = tmp_path / "started"
    leader = place.begin("--kind", "waits", STARTED=str(started))
    place.wait_for(started.exists, leader)
    leader.send_signal(number)
    done = place.finish(leader)
    assert done.status == status, done.err
    assert "Traceback" not in done.err
    assert f"stopped by {number.name}; continue with --restart" in done.err
    place.check_clean()
    assert result(place.restart(MENDED="1")) == "mended"
    place.check_clean()


def test_ctrl_c_at_a_terminal_reaches_the_whole_group(place: Place, tmp_path: Path) -> None:
    started = tmp_path / "started"
    place.environment["STARTED"] = str(started)
    leader = place.spawn(["setsid", *place.argv("--kind", "waits")])
    place.wait_for(started.exists, leader)
    os.killpg(leader.pid, signal.SIGINT)
    assert place.finish(leader).status == 130
    place.check_clean()
    assert result(place.restart(MENDED="1")) == "mended"


def test_processes_that_a_job_leaves_are_ended(place: Place) -> None:
    assert result(place.run("--kind", "leaves_children", "--disableChaining")) == []
    place.check_clean()
