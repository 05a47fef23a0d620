"""What the job store promises on NFS: the rules that make it safe there, and a walk of three machines.

The whole suite of job stores runs over `tests/fakes/nfs_habits.py` too; here they strike where it hurts.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.job_stores import Bench
from tests.fakes.nfs_habits import CACHED_SECONDS, Mount
from tests.fakes.nfs_job_store import NfsJobStore
from toilcache.config import Config
from toilcache.errors import (
    ConcurrentFileModificationException,
    JobException,
    JobStoreUnavailableError,
    NoSuchFileException,
    NoSuchJobException,
    NoSuchJobStoreException,
    ToilcacheError,
)
from toilcache.io import look_at
from toilcache.job.description import JobDescription
from toilcache.job_store import layout
from toilcache.job_store.liveness import closing

REFUSED = (ConcurrentFileModificationException,)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A store whose answers all arrive; each test says what goes wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.fakes.nfs_habits.LOST_ANSWERS", 0.0)
        patch.setattr(Mount.__init__, "__defaults__", (0.0,))
        return Bench("nfs", tmp_path)


def machine(bench: Bench) -> NfsJobStore:
    store = bench.another(resume=True)
    assert isinstance(store, NfsJobStore)
    return store


def store_of(bench: Bench) -> NfsJobStore:
    assert isinstance(bench.store, NfsJobStore)
    return bench.store


def slots(bench: Bench, job_id: str) -> list[str]:
    return sorted(os.listdir(f"{bench.where}/{layout.job_scope(job_id)}"))


def graves(bench: Bench) -> list[str]:
    return os.listdir(f"{bench.where}/{layout.TRASH}")


# The habits themselves


def test_a_client_remembers_what_was_missing_until_it_reads_the_directory(bench: Bench) -> None:
    client, path = store_of(bench).client, f"{bench.where}/shared/late"
    with client:
        assert not os.path.exists(path)
        Path(path).write_text("there")
    assert os.path.exists(path)
    with client:
        assert not os.path.exists(path)
        with pytest.raises(FileNotFoundError):
            os.open(path, os.O_RDONLY)
        os.listdir(f"{bench.where}/shared")
        assert os.path.exists(path)
        os.unlink(path)
        assert os.path.exists(path), "attributes are cached"
        client.mount.now += CACHED_SECONDS
        assert not os.path.exists(path)


# (1) and (2): a taken slot stays taken, and a writer builds on the record that it loaded


def test_a_machine_that_remembers_a_free_slot_does_not_take_it(bench: Bench) -> None:
    job = bench.job()
    job_id, behind = str(job.jobStoreID), machine(bench)
    stale = behind.load_job(job_id)
    for version in (2, 3, 4):
        with pytest.raises(NoSuchJobException):
            behind.load_version(job_id, version)
    for _ in range(3):
        bench.store.update_job(job)
    with pytest.raises(REFUSED):
        behind.update_job(stale)
    assert slots(bench, job_id) == ["1", "2", "3", "4"]


def test_a_machine_sees_that_the_record_it_builds_on_is_another(bench: Bench) -> None:
    job_id, behind = str(bench.job().jobStoreID), machine(bench)
    stale = behind.load_job(job_id)
    bench.damage(job_id, 1, lambda data: data[:10] + bytes([data[10] ^ 1]) + data[11:])
    with pytest.raises(REFUSED):
        behind.update_job(stale)
    assert slots(bench, job_id) == ["1"]


# (3): an error of link is no answer


def test_a_link_whose_answer_is_lost_has_won(bench: Bench) -> None:
    job, mount = bench.job(), store_of(bench).client.mount
    mount.lose_at = mount.changes + 1
    bench.store.update_job(job)
    assert mount.changes >= mount.lose_at
    assert job.version == 2
    assert slots(bench, str(job.jobStoreID)) == ["1", "2"]


@pytest.mark.parametrize("lost", [True, False])
def test_a_link_that_comes_second_has_lost(bench: Bench, lost: bool) -> None:
    job, other = bench.job(), machine(bench)
    job_id, client = str(job.jobStoreID), store_of(bench).client
    winner = other.load_job(job_id)
    winner.failure = "winner"

    def win() -> None:
        if lost:
            client.mount.lose_at = client.mount.changes + 1
        other.update_job(winner)

    client.before["link"] = win
    with pytest.raises(REFUSED):
        bench.store.update_job(job)
    assert machine(bench).load_job(job_id).failure == "winner"
    assert slots(bench, job_id) == ["1", "2"]


# (4): who was refused writes nothing more


def test_an_attempt_that_comes_second_writes_nothing_more(bench: Bench) -> None:
    job_id, worker, leader = str(bench.job().jobStoreID), machine(bench), machine(bench)
    stale = worker.load_job(job_id)
    worker.begin_attempt(job_id, 1)
    worker.client.before["link"] = lambda: leader.update_job(leader.load_job(job_id))
    with pytest.raises(REFUSED):
        worker.update_job(stale)
    before = sorted(Path(bench.where).rglob("*"))
    for write in (
        lambda: worker.update_job(worker.load_job(job_id)),
        lambda: worker.write_file(bench.local()),
        lambda: worker.write_logs("late"),
        lambda: worker.delete_job(job_id),
    ):
        with pytest.raises(REFUSED):
            write()
    assert sorted(Path(bench.where).rglob("*")) == before


# (5): a deleted job is gone for every machine, whatever it has cached


@pytest.mark.parametrize("step", ["open", "link", "unlink", "read"])
def test_a_job_that_another_machine_deletes_in_the_middle_of_an_update(bench: Bench, step: str) -> None:
    job, other = bench.job(), machine(bench)
    job_id, client = str(job.jobStoreID), store_of(bench).client
    bench.store.load_job(job_id)
    client.before[step] = lambda: other.delete_job(job_id)
    # Deleted after the link, the update was before the deletion.
    with suppress(NoSuchJobException) if step == "unlink" else pytest.raises(NoSuchJobException):
        bench.store.update_job(job)
    for store in (bench.store, other, machine(bench)):
        assert not store.job_exists(job_id)
        with pytest.raises(NoSuchJobException):
            store.load_version(job_id, 1)
    assert graves(bench) == []


def test_a_late_record_in_a_directory_that_could_not_be_removed_changes_nothing(bench: Bench) -> None:
    job, other = bench.job(), machine(bench)
    job_id = str(job.jobStoreID)
    bench.store.set_root_job(str(bench.job().jobStoreID))
    file_id = other.write_file(bench.local(), job_id, cleanup=True)
    bench.store.load_job(job_id)
    with other.read_file_stream(file_id) as stream:
        # The handle by which our machine knows the directory leads into the trash from now on.
        other.delete_job(job_id)
        with pytest.raises(NoSuchJobException):
            bench.store.update_job(job)
        assert len(graves(bench)) == 1
        assert stream.read() == b"content"
    assert not machine(bench).job_exists(job_id)
    bench.store.clean()
    assert graves(bench) == []


# News


def asked_too_early(bench: Bench) -> tuple[NfsJobStore, dict[str, Any]]:
    """A machine that has asked for everything before it was there; then another machine makes it."""
    early = machine(bench)
    job = bench.job()
    job_id = str(job.jobStoreID)
    names = {"job": job_id, "own": layout.new_file_id(job_id, 0, True, "x"), "shared": "note"}
    names["kept"], names["free"] = (layout.new_file_id(owner, 0, False, "x") for owner in (job_id, None))
    with pytest.raises(NoSuchJobException):
        early.load_version(job_id, 2)
    with pytest.raises(JobException):
        early.load_root_job()
    for name in ("own", "kept", "free"):
        assert not early.file_exists(names[name])
    with pytest.raises(NoSuchFileException), early.read_shared_file_stream("note"):
        pass
    assert early.last_beat() is None
    assert early.nodes() == {}
    assert not early.is_ended()
    bench.store.update_job(job)
    bench.store.set_root_job(job_id)
    for name in ("own", "kept", "free"):
        place = layout.file_place(names[name])
        assert place is not None
        bench.store._backend.upload(bench.local(), place.key, place.base)
    with bench.store.write_shared_file_stream("note") as stream:
        stream.write(b"content")
    bench.store.beat(bench.store.claim_run())
    bench.store.register_node("n", {})
    bench.store.write_logs("message")
    bench.store.mark_ended()
    return early, names


def test_what_was_missing_is_found_as_soon_as_it_is_there(bench: Bench) -> None:
    early, names = asked_too_early(bench)
    assert early.load_version(names["job"], 2).version == 2
    assert early.root_job_id() == names["job"]
    for name in ("own", "kept", "free"):
        assert early.file_exists(names[name])
    with early.read_shared_file_stream("note") as stream:
        assert stream.read() == b"content"
    assert early.last_beat() is not None
    assert early.nodes() == {"n": {}}
    assert early.is_ended()
    assert early.read_logs(lambda _: None) == 1


VERBS: dict[str, Callable[[Any, str, Bench], object]] = {
    "status": lambda store, file_id, bench: store.file_status(file_id) == (7, False),
    "read": lambda store, file_id, bench: store.read_file(file_id, str(bench.home / "out")) is None,
    "update": lambda store, file_id, bench: store.update_file(file_id, bench.local(b"new")) is None,
    "url": lambda store, file_id, bench: store.get_public_url(file_id).startswith("file:"),
    "delete": lambda store, file_id, bench: (
        store.delete_file(file_id) or not bench.store.file_exists(file_id)
    ),
}


@pytest.mark.parametrize("name", ["own", "kept", "free"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_file_that_was_missing_is_found_by_whatever_verb_comes_first(
    bench: Bench, name: str, verb: str
) -> None:
    early, names = asked_too_early(bench)
    assert VERBS[verb](early, names[name], bench)


def test_a_job_that_was_missing_with_its_directory(bench: Bench) -> None:
    early, job = machine(bench), JobDescription({}, "x")
    draw = iter(["00aa" * 4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "new_id", lambda: next(draw))
        for ask in (early.job_exists, lambda job_id: early._backend.has(layout.job_scope(job_id))):
            assert not ask("00aa" * 4)
        bench.store.assign_job_id(job)
    bench.store.create_job(job)
    assert early.load_version("00aa" * 4, 1).version == 1
    assert early.load_job("00aa" * 4).version == 1


def test_a_store_that_was_missing(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    early, maker = NfsJobStore(path), NfsJobStore(path)
    for _ in range(2):
        with pytest.raises(NoSuchJobStoreException):
            early.resume()
    maker.initialize(Config())
    early.resume()
    assert early.config.workflowID == maker.config.workflowID


def test_a_store_that_could_not_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that is locked meanwhile keeps a name until it is closed."""

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(NfsJobStore, "keep_reserve", full)
    with pytest.raises(JobStoreUnavailableError, match="No space left"):
        NfsJobStore(str(tmp_path / "store")).initialize(Config())
    assert os.listdir(tmp_path) == []


def test_a_store_that_was_missing_is_not_taken_for_gone(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    early, maker = NfsJobStore(path), NfsJobStore(path)
    with early.client:
        assert closing(early.locator, 1) == "gone"
    maker.initialize(Config())
    with early.client:
        assert closing(early.locator, 1) == ""


def test_what_was_there_is_missed_as_soon_as_it_is_gone(bench: Bench) -> None:
    late, job = machine(bench), bench.job()
    job_id = str(job.jobStoreID)
    ids = [bench.store.write_file(bench.local(), job_id, cleanup) for cleanup in (True, False)]
    ids.append(bench.store.write_file(bench.local()))
    for file_id in ids:
        assert late.file_exists(file_id)
        assert late.file_status(file_id) == (7, False)
    for file_id in ids:
        bench.store.update_file(file_id, bench.local(b"more than before"))
        assert late.get_file_size(file_id) == 16
        bench.store.delete_file(file_id)
        assert not late.file_exists(file_id)
        with pytest.raises(NoSuchFileException):
            late.update_file(file_id, bench.local())
        assert not bench.store.file_exists(file_id)
    bench.store.delete_job(job_id)
    with pytest.raises(NoSuchJobException):
        late.write_file(bench.local(), job_id)


def test_a_look_reads_the_beginning_of_a_directory_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    monkeypatch.setattr(os, "scandir", lambda _: nullcontext(read.append(n) or n for n in range(1000)))
    look_at(tmp_path)
    assert read == [0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_file_that_another_machine_deletes_while_it_is_replaced(bench: Bench, stream: bool) -> None:
    late, file_id = machine(bench), bench.store.write_file(bench.local())
    late.file_status(file_id)
    if stream:
        with pytest.raises(NoSuchFileException), late.update_file_stream(file_id):
            bench.store.delete_file(file_id)
    else:
        late.client.before["fsync"] = lambda: bench.store.delete_file(file_id)
        with pytest.raises(NoSuchFileException):
            late.update_file(file_id, bench.local(b"new"))
    assert not bench.store.file_exists(file_id)


def test_no_look_lists_a_directory_that_grows(bench: Bench) -> None:
    early, names = asked_too_early(bench)
    job = bench.job()
    bench.store.load_version(str(job.jobStoreID), 1)
    read = store_of(bench).client.read_directories
    read.clear()
    bench.store.load_version(str(job.jobStoreID), 1)
    bench.store.update_job(job)
    file_id = bench.store.write_file(bench.local(), str(job.jobStoreID))
    assert [bench.store.file_exists(file_id), bench.store.file_exists(names["free"])] == [True, True]
    bench.read(file_id)
    assert [path for path in read if not path.endswith(("/kept", f"/{job.jobStoreID}"))] == []
    assert early.client.read_directories != []


# Files that are removed while somebody reads them


def test_a_note_that_is_replaced_under_its_reader_is_read_again(bench: Bench) -> None:
    other, client = machine(bench), store_of(bench).client
    bench.store.set_root_job("first")
    bench.store.beat(bench.store.claim_run())
    for read, replace, expected in (
        (bench.store.read_kill_flag, lambda: other.write_kill_flag(True), True),
        (bench.store.root_job_id, lambda: other.set_root_job("second"), "second"),
        (bench.store.resume, other.write_config, None),
        (lambda: bench.store._backend.get("leader/1.beat"), lambda: other.beat(1), b"1\n"),
    ):
        client.before["read"] = replace
        assert read() == expected
        assert "read" not in client.before


def test_a_reader_learns_that_its_file_is_gone(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local())
    with bench.store.read_file_stream(file_id) as stream:
        machine(bench).delete_file(file_id)
        with pytest.raises(OSError, match="Stale"):
            stream.read()


def test_a_store_in_which_a_file_is_open_is_destroyed_once_it_is_closed(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local())
    with bench.store.read_file_stream(file_id) as stream:
        with pytest.raises(JobStoreUnavailableError, match="still has a file in it open; end that"):
            bench.store.destroy()
        assert stream.read() == b"content"
    bench.store.destroy()
    assert not os.path.exists(bench.where)


# Answers that are lost, and disks that turn out to be full


def story(bench: Bench, store: NfsJobStore) -> None:
    """Something of everything that changes a store; each step may be the one that goes wrong."""
    store.initialize(Config())
    root, job = JobDescription({}, "root"), JobDescription({}, "x")
    store.assign_job_id(root)
    store.create_root_job(root)
    store.assign_job_id(job)
    store.create_job(job)
    job_id = str(job.jobStoreID)
    ids = [store.write_file(bench.local(), owner) for owner in (job_id, None)]
    store.import_file(bench.local(), "linked")
    with store.write_shared_file_stream("linked") as stream:
        stream.write(b"own now")
    for file_id in ids:
        store.update_file(file_id, bench.local(b"new"))
        with store.read_file_stream(file_id) as stream:
            assert stream.read() == b"new"
    store.update_job(job)
    assert machine(bench).load_job(job_id).version == 2
    run = store.claim_run()
    store.beat(run)
    store.register_node("n", {})
    store.write_logs("message")
    assert store.read_logs(lambda _: None) == 1
    assert store.read_logs(lambda _: None, read_all=True) == 1
    for file_id in ids:
        store.delete_file(file_id)
        assert not machine(bench).file_exists(file_id)
    store.delete_job(job_id)
    assert graves(bench) == []
    store.mark_ended(run)
    assert machine(bench).is_ended()
    with store.read_shared_file_stream("linked") as stream:
        assert stream.read() == b"own now"
    assert list(Path(bench.where).rglob(".tmp*")) == []
    store.destroy()
    assert not os.path.exists(bench.where)


def test_any_one_answer_may_be_lost(bench: Bench) -> None:
    for step in range(1, 1000):
        bench.store.destroy()
        store = NfsJobStore(bench.where)
        store.client.mount.changes, store.client.mount.lose_at = 0, step
        story(bench, store)
        if store.client.mount.changes < step:
            assert step > 80
            return
    pytest.fail("the story never ended")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_any_one_file_may_turn_out_to_have_no_room_when_it_is_closed(bench: Bench, code: int) -> None:
    mount = store_of(bench).client.mount
    mount.full_with = code
    for step in range(1, 1000):
        bench.store.destroy()
        mount.closes, mount.full_at = 0, step
        refused = []
        try:
            story(bench, NfsJobStore(bench.where))
        except JobStoreUnavailableError as error:
            refused.append(str(error))
        whole_or_absent(bench)
        if mount.closes < step:
            assert step > 15
            return
        assert refused, f"nobody was told of step {step}"
        assert "free some space there" in refused[0]
    pytest.fail("the story never ended")


def whole_or_absent(bench: Bench) -> None:
    """Nothing that has a name is half-written."""
    sizes = {"new", "content", "own now"}
    for path in [*Path(bench.where).glob("free/*/[!.]*"), *Path(bench.where).glob("kept/*/*/*/[!.]*")]:
        assert path.read_text() in sizes
    with suppress(NoSuchJobStoreException):
        store = machine(bench)
        assert [job.jobName for job in store.jobs() if job.version not in (1, 2)] == []
        assert len(list(store.jobs())) == len(list(Path(bench.where).glob("jobs/*/*/1")))


# A walk of three machines


class Walk:
    """Random steps of several instances of one store; what each step brings is noted, with names for ids."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.dice = random.Random(seed)
        self.stores = [bench.store, *(bench.another(resume=True) for _ in range(2))]
        self.jobs: list[str] = []
        self.held: list[JobDescription] = []
        self.files: list[str] = []
        self.notes: list[Any] = []

    def note(self, call: Callable[[], Any]) -> None:
        try:
            self.notes.append(call())
        except (ToilcacheError, FileNotFoundError) as error:
            self.notes.append(type(error).__name__)

    def go(self, steps: int) -> list[Any]:
        for _ in range(steps):
            step = self.dice.choice(STEPS)
            store = self.dice.choice(self.stores)
            self.notes.append(step.__name__)
            self.note(lambda step=step, store=store: step(self, store))
            mount = getattr(getattr(store, "client", None), "mount", None)
            seconds = self.dice.choice([0.0, 0.0, 1.0, CACHED_SECONDS])
            if mount is not None:
                mount.now += seconds
        return self.notes

    def job(self) -> str:
        return self.dice.choice(self.jobs or ["00" * 8])

    def file(self) -> str:
        return self.dice.choice(self.files or ["free/0123456789abcdef-x"])

    # The steps

    def birth(self, store: Any) -> Any:
        job = JobDescription({}, "x")
        store.assign_job_id(job)
        self.jobs.append(str(job.jobStoreID))
        self.held.append(store.create_job(job))

    def load(self, store: Any) -> Any:
        job = store.load_job(self.job())
        self.held.append(job)
        return job.version

    def load_one(self, store: Any) -> Any:
        return store.load_version(self.job(), self.dice.randrange(1, 6)).version

    def update(self, store: Any) -> Any:
        job = self.dice.choice(self.held or [JobDescription({}, "x")])
        store.update_job(job)
        return job.version

    def exists(self, store: Any) -> Any:
        return store.job_exists(self.job())

    def delete(self, store: Any) -> Any:
        return store.delete_job(self.job())

    def write(self, store: Any) -> Any:
        owner = self.dice.choice([None, self.job()])
        cleanup = self.dice.choice([True, False])
        self.files.append(str(store.write_file(self.bench.local(), owner, cleanup)))

    def read(self, store: Any) -> Any:
        with store.read_file_stream(self.file()) as stream:
            return stream.read()

    def fetch(self, store: Any) -> Any:
        file_id, out = self.file(), self.bench.home / "out"
        store.read_file(file_id, str(out))
        return out.read_bytes()

    def look(self, store: Any) -> Any:
        file_id = self.file()
        return store.file_exists(file_id), store.get_file_size(file_id)

    def replace(self, store: Any) -> Any:
        data = b"x" * self.dice.randrange(100)
        return store.update_file(self.file(), self.bench.local(data))

    def remove(self, store: Any) -> Any:
        return store.delete_file(self.file())

    def tell(self, store: Any) -> Any:
        return store.write_kill_flag(self.dice.choice([True, False]))

    def hear(self, store: Any) -> Any:
        return store.read_kill_flag()

    def claim(self, store: Any) -> Any:
        return store.claim_run()

    def end(self, store: Any) -> Any:
        return store.mark_ended()

    def run(self, store: Any) -> Any:
        return store.current_run(), store.is_ended(), store.last_beat() is None

    def log(self, store: Any) -> Any:
        return store.write_logs("x")

    def logs(self, store: Any) -> Any:
        return store.read_logs(lambda _: None)


STEPS = [
    *(Walk.birth, Walk.load, Walk.load_one, Walk.update, Walk.update, Walk.exists, Walk.delete, Walk.write),
    *(Walk.read, Walk.fetch, Walk.look, Walk.replace, Walk.remove, Walk.tell, Walk.hear, Walk.claim),
    *(Walk.end, Walk.run, Walk.log, Walk.logs),
]


def walk(kind: str, home: Path, seed: int, steps: int) -> list[Any]:
    home.mkdir()
    return Walk(Bench(kind, home), seed).go(steps)


def same_walk(base: Path, seed: int, steps: int) -> None:
    print(f"seed {seed}")
    expected = walk("memory", base / f"memory {seed}", seed, steps)
    found = walk("nfs", base / f"nfs {seed}", seed, steps)
    first = next((i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b), None)
    assert first is None, f"seed {seed}: {expected[first - 1]} gives {found[first]}, not {expected[first]}"


@pytest.mark.parametrize("seed", range(8))
def test_three_machines_see_one_store(tmp_path: Path, seed: int) -> None:
    same_walk(tmp_path, seed, 400)


@pytest.mark.soak
def test_three_machines_see_one_store_on_ever_new_walks(tmp_path: Path) -> None:
    end = time.monotonic() + float(os.environ.get("SOAK_SECONDS", "600")) / 10
    while time.monotonic() < end:
        same_walk(tmp_path, random.SystemRandom().randrange(2**32), 2000)
