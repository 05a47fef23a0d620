"""Adapter and host agree on what runs without telling each other, however their messages cross."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilcache.batch import protocol
from toilcache.batch.host_process import HostProcess
from toilcache.batch.model import JobRequest
from toilcache.node.namespaces import pid_namespace
from toilcache.worker.host import Host
from toilcache.worker.runners import Runner, Runners
from toilcache.worker.running import Running
from toilcache.worker.source import WorkSource

Message = tuple[Any, ...]


LOG = os.open(os.devnull, os.O_RDWR)
"""What no job writes to."""


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

    def ended(
        self, job_id: str, version: int, status: int, max_rss: int, log_tail: bytes, next_id: str | None
    ) -> None:
        self.messages.append((protocol.ENDED, job_id, version, status, max_rss, log_tail, next_id))


class ForklessHost(Host):
    """A host whose jobs are numbers, not processes."""

    def __init__(self, source: WorkSource) -> None:
        super().__init__(source)
        self.runner = Runner(0, LOG, -1)
        self._runners = Runners(os.devnull, lambda log: None, lambda job_id, version, order, spare: 0)
        self.started = 1 << 40  # no pids, should anybody take them for that
        self.not_to_start: set[str] = set()

    def _start(self, job_id: str, version: int, shape: Any) -> None:
        self.started += 1
        if job_id in self.not_to_start:
            self._report_end(job_id, version, shape, protocol.NOT_STARTED, log=b"no room")
        else:
            self._running[self.started] = Running(job_id, version, shape, self.runner, None)

    def _kill(self, pid: int, running: Running) -> None:
        """It ends like any other, at its time."""
        running.cancelled = True

    def _kill_left_behind(self, pid: int, running: Running) -> None:
        """There are no processes."""

    def _call_deferred(self, running: Running, status: int) -> bool:
        """They have deferred nothing."""
        return False

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

    def hold(self, *requests: JobRequest) -> None:
        self.queue(requests[0].shape, requests)


class Pair:
    """Both sides, with the messages that are under way between them."""

    def __init__(self) -> None:
        self.source = Outbox()
        self.host = ForklessHost(self.source)
        self.adapter = ProcesslessHost()
        self.count = 0
        self.ended: list[str] = []

    def request(self, memory: int = 1) -> JobRequest:
        self.count += 1
        return JobRequest(f"job{self.count}", 1, "job", 1.0, memory, 1, 0, False)

    def to_host(self) -> None:
        if self.adapter.outbox:
            self.host._obey(self.adapter.outbox.popleft())

    def to_adapter(self) -> None:
        if self.source.messages:
            message = self.source.messages.popleft()
            job_id = message[1]
            request, started = self.adapter.ended(job_id, message[6])
            assert started is None or request is None or started.shape == request.shape
            assert (request or self.adapter.forgotten(job_id)) is not None
            self.ended.append(job_id)

    def settle(self) -> None:
        while self.adapter.outbox or self.source.messages:
            self.to_host()
            self.to_adapter()

    def check(self) -> None:
        assert sorted(self.adapter.running) == sorted(self.host.runs())
        assert [request.job_id for request in self.adapter.queued] == [job for job, _, _ in self.host._queue]

    def step(self, action: str, number: int) -> None:
        if action == "run":
            self.adapter.run(self.request())
        elif action == "run another shape":
            self.adapter.run(self.request(memory=2))
        elif action == "run in vain":
            request = self.request()
            self.host.not_to_start.add(request.job_id)
            self.adapter.run(request)
        elif action == "queue" and self.adapter.running and self.adapter.runs_only(SHAPE):
            self.adapter.hold(self.request())
        elif action == "queue in vain" and self.adapter.running and self.adapter.runs_only(SHAPE):
            request = self.request()
            self.host.not_to_start.add(request.job_id)
            self.adapter.hold(request)
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
    pair.adapter.hold(pair.request())
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
    pair.adapter.hold(pair.request())
    pair.settle()
    assert pair.host.runs() == ["job2"]
    pair.check()


def test_a_job_queued_after_the_end_was_heard_waits_for_another(pair: Pair) -> None:
    pair.adapter.run(pair.request())
    pair.adapter.run(pair.request())
    pair.settle()
    pair.host.finish(0)
    pair.settle()
    pair.adapter.hold(pair.request())
    pair.settle()
    assert pair.host.runs() == ["job2"]
    pair.check()


def test_what_ends_makes_room_only_for_its_own_shape(pair: Pair) -> None:
    """A small job came to this host after large ones were queued: its end is not their turn."""
    large = pair.request(memory=1000)
    pair.adapter.run(large)
    pair.adapter.hold(pair.request(memory=1000))
    pair.adapter.run(pair.request(memory=1))
    pair.settle()
    pair.host.finish(1)
    pair.settle()
    assert pair.host.runs() == [large.job_id]
    pair.check()
    pair.host.finish(0)
    pair.settle()
    assert pair.host.runs() == ["job2"]
    pair.check()


def test_a_job_that_cannot_be_started_makes_room_for_the_next(pair: Pair) -> None:
    pair.host.not_to_start = {"job2", "job3"}
    pair.adapter.run(pair.request())
    for _ in range(3):
        pair.adapter.hold(pair.request())
    pair.settle()
    pair.host.finish(0)
    pair.settle()
    assert pair.ended == ["job1", "job2", "job3"]
    assert pair.host.runs() == ["job4"]
    pair.check()


def test_the_host_never_runs_more_than_the_adapter_has_room_for(pair: Pair) -> None:
    """It starts a queued one itself while it is being told to: once, and the room is not lost."""
    pair.adapter.run(pair.request())
    pair.adapter.run(pair.request())
    pair.settle()
    pair.host.finish(0)
    pair.adapter.hold(pair.request())
    pair.to_adapter()  # job1 ended, nothing in its place: the adapter tells the host to start job3
    pair.to_host()  # QUEUE
    pair.host.finish(0)  # job2 ended, job3 in its place
    assert pair.host.runs() == ["job3"]
    pair.settle()
    assert pair.host.runs() == ["job3"]
    assert set(pair.adapter.running) == {"job3"}


class LostOutbox(Outbox):
    """A source whose other end goes away with an end that it reports."""

    def ended(self, *message: Any) -> None:
        self.lost = True


def test_a_host_that_finds_its_leader_gone_starts_nothing_queued() -> None:
    host = ForklessHost(LostOutbox())
    host._write_note = lambda: None  # type: ignore[method-assign]
    shape = (1.0, 1, 1, 0)
    host._obey((protocol.RUN, "job1", 1, shape))
    host._obey((protocol.QUEUE, shape, [("job2", 1)]))
    host.finish(0)
    assert host.runs() == []
    host._obey((protocol.RUN, "job3", 1, shape))
    assert host.runs() == []


def test_a_note_that_cannot_be_written_is_written_at_the_next_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = ForklessHost(Outbox())
    host._note = str(tmp_path / "no room" / "it's a\n'note'.note")
    host._write_note()
    assert "cannot write" in capsys.readouterr().err
    (tmp_path / "no room").mkdir()
    for number in (1, 2):
        host._obey((protocol.RUN, f"job{number}", number, SHAPE))
    _, second = host._running
    host._source.lost = True
    host.finish(0)
    assert Path(host._note).read_text() == f"abandoned {pid_namespace()}\njob2 2 {second}\n"


SHAPE = (1.0, 1, 1, 0)
ACTIONS = st.sampled_from(
    [
        "run",
        "run another shape",
        "run in vain",
        "queue",
        "queue",
        "queue in vain",
        "cancel",
        "finish",
        "finish",
        "to host",
        "to adapter",
    ]
)


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
