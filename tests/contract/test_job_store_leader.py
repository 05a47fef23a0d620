"""What every job store promises to leaders and nodes: runs that fence each other, journals, messages."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import IO

import pytest

from tests.fakes.job_stores import KINDS, NAMES, Bench
from tests.fakes.memory_job_store import MemoryBackend
from toilcache.config import Config
from toilcache.errors import (
    JobStoreUnavailableError,
    LeaderAliveError,
    LeaderFencedError,
    NoSuchFileException,
)
from toilcache.job_store import layout


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(request.param, tmp_path)


def test_each_run_has_a_greater_number(bench: Bench) -> None:
    assert bench.store.current_run() == 0
    assert [bench.another(resume=True).claim_run() for _ in range(12)] == list(range(1, 13))
    assert bench.store.current_run() == 12


def test_no_two_leaders_share_a_run(bench: Bench) -> None:
    ready, runs = threading.Barrier(8), []

    def claim() -> None:
        store = bench.another(resume=True)
        ready.wait()
        runs.append(store.claim_run())

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(runs) == list(range(1, 9))


def test_a_run_is_claimed_whatever_the_storage_answers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = bench.store._backend
    put_if_absent = backend.put_if_absent

    def misleading(key: str, data: bytes, fresh: bool = False) -> bool:
        put_if_absent(key, data, fresh)
        raise OSError(5, "timed out")

    monkeypatch.setattr(backend, "put_if_absent", misleading)
    assert bench.store.claim_run() == 1

    def fails(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backend, "put_if_absent", fails)
    with pytest.raises(JobStoreUnavailableError, match="No space left"):
        bench.store.claim_run()
    assert bench.store.current_run() == 1


def test_an_older_run_is_told_to_stop(bench: Bench) -> None:
    first = bench.store.claim_run()
    bench.store.check_run(first)
    bench.store.beat(first)
    second = bench.another(resume=True).claim_run()
    for call in (bench.store.check_run, bench.store.beat):
        with pytest.raises(LeaderFencedError, match=rf"run {first} .*run {second} has taken over"):
            call(first)


def test_a_run_of_a_store_that_was_made_anew_is_told_to_stop(bench: Bench) -> None:
    run = bench.store.claim_run()
    bench.another().destroy()
    again = bench.another()
    again.initialize(Config())
    bench.store._backend = again._backend
    assert again.claim_run() == run
    with pytest.raises(LeaderFencedError, match="made anew"):
        bench.store.check_run(run)
    bench.store.mark_ended(run)
    assert not again.is_ended()


def test_only_one_run_comes_next(bench: Bench) -> None:
    assert bench.store.claim_run(after=0) == 1
    with pytest.raises(LeaderAliveError, match="at the same time"):
        bench.another(resume=True).claim_run(after=0)
    assert bench.store.current_run() == 1


@pytest.mark.parametrize("claim", [b"", b"\x80nonsense", b"0123 4567 89\n"])
def test_a_damaged_claim_counts_while_it_is_young(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, claim: bytes
) -> None:
    run = bench.store.claim_run()
    bench.store._backend.put(layout.run(run), claim)
    with pytest.raises(LeaderAliveError, match="from an unknown machine"):
        bench.another(resume=True).check_unled()
    monkeypatch.setattr("toilcache.job_store.leader_state.SILENT_SECONDS", -60.0)
    assert bench.another(resume=True).check_unled() == run


def test_the_newest_run_shows_life(bench: Bench) -> None:
    assert bench.store.last_beat() is None
    run = bench.store.claim_run()
    claimed = bench.store.last_beat()
    assert claimed is not None
    bench.store.beat(run)
    first = bench.another(resume=True).last_beat()
    assert first is not None
    assert first >= claimed
    bench.store.beat(run)
    again = bench.store.last_beat()
    assert again is not None
    assert again >= first
    bench.store._backend.delete(layout.run(run, ".beat"))
    assert bench.store.last_beat() == claimed


@pytest.mark.parametrize("has_beaten", [True, False])
def test_in_a_full_store_a_leader_shows_life_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, has_beaten: bool
) -> None:
    """Else it would count as dead on other machines, a minute after the store has filled up."""
    run = bench.store.claim_run()
    if has_beaten:
        bench.store.beat(run)
    _age(bench, layout.run(run, ".beat" if has_beaten else ""))
    before = bench.store.last_beat()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.store._backend, "put", full)
    with pytest.raises(JobStoreUnavailableError, match="No space left"):
        bench.store.beat(run)
    after = bench.another(resume=True).last_beat()
    assert before is not None
    assert after is not None
    assert after > before + 1000


def _age(bench: Bench, key: str) -> None:
    """Have a key be written long ago."""
    if isinstance(bench.store._backend, MemoryBackend):
        bench.store._backend.entries[key].modified -= 10_000
    else:
        os.utime(bench.store._backend.where(key), (1e9, 1e9))


def test_only_the_newest_run_gets_an_end_mark(bench: Bench) -> None:
    first, second = bench.another(resume=True), bench.another(resume=True)
    first.claim_run()
    second.claim_run()
    before = sorted(bench.store._backend.names(layout.LEADER))
    first.mark_ended(1)
    assert sorted(bench.store._backend.names(layout.LEADER)) == before
    second.mark_ended(2)
    assert bench.store.is_ended()


def test_a_new_run_takes_the_end_mark_away(bench: Bench) -> None:
    assert not bench.store.is_ended()
    bench.store.claim_run()
    bench.store.mark_ended()
    assert bench.another(resume=True).is_ended()
    bench.store.claim_run()
    assert not bench.store.is_ended()


def test_journals_are_appended_to_and_read_in_order(bench: Bench) -> None:
    assert bench.store.journals() == []
    for run in (2, 10, 1):
        with bench.store.append_journal(run) as journal:
            journal.write(b"run %d\n" % run)
        with bench.store.append_journal(run) as journal:
            journal.write(b"torn")
    found = []
    for opened in bench.another(resume=True).journals():
        with opened() as stream:
            found.append(stream.read())
    assert found == [b"run 1\ntorn", b"run 2\ntorn", b"run 10\ntorn"]


def test_nodes_are_recorded_once(bench: Bench) -> None:
    names = [*NAMES, "..", ".", "/etc", "../../x"]
    for name in names * 2:
        bench.store.register_node(name, {"name": name, "work": "/w"})
    assert bench.another(resume=True).nodes() == {name: {"name": name, "work": "/w"} for name in names}


def test_notes_about_the_leader(bench: Bench) -> None:
    for read in (bench.store.read_leader_pid, bench.store.read_leader_node_id):
        with pytest.raises(NoSuchFileException):
            read()
    bench.store.write_leader_pid()
    bench.store.write_leader_node_id()
    other = bench.another(resume=True)
    assert other.read_leader_pid() == os.getpid()
    assert os.uname().nodename in other.read_leader_node_id()


def test_the_kill_flag(bench: Bench) -> None:
    assert bench.store.read_kill_flag() is False
    bench.another(resume=True).write_kill_flag(kill=True)
    assert bench.store.read_kill_flag() is True
    bench.store.write_kill_flag()
    assert bench.store.read_kill_flag() is False


def test_messages_are_read_once_in_order(bench: Bench) -> None:
    messages = ["first", b"\xff second", "third é \udcff", ""]
    for message in messages:
        bench.another(resume=True).write_logs(message)
    seen: list[bytes] = []

    def collect(stream: IO[bytes]) -> None:
        seen.append(stream.read())

    expected = [b"first", b"\xff second", "third é ".encode() + b"\xff", b""]
    assert bench.store.read_logs(collect) == 4
    assert seen == expected
    assert bench.another(resume=True).read_logs(collect) == 0
    bench.store.write_logs("fifth")
    seen.clear()
    assert bench.store.read_logs(collect, read_all=True) == 5
    assert seen == [*expected, b"fifth"]
    assert bench.store.read_logs(collect, read_all=True) == 5


def test_a_message_that_was_not_taken_stays_unread(bench: Bench) -> None:
    bench.store.write_logs("message")

    def fail(_: IO[bytes]) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        bench.store.read_logs(fail)
    assert bench.store.read_logs(lambda _: None) == 1


def test_syncing(bench: Bench) -> None:
    bench.job()
    bench.store.sync()
    bench.store.release_reserve()
    bench.store.release_reserve()
    bench.store.keep_reserve()
