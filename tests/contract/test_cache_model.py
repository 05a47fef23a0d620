"""Random interleavings of everything that jobs do with the cache, against a simple model of the rules.

The model knows the files of the job store, the jobs, and their references. Jobs are of one process here,
which dies for one of them now and then: its rows are then those of a process that nobody finds. After every
step the cache must be sound, and what may be asked of it must be what the model says.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from tests.fakes.cache_nodes import Node, commit
from toilcache.cache import rows as rows_of
from toilcache.cache.check import check
from toilcache.errors import CacheUnbalancedError
from toilcache.file_store.caching import CachingFileStore
from toilcache.job.job import Job
from toilcache.job_store.file_id import FileID

UNIT = 1000
DEAD = "0123456789abcdef"


class Ref(NamedTuple):
    """A local copy of a file: whether it is a link, and whether the cache knows of it."""

    file_id: FileID
    path: str
    link: bool
    counted: bool


class ModelJob:
    """A job that runs: its store, and what the model says that it holds."""

    def __init__(self, fs: CachingFileStore, stack: ExitStack, disk: int) -> None:
        self.fs, self.stack, self.disk = fs, stack, disk
        self.refs: list[Ref] = []
        self.deleted: set[FileID] = set()
        self.key = (str(fs.jobDesc.jobStoreID), fs.jobDesc.version)
        self.written: set[FileID] = set()
        self.runs = True


class CacheMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")
    files = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        self._before = os.getcwd()
        self._place = tempfile.TemporaryDirectory()
        self.node = Node(Path(self._place.name, "node"))
        self.node.cache.set_limit(40 * UNIT)
        self.limit = 40 * UNIT
        self.running: list[ModelJob] = []
        self.content: dict[FileID, bytes] = {}
        self.uploaded: set[FileID] = set()

    def teardown(self) -> None:
        for job in [job for job in self.running if job.runs]:
            job.stack.close()
        os.chdir(self._before)
        assert self.node.findings() == []
        self.node.close()
        self._place.cleanup()

    # The job store

    @rule(target=files, size=st.integers(0, 8), executable=st.booleans())
    def appears(self, size: int, executable: bool) -> FileID:
        data = os.urandom(size * UNIT)
        file_id = self.node.uploaded(data, executable)
        self.content[file_id] = data
        self.uploaded.add(file_id)
        return file_id

    # Jobs

    @rule(target=jobs, disk=st.integers(0, 15))
    def begins(self, disk: int) -> ModelJob:
        fs, stack = self.node.file_store(disk=disk * UNIT), ExitStack()
        fs.commits_aside = False
        asked = sum(job.disk for job in self.running if job.runs)
        try:
            stack.enter_context(fs.open(Job()))
        except CacheUnbalancedError:
            assert asked + disk * UNIT + self.pinned() > self.limit
            return multiple()  # type: ignore[no-any-return]
        job = ModelJob(fs, stack, disk * UNIT)
        self.running.append(job)
        return job

    def pinned(self) -> int:
        """The bytes that cannot be evicted, whoever holds them, or that somebody is to upload."""
        held = {ref.file_id for job in self.running if job.runs for ref in job.refs if ref.link}
        return sum(len(self.content[file_id]) for file_id in held | (set(self.content) - self.uploaded))

    @rule(job=jobs)
    def ends(self, job: ModelJob) -> None:
        if job.runs:
            job.runs = False
            job.stack.close()
            assert not os.path.lexists(job.fs.localTempDir) if job.fs._scratch else True

    @rule(job=jobs)
    def commits(self, job: ModelJob) -> None:
        if job.runs:
            commit(job.fs)
            self.uploaded |= job.written
            job.written.clear()
            for file_id in job.deleted:
                held = any(ref.link for ref in self.refs_to(file_id))
                assert held or not job.fs.fileIsCached(file_id)

    @rule(job=jobs)
    def dies(self, job: ModelJob) -> None:
        """The process of a job is killed: its rows stay, its locks go."""
        if not job.runs:
            return
        key = job.key
        con = self.node.cache.generation.database.con
        con.execute("UPDATE jobs SET worker = ? WHERE id = ? AND attempt = ?", (DEAD, *key))
        mine = [file_id for file_id in job.written if file_id not in self.uploaded]
        for file_id in mine:
            con.execute("UPDATE files SET owner = ? WHERE id = ? AND owner IS NOT NULL", (DEAD, str(file_id)))
            self.uploaded.discard(file_id)
        home = job.fs.localTempDir
        job.runs, job.fs._holder, job.fs._uploads = False, None, None
        self.node.cache.adopt_dead()
        assert not os.path.lexists(home) or not job.refs
        for file_id in mine:
            self.content.pop(file_id, None)
        job.stack.pop_all()
        os.chdir(self._before)

    # Files in jobs

    def refs_to(self, file_id: FileID) -> list[Ref]:
        """What running jobs have of a file."""
        return [ref for job in self.running if job.runs for ref in job.refs if ref.file_id == file_id]

    def remember(self, job: ModelJob, file_id: FileID, path: str) -> None:
        """Add what a job has got. Whether that may be a link is for the caller to say."""
        states = [state for (state,) in job.fs.con.execute("SELECT state FROM refs WHERE path = ?", (path,))]
        assert states in ([], ["immutable"], ["mutable"])
        job.refs.append(Ref(file_id, path, states == ["immutable"], bool(states)))

    @rule(job=jobs, file_id=files, mutable=st.booleans(), cache=st.booleans(), symlink=st.booleans())
    def reads(self, job: ModelJob, file_id: FileID, mutable: bool, cache: bool, symlink: bool) -> None:
        if not job.runs or file_id not in self.content:
            return
        if file_id in job.deleted:
            try:
                job.fs.readGlobalFile(file_id)
            except FileNotFoundError:
                return
            raise AssertionError("a deleted file was read")
        if file_id not in self.uploaded and not job.fs.fileIsCached(file_id):
            return
        path = job.fs.readGlobalFile(file_id, mutable=mutable, cache=cache, symlink=symlink)
        assert Path(path).read_bytes() == self.content[file_id]
        assert os.access(path, os.X_OK) == file_id.executable
        self.remember(job, file_id, path)
        assert not (mutable and job.refs[-1].link)
        assert cache or not job.refs[-1].link or self.node.states()

    @rule(job=jobs, file_id=files)
    def streams(self, job: ModelJob, file_id: FileID) -> None:
        if not job.runs or file_id not in self.content or file_id in job.deleted:
            return
        if file_id in self.uploaded or job.fs.fileIsCached(file_id):
            with job.fs.readGlobalFileStream(file_id) as stream:
                assert stream.read() == self.content[file_id]

    @rule(target=files, job=jobs, size=st.sampled_from([0, 1, 5, 70]))
    def writes(self, job: ModelJob, size: int) -> FileID:
        if not job.runs:
            return multiple()  # type: ignore[no-any-return]
        data = os.urandom(size * UNIT)
        path = job.fs.getLocalTempFileName()
        Path(path).write_bytes(data)
        file_id = job.fs.writeGlobalFile(path)
        self.content[file_id] = data
        job.written.add(file_id)
        self.remember(job, file_id, path)
        if self.node.store.file_exists(file_id):
            self.uploaded.add(file_id)
        return file_id

    @rule(job=jobs, file_id=files)
    def drops_copies(self, job: ModelJob, file_id: FileID) -> None:
        if not job.runs:
            return
        mine = [ref for ref in job.refs if ref.file_id == file_id]
        try:
            job.fs.deleteLocalFile(file_id)
        except FileNotFoundError:
            assert mine == []
        assert not any(os.path.lexists(path) for path in [ref.path for ref in mine])
        job.refs = [ref for ref in job.refs if ref.file_id != file_id]

    @rule(job=jobs, file_id=files)
    def deletes(self, job: ModelJob, file_id: FileID) -> None:
        if not job.runs or file_id not in self.content:
            return
        others = [ref for ref in self.refs_to(file_id) if ref.counted and ref not in job.refs]
        try:
            job.fs.deleteGlobalFile(file_id)
        except RuntimeError:
            assert others
            return
        assert not others
        job.deleted.add(file_id)
        job.refs = [ref for ref in job.refs if ref.file_id != file_id]

    # The world

    @rule(limit=st.integers(0, 60))
    def the_limit_changes(self, limit: int) -> None:
        self.node.cache.set_limit(limit * UNIT)
        self.limit = limit * UNIT

    @rule(data=st.data())
    def a_payload_vanishes(self, data: st.DataObject) -> None:
        """Of a file that the job store has, and of which somebody takes notice at once."""
        con = self.node.cache.generation.database.con
        found = con.execute("SELECT id, path FROM files WHERE state = 'cached' ORDER BY id").fetchall()
        found = [(file_id, path) for file_id, path in found if self.node.store.file_exists(file_id)]
        if found:
            file_id, path = data.draw(st.sampled_from(found))
            os.unlink(path)
            with self.node.job("finder", disk=0) if self.limit >= self.asked() else ExitStack() as fs:
                if isinstance(fs, CachingFileStore):
                    fs.readGlobalFile(file_id)
                else:
                    con.execute("DELETE FROM files WHERE id = ?", (file_id,))

    def asked(self) -> int:
        return sum(job.disk for job in self.running if job.runs) + self.pinned()

    @invariant()
    def the_cache_is_sound(self) -> None:
        assert check(self.node.cache) == []

    @invariant()
    def the_sums_are_those_of_the_formulas(self) -> None:
        cache = self.node.cache
        con, now = cache.generation.database.con, cache.space()
        assert now.limit == self.limit
        rows = con.execute("SELECT id, size, state FROM files").fetchall()
        assert all(len(self.content[FileID(one, 0)]) == size for one, size, _ in rows if one in self.content)
        assert now.files == sum(size for _, size, _ in rows)
        joined = [job for job in self.running if job.runs and job.fs._holder is not None]
        assert now.jobs == sum(job.disk for job in joined)
        links = [ref.file_id for job in joined for ref in job.refs if ref.link]
        for file_id in self.content:
            counted = [ref for ref in self.refs_to(file_id) if ref.counted]
            assert rows_of.readers(con, str(file_id)) == len(counted)
        present = {one for one, _, _ in rows}
        assert now.links == sum(len(self.content[one]) for one in links if one in present)


CacheMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
TestCacheMachine = CacheMachine.TestCase
