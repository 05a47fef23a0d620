"""Job stores on a mount with the habits of NFS: each instance is on a machine of its own."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from functools import wraps
from typing import Any

from tests.fakes.nfs_habits import Client, Mount
from toilcache.job_store import layout
from toilcache.job_store.backend import Backend
from toilcache.job_store.directory import DirectoryBackend
from toilcache.job_store.file_job_store import FileJobStore

OWN_VERBS = ("initialize", "check_absent", "reserve", "resume", "destroy", "keep_reserve", "release_reserve")


def on_the_client(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Let a verb of a backend or store run on the machine that this is on."""

    @wraps(verb)
    def run(self: Any, *arguments: Any, **options: Any) -> Any:
        with self.client:
            result = verb(self, *arguments, **options)
        return Block(self.client, result) if verb.__name__ == "writer" else result

    return run


class Block:
    """A context manager that begins and ends on the machine; what is in between runs elsewhere."""

    def __init__(self, client: Client, manager: Any) -> None:
        self.client = client
        self.manager = manager

    def __enter__(self) -> Any:
        with self.client:
            return self.manager.__enter__()

    def __exit__(self, *error: Any) -> Any:
        with self.client:
            return self.manager.__exit__(*error)


class NfsBackend(DirectoryBackend):
    """The backend of a directory on one machine."""

    client: Client


for _verb in sorted(Backend.__abstractmethods__):
    setattr(NfsBackend, _verb, on_the_client(getattr(DirectoryBackend, _verb)))


class NfsJobStore(FileJobStore):
    """A job store on a machine of its own."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        test = os.path.basename(os.path.dirname(path))
        seed = int(os.environ.get("NFS_SEED", zlib.crc32(test.encode())))
        if path not in Mount.known:
            print(f"NFS_SEED={seed}")
        self.client = Client(Mount.at(path, seed))
        self._backend = backend = NfsBackend(path, layout.TRASH)
        backend.client = self.client


for _verb in OWN_VERBS:
    setattr(NfsJobStore, _verb, on_the_client(getattr(FileJobStore, _verb)))
