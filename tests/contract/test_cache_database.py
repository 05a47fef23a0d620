"""The cache's database under many processes, under damage, and where it cannot be had."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.cache_nodes import BIG, DISK, Child, Node, commit, node_in, write
from tests.runs import DEADLINE
from toilcache.cache import database, place, rows
from toilcache.cache.check import check
from toilcache.errors import CacheDamagedError, CacheUnavailableError, CoordinationDirError
from toilcache.file_store.caching import CachingFileStore
from toilcache.job.job import Job
from toilcache.node.locks import LockFile

WORKERS = 32


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path / "node") as made:
        yield made


def test_many_processes_never_find_it_locked(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat out, with no time for SQLite's own waiting: whoever met a lock would fail."""
    monkeypatch.setattr(database, "SQLITE_TIMEOUT_SECS", 60.0)
    connect = database.vfs.connect
    monkeypatch.setattr(database.vfs, "connect", lambda path, timeout: connect(path, 0))
    file_id = node.uploaded(b"x" * BIG)

    def work(child: Child) -> None:
        with node.job() as fs:
            child.reach("ready")
            for number in range(20):
                fs.readGlobalFile(file_id)
                if number % 5 == 0:
                    fs.deleteLocalFile(file_id)
            assert fs.messages == []  # it would say that it does without the cache

    with node.job() as fs:
        fs.readGlobalFile(file_id)
    workers = [Child(work) for _ in range(WORKERS)]
    assert [child.hear() for child in workers] == ["ready"] * WORKERS
    for child in workers:
        child.go_on()
    assert [child.end() for child in workers] == [0] * WORKERS


def test_the_database_writes_ahead_and_indexes_what_is_searched(node: Node) -> None:
    con = node.cache.generation.database.con
    assert con.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    searches = [
        "SELECT * FROM files WHERE id = 'x'",
        "SELECT * FROM files WHERE owner = 'x' AND state = 'deleting'",
        "SELECT * FROM files WHERE state = 'cached' AND pins = 0 ORDER BY used",
        "SELECT * FROM refs WHERE file_id = 'x'",
        "SELECT * FROM refs WHERE job_id = 'x' AND attempt = 1 AND file_id = 'y'",
        "UPDATE jobs SET worker = NULL WHERE worker = 'x'",
        "DELETE FROM jobs WHERE id = 'x' AND attempt = 1",
    ]
    for sql in searches:
        plan = " ".join(row[3] for row in con.execute(f"EXPLAIN QUERY PLAN {sql}"))
        assert "INDEX" in plan or "PRIMARY KEY" in plan, (sql, plan)
        assert "TEMP B-TREE" not in plan, (sql, plan)


def test_who_is_stopped_inside_of_a_transaction_does_not_stop_the_others(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do without the cache after a while; the one who was stopped goes on unharmed."""
    file_id = node.uploaded(b"x" * BIG)
    node.cache.adopt_dead()

    def work(child: Child) -> None:
        with node.cache.transaction() as con:
            con.execute("UPDATE properties SET value = 0 WHERE name = 'misses'")
            child.reach("inside")

    child = Child(work)
    assert child.hear() == "inside"
    monkeypatch.setattr(database, "SQLITE_TIMEOUT_SECS", 0.3)
    with node.job() as fs:
        assert Path(fs.readGlobalFile(file_id)).read_bytes() == b"x" * BIG
        written = fs.writeGlobalFile(write("out", b"y" * BIG))
        assert node.stored(written) == b"y" * BIG
        commit(fs)
        assert any("does without the cache" in text for _, text in fs.jobDesc.messages)
    with pytest.raises(CacheUnavailableError, match="another process has held it"), node.cache.transaction():
        pytest.fail("is in")
    monkeypatch.undo()
    child.go_on()
    assert child.end() == 0
    with node.job() as fs:
        fs.readGlobalFile(file_id)
        assert fs.fileIsCached(file_id)


def test_only_the_first_call_waits_long_for_a_stopped_process(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(child: Child) -> None:
        with node.cache.transaction():
            child.reach("inside")

    waits = []
    real = database.locked_in_time

    def locked_in_time(path: str, *, shared: bool, seconds: float) -> LockFile | None:
        waits.append(seconds)
        return real(path, shared=shared, seconds=0.01)

    node.cache.adopt_dead()
    child = Child(work)
    assert child.hear() == "inside"
    cache = node.cache
    monkeypatch.setattr(database, "locked_in_time", locked_in_time)
    for _ in range(3):
        with pytest.raises(CacheUnavailableError), cache.transaction():
            pytest.fail("is in")
    assert 20 < waits[0] <= 30
    assert max(waits[1:]) < 1
    child.go_on()
    assert child.end() == 0
    with cache.transaction():
        pass


def test_who_gives_up_waiting_does_not_get_the_lock_later(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(child: Child) -> None:
        with node.cache.transaction():
            child.reach("inside")

    node.cache.adopt_dead()
    child = Child(work)
    assert child.hear() == "inside"
    cache = node.cache
    monkeypatch.setattr(database, "SQLITE_TIMEOUT_SECS", 0.05)
    for _ in range(3):
        with pytest.raises(CacheUnavailableError), cache.transaction():
            pytest.fail("is in")
    monkeypatch.undo()
    child.go_on()
    assert child.end() == 0
    other = Child(lambda child: node.cache.transaction().__enter__())
    assert other.end() == 0
    with node.cache.transaction():
        pass


def test_who_gets_no_thread_waits_all_the_same(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job may have used up what threads the system has for it."""

    def none(*arguments: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(database._thread, "start_new_thread", none)
    path = str(node.where / "lock")
    with LockFile(path) as held:
        held.lock(shared=False, wait=True)
        for shared in (False, True):
            waiting = database.Waiting(path, shared=shared)
            assert not waiting.wait(0.01)
            assert waiting.give_up()
        waiting = database.Waiting(path, shared=False)
    assert waiting.wait(DEADLINE)
    assert not waiting.give_up()
    waiting.file.close()


def test_an_error_in_a_transaction_undoes_it(node: Node) -> None:
    def fail() -> None:
        with node.cache.transaction() as con:
            con.execute("UPDATE properties SET value = 7 WHERE name = 'misses'")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    con = node.cache.generation.database.con
    assert not con.in_transaction
    assert con.execute("SELECT value FROM properties WHERE name = 'misses'").fetchone() == (0,)


@pytest.mark.parametrize("where", ["enter", "leave"])
def test_a_signal_handler_that_raises_leaves_no_transaction_open(
    node: Node, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As a job's time limit does, just before the lock is given back, or just after it was got."""
    cache = node.cache

    def interrupted(*arguments: object) -> None:
        if where == "enter":
            enter(*arguments)
        raise ZeroDivisionError

    enter = database.Database.enter
    with monkeypatch.context() as patch:
        if where == "enter":
            patch.setattr(database.Database, "enter", interrupted)
        else:
            patch.setattr(database.Transaction, "__exit__", interrupted)
        with pytest.raises(ZeroDivisionError), cache.transaction() as con:
            con.execute("UPDATE properties SET value = 7 WHERE name = 'misses'")
    gc.collect()  # pytest keeps the traceback
    with LockFile(os.path.join(cache.generation.root, "write"), os.O_RDWR) as lock:
        assert lock.lock(shared=False, wait=False)
    with cache.transaction() as con:
        assert con.execute("SELECT value FROM properties WHERE name = 'misses'").fetchone() == (0,)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (sqlite3.OperationalError("database or disk is full"), OSError),
        (sqlite3.OperationalError("disk I/O error"), OSError),
        (sqlite3.OperationalError("database is locked"), CacheUnavailableError),
        (sqlite3.OperationalError("no such table: files"), CacheDamagedError),
        (sqlite3.DatabaseError("database disk image is malformed"), CacheDamagedError),
        (sqlite3.DatabaseError("file is not a database"), CacheDamagedError),
        (sqlite3.IntegrityError("UNIQUE constraint failed"), sqlite3.IntegrityError),
    ],
)
def test_what_sqlite_says_in_the_engines_words(error: sqlite3.Error, wanted: type[Exception]) -> None:
    assert type(database.translated(error, "path")) is wanted


# Damage


def damage(node: Node, number: int = 1) -> None:
    path = Path(node.dirs.cache, str(number), "cache.db")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(os.urandom(size))
    for suffix in ("-wal",):
        wal = Path(f"{path}{suffix}")
        if wal.exists():
            with wal.open("r+b") as file:
                file.write(os.urandom(wal.stat().st_size))


def test_damage_under_living_workers_loses_nothing(node: Node) -> None:
    """Four workers, each with a file that it reads and one that it has yet to upload."""
    data = os.urandom(BIG)
    file_id = node.uploaded(data)

    def work(child: Child) -> None:
        fs = node.file_store()
        fs.commits_aside = False
        with fs.open(Job()):
            held = fs.readGlobalFile(file_id)
            written = fs.writeGlobalFile(write("out", data + str(os.getpid()).encode()))
            child.reach("holds")
            again = fs.readGlobalFile(file_id)
            more = fs.writeGlobalFile(write("more", data))
            assert Path(held).read_bytes() == Path(again).read_bytes() == data
            commit(fs)
            assert Path(held).read_bytes() == data
            child.note(f"{written} {more}")

    workers = [Child(work) for _ in range(4)]
    assert [child.hear() for child in workers] == ["holds"] * 4
    damage(node)
    for child in workers:
        child.go_on()
    for child in workers:
        written, more = child.hear().split(" ")
        assert child.end() == 0
        assert node.stored(written) == data + str(child.pid).encode()
        assert node.stored(more) == data
    with node.job() as fs:
        assert Path(fs.readGlobalFile(file_id)).read_bytes() == data
        assert place.generation_numbers(node.dirs) == [2]
    assert os.listdir(node.dirs.payloads) == ["2"]


@pytest.mark.descriptors(9)  # an old generation, with a connection of each thread, is held by its process
def test_threads_that_find_the_same_damage_replace_the_database_once(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, renew = os.urandom(BIG), CachingFileStore._renew
    all_know, one = threading.Barrier(4, timeout=DEADLINE), threading.Lock()

    def in_turn(*arguments: Any) -> None:
        all_know.wait()
        with one:
            renew(*arguments)

    monkeypatch.setattr(CachingFileStore, "_renew", in_turn)
    file_id = node.uploaded(data)
    read: list[bytes] = []
    with node.job() as fs:
        fs.readGlobalFile(file_id)
        damage(node)
        threads = [
            threading.Thread(target=lambda: read.append(Path(fs.readGlobalFile(file_id)).read_bytes()))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert read == [data] * 4
        assert node.cache.generation.number == 2


@pytest.mark.descriptors(6)  # an old generation, with a connection of each thread, is held by its process
@pytest.mark.parametrize(
    "ask",
    [
        lambda fs, file_id: fs.getCacheUsed() == 0,
        lambda fs, file_id: fs.getCacheUnusedJobRequirement() == DISK,
        lambda fs, file_id: fs.fileIsCached(file_id) is False,
        lambda fs, file_id: fs.getFileReaderCount(file_id) == 0,
        lambda fs, file_id: fs.adjustCacheLimit(1 << 30) is None,
    ],
)
def test_who_asks_about_a_damaged_cache_is_told_of_the_new_one(
    node: Node, ask: Callable[[CachingFileStore, str], bool]
) -> None:
    file_id = node.uploaded(b"x" * BIG)
    answers: list[bool] = []
    with node.job() as fs:
        fs.readGlobalFile(file_id)
        damage(node)
        thread = threading.Thread(target=lambda: answers.append(ask(fs, file_id)))
        thread.start()
        thread.join()
    assert answers == [True]
    assert node.cache.generation.number == 2


@pytest.mark.descriptors(5)  # an old generation is held for as long as its process lives
def test_a_limit_that_was_set_outlives_the_database(node: Node) -> None:
    """Whoever replaces the database knows of it, since he took his place under it."""
    file_id = node.uploaded()
    with node.job("sets", disk=DISK) as fs:
        fs.adjustCacheLimit(7 * DISK)

    def work(child: Child) -> None:
        with node.job("replaces", disk=DISK) as fs:
            fs.getCacheUnusedJobRequirement()
            child.reach("in")
            fs.readGlobalFile(file_id)

    other = Child(work)
    assert other.hear() == "in"
    damage(node)
    other.go_on()
    assert other.end() == 0
    with node.job() as fs:
        assert fs.getCacheLimit() == 7 * DISK
        assert node.cache.generation.number == 2


@pytest.mark.descriptors(5)  # an old generation is held for as long as its process lives
def test_damage_that_is_found_after_a_copy_was_made_fails_no_read(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id, change = node.uploaded(b"x" * BIG), rows.change_ref

    def damaged(*arguments: Any) -> None:
        monkeypatch.setattr(rows, "change_ref", change)
        raise sqlite3.DatabaseError("database disk image is malformed")

    with node.job() as fs:
        fs.readGlobalFile(file_id)
        monkeypatch.setattr(rows, "change_ref", damaged)
        assert Path(fs.readGlobalFile(file_id, "copy", mutable=True)).read_bytes() == b"x" * BIG
        assert node.cache.generation.number == 2


@pytest.mark.descriptors(2)  # an old generation is held for as long as its process lives
def test_a_database_that_was_removed_is_made_anew(node: Node) -> None:
    file_id = node.uploaded(b"x" * BIG)
    with node.job() as fs:
        path = fs.readGlobalFile(file_id)
        node.cache.generation.database.close()
        node.cache.generation.database._file = place.LockFile(
            os.path.join(node.cache.generation.root, "write"), os.O_RDWR
        )
        Path(node.dirs.cache, "1", "cache.db").unlink()
        assert Path(fs.readGlobalFile(file_id)).read_bytes() == Path(path).read_bytes()
        assert node.cache.generation.number == 2
        assert os.path.isdir(Path(node.dirs.payloads, "1"))


@pytest.mark.parametrize("what", ["nothing", "text", "another boot", "another format"])
def test_a_database_of_another_kind_is_set_aside(node: Node, what: str) -> None:
    with node.job() as fs:
        fs.readGlobalFile(node.uploaded())
    if what == "another boot":
        fs.con.execute("UPDATE properties SET value = 'other' WHERE name = 'boot'")
    elif what == "another format":
        fs.con.execute("UPDATE properties SET value = 99 WHERE name = 'format'")
    node.close()
    path = Path(node.dirs.cache, "1", "cache.db")
    if what in ("nothing", "text"):
        path.write_bytes(b"" if what == "nothing" else b"this is not a database" * 1000)
    assert node.cache.generation.number == 2
    assert place.generation_numbers(node.dirs) == [2]


def test_an_old_generation_stays_while_somebody_uses_it(node: Node) -> None:
    def work(child: Child) -> None:
        with node.job() as fs:
            path = fs.readGlobalFile(file_id)
            child.reach("uses")
            assert Path(path).read_bytes() == b"x" * BIG
            assert check(node.cache) == []

    file_id = node.uploaded(b"x" * BIG)
    child = Child(work)
    assert child.hear() == "uses"
    newer = place.open_generation(node.dirs, node.cache._properties, after=1)
    assert place.generation_numbers(node.dirs) == [1, 2]
    place.remove_unused(node.dirs, below=2)
    assert place.generation_numbers(node.dirs) == [1, 2]
    child.go_on()
    assert child.end() == 0
    node.close()
    place.remove_unused(node.dirs, below=2)
    assert place.generation_numbers(node.dirs) == [2]
    newer.close()


def test_without_write_ahead_logging_it_works_all_the_same(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def works(con: object, other: object) -> bool:
        tried.append(con)
        return len(tried) > 1

    monkeypatch.setattr(place, "_works_between_processes", works)
    file_id = node.uploaded(b"x" * BIG)
    with node.job() as fs:
        fs.readGlobalFile(file_id)
        assert fs.con.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert Child(lambda child: read_once(node, file_id)).end() == 0


def read_once(node: Node, file_id: str) -> None:
    with node.job() as fs:
        fs.readGlobalFile(file_id)


def test_where_processes_do_not_see_each_other_there_is_no_cache(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(place, "_works_between_processes", lambda con, other: False)
        with pytest.raises(CoordinationDirError, match="--coordinationDir"):
            node.cache.adopt_dead()
    assert place.generation_numbers(node.dirs) == []


def test_threads_of_a_process_keep_each_other_out(node: Node) -> None:
    cache, inside, most = node.cache, list[int](), list[int]()

    def work() -> None:
        for _ in range(30):
            with cache.transaction():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(most) == 120


def test_nothing_of_sqlite_crosses_a_fork(node: Node) -> None:
    con = node.cache.generation.database.con
    con.execute("BEGIN IMMEDIATE")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with pytest.raises(CacheUnavailableError, match="forked"):
                node.cache.adopt_dead()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert con.in_transaction
    con.execute("COMMIT")


def test_a_killed_process_leaves_nobody_waiting(node: Node) -> None:
    def work(child: Child) -> None:
        with node.cache.transaction() as con:
            con.execute("UPDATE properties SET value = 99 WHERE name = 'misses'")
            child.reach("inside")

    child = Child(work)
    assert child.hear() == "inside"
    child.signal(signal.SIGKILL)
    assert node.findings() == []
    assert child.end() == -signal.SIGKILL
    value = node.cache.generation.database.con.execute("SELECT value FROM properties WHERE name = 'misses'")
    assert value.fetchone() == (0,)
