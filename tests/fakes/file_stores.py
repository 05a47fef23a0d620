"""The file stores that one suite runs over, each with a job store and a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fakes.job_stores import KINDS
from toilcache.cache.check import check
from toilcache.cache.node_cache import opened_cache
from toilcache.config import Config
from toilcache.file_store.abstract import AbstractFileStore
from toilcache.file_store.caching import CachingFileStore
from toilcache.file_store.plain import NonCachingFileStore
from toilcache.job.description import JobDescription
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.job_store.file_id import FileID
from toilcache.node.coordination import NodeDirs

FILE_STORES: list[type[AbstractFileStore]] = [NonCachingFileStore, CachingFileStore]
CASES = [(kind, job_store) for kind in FILE_STORES for job_store in KINDS]
CASE_NAMES = [f"{kind.__name__}-{job_store}" for kind, job_store in CASES]


class Bench:
    """A job store with one job, and file stores of the kind under test for it."""

    def __init__(self, kind: type[AbstractFileStore], store: AbstractJobStore, home: Path) -> None:
        self.kind, self.store, self.home = kind, store, home
        self.desc = self.new_job()

    def new_job(self) -> JobDescription:
        desc = JobDescription({"memory": "10 MB", "cores": 1, "disk": "10 MB"}, "the job\n'")
        self.store.assign_job_id(desc)
        self.store.create_job(desc)
        return desc

    def file_store(
        self, desc: JobDescription | None = None, wait: Callable[[], Any] = bool
    ) -> AbstractFileStore:
        return self.kind(self.store, desc or self.desc, str(self.home), wait)

    def uploaded(
        self, data: bytes = b"content", executable: bool = False, name: str = "some file.txt"
    ) -> FileID:
        """Put a file into the job store, not through a file store."""
        path = self.home / name
        path.write_bytes(data)
        path.chmod(0o755 if executable else 0o644)
        file_id = self.store.write_file(str(path))
        path.unlink()
        return file_id

    def stored(self, file_id: str) -> bytes:
        with self.store.read_file_stream(file_id) as stream:
            return stream.read()


@contextmanager
def bench_of(case: tuple[type[AbstractFileStore], str], where: Path) -> Iterator[Bench]:
    """Make a job store of a case, and a directory for jobs, on paths that are hard to get right."""
    kind, job_store = case
    dirs = NodeDirs("workflow", str(where / "work -x\n"), str(where / "coordination '\n"))
    for place in (dirs.work, dirs.coordination):
        Path(place).parent.mkdir()
    dirs.make()
    store = KINDS[job_store](str(where / "job store '\"\n"))
    store.initialize(Config())
    yield Bench(kind, store, Path(dirs.jobs))
    close_cache(dirs)
    store.destroy()


def close_cache(dirs: NodeDirs) -> None:
    """Look that nothing is wrong with the cache that a test has used, and close it."""
    cache = opened_cache(dirs)
    if cache is not None:
        assert check(cache) == []
        cache.close()
