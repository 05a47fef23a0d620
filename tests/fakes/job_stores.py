"""The job stores that one suite runs over, with what its tests need around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes.memory_job_store import MemoryJobStore
from tests.fakes.nfs_job_store import NfsJobStore
from toilcache.config import Config
from toilcache.job.description import JobDescription
from toilcache.job.module import ModuleDescriptor
from toilcache.job_store import layout
from toilcache.job_store.backed import BackedJobStore
from toilcache.job_store.file_job_store import FileJobStore

KINDS: dict[str, Callable[[str], BackedJobStore]] = {
    "file": FileJobStore,
    "memory": MemoryJobStore,
    "nfs": NfsJobStore,
}

NAMES = [
    "-rf",
    "a b'\"$(x)",
    "new\nline",
    "ünï\u202ecode",
    ".hidden",
    "x" * 300 + ".fastq.gz",
    "%2e%2e%2f",
    "...",
]

NEVER_GIVEN_OUT = [
    *("", ".", "..", "/", "../../etc/passwd", "/etc/passwd", "x" * 300, "new\nline", "nul\0byte", "version"),
    *("jobs/ab", "0123456789abcdef\n", "0123456789ABCDEF", "0123456789abcde", "shared/../version", "-rf"),
    *("free/../../0123456789abcdef-x", "free/0123456789abcdef-../../x", "free/0123456789abcdef-x\n"),
    "own/0123456789abcdef/../0123456789abcdef-x",
    "own/0123456789abcdef/01/0123456789abcdef-x",
    *("own/0123456789abcdef/-1/0123456789abcdef-x", "kept/../../0/0123456789abcdef-x"),
    "free/0123456789abcdef-" + "x" * 101,
]


class Bench:
    """A job store of one kind, on a path that is hard to get right, and further instances of it."""

    def __init__(self, kind: str, home: Path) -> None:
        self.kind = kind
        self.home = home
        self.where = str(home / "it's a\n'-store' %41")
        self.store = self.another()
        config = Config(retryCount=3)
        config.workflowAttemptNumber = 7
        self.store.initialize(config)

    def another(self, resume: bool = False) -> BackedJobStore:
        """Connect as another process would."""
        store = KINDS[self.kind](self.where)
        if resume:
            store.resume()
        return store

    def job(self, name: str = "a job", body: bytes | None = b"body", **attributes: Any) -> JobDescription:
        """Create a job."""
        description = JobDescription({"memory": 1000, "cores": 1, "disk": 1000}, name)
        self.store.assign_job_id(description)
        if body is not None:
            description.attach_inline_body(body, ModuleDescriptor("/", "module", False))
        for attribute, value in attributes.items():
            setattr(description, attribute, value)
        return self.store.create_job(description)

    def commit(self, job_id: str, *children: JobDescription, **attributes: Any) -> JobDescription:
        """Let a worker of its own run the newest version of a job, and commit it."""
        worker = self.another(resume=True)
        description = worker.load_job(job_id)
        worker.begin_attempt(job_id, description.version)
        description.detach_body()
        for child in children:
            description.addChild(str(child.jobStoreID))
        for attribute, value in attributes.items():
            setattr(description, attribute, value)
        worker.update_job(description)
        return description

    def local(self, data: bytes = b"content", name: str = "local file", mode: int = 0o644) -> str:
        """Make a local file."""
        path = self.home / name
        path.write_bytes(data)
        path.chmod(mode)
        return str(path)

    def read(self, file_id: str) -> bytes:
        """Read a file of the store."""
        with self.store.read_file_stream(file_id) as stream:
            return stream.read()

    def damage(self, job_id: str, version: int, change: Callable[[bytes], bytes]) -> None:
        """Change a record behind the store's back."""
        backend = self.store._backend
        key = layout.slot(job_id, version)
        data = change(backend.get(key))
        backend.delete(key)
        backend.put(key, data)


def state(description: JobDescription) -> dict[str, Any]:
    """All that a description remembers."""
    return dict(description.__getstate__())
