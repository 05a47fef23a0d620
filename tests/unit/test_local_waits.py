"""What the adapter for this machine writes down, and what is read from that."""

from __future__ import annotations

import json
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from toilcache.batch.local_waits import MOST_SHAPES, LocalWaits, standing
from toilcache.batch.model import JobRequest
from toilcache.batch.resources import Capacity, Pending, Pool

GIB = 1 << 30


def request(
    job_id: str, cores: float = 1, memory: int = GIB, disk: int = GIB, image: str | None = None
) -> JobRequest:
    return JobRequest(job_id, 1, "job", cores, memory, disk, 0, False, image)


class Machine:
    """Four cores, 8 GiB of memory and of disk, and a host or two."""

    def __init__(self, limit: int | None = None) -> None:
        self.pool = Pool(Capacity(4, 8 * GIB, 8 * GIB, 0), limit)
        self.pending = Pending()
        self.hosts: list[Any] = []
        self.began: dict[str, float] = {}

    def runs(self, *requests: JobRequest, ready: bool = True) -> None:
        for one in requests:
            self.pool.take(one.shape)
            self.began[one.job_id] = 0.0
        running = {one.job_id: one for one in requests}
        self.hosts.append(SimpleNamespace(running=running, queued=deque(), ready=ready))

    def waits(self, *requests: JobRequest) -> None:
        for one in requests:
            self.pending.add(one)

    def explain(self) -> LocalWaits:
        record = standing(self.pool, self.pending, self.hosts, self.began)
        assert record == standing(self.pool, self.pending, self.hosts, self.began)
        return LocalWaits(json.loads(json.dumps(record)))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (request("b", cores=2), "waits for 2 cores: 1.5 of 4 are free, other jobs have the rest"),
        (
            request("b", memory=6 * GIB),
            "waits for 6 GiB of memory: 5 GiB of 8 GiB are free, other jobs have the rest",
        ),
        (
            request("b", cores=4, disk=8 * GIB),
            "waits for 4 cores: 1.5 of 4 are free, other jobs have the rest and for "
            "8 GiB of disk: 7 GiB of 8 GiB are free, other jobs have the rest",
        ),
    ],
)
def test_what_is_short_is_named(wanted: JobRequest, words: str) -> None:
    machine = Machine()
    machine.runs(request("a", cores=2.5, memory=3 * GIB))
    machine.waits(wanted)
    (found,) = machine.explain().of([wanted])
    assert (found.begun, found.words) == (False, words)


def test_what_runs_and_what_waits_for_its_turn() -> None:
    machine = Machine()
    machine.runs(request("a"))
    machine.waits(request("b"))
    runs, waits = machine.explain().of([request("a"), request("b")])
    assert (runs.begun, runs.words) == (True, "runs")
    assert runs.since is not None
    assert "waits for its turn" in waits.words


def test_as_many_as_are_allowed_run() -> None:
    machine = Machine(limit=1)
    machine.runs(request("a"))
    machine.waits(request("b"))
    assert "--maxLocalJobs" in machine.explain().of([request("b")])[0].words


def test_a_container_that_is_being_made() -> None:
    machine = Machine()
    machine.runs(request("a", image="docker://it's\n1"), ready=False)
    (found,) = machine.explain().of([request("a")])
    assert not found.begun
    assert found.words.startswith(
        'waits for its container of "docker://it\'s\\n1": its image is being fetched'
    )
    assert found.facts["image"] == "docker://it's\n1"


def test_a_plain_worker_that_is_being_started() -> None:
    machine = Machine()
    machine.runs(request("a"), ready=False)
    assert machine.explain().of([request("a")])[0].words == "waits for its worker, which is being started"


def test_what_a_host_holds_ready_waits_too() -> None:
    machine = Machine()
    machine.runs(*(request(name) for name in "abcd"))
    machine.hosts[0].queued.append(request("e"))
    machine.waits(request("f"))
    found = machine.explain().summary([(name, 1) for name in "abcdef"])
    assert [(count, wait.begun) for count, wait in found] == [(4, True), (2, False)]


def test_all_at_once() -> None:
    machine = Machine()
    machine.runs(request("a", cores=3), request("b"))
    machine.waits(request("c"), request("d"), request("e", cores=4))
    found = machine.explain().summary([(name, 1) for name in "abcde"])
    assert [(count, wait.words.split(":")[0]) for count, wait in found] == [
        (2, "runs"),
        (2, "waits for 1 core"),
        (1, "waits for 4 cores"),
    ]


def test_before_anything_was_written_down() -> None:
    waits = LocalWaits({})
    assert waits.of([request("a")])[0].words == "waits for room on this machine"
    assert [count for count, _ in waits.summary([("a", 1), ("b", 1)])] == [2]


def test_however_many_kinds_of_jobs_wait_the_record_is_small() -> None:
    machine = Machine()
    machine.waits(*(request(f"{number}", memory=number + 1) for number in range(10 * MOST_SHAPES)))
    record = standing(machine.pool, machine.pending, [], {})
    assert (len(record["waits"]), record["more"]) == (MOST_SHAPES, 9 * MOST_SHAPES)
    found = machine.explain().summary([(f"{number}", 1) for number in range(10 * MOST_SHAPES)])
    assert sum(count for count, _ in found) == 10 * MOST_SHAPES
