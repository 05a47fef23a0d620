"""Work that hosts take from a job store: each attempt is claimed once, and nothing half-written is read."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.job_stores import KINDS, Bench
from toilcache import vfs
from toilcache.batch import protocol
from toilcache.errors import JobStoreUnavailableError
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.job_store.work import BLOCK, Work, fits, queue_name, queue_needs, queue_times, with_time
from toilcache.worker.store_source import (
    LEADER_SECONDS,
    LEADER_SILENCE,
    ORDER_SECONDS,
    Picker,
    Rules,
    StoreSource,
)

QUEUE = queue_name(1, 100, 10, 0, False)


@pytest.fixture(params=sorted(KINDS))
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Work]:
    bench = Bench(request.param, tmp_path)
    work = bench.store.work(1)
    work.make({"secret": "open sesame"})
    return work


@pytest.fixture
def on_disk(tmp_path: Path) -> Work:
    bench = Bench("file", tmp_path)
    work = bench.store.work(1)
    work.make({})
    return work


def attempts(count: int, first: int = 0) -> list[tuple[str, int]]:
    return [(f"{number:016x}", 1 + number % 3) for number in range(first, first + count)]


def test_what_hosts_fetch_is_seen_while_it_lasts(work: Work) -> None:
    assert work.fetches() == []
    with work.fetching("one", "q n1 aa"), work.fetching("two", "q n2 bb"):
        assert sorted(line for line, _ in work.fetches()) == ["q n1 aa", "q n2 bb"]
        assert all(since > 0 for _, since in work.fetches())
    assert work.fetches() == []
    assert work.hosts() == [], "it is no host yet"


def test_the_setup_comes_back(work: Work) -> None:
    assert work.exists()
    assert work.setup() == {"secret": "open sesame"}
    work.end()
    assert not work.exists()


@pytest.mark.parametrize("sizes", [[1], [BLOCK], [BLOCK + 1], [1, BLOCK, 1], [3, 200, BLOCK, 0, 1]])
def test_a_queue_grows_and_is_read_from_any_place(work: Work, sizes: list[int]) -> None:
    known: list[tuple[str, int]] = []
    for size in sizes:
        more = attempts(size, len(known))
        work.add(QUEUE, len(known), more)
        known += more
    assert work.queues() == [QUEUE]
    for start in {0, 1, len(known) // 2, len(known)}:
        assert work.read(QUEUE, start) == known[start:]
    for block in range((len(known) + BLOCK - 1) // BLOCK):
        assert work.claimed(QUEUE, block) == set()


def test_a_claim_has_one_winner_who_may_ask_again(work: Work) -> None:
    work.add(QUEUE, 0, attempts(3))
    assert work.claim(QUEUE, 1, "one")
    assert not work.claim(QUEUE, 1, "two")
    assert work.claim(QUEUE, 1, "one")
    assert work.claimed(QUEUE, 0) == {1}
    assert (work.claimant(QUEUE, 1), work.claimant(QUEUE, 2)) == ("one", None)


def test_pickers_take_each_attempt_once(work: Work) -> None:
    work.add(QUEUE, 0, attempts(300))
    pickers = [Picker(work, QUEUE, f"host{number}") for number in range(5)]
    order = random.Random(3)
    taken: list[int] = []
    while True:
        found = [picker.take() for picker in order.sample(pickers, 5)]
        if found == [None] * 5:
            break
        taken += [one[0] for one in found if one is not None]
        assert all(one is None or one[1] == attempts(300)[one[0]] for one in found)
    assert sorted(taken) == list(range(300))
    work.add(QUEUE, 300, attempts(10, 300))
    late = [pickers[0].take() for _ in range(10)]
    assert sorted(one[0] for one in late if one) == list(range(300, 310))


def test_pickers_at_the_same_time_take_each_attempt_once(on_disk: Work) -> None:
    on_disk.add(QUEUE, 0, attempts(200))
    taken: list[int] = []

    def take_all(host: str) -> None:
        picker = Picker(on_disk, QUEUE, host)
        while (found := picker.take()) is not None:
            taken.append(found[0])

    threads = [threading.Thread(target=take_all, args=(f"host{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(200))


def test_lines_count_once_they_are_whole(work: Work) -> None:
    with work.open_log("host") as log:
        log.write(b"hello 1\nbea")
        assert work.read_log("host", 0) == ([b"hello 1"], 8)
        assert work.read_log("host", 8) == ([], 8)
        log.write(b"t\nbye\n")
    assert work.read_log("host", 8) == ([b"beat", b"bye"], 17)
    assert work.hosts() == ["host"]
    work.forget_host("host")
    assert work.hosts() == []
    assert work.read_log("host", 0) == ([], 0)


def test_orders_and_notes(work: Work) -> None:
    work.order("cancel a 1")
    lines, offset = work.orders(0)
    work.order("stop", "stop clean")
    assert lines == [b"cancel a 1"]
    assert work.orders(offset)[0] == [b"stop", b"stop clean"]
    work.note("intent 1")
    assert work.notes() == [b"intent 1"]


def test_only_the_owner_can_read_what_workers_are_told(on_disk: Work, tmp_path: Path) -> None:
    (setup,) = tmp_path.rglob("work/1/setup")
    assert setup.stat().st_mode & 0o777 == 0o600
    assert all(path.stat().st_mode & 0o077 == 0 for path in [setup.parent, *setup.parent.rglob("*")])


# A full disk


class Full:
    """A disk that takes `room` bytes and no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        write = os.write

        def limited(descriptor: int, data: Any) -> int:
            if self.room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            part = min(self.room, len(data))
            self.room -= part
            return write(descriptor, bytes(data)[:part])

        class Stream:
            def __init__(self, descriptor: int, *, closefd: bool = True) -> None:
                self.descriptor = descriptor

            def write(self, data: bytes) -> int:
                return limited(self.descriptor, data)

            def __enter__(self) -> Stream:
                return self

            def __exit__(self, *exception: object) -> None:
                os.close(self.descriptor)

        monkeypatch.setattr(vfs, "stream", Stream)
        monkeypatch.setattr(vfs, "write", limited)


@pytest.mark.parametrize("room", [0, 1, 28, 40, 83])
def test_attempts_that_a_full_disk_does_not_take_are_written_later(
    on_disk: Work, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    full = Full(monkeypatch, room)
    with pytest.raises(JobStoreUnavailableError):
        on_disk.add(QUEUE, 0, attempts(3))
    assert on_disk.read(QUEUE, 0) == attempts(3)[: room // 28]
    with pytest.raises(JobStoreUnavailableError):
        on_disk.add(QUEUE, 3, attempts(2, 3))
    full.room = 10_000
    on_disk.push(QUEUE)
    on_disk.push(QUEUE)
    assert on_disk.read(QUEUE, 0) == attempts(5)
    assert on_disk.claim(QUEUE, 4, "host")


def test_a_claim_that_a_full_disk_does_not_take_is_nobody_s(
    on_disk: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk.add(QUEUE, 0, attempts(3))
    full = Full(monkeypatch, 0)
    with pytest.raises(JobStoreUnavailableError):
        on_disk.claim(QUEUE, 0, "host")
    full.room = 100
    assert on_disk.claim(QUEUE, 0, "host")


def test_an_error_after_the_claim_had_arrived_is_no_loss(
    on_disk: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk.add(QUEUE, 0, attempts(1))
    link = os.link

    def late(source: str, target: str) -> None:
        link(source, target)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(vfs, "link", late)
    assert on_disk.claim(QUEUE, 0, "host")


def test_an_order_that_a_full_disk_does_not_take_is_told_with_the_next(
    on_disk: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Full(monkeypatch, 3)
    on_disk.order("cancel a 1")
    assert on_disk.orders(0)[0] == []
    full.room = 1000
    on_disk.order("stop")
    assert on_disk.orders(0)[0] == [b"cancel a 1", b"stop"]


def test_a_store_without_the_directory_gets_it(tmp_path: Path) -> None:
    """One that an earlier version has made."""
    bench = Bench("file", tmp_path)
    assert isinstance(bench.store, FileJobStore)
    os.rmdir(f"{bench.store.path}/work")
    bench.store.work(2).make({})
    assert bench.store.work(2).exists()


def test_a_host_that_a_later_leader_has_adopted_still_takes_orders(tmp_path: Path) -> None:
    bench = Bench("file", tmp_path)
    store = bench.another(resume=True)
    work = store.work(store.claim_run())
    work.make({})
    work.add(QUEUE, 0, [("a" * 16, 1)])
    source = StoreSource(store, work.run, QUEUE, {}, Rules(30, None, None, 0.0), [], "a-host")
    with source._log:
        assert source._commands(time.monotonic()) == [(protocol.RUN, "a" * 16, 1, QUEUE)]
        store.claim_run()
        later = time.monotonic() + LEADER_SECONDS
        assert source._commands(later) == []
        assert source.lost
        work.order(f"cancel {'a' * 16} 1")
        assert source._commands(later + ORDER_SECONDS) == [(protocol.CANCEL, "a" * 16, 1)]
        work.order("stop")
        assert source._commands(later + 2 * ORDER_SECONDS) == [(protocol.STOP,)]
        assert source._commands(later + 3 * ORDER_SECONDS) == []


def test_when_a_host_takes_its_leader_for_gone(tmp_path: Path) -> None:
    bench = Bench("file", tmp_path)
    store = bench.another(resume=True)
    run = store.claim_run()
    store.work(run).make({})
    source = StoreSource(store, run, QUEUE, {}, Rules(30, None, None, 0.0), [], "a-host")
    with source._log:
        source.hello()
        assert not source._leader_is_gone()
        store.beat(run)
        beat = Path(store._backend.where(f"leader/{run}.beat"))
        _set_age(beat, LEADER_SILENCE - 100)
        assert not source._leader_is_gone()
        _set_age(beat, LEADER_SILENCE + 100)
        assert source._leader_is_gone()
        store.beat(run)
        assert not source._leader_is_gone()
        bench.another(resume=True).claim_run()
        assert source._leader_is_gone()


def _set_age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


# Rules


def test_names_of_queues_tell_what_fits() -> None:
    assert queue_needs(queue_name(1.5, 7, 8, 2, True)) == (1.5, 7, 8, 2, True)
    assert [queue_times(name) for name in (QUEUE, with_time(QUEUE, 1), with_time(QUEUE, 8))] == [1, 1, 8]
    assert queue_needs(with_time(QUEUE, 8)) == queue_needs(QUEUE)
    assert not fits(with_time(QUEUE, 2), QUEUE)
    big = queue_name(2, 200, 20, 0, False)
    assert fits(QUEUE, big)
    assert not fits(big, QUEUE)
    assert not fits(queue_name(1, 100, 10, 1, False), big)
    assert not fits(queue_name(1, 100, 10, 0, True), big)
    boxed = queue_name(2, 200, 20, 0, False, "an image:1")
    assert queue_needs(boxed) == queue_needs(big)
    assert fits(queue_name(1, 100, 10, 0, False, "an image:1"), boxed)
    assert not fits(queue_name(1, 100, 10, 0, False, "another"), boxed)
    assert not fits(QUEUE, boxed)
    assert not fits(boxed, queue_name(4, 400, 40, 0, False))


def test_a_host_takes_nothing_that_it_may_not_finish() -> None:
    rules = Rules(idle=30, max_jobs=3, until=100.0, spare=10.0)
    assert rules.may_take(0, 89.0)
    assert not rules.may_take(0, 91.0)
    assert not rules.may_take(3, 0.0)
    rules.longest = 40.0
    assert rules.may_take(1, 39.0)
    assert not rules.may_take(1, 41.0)
    assert Rules(idle=30, max_jobs=None, until=None, spare=0.0).may_take(10**6, 1e9)
