"""A node with a job store and a cache, for tests: jobs come and go, and what they leave is looked at."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toilcache.cache import node_cache as node_cache_module
from toilcache.cache.check import check
from toilcache.cache.node_cache import NodeCache, node_cache, opened_cache
from toilcache.config import Config
from toilcache.file_store.caching import CachingFileStore
from toilcache.job.description import JobDescription
from toilcache.job.job import Job
from toilcache.job_store.file_id import FileID
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.node.coordination import NodeDirs

DISK = 1 << 20
BIG = 100_000
"""Bytes of a file that is taken in by link."""


CHANGES = ["append", "truncate", "overwrite", "touch"]


class Node:
    """A node: the directories of one workflow there, and its job store."""

    def __init__(self, where: Path, *, disk: int = DISK, **options: str) -> None:
        self.where, self.disk = where, disk
        for name in ("work", "coordination"):
            (where / name).mkdir(parents=True)
        config = Config()
        config.workDir, config.coordinationDir = str(where / "work"), str(where / "coordination")
        for name, value in options.items():
            setattr(config, name, value)
        self.store = FileJobStore(str(where / "store"), sync_files=False)
        self.store.initialize(config)
        self.dirs = NodeDirs(str(config.workflowID), config.workDir, config.coordinationDir)
        self.dirs.make()

    def uploaded(self, data: bytes = b"content", executable: bool = False) -> FileID:
        """Put a file into the job store, not through a file store."""
        path = self.where / "to upload"
        path.write_bytes(data)
        path.chmod(0o755 if executable else 0o644)
        file_id = self.store.write_file(str(path))
        path.unlink()
        return file_id

    def stored(self, file_id: str) -> bytes:
        with self.store.read_file_stream(file_id) as stream:
            return stream.read()

    def new_job(self, name: str = "job", disk: int | None = None) -> JobDescription:
        requirements = {"memory": "10 MB", "cores": 1, "disk": self.disk if disk is None else disk}
        desc = JobDescription(requirements, name)
        self.store.assign_job_id(desc)
        self.store.create_job(desc)
        return desc

    def file_store(
        self, name: str = "job", disk: int | None = None, desc: JobDescription | None = None
    ) -> CachingFileStore:
        """The file store of a job; of a new one unless a description is given."""
        desc = desc or self.new_job(name, disk)
        return CachingFileStore(self.store, desc, self.dirs.jobs, bool)

    @contextmanager
    def job(self, name: str = "job", disk: int | None = None) -> Iterator[CachingFileStore]:
        """A file store while its job runs."""
        fs = self.file_store(name, disk)
        with fs.open(Job()):
            yield fs

    @property
    def cache(self) -> NodeCache:
        """This process's use of the cache."""
        return node_cache(self.dirs, self.store.gives_freely)

    def findings(self) -> list[str]:
        """Take over what the dead have left, then look whether everything agrees."""
        self.cache.adopt_dead()
        return check(self.cache)

    def states(self) -> dict[str, int]:
        """Count the files in each state."""
        con = self.cache.generation.database.con
        return dict(con.execute("SELECT state, COUNT(*) FROM files GROUP BY state").fetchall())

    def payloads(self) -> list[Path]:
        """List every file that stands where payloads do."""
        return [path for path in Path(self.dirs.payloads).rglob("*") if path.is_file()]

    def close(self) -> None:
        cache = opened_cache(self.dirs)
        if cache is not None:
            cache.close()


@contextmanager
def node_in(where: Path, *, disk: int = DISK) -> Iterator[Node]:
    """A node whose cache is found sound in the end."""
    node = Node(where, disk=disk)
    try:
        yield node
        assert node.findings() == []
    finally:
        node.close()


def commit(fs: CachingFileStore) -> None:
    """Commit the job, and wait for that."""
    fs.startCommit(jobState=True)
    fs.waitForCommit()


def write(name: str, data: bytes) -> str:
    """Write a file into the working directory, that of the job."""
    Path(name).write_bytes(data)
    return name


def spoil(path: str, change: str) -> None:
    """Change a file in place."""
    if change == "append":
        with open(path, "ab") as file:
            file.write(b"more")
    elif change == "truncate":
        os.truncate(path, 1)
    elif change == "overwrite":
        with open(path, "r+b") as file:
            file.write(b"other")
    else:
        os.utime(path)


def close_caches() -> None:
    """Close all caches that this process has open: what it forks then may use them like any other process."""
    for cache in list(node_cache_module._open.values()):
        cache.close()


class Child:
    """A forked process that does something with a node and stops at points that it names."""

    def __init__(self, work: Callable[[Child], Any]) -> None:
        """Start it; it ends without a farewell, with status 0 if the work raised nothing."""
        close_caches()
        self.socket, there = socket.socketpair()
        self.pid = os.fork()
        self._status: int | None = None
        if self.pid == 0:
            self.socket.close()
            self.socket, status = there, 1
            try:
                work(self)
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        there.close()

    def reach(self, point: str) -> None:
        """In the child: say where it is, and wait to be sent on."""
        self.socket.sendall(f"{point}\n".encode())
        assert self.socket.recv(1) == b"!"

    def note(self, text: str) -> None:
        """In the child: say something, and go on."""
        self.socket.sendall(f"{text}\n".encode())

    def hear(self) -> str:
        """In the test: wait for the next word of the child."""
        word = b""
        while not word.endswith(b"\n"):
            piece = self.socket.recv(1)
            assert piece, f"the child ended with status {self.end()}"
            word += piece
        return word.decode().rstrip("\n")

    def go_on(self) -> None:
        """In the test: send the child on from where it waits."""
        self.socket.sendall(b"!")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, and wait until the kernel has taken its locks away."""
        self.signal(signal.SIGKILL)
        assert self.end() == -signal.SIGKILL

    def end(self) -> int:
        """Wait for its end and return its status."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.socket.close()
        return self._status
