"""The fault tools themselves: what counts as a step, in which process, and what happens at step n."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash import kill_workflow
from tests.fakes.faults import (
    EIO,
    ENOSPC,
    HOST,
    KILL_AFTER,
    KILL_BEFORE,
    LEADER,
    WORKER,
    Plan,
    in_child,
    injected,
)
from tests.runs import Place
from toilcache import vfs
from toilcache.io import write_durable

SMALL_RUN = {"KILL_TEST_PAUSE": "0"}


def save(path: Path) -> None:
    write_durable(str(path), b"content", sync=True)


def calls(plan: Plan) -> list[str]:
    return [step.call for step in plan.steps()]


def test_steps_are_counted_and_the_names_put_back(tmp_path: Path) -> None:
    for name in ("place", "elsewhere"):
        (tmp_path / name).mkdir()
    plan = Plan(tmp_path / "trace", under=tmp_path / "place")
    usual = [getattr(vfs, name) for name in vfs.__all__]
    with injected(plan):
        save(tmp_path / "place" / "data")
        save(tmp_path / "elsewhere" / "data")
        os.close(vfs.open(str(tmp_path / "place" / "data"), os.O_RDONLY))
    assert calls(plan) == ["create", "write", "fsync", "rename", "fsync"]
    assert [getattr(vfs, name) for name in vfs.__all__] == usual


def test_streams_and_descriptors_have_paths(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "trace")
    with injected(plan):
        stream = vfs.stream(vfs.open(str(tmp_path / "a\nb"), os.O_WRONLY | os.O_CREAT, 0o600))
        stream.write(b"content")
        stream.close()
        reader, writer = os.pipe()
        vfs.write(writer, b"no file")
        os.close(reader)
        os.close(writer)
    assert [(step.call, step.path) for step in plan.steps()] == [
        ("create", f"{tmp_path}/a\\nb"),
        ("stream.write", f"{tmp_path}/a\\nb"),
    ]
    assert (tmp_path / "a\nb").read_bytes() == b"content"


def test_statements_are_steps_and_queries_are_not(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "trace")
    with injected(plan):
        connection = vfs.connect(str(tmp_path / "base"), 1.0)
        connection.execute("CREATE TABLE t (a INTEGER)")
        connection.execute("BEGIN IMMEDIATE")
        connection.cursor().executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        assert connection.execute("SELECT sum(a) FROM t").fetchone() == (3,)
        connection.execute("COMMIT")
        connection.execute("BEGIN")
        connection.commit()
        connection.close()
    assert calls(plan) == ["connect", *["execute"] * 5, "commit"]
    assert {step.path for step in plan.steps()} == {str(tmp_path / "base")}
    with closing(sqlite3.connect(tmp_path / "base")) as connection:
        assert type(connection) is sqlite3.Connection


@pytest.mark.parametrize(("then", "there"), [(KILL_BEFORE, False), (KILL_AFTER, True)])
def test_a_child_is_killed_before_or_after_a_step(tmp_path: Path, then: str, there: bool) -> None:
    plan = Plan(tmp_path / "trace", 2, then)
    (tmp_path / "one").mkdir()

    def make() -> None:
        vfs.rmdir(str(tmp_path / "one"))
        vfs.mkdir(str(tmp_path / "two"))
        vfs.mkdir(str(tmp_path / "three"))

    assert in_child(plan, make) == -signal.SIGKILL
    assert (tmp_path / "two").exists() is there
    assert not (tmp_path / "three").exists()
    assert plan.happened


def test_a_child_in_which_nothing_happens_ends_as_usual(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "trace", 100)
    assert in_child(plan, lambda: save(tmp_path / "data")) == 0
    assert not plan.happened
    assert len(plan.steps()) > 3


def test_an_error_comes_once(tmp_path: Path) -> None:
    with injected(Plan(tmp_path / "trace", 1, ENOSPC)):
        with pytest.raises(OSError, match="No space left") as raised:
            save(tmp_path / "data")
        assert raised.value.errno == errno.ENOSPC
        save(tmp_path / "data")
    assert (tmp_path / "data").exists()


def test_an_error_lasts_until_the_disk_is_freed(tmp_path: Path) -> None:
    full = tmp_path / "full"
    for name in ("place", "elsewhere"):
        (tmp_path / name).mkdir()
    plan = Plan(tmp_path / "trace", 1, EIO, flag=full, under=tmp_path / "place")
    with injected(plan):
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                save(tmp_path / "place" / "data")
        save(tmp_path / "elsewhere" / "data")
        full.unlink()
        save(tmp_path / "place" / "data")


def test_a_full_disk_refuses_what_needs_space(tmp_path: Path) -> None:
    connection = None
    with injected(Plan(tmp_path / "trace", 2, ENOSPC)):
        connection = vfs.connect(str(tmp_path / "base"), 1.0)
        with pytest.raises(sqlite3.OperationalError, match="full"):
            connection.execute("CREATE TABLE t (a INTEGER)")
    connection.close()
    full = tmp_path / "full"
    full.touch()
    with injected(Plan(tmp_path / "trace", 1, ENOSPC, flag=full)):
        os.close(vfs.open(str(tmp_path / "base"), os.O_RDWR | os.O_CREAT))
        vfs.unlink(str(tmp_path / "base"))
        with pytest.raises(OSError, match="No space left"):
            vfs.open(str(tmp_path / "base"), os.O_RDWR | os.O_CREAT)


def test_all_processes_of_a_workflow_are_seen(tmp_path: Path) -> None:
    place = Place(tmp_path, kill_workflow.__file__)
    plan = Plan(tmp_path / "trace")
    place.run(**plan.environment(), **SMALL_RUN).check_result(kill_workflow.EXPECTED)
    pids = {role: {step.pid for step in plan.steps() if step.role == role} for role in (LEADER, HOST, WORKER)}
    assert len(pids[LEADER]) == len(pids[HOST]) == 1
    assert len(pids[WORKER]) > 10
    assert not pids[LEADER] & pids[HOST]
    moments = [step.at for step in plan.steps()]
    assert max(moments) - min(moments) < 1000
    place.check_clean()


def test_several_are_killed(tmp_path: Path) -> None:
    place = Place(tmp_path, kill_workflow.__file__)
    plan = Plan(tmp_path / "trace", 50, role=WORKER, again=[200, 300])
    finished = place.run("--retryCount", "3", "--retryBackoff", "0.01", **plan.environment(), **SMALL_RUN)
    finished.check_result(kill_workflow.EXPECTED)
    assert plan.kills == 3


@pytest.mark.parametrize(("role", "status"), [(LEADER, -signal.SIGKILL), (HOST, 0), (WORKER, 0)])
def test_one_process_of_a_workflow_is_killed(tmp_path: Path, role: str, status: int) -> None:
    place = Place(tmp_path, kill_workflow.__file__)
    plan = Plan(tmp_path / "trace", 7, role=role)
    finished = place.run("--retryCount", "3", "--retryBackoff", "0.01", **plan.environment(), **SMALL_RUN)
    assert finished.status == status, finished.err
    assert plan.happened
    last = plan.steps()[6]
    assert last.role == role
    later = [step for step in plan.steps()[7:] if step.pid == last.pid]
    assert later == []
    if role == LEADER:
        place.restart(**SMALL_RUN)
    place.check_clean()
