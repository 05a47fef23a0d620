"""Worker processes that do with a node's cache what they are told, one call at a time, and can be killed."""

from __future__ import annotations

import os
import pickle
import signal
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.fakes.cache_nodes import Child, Node, commit
from toilcache.file_store.caching import CachingFileStore
from toilcache.job.job import Job
from toilcache.job_store.file_id import FileID


class Worker:
    """A process that runs jobs; calls of its methods in the test are made there, and errors raised here."""

    def __init__(self, node: Node) -> None:
        self._child = Child(lambda child: Jobs(node).serve(child))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            send(self._child, (name, arguments))
            done, value = receive(self._child)
            if not done:
                raise value
            return value

        return call

    def kill(self) -> None:
        self._child.kill()

    def stop(self) -> None:
        self._child.signal(signal.SIGKILL)
        self._child.end()


class Jobs:
    """In a worker: the jobs that it runs, by number."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.jobs: dict[int, tuple[CachingFileStore, ExitStack]] = {}
        self.home = os.getcwd()

    def serve(self, child: Child) -> None:
        while True:
            name, arguments = receive(child)
            try:
                answer = True, getattr(self, name)(*arguments)
            except Exception as error:
                # Whatever it is belongs to the test.
                answer = False, error
            send(child, answer)

    def begin(self, job: int, disk: int) -> str:
        fs, stack = self.node.file_store(f"job {job}", disk), ExitStack()
        fs.commits_aside = False
        try:
            stack.enter_context(fs.open(Job()))
            fs.getCacheUnusedJobRequirement()  # takes its place
        except BaseException:
            stack.close()
            raise
        self.jobs[job] = fs, stack
        return fs.localTempDir

    def end(self, job: int) -> None:
        self.jobs.pop(job)[1].close()
        os.chdir(self.home)

    def commit(self, job: int) -> None:
        commit(self.jobs[job][0])

    def upload(self, job: int) -> None:
        self.jobs[job][0].startCommit()
        self.jobs[job][0].waitForCommit()

    def read(self, job: int, file_id: FileID, mutable: bool, cache: bool) -> tuple[bytes, str, list[str]]:
        """Return the content, the path, and the state of the reference, if there is one."""
        fs = self.jobs[job][0]
        path = fs.readGlobalFile(file_id, mutable=mutable, cache=cache)
        return Path(path).read_bytes(), path, self._states(fs, path)

    def stream(self, job: int, file_id: FileID) -> bytes:
        with self.jobs[job][0].readGlobalFileStream(file_id) as stream:
            return bytes(stream.read())

    def write(self, job: int, data: bytes) -> tuple[FileID, str, list[str]]:
        fs = self.jobs[job][0]
        path = fs.getLocalTempFileName()
        Path(path).write_bytes(data)
        return fs.writeGlobalFile(path), path, self._states(fs, path)

    def export(self, job: int, file_id: FileID, place: str) -> None:
        self.jobs[job][0].export_file(file_id, f"file:{place}")

    def drop(self, job: int, file_id: FileID) -> None:
        self.jobs[job][0].deleteLocalFile(file_id)

    def delete(self, job: int, file_id: FileID) -> None:
        self.jobs[job][0].deleteGlobalFile(file_id)

    def adopt(self) -> bool:
        return self.node.cache.adopt_dead()

    def _states(self, fs: CachingFileStore, path: str) -> list[str]:
        return [state for (state,) in fs.con.execute("SELECT state FROM refs WHERE path = ?", (path,))]


def send(child: Child, value: object) -> None:
    data = pickle.dumps(value)
    child.socket.sendall(struct.pack("!I", len(data)) + data)


def receive(child: Child) -> Any:
    (size,) = struct.unpack("!I", _exactly(child, 4))
    return pickle.loads(_exactly(child, size))


def _exactly(child: Child, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = child.socket.recv(size - len(data))
        if not piece:
            raise EOFError("the other end is gone")
        data += piece
    return data
