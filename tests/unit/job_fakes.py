"""A job store of dictionaries, as much of one as jobs need, and functions to make jobs of."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toilcache.config import Config
from toilcache.errors import NoSuchJobException
from toilcache.job import Job, JobDescription, dumps, run_job


class DictStore:
    """Keeps pickled descriptions and files; every load is a copy."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.owners: dict[str, str | None] = {}
        self.created: list[str] = []
        self.batches = 0
        self.safe: set[str] = set()
        self.root: str | None = None
        self.config = Config()
        self._count = 0

    def assign_job_id(self, description: JobDescription) -> None:
        self._count += 1
        description.jobStoreID = f"{self._count:016x}"

    @contextmanager
    def batch(self) -> Iterator[None]:
        self.batches += 1
        yield

    def create_job(self, description: JobDescription) -> JobDescription:
        assert str(description.jobStoreID) not in self.records
        self.created.append(str(description.jobStoreID))
        description.version, description.token = 1, "aa" * 16
        self.records[str(description.jobStoreID)] = pickle.dumps(description, 5)
        return description

    def sync(self) -> None:
        self.safe = set(self.records)

    def update_job(self, description: JobDescription) -> None:
        description.version += 1
        self.records[str(description.jobStoreID)] = pickle.dumps(description, 5)

    def load_job(self, job_id: str) -> JobDescription:
        if job_id not in self.records:
            raise NoSuchJobException(job_id)
        description: JobDescription = pickle.loads(self.records[job_id])
        description.assignConfig(self.config)
        return description

    def job_exists(self, job_id: str) -> bool:
        return job_id in self.records

    def set_root_job(self, job_id: str) -> None:
        self.root = job_id

    @contextmanager
    def write_file_stream(
        self, job_id: str | None = None, cleanup: bool = False, basename: str | None = None
    ) -> Iterator[tuple[Any, str]]:
        stream = io.BytesIO()
        file_id = self.get_empty_file_store_id(job_id, cleanup, basename)
        yield stream, file_id
        self.files[file_id] = stream.getvalue()

    def get_empty_file_store_id(
        self, job_id: str | None = None, cleanup: bool = False, basename: str | None = None
    ) -> str:
        file_id = f"file-{len(self.files)}-{basename}"
        self.files[file_id] = b""
        self.owners[file_id] = job_id if cleanup else None
        return file_id

    @contextmanager
    def read_file_stream(self, file_id: str) -> Iterator[Any]:
        yield io.BytesIO(self.files[file_id])

    @contextmanager
    def update_file_stream(self, file_id: str) -> Iterator[Any]:
        stream = io.BytesIO()
        yield stream
        self.files[file_id] = stream.getvalue()

    def file_exists(self, file_id: str) -> bool:
        return file_id in self.files

    def delete_file(self, file_id: str) -> None:
        self.files.pop(file_id, None)


class FakeFileStore:
    """What a running job sees of its file store."""

    def __init__(self, store: DictStore) -> None:
        self.jobStore = store
        self.messages: list[tuple[str, int]] = []
        self.made = 0

    def getLocalTempDir(self) -> str:
        self.made += 1
        return f"/tmp/dir {self.made}"

    def log_to_leader(self, text: str, level: int = 20) -> None:
        self.messages.append((text, level))


def run_one(store: DictStore, job_id: str) -> JobDescription:
    """Load a job, run it and commit, as a worker does."""
    description = store.load_job(job_id)
    job = Job.loadJob(store, description)  # type: ignore[arg-type]
    value = run_job(job, FakeFileStore(store))  # type: ignore[arg-type]
    job.save_new_successors(store)  # type: ignore[arg-type]
    description.result, description.result_refs = dumps(value, "the return value")
    description.has_result = True
    description.detach_body()
    store.update_job(description)
    return description


def run_all(store: DictStore) -> None:
    """Run a whole workflow in one process: children with all theirs, then follow-ons."""
    assert store.root is not None
    stack: list[Any] = [store.root]
    entered: dict[str, int] = {}
    done: set[str] = set()
    while stack:
        step = stack.pop()
        job_id, phases = step if isinstance(step, tuple) else (step, None)
        if phases is None:
            description = run_one(store, job_id)
            by_phase: dict[int, list[str]] = {}
            for phase, successor in description.successors_by_phase():
                by_phase.setdefault(phase, []).append(successor)
            phases = [by_phase[phase] for phase in sorted(by_phase)]
        if not phases:
            done.add(job_id)
            continue
        *rest, now = phases
        stack.append((job_id, rest))
        for successor in now:
            entered[successor] = entered.get(successor, 0) + 1
            if entered[successor] == store.load_job(successor).predecessorNumber and successor not in done:
                stack.append(successor)


def add(a: Any, b: Any = 1) -> Any:
    """Add two values."""
    return a + b


def identity(value: Any) -> Any:
    """Give back what was given."""
    return value
