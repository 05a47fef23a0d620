"""Work that hosts on other nodes take for themselves: queues of attempts, claims, and what hosts say.

Knows the files below `work/RUN` and which of them are made once, appended to, or replaced. Must not know a
scheduler, what an attempt does, nor how the backend keeps bytes.

* A queue is a list that only grows, one line of fixed length for each attempt: the leader appends, hosts
  read.
* A claim is a key that is put if absent, and names the host: so each attempt is begun by one host at most.
  The leader withdraws an attempt by claiming it itself. Claims lie in blocks of 64, so that what is left of a
  queue is found by listing few names.
* A host's log is appended to by that host (its job processes included) and read by the leader; a line counts
  once it ends in a newline.
* What a host has to fetch before it can begin stands under its name meanwhile, for who asks why jobs wait.
* Orders are appended to by the leader and read by all hosts.
"""

from __future__ import annotations

import os
import pickle
import re
from contextlib import contextmanager, suppress

from toilcache.job_store import layout
from toilcache.job_store.core import DISK_ERRORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from typing import Any, BinaryIO, TypeAlias

    from toilcache.job_store.backend import Backend

    Attempt: TypeAlias = tuple[str, int]

BLOCK = 64
_LINE = 28
_NAME = re.compile(r"[a-z0-9.-]{1,80}")


class Work:
    """The work of one run of the leader."""

    def __init__(self, backend: Backend, run: int, unavailable: Callable[[OSError], Exception]) -> None:
        """Serve the keys of a run; nothing is made before `make`.

        What cannot be written is raised as `unavailable` makes it of the error.
        """
        self._backend = backend
        self.run = run
        self._unavailable = unavailable
        self._unwritten: dict[str, tuple[list[int], bytes]] = {}
        self._orders = b""

    @contextmanager
    def _writing(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            raise self._unavailable(error) from error

    def make(self, setup: dict[str, Any]) -> None:
        """Begin, with what every host is to know; it may hold secrets, and only the owner can read it."""
        with self._writing():
            for part in ("", "q", "w", "i", "out"):
                self._make(layout.work(self.run, part))
            self._backend.put(layout.work(self.run, "setup"), pickle.dumps(setup, 4))

    def end(self) -> None:
        """Remove the setup, and with it the secrets in it: no host may begin any more."""
        self._backend.delete(layout.work(self.run, "setup"))

    def exists(self) -> bool:
        """Say whether a run has begun and not ended here."""
        return self._backend.has(layout.work(self.run, "setup"))

    def setup(self) -> dict[str, Any]:
        """Return what `make` was given."""
        content: dict[str, Any] = pickle.loads(self._backend.get(layout.work(self.run, "setup")))
        return content

    def output(self, pattern: str) -> str:
        """Name the place for what allocations print."""
        return self._backend.where(layout.work(self.run, f"out/{pattern}"))

    # Queues

    def queues(self) -> list[str]:
        """Return the names of all queues; there is one for each shape of jobs, so they are few."""
        return [name for name in self._backend.names(layout.work(self.run, "q")) if _NAME.fullmatch(name)]

    def add(self, queue: str, known: int, attempts: Sequence[Attempt]) -> None:
        """Append attempts to a queue that holds `known` of them; the first makes the queue.

        After an error they still belong to the queue, and `push` goes on where it stopped.
        """
        new = range((known + BLOCK - 1) // BLOCK, (known + len(attempts) + BLOCK - 1) // BLOCK)
        lines = b"".join(b"%-16s %10d\n" % (job_id.encode("ascii"), version) for job_id, version in attempts)
        blocks, data = self._unwritten.get(queue, ([], b""))
        self._unwritten[queue] = [*blocks, *new], data + lines
        self.push(queue)

    def push(self, queue: str) -> None:
        """Write what `add` could not write; nothing if there is nothing."""
        blocks, data = self._unwritten.get(queue, ([], b""))
        with self._writing():
            if blocks:
                self._make(layout.work(self.run, f"q/{queue}"))
            while blocks:
                self._make(self._block(queue, blocks[0]))
                del blocks[0]
            if data:
                with self._backend.append(self._list(queue)) as stream:
                    while data:  # a disk that fills up may take the half of a line
                        data = data[stream.write(data) :]
                        self._unwritten[queue] = blocks, data
        self._unwritten.pop(queue, None)

    def read(self, queue: str, known: int) -> list[Attempt]:
        """Return the attempts of a queue after the first `known`."""
        found = []
        for line in self._tail(self._list(queue), known * _LINE)[0]:
            job_id, version = line.split()
            found.append((job_id.decode("ascii"), int(version)))
        return found

    def claim(self, queue: str, number: int, claimant: str) -> bool:
        """Take the attempt at this place of a queue, for ever; False if somebody has it."""
        key = f"{self._block(queue, number // BLOCK)}/{number}"
        try:
            return (
                self._backend.put_if_absent(key, claimant.encode("ascii"))
                or self.claimant(queue, number) == claimant
            )
        except OSError as error:
            holder = self.claimant(queue, number)  # an error is no answer: the claim may have arrived
            if holder is None:
                raise self._unavailable(error) from error
            return holder == claimant

    def claimed(self, queue: str, block: int) -> set[int]:
        """Return which places of a block are taken."""
        return {int(name) for name in self._backend.names(self._block(queue, block)) if name.isdecimal()}

    def claimant(self, queue: str, number: int) -> str | None:
        """Return who has claimed a place; None if nobody has."""
        try:
            return self._backend.get(f"{self._block(queue, number // BLOCK)}/{number}").decode("ascii")
        except FileNotFoundError:
            return None

    def claimed_at(self, queue: str, number: int) -> float:
        """Return when a place that somebody has claimed was claimed, by the clock of the storage."""
        return self._backend.modified(f"{self._block(queue, number // BLOCK)}/{number}")

    # What is said

    def hosts(self) -> list[str]:
        """Return the names of the hosts that have a log."""
        return [name for name in self._backend.names(layout.work(self.run, "w")) if _NAME.fullmatch(name)]

    def open_log(self, host: str) -> BinaryIO:
        """Open a host's log for appending."""
        return self._backend.append(layout.work(self.run, f"w/{host}"))

    def read_log(self, host: str, offset: int) -> tuple[list[bytes], int]:
        """Return the whole lines of a host's log from an offset on, and where they end."""
        return self._tail(layout.work(self.run, f"w/{host}"), offset)

    def last_word(self, host: str) -> float:
        """Return when a host last said something, by the clock of the storage."""
        return self._backend.modified(layout.work(self.run, f"w/{host}"))

    def forget_host(self, host: str) -> None:
        """Remove the log of a host of which everything is known."""
        self._backend.delete(layout.work(self.run, f"w/{host}"))

    @contextmanager
    def fetching(self, host: str, line: str) -> Generator[None, None, None]:
        """Let others know what a host that has not begun is fetching. Only to be looked at: a full disk is no
        error, and who is killed leaves the line behind.
        """
        key = layout.work(self.run, f"i/{host}")
        with suppress(OSError):
            self._backend.put(key, line.encode("ascii"))
        try:
            yield
        finally:
            with suppress(OSError):
                self._backend.delete(key)

    def fetches(self) -> list[tuple[str, float]]:
        """Return the lines of `fetching`, each with when it was written, by the clock of the storage."""
        found = []
        with suppress(FileNotFoundError):  # the run is that of an older version
            for name in self._backend.names(layout.work(self.run, "i")):
                key = layout.work(self.run, f"i/{name}")
                with suppress(FileNotFoundError):
                    found.append((self._backend.get(key).decode("ascii"), self._backend.modified(key)))
        return found

    def order(self, *lines: str) -> None:
        """Tell all hosts something; what a full disk does not take is told with the next order."""
        self._orders += "".join(line + "\n" for line in lines).encode("ascii")
        with self._backend.append(layout.work(self.run, "orders")) as stream:
            try:
                while self._orders:
                    self._orders = self._orders[stream.write(self._orders) :]
            except OSError as error:
                if error.errno not in DISK_ERRORS:
                    raise self._unavailable(error) from error

    def orders(self, offset: int) -> tuple[list[bytes], int]:
        """Return the orders from an offset on, and where they end."""
        return self._tail(layout.work(self.run, "orders"), offset)

    def note(self, line: str) -> None:
        """Write into the leader's own book; it is read by a later leader."""
        self._append("book", line)

    def notes(self) -> list[bytes]:
        """Return the lines of the leader's book."""
        return self._tail(layout.work(self.run, "book"), 0)[0]

    def _append(self, part: str, line: str) -> None:
        with self._writing(), self._backend.append(layout.work(self.run, part)) as stream:
            stream.write(line.encode("utf-8", "surrogateescape") + b"\n")

    def _tail(self, key: str, offset: int) -> tuple[list[bytes], int]:
        """Read whole lines; opening the key anew is what shows news on NFS."""
        try:
            data = self._backend.tail(key, offset)
        except FileNotFoundError:
            return [], offset
        whole = data[: data.rfind(b"\n") + 1]
        return whole.splitlines(), offset + len(whole)

    def _make(self, scope: str) -> None:
        with suppress(FileExistsError):
            self._backend.make_scope(scope)

    def _list(self, queue: str) -> str:
        return layout.work(self.run, f"q/{queue}/list")

    def _block(self, queue: str, block: int) -> str:
        return layout.work(self.run, f"q/{queue}/{block}")


def queue_name(
    cores: float, memory: int, disk: int, accelerators: int, preemptible: bool, image: str | None = None
) -> str:
    """Name the queue of jobs that need this: numbers with dashes between them, so that hosts can compare.

    A digest stands for the container image, if there is one.
    """
    name = f"{cores:.3f}-{memory}-{disk}-{accelerators}-{int(preemptible)}"
    if image is None:
        return name
    from hashlib import sha256

    return f"{name}-{sha256(os.fsencode(image)).hexdigest()[:16]}"


def queue_needs(name: str) -> tuple[float, int, int, int, bool]:
    """Return what :func:`queue_name` was given."""
    cores, memory, disk, accelerators, preemptible = name.split("-")[:5]
    return float(cores), int(memory), int(disk), int(accelerators), preemptible == "1"


def fits(queue: str, host: str) -> bool:
    """Tell whether a host that was made for one queue has room for the jobs of another."""
    wanted, there = queue_needs(queue), queue_needs(host)
    fits_in = all(want <= has for want, has in zip(wanted[:3], there[:3], strict=True))
    return fits_in and queue.split("-")[3:] == host.split("-")[3:]


def with_time(queue: str, times: int) -> str:
    """Return the name of the queue for the same needs but so many times the usual time."""
    return queue if times == 1 else f"{queue}-t{times}"


def queue_times(name: str) -> int:
    """Return how many times the usual time the jobs of a queue are to have."""
    last = name.rpartition("-")[2]
    return int(last[1:]) if last.startswith("t") else 1
