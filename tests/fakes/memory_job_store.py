"""A job store in the memory of one process, for tests: the protocol of the real one over a dictionary."""

from __future__ import annotations

import io
import os
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import BinaryIO

from toilcache.config import Config
from toilcache.errors import JobStoreExistsException, NoSuchJobStoreException
from toilcache.job_store import layout
from toilcache.job_store.backed import BackedJobStore
from toilcache.job_store.backend import Backend
from toilcache.job_store.urls import quoted


class Entry:
    """Content, whether it is executable, and when it was written."""

    def __init__(self, data: bytes, executable: bool = False) -> None:
        self.data = data
        self.executable = executable
        self.modified = time.time()


class MemoryBackend(Backend):
    """Bytes under keys in a dictionary; job scopes exist until they are dropped."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.scopes: set[str] = set()
        self.lock = threading.RLock()
        self.syncs = 0

    def where(self, key: str) -> str:
        return f"memory:{key}"

    def make_scope(self, scope: str) -> None:
        self.scopes.add(scope)

    def drop_scope(self, scope: str) -> None:
        with self.lock:
            self.scopes.discard(scope)
            for key in [key for key in self.entries if key.startswith(scope + "/")]:
                del self.entries[key]

    def sweep(self) -> None:
        """Nothing is ever left."""

    def drop_empty(self, scope: str) -> None:
        """There are no empty scopes."""

    def has(self, key: str) -> bool:
        return key in self.entries or key in self.scopes

    def _check_scope(self, key: str) -> None:
        parts = key.split("/")
        if any("/".join(parts[:count]) in self.entries for count in range(1, len(parts))):
            raise NotADirectoryError(20, "Not a directory", key)
        if parts[0] == layout.JOBS and "/".join(parts[:3]) not in self.scopes:
            raise FileNotFoundError(key)

    def put_if_absent(self, key: str, data: bytes, fresh: bool = False) -> bool:
        with self.lock:
            self._check_scope(key)
            if key in self.entries:
                return False
            self.entries[key] = Entry(data)
            return True

    def put(self, key: str, data: bytes) -> None:
        self.entries[key] = Entry(data)

    def _entry(self, key: str) -> Entry:
        try:
            return self.entries[key]
        except KeyError:
            raise FileNotFoundError(key) from None

    def get(self, key: str) -> bytes:
        return self._entry(key).data

    def head(self, key: str, count: int) -> bytes:
        return self._entry(key).data[:count]

    def tail(self, key: str, offset: int) -> bytes:
        return self._entry(key).data[offset:]

    def names(self, scope: str) -> list[str]:
        with self.lock:
            self._check_scope(scope + "/") if scope.count("/") >= 2 else None
            known = [*self.entries, *self.scopes]
        prefix = scope + "/"
        return list({key[len(prefix) :].split("/")[0] for key in known if key.startswith(prefix)})

    def delete(self, key: str) -> None:
        self.entries.pop(key, None)

    def move(self, key: str, new_key: str) -> None:
        with self.lock:
            self.entries[new_key] = self._entry(key)
            del self.entries[key]

    def modified(self, key: str) -> float:
        return self._entry(key).modified

    def touch(self, key: str) -> None:
        self._entry(key).modified = time.time()

    def renew(self, key: str, data: bytes) -> None:
        self._entry(key).data = data

    def status(self, key: str) -> tuple[int, bool]:
        entry = self._entry(key)
        return len(entry.data), entry.executable

    @contextmanager
    def writer(
        self, key: str, base: str, executable: bool = False, replace: bool = False
    ) -> Generator[BinaryIO, None, None]:
        self._check_scope(key)
        stream = io.BytesIO()
        yield stream
        with self.lock:
            self._check_scope(key)
            if replace:
                self._entry(key)
            self.entries[key] = Entry(stream.getvalue(), executable)

    def reader(self, key: str) -> BinaryIO:
        return io.BytesIO(self.get(key))

    def upload(self, local_path: str, key: str, base: str, replace: bool = False) -> tuple[int, bool]:
        executable = bool(os.stat(local_path).st_mode & 0o100)
        with open(local_path, "rb") as source, self.writer(key, base, executable, replace) as target:
            target.write(source.read())
        return self.status(key)

    def download(self, key: str, local_path: str, executable: bool, symlink: bool) -> None:
        temporary = os.path.join(os.path.dirname(local_path), f".tmp-{os.urandom(4).hex()}")
        with open(temporary, "wb") as target:
            target.write(self.get(key))
        os.chmod(temporary, 0o700 if executable else 0o600)
        os.rename(temporary, local_path)

    def append(self, key: str) -> BinaryIO:
        entry = self.entries.setdefault(key, Entry(b""))

        class Appender(io.BytesIO):
            def write(self, data: object) -> int:
                entry.data += bytes(data)  # type: ignore[call-overload]
                return len(data)  # type: ignore[arg-type]

        return Appender()

    def url(self, key: str) -> str:
        with tempfile.NamedTemporaryFile(delete=False) as copy:
            copy.write(self.get(key))
        return f"file://{copy.name}"

    def sync(self) -> None:
        self.syncs += 1


class MemoryJobStore(BackedJobStore):
    """A job store that other instances of the same name share, within this process."""

    stores: dict[str, MemoryBackend] = {}  # noqa: RUF012

    def __init__(self, name: str) -> None:
        super().__init__("memory:" + quoted(name), self.stores.get(name) or MemoryBackend())
        self.name = name

    def initialize(self, config: Config) -> None:
        known = self.stores.get(self.name)
        if known is not None and known.has(f"{layout.SHARED}/{self.rootJobStoreIDFileName}"):
            raise JobStoreExistsException(self.locator)
        self._backend = self.stores[self.name] = MemoryBackend()
        super().initialize(config)
        self.write_kill_flag(False)

    def resume(self) -> None:
        if self.name not in self.stores:
            raise NoSuchJobStoreException(self.locator)
        self._backend = self.stores[self.name]
        super().resume()

    def destroy(self) -> None:
        self.stores.pop(self.name, None)
        self._config = None
