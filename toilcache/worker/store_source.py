"""Work that a host takes for itself from the job store, where no socket leads to its leader.

Knows queues, claims, orders and the host's own log (`toilcache.job_store.work`). Must not know which
scheduler started the host, nor what a job is. A host has one job at a time: what it may use is what its
allocation has.

Lines of the log, words separated by blanks:

* `hello PID NODE QUEUE VALUE...`: the host begins; the values are those of the variables that the setup
  names. `ready NAME`: it can work.
* `claim QUEUE PLACE JOB VERSION`: this attempt begins here. `record JOB VERSION`: a hint where to look.
* `ended JOB VERSION STATUS MEMORY OOM WHY LOG`: no process works on it any more. STATUS is a wait status or
  one of `toilcache.batch.protocol`, MEMORY bytes, OOM 1 if the kernel killed for memory meanwhile, WHY the
  signal that ended the host or `-`, LOG the last bytes printed in hexadecimal or `-`.
* `broken TEXT`, in hexadecimal: the host cannot work. `beat`: it is there. `bye HOW`: the last line.

Orders: `stop` or `stop clean` (also clean the node on the way out), `cancel JOB VERSION`, `leave HOST` (begin
nothing more: the leader has given this host up).
"""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from toilcache import vfs
from toilcache.batch import protocol
from toilcache.errors import JobStoreUnavailableError
from toilcache.job_store.core import is_full
from toilcache.job_store.work import BLOCK, fits
from toilcache.node.machine import oom_kills
from toilcache.worker.source import WorkSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from toilcache.job_store.abstract import AbstractJobStore
    from toilcache.job_store.work import Attempt, Work

BEAT_SECONDS = 15.0
ORDER_SECONDS = 1.0
LEADER_SECONDS = 5.0
LEADER_SILENCE = 300.0
"""A leader that has not shown life for so long is taken for dead; then the host begins nothing more."""
OOM_SECONDS = 1.0
"""What was killed for memory so long before a job is not told from what was killed while it ran."""
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0


class Picker:
    """Takes attempts from one queue, from a random place on, so that many hosts seldom want the same one."""

    def __init__(self, work: Work, queue: str, host: str) -> None:
        self._work = work
        self._queue = queue
        self._host = host
        self._entries: list[Attempt] = []
        self._free: list[int] = []
        self._full: set[int] = set()
        self._at: int | None = None

    def take(self) -> tuple[int, Attempt] | None:
        """Claim an attempt and return its place with it; None if nothing is left now."""
        while self._free or self._find_free():
            place = self._free.pop()
            if self._work.claim(self._queue, place, self._host):
                return place, self._entries[place]
            self._free.clear()  # somebody else is at this block: look again what is left of it
        return None

    def _find_free(self) -> bool:
        """Look through the blocks, from where we were, for one with places that nobody has claimed."""
        self._entries += self._work.read(self._queue, len(self._entries))
        blocks = (len(self._entries) + BLOCK - 1) // BLOCK
        if self._at is None and blocks:
            self._at = _draw(blocks)
        for step in range(blocks):
            block = ((self._at or 0) + step) % blocks
            if block in self._full:
                continue
            first = block * BLOCK
            taken = self._work.claimed(self._queue, block)
            free = [n for n in range(first, min(first + BLOCK, len(self._entries))) if n not in taken]
            if free:
                start = _draw(len(free))
                self._at, self._free = block, free[start:] + free[:start]
                return True
            if len(taken) == BLOCK:
                self._full.add(block)
        return False


def _draw(count: int) -> int:
    """Return a random number below `count`; without the module, which a worker does without."""
    return int.from_bytes(os.urandom(4), "little") % count


class Rules:
    """When a host takes nothing more: times in seconds of the monotonic clock, None without a limit."""

    def __init__(self, idle: float, max_jobs: int | None, until: float | None, spare: float) -> None:
        self.idle = idle
        self.max_jobs = max_jobs
        self.until = until
        self.spare = spare
        self.longest = 0.0

    def may_take(self, done: int, now: float) -> bool:
        """Tell whether another job may begin: the time left must do for one like the longest so far."""
        if self.max_jobs is not None and done >= self.max_jobs:
            return False
        return self.until is None or now + max(self.spare, 1.5 * self.longest) < self.until


class StoreSource(WorkSource):
    """Work claimed from the queues of a run; see the module."""

    def __init__(
        self,
        store: AbstractJobStore,
        run: int,
        queue: str,
        setup: dict[str, Any],
        rules: Rules,
        values: list[str],
        host: str,
        image: str | None = None,
        node: str | None = None,
        line: socket.socket | None = None,
    ) -> None:
        """Be this host; in a container `image` is what that is made of, `node` the name of the node outside.

        `line` leads to the launcher outside, whose warnings come over it, and so does its end.
        """
        self.host = host
        self.why = "-"
        self.clean = False
        self._store = store
        self._run = run
        self._work = store.work(run)
        self._queue = queue
        self._setup = setup | {"image": image}
        self._rules = rules
        self._values = values
        self._node = node or os.uname().nodename
        self._line = line
        self._log = self._work.open_log(self.host)
        self._lines: list[str] = []
        self._unwritten = b""
        self._pickers = {queue: Picker(self._work, queue, self.host)}
        self._orders = 0
        self._cancels: list[tuple[str, int]] = []
        self._running: tuple[str, int] | None = None
        self._began = 0.0
        self._done = 0
        self._ooms = 0
        self._oom_look = 0.0
        self._stop = self._stopped = False
        self._warned: tuple[str, float] | None = None
        self._may_take = True
        self._idle_since = self._order_look = self._leader_look = self._beat = time.monotonic()
        self._pause = FIRST_PAUSE
        self._poll: select.poll | None = None

    def warn(self, why: str, wait: float = 0.0) -> None:
        """Kill what runs, take nothing more and end, in so many seconds: somebody is about to take the
        allocation away.
        """
        if wait > 0:
            self._warned = why, time.monotonic() + wait
            return
        self.why = why
        self._stop = True

    def setup(self) -> dict[str, Any] | None:
        return self._setup

    def hello(self) -> None:
        """Say which host this is, before anything can go wrong."""
        words = [str(os.getpid()), self._node, self._queue, *self._values]
        self._say("hello " + " ".join(word.replace(" ", "_") or "-" for word in words))
        self._flush()

    def ready(self, pid: int, name: str) -> None:
        self._say(f"ready {name}")

    def broken(self, text: str) -> None:
        self._say(f"broken {text.encode('utf-8', 'surrogateescape').hex()}")
        self._flush()

    def bye(self, how: str) -> None:
        """Say the last word."""
        self._say(f"bye {how}")
        self._flush()

    def record(self, job_id: str, version: int) -> None:
        with suppress(OSError):  # only a hint
            vfs.write(self._log.fileno(), b"record %s %d\n" % (job_id.encode("ascii"), version))

    def ended(
        self, job_id: str, version: int, status: int, max_rss: int, log_tail: bytes, next_id: str | None
    ) -> None:
        now = time.monotonic()
        self._rules.longest = max(self._rules.longest, now - self._began)
        oom = int(status != 0 and self._ooms < self._count_ooms(now))
        self._say(f"ended {job_id} {version} {status} {max_rss} {oom} {self.why} {log_tail.hex() or '-'}")
        self._running = None
        self._done += 1
        self._idle_since, self._pause = now, FIRST_PAUSE

    def wait(self, wake: socket.socket) -> list[tuple[Any, ...]]:
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(wake, select.POLLIN)
            if self._line is not None:
                self._poll.register(self._line, select.POLLIN)
        while True:
            commands = self._commands(time.monotonic())
            self._flush()
            if commands:
                return commands
            ready = self._poll.poll(1000.0 * self._patience())
            if self._line is not None and self._line.fileno() in {descriptor for descriptor, _ in ready}:
                self._hear_launcher(self._line)
            if ready or self.lost:
                return []

    def _hear_launcher(self, line: socket.socket) -> None:
        """Heed a warning; without its launcher a host has to go as well."""
        message = protocol.receive(line, block=False)
        if message is None:
            assert self._poll is not None
            self._poll.unregister(line)
        self.warn(*("terminated",) if message is None else message[1:])

    def _patience(self) -> float:
        """How long to wait for a signal before looking again: short while there may be news of work."""
        if self._running is not None or self._stopped or self.lost:
            return ORDER_SECONDS
        self._pause = min(1.5 * self._pause, LONGEST_PAUSE)
        return self._pause

    def _commands(self, now: float) -> list[tuple[Any, ...]]:
        if self._stopped or (self.lost and self._running is None):
            return []
        self._look_around(now)
        if self._running is not None and not self._stop:
            cancels, self._cancels = self._cancels, []
            return [(protocol.CANCEL, *attempt) for attempt in cancels if attempt == self._running]
        if self.lost and not self._stop:
            return []  # the host sees it, and begins nothing more
        may_take = (
            self._may_take and not self.lost and not self._stop and self._rules.may_take(self._done, now)
        )
        commands = self._take(now) if may_take else []
        if not commands and (not may_take or now >= self._idle_since + self._rules.idle):
            self._stopped = True
            return [(protocol.STOP,)]
        return commands

    def _take(self, now: float) -> list[tuple[Any, ...]]:
        try:
            found = self._next()
        except (OSError, JobStoreUnavailableError) as error:
            self.lost = not is_full(error)
            found, self._idle_since = None, now  # a full disk takes no claims; that is not being idle
        if found is None:
            return []
        queue, place, (job_id, version) = found
        self._running = job_id, version
        self._began = now
        if now >= self._oom_look:
            self._count_ooms(now)
        self._cancels.clear()
        self._say(f"claim {queue} {place} {job_id} {version}")
        return [(protocol.RUN, job_id, version, queue)]

    def _count_ooms(self, now: float) -> int:
        """Look how often the kernel has killed for memory, which is not for nothing; return that."""
        self._oom_look = now + OOM_SECONDS
        self._ooms = oom_kills()
        return self._ooms

    def _next(self) -> tuple[str, int, Attempt] | None:
        """Claim from the queue that this host was made for, then from others whose jobs fit in here."""
        taken = self._pickers[self._queue].take()
        if taken is not None:
            return self._queue, *taken
        for queue in self._work.queues():
            if queue != self._queue and fits(queue, self._queue):
                picker = self._pickers.setdefault(queue, Picker(self._work, queue, self.host))
                taken = picker.take()
                if taken is not None:
                    return queue, *taken
        return None

    def _look_around(self, now: float) -> None:
        """Read orders, show life and look after the leader, each at its own pace."""
        if self._warned is not None and now >= self._warned[1]:
            self.warn(self._warned[0])
        try:
            is_idle = self._running is None and self._pause > FIRST_PAUSE
            if now >= self._order_look or is_idle:  # the end of a workflow waits for those that are idle
                self._order_look = now + ORDER_SECONDS
                self._read_orders()
            if now >= self._beat:
                self._beat = now + BEAT_SECONDS
                self._say("beat")
                self._flush()
            if now >= self._leader_look and not self.lost:
                self._leader_look = now + LEADER_SECONDS
                self.lost = self._leader_is_gone()
        except FileNotFoundError:
            self.lost = True  # the job store was removed

    def _read_orders(self) -> None:
        lines, self._orders = self._work.orders(self._orders)
        for words in map(bytes.split, lines):
            if words[0] == b"stop":
                self._stop, self.clean = True, words[1:] == [b"clean"]
            elif words == [b"leave", self.host.encode("ascii")]:
                self._may_take = False
            elif words[0] == b"cancel":
                self._cancels.append((words[1].decode("ascii"), int(words[2])))

    def _leader_is_gone(self) -> bool:
        if self._store.current_run() != self._run or self._store.is_ended():
            return True
        beat = self._store.last_beat()
        return beat is None or self._work.last_word(self.host) - beat > LEADER_SILENCE

    def _say(self, line: str) -> None:
        self._lines.append(line)

    def _flush(self) -> None:
        """Write all lines at once; what a full disk does not take is written next time."""
        self._unwritten += "".join(line + "\n" for line in self._lines).encode("ascii")
        self._lines.clear()
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[vfs.write(self._log.fileno(), self._unwritten) :]
        except OSError as error:
            if not is_full(error):
                raise
