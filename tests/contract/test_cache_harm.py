"""Nobody can harm the job store, an original, or another job through what the cache hands out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.fakes.cache_nodes import BIG, CHANGES, Child, Node, commit, node_in, spoil, write
from toilcache.errors import ChangedFileError
from toilcache.file_store.caching import CachingFileStore
from toilcache.file_store.plain import NonCachingFileStore
from toilcache.job.job import Job

NOBODY = 65534
DATA = b"x" * BIG


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose file system can make hard links only, and whose jobs may write to any file."""
    with node_in(tmp_path / "node") as made:
        made.cache.reflinks = False
        yield made


def version(node: Node, fs: object) -> int:
    return node.store.load_job(str(fs.jobDesc.jobStoreID)).version  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", CHANGES)
def test_who_held_a_payload_that_was_changed_is_run_again(node: Node, change: str) -> None:
    file_id = node.uploaded(DATA)
    vandal, victim, later = (node.file_store(name) for name in ("vandal", "victim", "later"))

    def vandalise() -> None:
        with vandal.open(Job()):
            spoil_as_root(vandal.readGlobalFile(file_id), change)
            commit(vandal)

    def run() -> None:
        with victim.open(Job()):
            victim.readGlobalFile(file_id)
            with pytest.raises(ChangedFileError, match="vandal"):
                vandalise()
            with later.open(Job()):
                assert Path(later.readGlobalFile(file_id)).read_bytes() == DATA
                commit(later)
            with pytest.raises(ChangedFileError, match="victim"):
                commit(victim)

    with pytest.raises(ChangedFileError, match="victim"):
        run()
    assert [version(node, fs) for fs in (vandal, victim, later)] == [1, 1, 2]
    assert node.stored(file_id) == DATA


def spoil_as_root(path: str, change: str) -> None:
    """Change a file that is read-only, as a process may that is root."""
    mode = os.stat(path).st_mode
    os.chmod(path, 0o644)
    spoil(path, change)
    os.chmod(path, mode)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed_by_the_next_reader_too(node: Node, change: str) -> None:
    """Nobody held the payload when it was changed: it is fetched again and nobody is run again."""
    file_id = node.uploaded(DATA)
    with node.job() as fs:
        fs.readGlobalFile(file_id)
    [payload] = node.payloads()
    spoil_as_root(str(payload), change)
    with node.job() as fs:
        assert Path(fs.readGlobalFile(file_id)).read_bytes() == DATA
        with fs.readGlobalFileStream(file_id) as stream:
            assert stream.read() == DATA
        commit(fs)
    assert not payload.exists()


@pytest.mark.parametrize("change", CHANGES)
def test_a_stream_never_gives_changed_bytes(node: Node, change: str) -> None:
    file_id = node.uploaded(DATA)
    with node.job() as fs:
        fs.readGlobalFile(file_id)
    [payload] = node.payloads()
    spoil_as_root(str(payload), change)
    with node.job() as fs, fs.readGlobalFileStream(file_id) as stream:
        assert stream.read() == DATA


@pytest.mark.parametrize("mutable", [False, True])
def test_a_payload_that_vanished_is_fetched_again(node: Node, mutable: bool) -> None:
    file_id = node.uploaded(DATA)
    with node.job() as holder:
        held = holder.readGlobalFile(file_id)
        [payload] = node.payloads()
        payload.unlink()
        with node.job() as fs:
            assert Path(fs.readGlobalFile(file_id, mutable=mutable)).read_bytes() == DATA
            commit(fs)
        assert Path(held).read_bytes() == DATA
        commit(holder)


def test_all_payloads_vanish(node: Node) -> None:
    ids = [node.uploaded(os.urandom(10)) for _ in range(5)]
    for _ in range(2):
        with node.job() as fs:
            assert [Path(fs.readGlobalFile(one)).read_bytes() for one in ids] == [*map(node.stored, ids)]
        for payload in node.payloads():
            payload.unlink()
    with node.job() as fs:
        for one in ids:
            fs.readGlobalFile(one)


@pytest.mark.parametrize("what", ["coordination", "payloads"])
def test_a_job_does_without_a_cache_whose_directory_was_removed(tmp_path: Path, what: str) -> None:
    """As what tidies up temporary directories does, or a logout."""
    node = Node(tmp_path / "node")
    file_id, other = node.uploaded(DATA), node.uploaded(DATA)
    with node.job() as fs:
        fs.readGlobalFile(file_id)
        shutil.rmtree(getattr(node.dirs, what))
        for one in (file_id, other):
            for mutable in (False, True):
                assert Path(fs.readGlobalFile(one, mutable=mutable)).read_bytes() == DATA
        written = fs.writeGlobalFile(write("mine", DATA))
        commit(fs)
        assert version(node, fs) == 2
    node.close()
    assert node.stored(written) == DATA
    assert any("does without the cache" in text for _, text in [*fs.messages, *fs.jobDesc.messages])


def test_who_changes_its_own_file_after_the_upload_harms_nobody(node: Node) -> None:
    with node.job() as fs:
        file_id = fs.writeGlobalFile(write("mine", DATA))
        fs.startCommit()
        fs.waitForCommit()
        spoil("mine", "append")
        with node.job() as reader:
            assert Path(reader.readGlobalFile(file_id)).read_bytes() == DATA
        commit(fs)
    assert node.stored(file_id) == DATA


def test_a_copy_of_a_small_file_leaves_its_writer_free(node: Node) -> None:
    with node.job() as fs:
        file_id = fs.writeGlobalFile(write("mine", b"small"))
        Path("mine").write_bytes(b"changed at once")
        commit(fs)
    assert node.stored(file_id) == b"small"


@pytest.mark.parametrize("executable", [False, True])
@pytest.mark.parametrize("uploaded", [False, True])
def test_a_file_is_as_executable_as_it_was_written(node: Node, executable: bool, uploaded: bool) -> None:
    """Whatever a job that has a link to it does to its own: it goes on with that."""
    modes = (0o755, 0o600) if executable else (0o600, 0o755)
    with node.job() as fs:
        Path(write("mine", DATA)).chmod(modes[0])
        file_id = fs.writeGlobalFile("mine")
        if uploaded:
            fs.startCommit()
            fs.waitForCommit()
        os.chmod("mine", modes[1])
        with node.job() as reader:
            for mutable in (False, True):
                path = Path(reader.readGlobalFile(file_id, mutable=mutable))
                assert (os.access(path, os.X_OK), path.read_bytes()) == (executable, DATA)
        assert os.stat("mine").st_mode & 0o777 == modes[1]
        commit(fs)
    assert node.store.file_status(file_id) == (BIG, executable)
    with node.job() as again, node.job() as other:
        os.chmod(again.readGlobalFile(file_id), modes[1])
        path = Path(other.readGlobalFile(file_id))
        assert (os.access(path, os.X_OK), path.read_bytes()) == (executable, DATA)
        commit(again)


@contextmanager
def unprivileged_node(name: str) -> Iterator[Node]:
    """A node of another user, whom this process is meanwhile."""
    home = Path("/tmp", f"toilcache-test-{os.getpid()}-{name}")
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    before = os.getcwd()
    with node_in(home / "of root") as node, node.job() as fs:
        # What is imported when it is needed may stand where only root can read.
        fs.readGlobalFile(fs.writeGlobalFile(write("x", DATA)))
        commit(fs)
    os.seteuid(NOBODY)
    try:
        os.chdir("/")
        with node_in(home / "node") as node:
            yield node
    finally:
        os.seteuid(0)
        os.chdir(before)
        shutil.rmtree(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("change", CHANGES)
def test_without_privileges_a_payload_cannot_be_changed(change: str) -> None:
    with unprivileged_node(change) as node:
        file_id = node.uploaded(DATA)
        with node.job() as fs:
            path = fs.readGlobalFile(file_id)
            if change != "touch":
                with pytest.raises(PermissionError):
                    spoil(path, change)
            commit(fs)
        assert node.stored(file_id) == DATA


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("change", CHANGES)
def test_without_privileges_too_a_file_that_changes_before_its_upload_is_named(change: str) -> None:
    with unprivileged_node(f"write-{change}") as node:
        node.cache.reflinks = False

        def run() -> None:
            with node.job() as fs:
                fs.commits_aside = False
                fs.writeGlobalFile(write("mine", DATA))
                spoil("mine", change)
                with pytest.raises(ChangedFileError, match="mine"):
                    commit(fs)
                raise ZeroDivisionError  # as a job does whose commit failed

        with pytest.raises(ZeroDivisionError):
            run()
        assert node.states() == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_without_privileges_a_link_that_was_closed_keeps_nobody_out() -> None:
    with unprivileged_node("closed") as node:
        node.cache.reflinks = False
        with node.job() as fs:
            file_id = fs.writeGlobalFile(write("mine", DATA))
            commit(fs)
        with node.job() as closes, node.job() as reads:
            for mutable in (False, True):
                os.chmod(closes.readGlobalFile(file_id), 0)
                assert Path(reads.readGlobalFile(file_id, mutable=mutable)).read_bytes() == DATA
            os.chmod(closes.readGlobalFile(file_id), 0)
            with reads.readGlobalFileStream(file_id) as stream:
                assert stream.read() == DATA


def test_an_original_is_never_in_a_jobs_hands(node: Node) -> None:
    original = node.where / "original"
    original.write_bytes(DATA)
    file_id = node.store.import_file(f"file:{original}", symlink=True)
    assert file_id is not None
    with node.job() as fs:
        for symlink in (False, True):
            path = fs.readGlobalFile(file_id, symlink=symlink)
            assert not os.path.samefile(path, original)
        for payload in node.payloads():
            assert not payload.samefile(original)
    assert (original.stat().st_nlink, original.read_bytes()) == (1, DATA)


def test_the_job_store_is_never_in_the_hands_of_who_could_write_it(node: Node) -> None:
    """The payload is a file of its own, also where the job store is on the same file system."""
    file_id = node.uploaded(DATA)
    with node.job() as fs:
        path = fs.readGlobalFile(file_id)
        stored = [one for one in (node.where / "store").rglob("*") if one.is_file() and one.samefile(path)]
        assert stored == [] or os.geteuid() != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("kind", [CachingFileStore, NonCachingFileStore])
def test_who_permits_itself_to_write_does_not_reach_the_job_store(
    node: Node, kind: type[NonCachingFileStore]
) -> None:
    """An owner can: what it is given has to be a file of its own."""
    home = Path("/tmp", f"toilcache-test-{os.getpid()}-{kind.__name__}")
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    with node.job() as fs:
        fs.readGlobalFile(fs.writeGlobalFile(write("import what is imported when it is needed", DATA)))

    def work(child: Child) -> None:
        os.chdir("/")
        os.setresuid(NOBODY, NOBODY, NOBODY)
        mine = Node(home / "node")
        for symlink in (False, True):
            file_id = mine.uploaded(DATA)
            fs = kind(mine.store, mine.new_job(), mine.dirs.jobs, bool)
            with suppress(ChangedFileError), fs.open(Job()):
                path = fs.readGlobalFile(file_id, symlink=symlink)
                os.chmod(path, 0o600)
                spoil(path, "overwrite")
            assert mine.stored(file_id) == DATA

    try:
        assert Child(work).end() == 0
    finally:
        shutil.rmtree(home)
