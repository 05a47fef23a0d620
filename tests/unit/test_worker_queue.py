"""Adapter and host agree on what runs without telling each other, however their messages cross."""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilcache.batch import protocol
from toilcache.batch.host_process import HostProcess
from toilcache.batch.model import JobRequest
from toilcache.worker.host import Host, _Running
from toilcache.worker.source import WorkSource

Message = tuple[Any, ...]


class Outbox(WorkSource):
    """A source that keeps what the host says."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()

    def setup(self) -> dict[str, Any] | None:
        return None

    def wait(self, wake: object) -> list[Message]:
        return []

    def ready(self, pid: int, name: str) -> None:
        self.messages.append((protocol.READY, pid, name))

    def broken(self, text: str) -> None:
        self.messages.append((protocol.BROKEN, text))

    def record(self, job_id: str, version: int) -> None:
        self.messages.append((protocol.RECORD, job_id, version))

    def ended(self, job_id: str, version: int, status: int, max_rss: int, log_tail: bytes) -> None:
        self.messages.append((protocol.ENDED, job_id, version, status, max_rss, log_tail))


class ForklessHost(Host):
    """A host whose jobs are numbers, not processes."""

    def __init__(self, source: WorkSource) -> None:
        super().__init__(source)
        self.log = os.open(os.devnull, os.O_RDWR)
        self.started = 0

    def _start(self, job_id: str, version: int) -> None:
        self.started += 1
        self._running[self.started] = _Running(job_id, version, self.log)

    def _kill_left_behind(self, pid: int, running: _Running) -> None:
        """There are no processes."""

    def runs(self) -> list[str]:
        return [running.job_id for running in self._running.values()]

    def finish(self, index: int) -> None:
        """Let one running job end."""
        pid = sorted(self._running)[index % len(self._running)]
        self._end(pid, self._running.pop(pid), 0, 0)


class ProcesslessHost(HostProcess):
    """The adapter's side of a host that is in this process."""

    def __init__(self) -> None:
        self.outbox: deque[Message] = deque()
        self._forget_everything()

    def _send(self, *message: Any) -> None:
        self.outbox.append(message)


class Pair:
    """Both sides, with the messages that are under way between them."""

    def __init__(self) -> None:
        self.source = Outbox()
        self.host = ForklessHost(self.source)
        self.adapter = ProcesslessHost()
        self.count = 0
        self.ended: list[str] = []

    def request(self) -> JobRequest:
        self.count += 1
        return JobRequest(f"job{self.count}", 1, "job", 1.0, 1, 1, 0, False)

    def to_host(self) -> None:
        if self.adapter.outbox:
            self.host._obey(self.adapter.outbox.popleft())

    def to_adapter(self) -> None:
        if self.source.messages:
            job_id = self.source.messages.popleft()[1]
            request, _ = self.adapter.ended(job_id)
            assert (request or self.adapter.forgotten(job_id)) is not None
            self.ended.append(job_id)

    def settle(self) -> None:
        while self.adapter.outbox or self.source.messages:
            self.to_host()
            self.to_adapter()

    def check(self) -> None:
        assert sorted(self.adapter.running) == sorted(self.host.runs())
        assert [request.job_id for request in self.adapter.queued] == [job for job, _ in self.host._queue]

    def step(self, action: str, number: int) -> None:
        if action == "run":
            self.adapter.run(self.request())
        elif action == "queue" and self.adapter.running:
            self.adapter.queue(self.request())
        elif action == "cancel" and self.adapter.queued:
            self.adapter.cancel(self.adapter.queued[number % len(self.adapter.queued)].job_id)
        elif action == "finish" and self.host.runs():
            self.host.finish(number)
        elif action == "to host":
            self.to_host()
        elif action == "to adapter":
            self.to_adapter()


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_a_queued_job_starts_when_a_running_one_ends(pair: Pair) -> None:
    pair.adapter.run(pair.request())
    pair.adapter.queue(pair.request())
    pair.settle()
    assert pair.host.runs() == ["job1"]
    pair.host.finish(0)
    assert pair.host.runs() == ["job2"]
    pair.settle()
    pair.check()


def test_a_job_queued_behind_one_that_has_just_ended_starts_at_once(pair: Pair) -> None:
    """The host's word of the end and the adapter's next job cross: nobody else would ever start it."""
    pair.adapter.run(pair.request())
    pair.settle()
    pair.host.finish(0)
    pair.adapter.queue(pair.request())
    pair.settle()
    assert pair.host.runs() == ["job2"]
    pair.check()


def test_a_job_queued_after_the_end_was_heard_waits_for_another(pair: Pair) -> None:
    pair.adapter.run(pair.request())
    pair.adapter.run(pair.request())
    pair.settle()
    pair.host.finish(0)
    pair.settle()
    pair.adapter.queue(pair.request())
    pair.settle()
    assert pair.host.runs() == ["job2"]
    pair.check()


ACTIONS = st.sampled_from(["run", "queue", "queue", "cancel", "finish", "finish", "to host", "to adapter"])


@given(st.lists(st.tuples(ACTIONS, st.integers(0, 5)), max_size=60))
def test_both_sides_agree_however_messages_cross(steps: list[tuple[str, int]]) -> None:
    pair = Pair()
    for action, number in steps:
        pair.step(action, number)
    pair.settle()
    pair.check()
    while pair.host.runs():
        pair.host.finish(0)
        pair.settle()
    assert sorted(pair.ended) == sorted(f"job{number + 1}" for number in range(pair.count))
    os.close(pair.host.log)
