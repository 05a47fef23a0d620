"""Random sequences of what jobs of several processes do with one cache; processes are killed now and then.

Each call is made in the worker process that runs the job. The model knows what each file holds, who has read
or written it, and what is deleted. What a dead process had is adopted by another worker, drawn at random.
After every step the cache must be sound, and its sums those of the formulas.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from tests.fakes.cache_nodes import Node
from tests.fakes.cache_workers import Worker
from toilcache.cache import rows
from toilcache.cache.check import check
from toilcache.errors import CacheUnbalancedError
from toilcache.job_store.file_id import FileID

UNIT = 1000
WORKERS = 3
SIZES = st.sampled_from([0, 1, 5, 70])


class Ref(NamedTuple):
    """A local copy: of which file, where, and what the cache says of it."""

    file_id: FileID
    path: str
    states: list[str]


class RunningJob:
    """A job that runs, or ran, in a worker."""

    def __init__(self, number: int, worker: int, disk: int, home: str) -> None:
        self.number, self.worker, self.disk, self.home = number, worker, disk, home
        self.refs: list[Ref] = []
        self.written: set[FileID] = set()
        self.deleted: set[FileID] = set()
        self.runs = True


class WorkersMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")
    files = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        self._before = os.getcwd()
        self._place = tempfile.TemporaryDirectory()
        self.node = Node(Path(self._place.name, "node"))
        self.limit = 300 * UNIT
        self.node.cache.set_limit(self.limit)
        self.workers = [Worker(self.node) for _ in range(WORKERS)]
        self.content: dict[FileID, bytes] = {}
        self.uploaded: set[FileID] = set()
        self.all_jobs: list[RunningJob] = []

    def teardown(self) -> None:
        for worker in self.workers:
            worker.stop()
        os.chdir(self._before)
        assert self.node.findings() == []
        assert os.listdir(self.node.dirs.jobs) == []
        assert set(self.node.states()) <= {"cached"}
        for file_id in self.uploaded:
            if self.node.store.file_exists(file_id):
                assert self.node.stored(file_id) == self.content[file_id]
        self.node.close()
        self._place.cleanup()

    @property
    def running(self) -> list[RunningJob]:
        return [job for job in self.all_jobs if job.runs]

    @rule(target=files, size=SIZES, executable=st.booleans())
    def appears(self, size: int, executable: bool) -> FileID:
        data = os.urandom(size * UNIT)
        file_id = self.node.uploaded(data, executable)
        self.content[file_id] = data
        self.uploaded.add(file_id)
        return file_id

    @rule(target=jobs, worker=st.integers(0, WORKERS - 1), disk=st.integers(0, 150))
    def begins(self, worker: int, disk: int) -> RunningJob:
        number = len(self.all_jobs)
        try:
            home = self.workers[worker].begin(number, disk * UNIT)
        except CacheUnbalancedError:
            asked = sum(job.disk for job in self.running) + disk * UNIT
            assert asked + sum(map(len, self.content.values())) > self.limit
            return multiple()  # type: ignore[no-any-return]
        job = RunningJob(number, worker, disk * UNIT, home)
        self.all_jobs.append(job)
        return job

    @rule(job=jobs)
    def ends(self, job: RunningJob) -> None:
        if job.runs:
            self.workers[job.worker].end(job.number)
            self.is_over(job)

    def is_over(self, job: RunningJob) -> None:
        job.runs = False
        assert not os.path.lexists(job.home)
        for file_id in job.written - self.uploaded:
            self.content.pop(file_id, None)

    @rule(job=jobs)
    def commits(self, job: RunningJob) -> None:
        if job.runs and not job.deleted:
            self.workers[job.worker].commit(job.number)
            self.uploaded |= job.written

    @rule(job=jobs)
    def uploads(self, job: RunningJob) -> None:
        if job.runs:
            self.workers[job.worker].upload(job.number)
            self.uploaded |= job.written

    @rule(worker=st.integers(0, WORKERS - 1), heir=st.integers(0, WORKERS - 1))
    def is_killed(self, worker: int, heir: int) -> None:
        self.workers[worker].kill()
        self.workers[worker] = Worker(self.node)
        self.workers[heir].adopt()
        for job in self.running:
            if job.worker == worker:
                self.is_over(job)

    def known(self, job: RunningJob, file_id: FileID) -> bool:
        """Whether a job can read a file: it is in the job store, or one that a running job wrote."""
        if not job.runs or file_id not in self.content or file_id in job.deleted:
            return False
        writers = {other for other in self.running if file_id in other.written}
        return file_id in self.uploaded or job in writers

    @rule(job=jobs, file_id=files, mutable=st.booleans(), cache=st.booleans())
    def reads(self, job: RunningJob, file_id: FileID, mutable: bool, cache: bool) -> None:
        if self.known(job, file_id):
            data, path, states = self.workers[job.worker].read(job.number, file_id, mutable, cache)
            assert data == self.content[file_id]
            assert states in ([], ["mutable"]) or (states == ["immutable"] and not mutable)
            job.refs.append(Ref(file_id, path, states))

    @rule(job=jobs, file_id=files)
    def streams(self, job: RunningJob, file_id: FileID) -> None:
        if self.known(job, file_id):
            assert self.workers[job.worker].stream(job.number, file_id) == self.content[file_id]

    @rule(job=jobs, file_id=files)
    def exports(self, job: RunningJob, file_id: FileID) -> None:
        if self.known(job, file_id):
            place = self.node.where / "exported"
            self.workers[job.worker].export(job.number, file_id, str(place))
            assert place.read_bytes() == self.content[file_id]
            place.unlink()
            self.uploaded |= job.written

    @rule(target=files, job=jobs, size=SIZES)
    def writes(self, job: RunningJob, size: int) -> FileID:
        if not job.runs:
            return multiple()  # type: ignore[no-any-return]
        data = os.urandom(size * UNIT)
        file_id, path, states = self.workers[job.worker].write(job.number, data)
        self.content[file_id] = data
        job.written.add(file_id)
        job.refs.append(Ref(file_id, path, states))
        if self.node.store.file_exists(file_id):
            self.uploaded.add(file_id)
        return file_id

    @rule(job=jobs, file_id=files)
    def drops_copies(self, job: RunningJob, file_id: FileID) -> None:
        if job.runs:
            mine = [ref for ref in job.refs if ref.file_id == file_id]
            try:
                self.workers[job.worker].drop(job.number, file_id)
            except FileNotFoundError:
                assert mine == []
            assert not any(os.path.lexists(ref.path) for ref in mine)
            job.refs = [ref for ref in job.refs if ref not in mine]

    @rule(job=jobs, file_id=files)
    def deletes(self, job: RunningJob, file_id: FileID) -> None:
        """Marks it; what the leader would do after the commit is not done."""
        if not self.known(job, file_id):
            return
        others = [ref for one in self.running if one is not job for ref in one.refs]
        try:
            self.workers[job.worker].delete(job.number, file_id)
        except RuntimeError:
            assert any(ref.file_id == file_id and ref.states for ref in others)
            return
        assert not any(ref.file_id == file_id and ref.states for ref in others)
        job.deleted.add(file_id)
        job.refs = [ref for ref in job.refs if ref.file_id != file_id]

    @rule(limit=st.integers(0, 400))
    def the_limit_changes(self, limit: int) -> None:
        self.limit = limit * UNIT
        self.node.cache.set_limit(self.limit)

    @invariant()
    def the_cache_is_sound(self) -> None:
        assert check(self.node.cache) == []

    @invariant()
    def the_sums_are_those_of_the_formulas(self) -> None:
        con, now = self.node.cache.generation.database.con, self.node.cache.space()
        sizes = dict(con.execute("SELECT id, size FROM files").fetchall())
        assert now.limit == self.limit
        assert now.files == sum(sizes.values())
        assert now.jobs == sum(job.disk for job in self.running)
        refs = [ref for job in self.running for ref in job.refs]
        links = [ref.file_id for ref in refs if ref.states == ["immutable"]]
        assert now.links == sum(sizes[one] for one in links)
        for file_id in self.content:
            counted = [ref for ref in refs if ref.file_id == file_id and ref.states]
            assert rows.readers(con, file_id) == len(counted)


WorkersMachine.TestCase.settings = settings(
    max_examples=10, stateful_step_count=30, deadline=None, report_multiple_bugs=False
)
TestWorkersMachine = WorkersMachine.TestCase
