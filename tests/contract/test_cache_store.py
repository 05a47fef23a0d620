"""What the caching file store promises beyond what every file store does: its states, accounts and errors."""

from __future__ import annotations

import errno
import os
import pickle
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import toilcache
from tests.fakes.cache_nodes import BIG, CHANGES, Node, commit, node_in, spoil, write
from tests.runs import DEADLINE
from toilcache.errors import (
    CacheError,
    CacheUnbalancedError,
    ChangedFileError,
    IllegalDeletionCacheError,
    InvalidSourceCacheError,
    NoSuchFileException,
)
from toilcache.file_store.abstract import AbstractFileStore
from toilcache.file_store.caching import CachingFileStore
from toilcache.job.job import Job
from toilcache.job_store.file_id import FileID
from toilcache.node.identity import get_process_name

MB = 1 << 20


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path / "node ü'\n") as made:
        yield made


def state_of(node: Node, file_id: str) -> str | None:
    found = node.cache.generation.database.con.execute(
        "SELECT state FROM files WHERE id = ?", (str(file_id),)
    ).fetchone()
    return None if found is None else str(found[0])


def refs_of(fs: CachingFileStore, file_id: str) -> list[tuple[str, str]]:
    found = fs.con.execute("SELECT path, state FROM refs WHERE file_id = ? ORDER BY ref", (str(file_id),))
    return list(found.fetchall())


# Which store a job gets


@pytest.mark.parametrize(("caching", "caches"), [(None, True), (True, True), (False, False)])
def test_caching_is_what_a_job_gets_unless_it_is_refused(
    node: Node, caching: bool | None, caches: bool
) -> None:
    fs = AbstractFileStore.createFileStore(node.store, node.new_job(), node.dirs.jobs, bool, caching)
    assert isinstance(fs, CachingFileStore) == caches


def test_a_job_without_files_opens_nothing(node: Node) -> None:
    with node.job() as fs:
        fs.log_to_leader("hello")
        fs.getLocalTempFile()
        assert not fs.fileIsCached("free/none")
        assert fs.getFileReaderCount("free/none") == 0
        commit(fs)
    assert not os.path.lexists(node.dirs.cache)
    assert not os.path.lexists(node.dirs.payloads)


# Reading


def test_a_link_for_who_does_not_change_the_file_a_copy_for_who_does(node: Node) -> None:
    file_id = node.uploaded(b"x" * BIG)
    with node.job() as fs:
        link, copy = fs.readGlobalFile(file_id), fs.readGlobalFile(file_id, mutable=True)
        [payload] = node.payloads()
        assert os.path.samefile(link, payload) or node.cache.reflinks
        assert not os.path.samefile(copy, payload)
        assert stat.S_IMODE(os.stat(link).st_mode) == 0o444
        assert stat.S_IMODE(os.stat(copy).st_mode) == 0o644
        assert refs_of(fs, file_id) == [(link, "immutable"), (copy, "mutable")]
        assert fs.getFileReaderCount(file_id) == 2
        Path(copy).write_bytes(b"changed")
        assert Path(link).read_bytes() == b"x" * BIG
    assert fs.getFileReaderCount(file_id) == 0
    assert state_of(node, file_id) == "cached"


def test_what_is_read_to_elsewhere_is_a_copy_and_stays(node: Node) -> None:
    """A person's directory is no place for a payload's inode."""
    file_id, elsewhere = node.uploaded(b"x" * BIG), node.where / "elsewhere"
    with node.job() as fs:
        assert fs.readGlobalFile(file_id, userPath=str(elsewhere)) == str(elsewhere)
        assert refs_of(fs, file_id) == [(str(elsewhere), "mutable")]
        with pytest.raises(FileNotFoundError):
            fs.deleteLocalFile(file_id)
        fs.deleteGlobalFile(file_id)
    assert elsewhere.read_bytes() == b"x" * BIG
    assert os.stat(elsewhere).st_nlink == 1


def test_without_cache_a_file_is_fetched_for_this_job_alone(node: Node) -> None:
    file_id = node.uploaded()
    with node.job() as fs:
        path = fs.readGlobalFile(file_id, cache=False)
        assert Path(path).read_bytes() == b"content"
        assert not fs.fileIsCached(file_id)
        fs.deleteLocalFile(file_id)
        assert not os.path.lexists(path)
        fs.readGlobalFile(file_id)
        assert fs.fileIsCached(file_id)
        fs.readGlobalFile(file_id, cache=False)
        assert fs.getFileReaderCount(file_id) == 2


def test_a_file_is_fetched_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id, read, fetched = node.uploaded(), node.store.read_file, list[str]()
    monkeypatch.setattr(
        node.store, "read_file", lambda *arguments: (fetched.append(arguments[0]), read(*arguments))
    )
    for _ in range(3):
        with node.job() as fs:
            fs.readGlobalFile(file_id)
            fs.readGlobalFile(str(file_id), mutable=True)
            with fs.readGlobalFileStream(file_id) as stream:
                assert stream.read() == b"content"
    assert fetched == [file_id]


def test_an_executable_is_one_from_the_cache_too(node: Node) -> None:
    file_id = node.uploaded(b"#!/bin/sh\n", executable=True)
    for known in (file_id, str(file_id), FileID.unpack(file_id.pack()), pickle.loads(pickle.dumps(file_id))):
        with node.job() as fs:
            for mutable in (False, True):
                assert os.access(fs.readGlobalFile(known, mutable=mutable), os.X_OK)
    plain = node.uploaded(b"data")
    with node.job() as fs:
        assert not os.stat(fs.readGlobalFile(plain)).st_mode & 0o111
        claimed = FileID(str(plain), 4, executable=True)
        assert os.access(fs.readGlobalFile(claimed), os.X_OK)
        assert not os.stat(fs.readGlobalFile(plain)).st_mode & 0o111


def test_a_size_that_the_id_tells_wrongly_does_no_harm(node: Node) -> None:
    file_id = node.uploaded(b"12345")
    with node.job() as fs:
        assert Path(fs.readGlobalFile(FileID(str(file_id), 99))).read_bytes() == b"12345"
        assert fs.getCacheUsed() in (0, 5)


def test_a_symlink_for_who_takes_one_where_no_link_can_be_made(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, path: str, **options: object) -> None:
        raise OSError(errno.EMLINK, "Too many links", path)

    file_id = node.uploaded(b"x" * BIG)
    with node.job() as fs:
        node.cache.reflinks = False
        monkeypatch.setattr("toilcache.vfs.link", refuse)
        linked, copied = fs.readGlobalFile(file_id, symlink=True), fs.readGlobalFile(file_id)
        assert os.path.islink(linked)
        assert not os.path.islink(copied)
        assert refs_of(fs, file_id) == [(linked, "immutable"), (copied, "mutable")]
        assert Path(linked).read_bytes() == Path(copied).read_bytes() == b"x" * BIG


def test_a_stream_of_what_is_not_uploaded_yet_gives_bytes_or_text(node: Node) -> None:
    with node.job() as fs:
        file_id = fs.writeGlobalFile(write("x", "é\n".encode()))
        assert state_of(node, file_id) in ("uploadable", "uploading", "cached")
        with fs.readGlobalFileStream(file_id) as stream:
            assert stream.read() == "é\n".encode()
        with fs.readGlobalFileStream(file_id, "utf-8") as text:
            assert text.read() == "é\n"
        with fs.readGlobalFileStream(file_id, "ascii", errors="replace") as text:
            assert text.read() == "\ufffd\ufffd\n"


def test_threads_of_a_job_read_at_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock is held while a file is fetched: each of the fetches waits for all others to have begun."""
    ids = [node.uploaded(os.urandom(10)) for _ in range(4)]
    read, all_begun = node.store.read_file, threading.Barrier(4, timeout=DEADLINE)

    def slow(file_id: str, path: str, symlink: bool = False) -> None:
        all_begun.wait()
        read(file_id, path, symlink)

    monkeypatch.setattr(node.store, "read_file", slow)
    paths: dict[FileID, str] = {}
    with node.job() as fs:
        threads = [
            threading.Thread(target=lambda one=one: paths.update({one: fs.readGlobalFile(one)}))
            for one in ids
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {one: Path(path).read_bytes() for one, path in paths.items()} == {
            one: node.stored(one) for one in ids
        }


@pytest.mark.parametrize(
    "bad", ["", "../../etc/passwd", "kept/0123456789abcdef/1/0123456789abcdef-x", "nul\0"]
)
def test_an_id_of_nowhere_leaves_no_trace(node: Node, bad: str) -> None:
    with node.job() as fs:
        with pytest.raises(NoSuchFileException):
            fs.readGlobalFile(bad)
        assert fs.getFileReaderCount(bad) == 0
        assert node.states() == {}


# Writing


@pytest.mark.parametrize("size", [0, 10, BIG])
def test_what_is_written_is_cached_then_uploaded(node: Node, size: int) -> None:
    data = os.urandom(size)
    with node.job() as fs:
        file_id = fs.writeGlobalFile(write("out", data))
        assert (file_id.size, file_id.executable) == (size, False)
        assert fs.fileIsCached(file_id)
        assert fs.getFileReaderCount(file_id) == 1
        shared = os.stat("out").st_nlink == 2
        assert shared == (size == BIG and not node.cache.reflinks)
        with node.job() as other:
            assert Path(other.readGlobalFile(file_id)).read_bytes() == data
        commit(fs)
        assert state_of(node, file_id) == "cached"
    assert node.stored(file_id) == data
    assert fs.getFileReaderCount(file_id) == 0


def test_a_written_file_may_be_called_executable(node: Node) -> None:
    with node.job() as fs:
        for size in (10, BIG):
            file_id = fs.writeGlobalFile(write(f"tool {size}", os.urandom(size)), executable=True)
            assert file_id.executable
            assert os.access(fs.readGlobalFile(str(file_id)), os.X_OK)
            fs.startCommit()
            fs.waitForCommit()
            assert node.store.file_status(file_id) == (size, True)
        outside = node.where / "outside"
        outside.write_bytes(b"#!/bin/sh\n")
        assert node.store.file_status(fs.writeGlobalFile(str(outside), executable=True)) == (10, True)


def test_what_is_outside_is_uploaded_at_once_and_not_cached(node: Node) -> None:
    outside = node.where / "outside"
    outside.write_bytes(b"x" * BIG)
    with node.job() as fs:
        Path("link").symlink_to(outside)
        for name in (str(outside), "link"):
            file_id = fs.writeGlobalFile(name)
            assert node.stored(file_id) == b"x" * BIG
            assert not fs.fileIsCached(file_id)
            assert fs.getFileReaderCount(file_id) == 0
    assert (outside.stat().st_nlink, outside.read_bytes()) == (1, b"x" * BIG)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_before_its_upload_is_named(node: Node, change: str) -> None:
    fs = node.file_store()
    node.cache.reflinks = False
    written: list[FileID] = []

    def write_and_change() -> None:
        with fs.open(Job()):
            written.append(fs.writeGlobalFile(write("my result", b"x" * BIG)))
            spoil("my result", change)
            commit(fs)

    with pytest.raises(ChangedFileError, match="my result"):
        write_and_change()
    assert node.store.load_job(str(fs.jobDesc.jobStoreID)).version == 1
    assert not node.store.file_exists(written[0])
    assert not fs.fileIsCached(written[0])


def test_a_failed_upload_is_tried_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file_id: str, path: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    with node.job() as fs:
        fs.commits_aside = False
        with monkeypatch.context() as patch:
            patch.setattr(node.store, "upload_reserved", full)
            file_id = fs.writeGlobalFile(write("out", b"x" * BIG))
            for _ in range(2):
                with pytest.raises(OSError, match="No space"):
                    commit(fs)
            assert state_of(node, file_id) == "uploadable"
            assert fs.fileIsCached(file_id)
            assert node.store.load_job(str(fs.jobDesc.jobStoreID)).version == 1
        commit(fs)
        assert node.stored(file_id) == b"x" * BIG
        assert state_of(node, file_id) == "cached"


def test_uploads_come_before_the_commit_and_deletions_after_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    upload, update = node.store.upload_reserved, node.store.update_job
    monkeypatch.setattr(
        node.store, "upload_reserved", lambda *arguments: (order.append("upload"), upload(*arguments))
    )
    old = node.uploaded()
    with node.job() as fs:

        def commit_job(desc: object) -> None:
            order.append("commit" if state_of(node, old) == "cached" else "too early")
            update(desc)  # type: ignore[arg-type]

        monkeypatch.setattr(node.store, "update_job", commit_job)
        fs.readGlobalFile(old)
        for number in range(3):
            fs.writeGlobalFile(write(f"out {number}", b"1"))
        fs.deleteGlobalFile(old)
        commit(fs)
        assert order == ["upload"] * 3 + ["commit"]
        assert state_of(node, old) is None


def test_an_export_waits_for_the_upload(node: Node) -> None:
    with node.job() as fs:
        file_id = fs.writeGlobalFile(write("out", b"x" * BIG))
        fs.export_file(file_id, str(node.where / "exported"))
    assert (node.where / "exported").read_bytes() == b"x" * BIG


def test_a_forked_child_of_a_job_reads_and_writes(node: Node) -> None:
    with node.job() as fs:
        mine = fs.writeGlobalFile(write("mine", b"mine"))
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                assert Path(fs.readGlobalFile(mine)).read_bytes() == b"mine"
                os.write(writer, str(fs.writeGlobalFile(write("theirs", b"theirs"))).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        theirs = os.read(reader, 1000).decode()
        assert node.stored(theirs) == b"theirs"
        commit(fs)
    for descriptor in (reader, writer):
        os.close(descriptor)


# Deleting


def test_local_copies_go_and_their_references(node: Node) -> None:
    file_id = node.uploaded(b"x" * BIG)
    with node.job() as fs:
        paths = [fs.readGlobalFile(file_id), fs.readGlobalFile(file_id, mutable=True)]
        fs.deleteLocalFile(file_id)
        assert not any(map(os.path.lexists, paths))
        assert refs_of(fs, file_id) == []
        with pytest.raises(OSError, match="this job has none") as caught:
            fs.deleteLocalFile(file_id)
        assert caught.value.errno == errno.ENOENT
        assert fs.fileIsCached(file_id)


def test_a_link_that_was_moved_is_named_until_it_is_back(node: Node) -> None:
    file_id = node.uploaded()
    with node.job() as fs:
        path, other = fs.readGlobalFile(file_id), fs.readGlobalFile(file_id)
        os.rename(path, path + ".moved")
        with pytest.raises(IllegalDeletionCacheError, match=os.path.basename(path)):
            fs.deleteLocalFile(file_id)
        assert os.path.lexists(other)
        os.rename(path + ".moved", path)
        fs.deleteLocalFile(file_id)
        assert not os.path.lexists(path)
        assert not os.path.lexists(other)


def test_a_file_that_another_job_reads_is_not_deleted(node: Node) -> None:
    file_id = node.uploaded()
    with node.job("deleter") as fs:
        fs.readGlobalFile(file_id)
        with node.job("the reader") as other:
            other.readGlobalFile(file_id)
            with pytest.raises(RuntimeError, match="the reader"):
                fs.deleteGlobalFile(file_id)
            assert Path(fs.readGlobalFile(file_id)).read_bytes() == b"content"
        fs.deleteGlobalFile(file_id)
        with pytest.raises(FileNotFoundError):
            fs.readGlobalFile(file_id)
        commit(fs)
        assert not fs.fileIsCached(file_id)
        assert node.store.load_job(str(fs.jobDesc.jobStoreID)).filesToDelete == [str(file_id)]


# Space


def test_the_formulas(node: Node) -> None:
    """Lines 1169 to 1189, with numbers that can be told apart."""
    node.cache.is_free = False
    with node.job(disk=30 * MB) as fs:
        fs.adjustCacheLimit(100 * MB)
        read = node.uploaded(b"r" * (4 * MB))
        assert (fs.getCacheLimit(), fs.getSpaceUsableForJobs()) == (100 * MB, 70 * MB)
        assert (fs.getCacheUsed(), fs.getCacheExtraJobSpace()) == (0, 30 * MB)
        fs.readGlobalFile(read)
        fs.writeGlobalFile(write("w", b"w" * (2 * MB)))
        with node.job(disk=20 * MB) as other:
            other.readGlobalFile(read)
            other.readGlobalFile(read, mutable=True)
            assert fs.getCacheUsed() == 6 * MB
            assert fs.getCacheExtraJobSpace() == 50 * MB - (4 + 2 + 4) * MB
            assert fs.getCacheAvailable() == 100 * MB - 6 * MB - 40 * MB
            assert fs.getSpaceUsableForJobs() == 50 * MB
            assert fs.getCacheUnusedJobRequirement() == 24 * MB
            assert other.getCacheUnusedJobRequirement() == 16 * MB
        assert fs.getCacheExtraJobSpace() == 24 * MB


def test_the_first_job_that_asks_is_counted_itself(node: Node) -> None:
    """Nobody has used the cache of this node yet."""
    with node.job(disk=MB) as fs:
        assert fs.getCacheExtraJobSpace() == MB
        assert fs.getCacheLimit() - fs.getSpaceUsableForJobs() == MB


def test_the_first_job_that_sets_a_limit_is_counted_too(node: Node) -> None:
    with node.job("first", disk=MB) as fs:
        fs.adjustCacheLimit(MB)
        with pytest.raises(CacheUnbalancedError, match="first"), node.job("second", disk=1):
            pytest.fail("there is no room for it")


def test_the_limit_that_was_set_is_exact_and_evicts(node: Node) -> None:
    ids = [node.uploaded(os.urandom(MB)) for _ in range(4)]
    for file_id in ids:
        with node.job(disk=MB) as fs:
            fs.readGlobalFile(file_id)
    assert node.states() == {"cached": 4}
    fs.adjustCacheLimit(3 * MB)
    assert fs.getCacheLimit() == 3 * MB
    assert [fs.fileIsCached(file_id) for file_id in ids] == [False, False, True, True]
    assert node.states() == {"cached": 2}
    assert len(node.payloads()) == 2


@pytest.mark.parametrize("limit", [-1, float("nan"), float("inf"), 1 << 63])
def test_a_limit_that_is_no_size_is_refused(node: Node, limit: float) -> None:
    with node.job() as fs:
        fs.adjustCacheLimit(MB)
        with pytest.raises(ValueError, match=f"cannot limit the cache to {limit} bytes"):
            fs.adjustCacheLimit(limit)
        assert fs.getCacheLimit() == MB


def test_the_least_recently_used_goes_first_and_nothing_that_is_held(node: Node) -> None:
    fs, ids = node.file_store(disk=2 * MB), [node.uploaded(os.urandom(MB)) for _ in range(4)]
    fs.adjustCacheLimit(8 * MB)
    for file_id in ids:
        with node.job(disk=MB) as reader:
            reader.readGlobalFile(file_id)
    with fs.open(Job()):
        fs.readGlobalFile(ids[0])
        for file_id in (ids[2], ids[1], ids[3]):
            with node.job(disk=MB) as reader:
                reader.readGlobalFile(file_id)
        with node.job(disk=4 * MB):
            assert [fs.fileIsCached(file_id) for file_id in ids] == [True, False, False, True]


def test_files_are_chosen_for_eviction_in_one_transaction_with_some_to_spare(node: Node) -> None:
    with node.job(disk=0) as fs:
        fs.adjustCacheLimit(20 * MB)
        for _ in range(20):
            fs.readGlobalFile(node.uploaded(os.urandom(MB)))
            fs.deleteLocalFile(list(fs._local_copies)[-1])
        assert node.states() == {"cached": 20}
        wanted, said = node.uploaded(os.urandom(5 * MB)), list[str]()
        fs.con.set_trace_callback(said.append)
        fs.readGlobalFile(wanted, mutable=True)
        fs.con.set_trace_callback(None)
        assert node.states() == {"cached": 20 - 5 - 1 + 1}  # the margin is a twentieth of the limit
    chosen = [place for place, text in enumerate(said) if "state = 'deleting'" in text and "UPDATE" in text]
    assert len(chosen) == 6
    assert not {"COMMIT", "BEGIN IMMEDIATE"} & set(said[chosen[0] : chosen[-1]])


def test_what_stands_in_the_coordination_directory_stays_small(node: Node) -> None:
    """It may be a memory of five megabytes."""
    with node.job(disk=0) as fs:
        for number in range(300):
            fs.writeGlobalFile(write(f"file {number}", os.urandom(10)))
        for _ in range(5):
            fs.readGlobalFile(node.uploaded(os.urandom(2 * MB)))
        commit(fs)
        found = [path for path in Path(node.dirs.coordination).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in found) < 2 * MB
        assert sum(path.stat().st_size for path in node.payloads()) > 10 * MB


def test_a_job_is_let_in_only_when_its_space_can_be_had(node: Node) -> None:
    with node.job("the glutton", disk=3 * MB) as fs:
        fs.adjustCacheLimit(4 * MB)
        fs.readGlobalFile(node.uploaded(b"x" * MB))
        with pytest.raises(CacheUnbalancedError) as caught, node.job("the guest", disk=2 * MB):
            pytest.fail("was let in")
        text = str(caught.value)
        assert text.startswith(CacheUnbalancedError.message)
        assert "the glutton" in text
        assert str(3 * MB) in text
        assert str(MB) in text
        assert os.listdir(node.dirs.jobs) == [os.path.basename(fs.localTempDir)]
        with node.job("a smaller guest", disk=MB):
            pass
    with node.job("the guest", disk=2 * MB):
        pass


def test_a_requirement_larger_than_the_disk_is_refused(node: Node) -> None:
    with node.job() as fs:
        fs.readGlobalFile(node.uploaded())
    with pytest.raises(CacheUnbalancedError, match="the giant"), node.job("the giant", disk=1 << 60):
        pytest.fail("was let in")


def test_without_room_a_file_is_read_and_written_all_the_same(node: Node) -> None:
    with node.job(disk=MB) as fs:
        fs.adjustCacheLimit(MB)
        file_id = node.uploaded(b"x" * (2 * MB))
        for mutable in (False, True):
            assert os.path.getsize(fs.readGlobalFile(file_id, mutable=mutable)) == 2 * MB
        assert not fs.fileIsCached(file_id)
        small = fs.writeGlobalFile(write("small", b"1"))
        assert not fs.fileIsCached(small)
        assert node.stored(small) == b"1"


def test_the_automatic_limit_follows_the_disk(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"bytes": 100 * MB}
    monkeypatch.setattr("toilcache.cache.space.free_bytes", lambda directory: free["bytes"])
    with node.job(disk=20 * MB) as fs:
        node.cache.is_free = False
        fs.readGlobalFile(node.uploaded(b"x" * (10 * MB)))
        free["bytes"] -= 10 * MB
        assert fs.getCacheLimit() == 100 * MB
        free["bytes"] -= 20 * MB  # what the job writes was reserved for it
        assert fs.getCacheLimit() == 100 * MB
        free["bytes"] -= 30 * MB  # this is somebody else
        assert fs.getCacheLimit() == 70 * MB
        free["bytes"] += 100 * MB
        assert fs.getCacheLimit() == 150 * MB


def test_where_caching_is_free_nothing_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toilcache.job_store.file_job_store.FileJobStore.gives_freely", lambda *args: True)
    with node_in(tmp_path / "free") as node, node.job(disk=MB) as fs:
        fs.readGlobalFile(node.uploaded(b"x" * MB))
        fs.adjustCacheLimit(64 * MB)  # the automatic one follows what others do to the disk
        assert fs.cachingIsFree()
        assert fs.getCacheUsed() == 0
        assert fs.getCacheAvailable() == fs.getCacheLimit()


# What may be asked, and the errors


def test_the_process_of_the_cache_is_this_one(node: Node) -> None:
    fs = node.file_store()
    with fs.as_process() as name, fs.as_process() as again:
        assert name == again == get_process_name(node.dirs.names_base)
        seen: list[bool] = []
        thread = threading.Thread(
            target=lambda: seen.append(node.cache.generation.database.mutex.acquire(blocking=False))
        )
        thread.start()
        thread.join()
        assert seen == [False]


def test_each_thread_has_a_connection(node: Node) -> None:
    fs, found = node.file_store(), list[sqlite3.Connection]()
    thread = threading.Thread(target=lambda: found.append(fs.con))
    thread.start()
    thread.join()
    assert fs.con is fs.con
    assert found[0] is not fs.con
    assert fs.cur.connection is fs.con
    tables = {name for (name,) in fs.cur.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"files", "refs", "jobs", "properties"}


def test_a_job_has_its_row_while_it_runs(node: Node) -> None:
    with node.job(disk=123) as fs:
        fs.readGlobalFile(node.uploaded())
        [row] = fs.con.execute("SELECT id, attempt, tempdir, disk, worker FROM jobs").fetchall()
        name = get_process_name(node.dirs.names_base)
        assert row == (fs.jobDesc.jobStoreID, 1, fs.localTempDir, 123, name)
    assert fs.con.execute("SELECT * FROM jobs").fetchall() == []


def test_the_errors_are_those_of_the_specification() -> None:
    assert issubclass(CacheUnbalancedError, CacheError)
    assert issubclass(InvalidSourceCacheError, CacheError)
    assert str(CacheError("it is so")) == "it is so"
    assert "'a b'" in str(IllegalDeletionCacheError("a b"))
    assert CacheUnbalancedError.message.startswith(
        "Unable unable to free enough space for caching. This error frequently arises due to jobs using"
    )
    for error in (CacheError("x"), CacheUnbalancedError("table"), IllegalDeletionCacheError("/x")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


def test_a_time_limit_and_a_logger_are_public() -> None:
    assert toilcache.SQLITE_TIMEOUT_SECS == 60.0
    assert toilcache.logger.name == "toilcache.file_store.caching"


# The end


def test_the_shutdown_removes_the_cache_and_the_directories_of_its_jobs(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    info = (node.dirs.coordination, node.dirs.work)
    CachingFileStore.shutdown(info)
    with node.job() as fs:
        fs.readGlobalFile(node.uploaded())
        CachingFileStore.shutdown(info)
        assert fs.fileIsCached is not None
        assert os.path.isdir(node.dirs.cache)
        left = os.path.join(node.dirs.jobs, "job-left")
        os.mkdir(left)
        fs.con.execute("INSERT INTO jobs VALUES ('dead', 1, 'dead', ?, 0, 'nobody', NULL)", (left,))
        kept = tmp_path / "kept"
        kept.mkdir()
        fs.con.execute("INSERT INTO jobs VALUES ('dead', 2, 'dead', ?, 0, 'nobody', NULL)", (str(kept),))
    node.close()
    for _ in range(2):
        CachingFileStore.shutdown(info)
        assert not os.path.lexists(node.dirs.cache)
        assert not os.path.lexists(node.dirs.payloads)
        assert os.listdir(node.dirs.jobs) == []
        assert kept.is_dir()


def test_the_shutdown_by_a_process_that_used_the_cache_itself(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    with node.job() as fs:
        fs.readGlobalFile(node.uploaded())
    CachingFileStore.shutdown((node.dirs.coordination, node.dirs.work))
    assert not os.path.lexists(node.dirs.cache)
    assert not os.path.lexists(node.dirs.payloads)
