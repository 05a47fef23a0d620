"""Two leaders over one job store: one leads, the other says so and touches nothing (I2)."""

from __future__ import annotations

import signal

import psutil

from tests.crash.test_kills import DEADLINE, Workflow, workflow

__all__ = ["workflow"]  # the fixture


def test_a_second_leader_is_refused_while_the_first_lives(workflow: Workflow) -> None:
    first = workflow.begin()
    workflow.wait_for(lambda: len(workflow.written()) >= 20, first)
    second = workflow.begin("--restart")
    _, err = second.communicate(timeout=DEADLINE)
    assert second.returncode == 1
    assert err.startswith("error: cannot lead the workflow"), err
    workflow.check_end(workflow.finish(first))


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
        if host.is_running():
            host.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=DEADLINE)
    assert first.returncode == 1
    assert "error: cannot go on as run 1" in err, err
    workflow.check_answer(output)
