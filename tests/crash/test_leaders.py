"""Two leaders over one job store: one leads, the other says so and touches nothing (I2)."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.crash.store_tree import tree
from tests.crash.suspended import LED, Suspended, await_end, end_what_is_left, family, send
from tests.crash.test_kills import Workflow, workflow
from tests.runs import DEADLINE

__all__ = ["workflow"]  # the fixture

pytestmark = pytest.mark.crash


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Suspended]:
    place = Suspended(tmp_path)
    yield place
    end_what_is_left(place)


# A leader that lives


def test_a_second_leader_is_refused_while_the_first_lives(workflow: Workflow) -> None:
    first = workflow.begin()
    workflow.wait_for(lambda: len(workflow.written()) >= 20, first)
    second = workflow.begin("--restart")
    _, err = second.communicate(timeout=DEADLINE)
    assert second.returncode == 1
    assert err.startswith("error: cannot lead the workflow"), err
    workflow.check_end(workflow.finish(first))


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_whoever_comes_to_a_store_whose_leader_lives_touches_nothing(place: Suspended, stopped: bool) -> None:
    """A stopped leader lives: it may go on at any time."""
    first = place.at_work()
    if stopped:
        first.send_signal(signal.SIGSTOP)
    place.check_refused_and_nothing_touched("--restart")
    place.check_refused_and_nothing_touched("--restart", *place.elsewhere("other"))
    before = tree(place.store)
    place.run().check_refused("--restart")
    assert tree(place.store) == before
    first.send_signal(signal.SIGCONT)
    place.release()
    place.go()
    place.finish(first).check_result(42)
    place.check_clean()


def renamed(argv: list[str]) -> list[str]:
    """The same command on a machine of another name (a UTS namespace)."""
    call = "import os, socket, sys; socket.sethostname('another'); os.execv(sys.argv[1], sys.argv[1:])"
    return ["unshare", "--uts", sys.executable, "-c", call, *argv]


@pytest.mark.real
def test_a_leader_on_a_machine_of_another_name_is_refused_while_the_first_shows_life(
    place: Suspended,
) -> None:
    first = place.at_work()
    before = tree(place.store)
    done = place.finish(place.spawn(renamed(place.argv("--restart", *place.elsewhere("other")))))
    done.check_refused(LED, f"it is being led from {os.uname().nodename}-")
    assert len(done.err.splitlines()) == 1
    assert tree(place.store) == before
    place.release()
    place.go()
    place.finish(first).check_result(42)
    place.check_clean()


def test_of_leaders_that_restart_at_the_same_time_one_wins(place: Suspended) -> None:
    """They share no lock on the node, as leaders on different nodes."""
    first = place.at_work()
    first.kill()
    place.finish(first)
    place.release()
    await_end(place.workers())
    nodes = [place.elsewhere(str(number)) for number in range(4)]
    leaders = [place.begin("--restart", "--clean", "never", *node) for node in nodes]
    end = time.monotonic() + DEADLINE
    while sum(leader.poll() is None for leader in leaders) > 1:
        assert time.monotonic() < end, "more than one leads"
        time.sleep(0.01)
    place.go()
    ended = [place.finish(leader) for leader in leaders]
    winners = [done for done in ended if done.status == 0]
    assert len(winners) == 1, ended
    winners[0].check_result(42)
    for done in ended:
        if done.status:
            done.check_refused(LED)
            assert len(done.err.splitlines()) == 1, done.err
    assert sorted(path.name for path in place.store.glob("leader/[0-9]")) == ["1", "2"]


# A leader that is long silent, or dead


def test_a_silent_leader_on_another_node_is_waited_for_a_minute(place: Suspended) -> None:
    first = place.at_work()
    first.kill()
    place.finish(first)
    place.move_claim("elsewhere", silent_for=50)
    place.check_refused_and_nothing_touched("--restart")
    place.move_claim("elsewhere", silent_for=61)
    place.release()
    place.go()
    place.restart().check_result(42)
    place.check_clean()


def test_a_process_that_has_the_pid_of_a_dead_leader_is_not_that_leader(place: Suspended) -> None:
    first = place.at_work()
    first.kill()
    place.finish(first)
    token, _, start, node = place.claim().read_text(encoding="utf-8").split(" ", 3)
    place.claim().write_text(f"{token} {os.getpid()} {start} {node}", encoding="utf-8")
    place.release()
    place.go()
    place.restart().check_result(42)
    place.check_clean()


# A leader that wakes up when another has taken over


def test_a_stopped_leader_is_refused_when_it_wakes_up_after_a_forced_restart(workflow: Workflow) -> None:
    """The first leader holds the node's directories until it ends, so the second cannot remove them."""
    first = workflow.begin()
    workflow.wait_for(lambda: len(workflow.written()) >= 40, first)
    hosts = psutil.Process(first.pid).children()
    for process in (first, *hosts):
        process.send_signal(signal.SIGSTOP)
    output = workflow.finish(workflow.begin("--forceRestart"))
    first.send_signal(signal.SIGCONT)
    for host in hosts:
        with suppress(psutil.NoSuchProcess):
            host.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=DEADLINE)
    assert first.returncode == 1
    assert "error: cannot go on as run 1" in err, err
    workflow.check_answer(output)


@pytest.mark.parametrize("how", ["forced", "silent"])
def test_a_suspended_machine_that_wakes_up_changes_nothing(place: Suspended, how: str) -> None:
    """Leader, host and job are stopped, a second leader does the work on another node, and they go on."""
    first = place.at_work()
    mine = family(first)
    (zombie,) = place.workers()
    send(signal.SIGSTOP, [first.pid, *mine])
    place.release()
    if how == "silent":
        place.move_claim("elsewhere", silent_for=61)
    option = "--forceRestart" if how == "forced" else "--restart"
    second = place.restart_up_to_the_wait(option, *place.elsewhere("other"))
    before = place.tree()
    send(signal.SIGCONT, mine)
    await_end([zombie])
    assert place.tree() == before, "the zombie has changed the store"
    first.send_signal(signal.SIGCONT)
    done = place.finish(first)
    done.check_refused("cannot go on as run 1", "run 2 has taken over")
    assert place.tree() == before, "its leader has changed the store"
    place.go()
    place.finish(second).check_result(42)
    assert sorted(place.kept()) == [b"early", b"late"]
    assert place.processes() == []
