"""The worker host: a small long-lived process that forks one process per job chain.

Knows work items, child processes and their output. Must not know what a job is: that is
:mod:`toilcache.worker.chain`, which runs in the child. It has one thread, holds no lock and no connection but
its work source, and stays small, since the price of a fork grows with it."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections import deque
from contextlib import suppress

from toilcache.batch import protocol
from toilcache.node.coordination import NodeDirs
from toilcache.node.identity import get_process_name
from toilcache.worker import posix
from toilcache.worker.chain import run_chain
from toilcache.worker.context import WorkerContext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from toilcache.worker.source import WorkSource

MARKER = "TOILCACHE_JOB"


class _Running:
    """A forked job process: the attempt it was started for, and the file that takes its output."""

    __slots__ = ("cancelled", "job_id", "log", "version")

    def __init__(self, job_id: str, version: int, log: int) -> None:
        self.job_id = job_id
        self.version = version
        self.log = log
        self.cancelled = False

    @property
    def marker(self) -> str:
        return f"{self.job_id}:{self.version}"


class Host:
    """Runs what its source asks for until the source ends.

    When the source is lost (the leader was killed), the host starts nothing new, leaves a note of what still
    runs for the next leader, lets that finish and commit, and ends."""

    def __init__(self, source: WorkSource) -> None:
        self._source = source
        self._running: dict[int, _Running] = {}
        self._queue: deque[tuple[str, int]] = deque()
        self._ends = 0
        self._ends_without_successor: deque[int] = deque()
        self._logs: list[int] = []
        self._kernel = posix.Kernel()
        self._pid = os.getpid()
        self._stopping = False
        self._note: str | None = None

    def serve(self) -> int:
        """Work until told to stop or left alone; returns the exit status."""
        wake = self._watch_children()
        setup = self._source.setup()
        if setup is None:
            return 0
        self._jobs_dir: str = setup["jobs_dir"]
        dirs = NodeDirs(*setup["node"])
        self._hold = dirs.hold()
        name = get_process_name(dirs.names_base)
        self._note = dirs.host_note(name + ".note")
        self._context = WorkerContext(setup, self._source.record)
        self._kernel.adopt_orphans()
        gc.collect()
        gc.freeze()
        self._write_note()
        self._source.ready(self._pid, name)
        while not self._stopping or self._running:
            commands = self._source.wait(wake)
            for command in commands:
                self._obey(command)
            _drain(wake)
            self._reap()
            if self._source.lost and not self._stopping:
                self._abandoned()
        self._remove_note()
        return 0

    def _watch_children(self) -> socket.socket:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._wake_writer = writer
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        return reader

    def _obey(self, command: tuple[Any, ...]) -> None:
        verb = command[0]
        if verb == protocol.RUN:
            self._forget_ends(command[3])
            self._start(command[1], command[2])
        elif verb == protocol.QUEUE:
            self._enqueue(command[1], command[2], command[3])
        elif verb == protocol.CANCEL:
            self._cancel(command[1], command[2])
        elif verb == protocol.STOP:
            self._stop()

    def _enqueue(self, job_id: str, version: int, ends_heard: int) -> None:
        """Queue an attempt, or start it at once: the adapter reckons that every end which it had not heard of
        when it sent this starts one that is queued.
        """
        self._forget_ends(ends_heard)
        if self._ends_without_successor and not self._stopping:
            self._ends_without_successor.popleft()
            self._start(job_id, version)
        else:
            self._queue.append((job_id, version))

    def _forget_ends(self, heard: int) -> None:
        while self._ends_without_successor and self._ends_without_successor[0] <= heard:
            self._ends_without_successor.popleft()

    def _start(self, job_id: str, version: int) -> None:
        log = self._logs.pop() if self._logs else posix.unlinked_file(self._jobs_dir)
        running = _Running(job_id, version, log)
        pid = os.fork()
        if pid == 0:
            self._become_job(running)
        self._running[pid] = running

    def _become_job(self, running: _Running) -> None:
        """In the child: take a life of its own, run the chain, end without unwinding the host's frames."""
        status = 1
        try:
            os.setsid()
            self._kernel.die_with(self._pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.dup2(running.log, 1)
            os.dup2(running.log, 2)
            posix.be_killed_first()
            posix.reseed()
            os.environ[MARKER] = running.marker
            status = run_chain(self._context, running.job_id, running.version)
            sys.stdout.flush()
        except BaseException:
            sys.__excepthook__(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            running = self._running.pop(pid, None)
            if running is not None:
                self._end(pid, running, status, usage.ru_maxrss * 1024)

    def _end(self, pid: int, running: _Running, status: int, max_rss: int) -> None:
        self._kill_left_behind(pid, running)
        log = posix.tail(running.log, protocol.LOG_TAIL) if status else b""
        if running.cancelled:
            status = protocol.CANCELLED
        self._source.ended(running.job_id, running.version, status, max_rss, log)
        if os.fstat(running.log).st_size:
            os.ftruncate(running.log, 0)
        self._logs.append(running.log)
        self._ends += 1
        if self._queue and not self._stopping:
            self._start(*self._queue.popleft())
        else:
            self._ends_without_successor.append(self._ends)
        if self._source.lost:
            self._write_note()

    def _kill_left_behind(self, pid: int, running: _Running) -> None:
        """End what the job started and did not wait for: its process group, and strays by their marker."""
        with suppress(ProcessLookupError):  # the usual case: nothing is left of the group
            os.killpg(pid, signal.SIGKILL)
        marker = f"{MARKER}={running.marker}".encode()
        for stray in posix.orphans_of(marker, set(self._running)):
            os.kill(stray, signal.SIGKILL)

    def _cancel(self, job_id: str, version: int) -> None:
        if (job_id, version) in self._queue:
            self._queue.remove((job_id, version))
            self._source.ended(job_id, version, protocol.CANCELLED, 0, b"")
            return
        for pid, running in self._running.items():
            if running.job_id == job_id and running.version == version:
                running.cancelled = True
                os.kill(pid, signal.SIGKILL)

    def _stop(self) -> None:
        self._stopping = True
        self._queue.clear()
        for pid, running in self._running.items():
            running.cancelled = True
            os.kill(pid, signal.SIGKILL)

    def _abandoned(self) -> None:
        """The leader is gone: what runs may finish, nothing else starts."""
        self._stopping = True
        self._queue.clear()
        self._write_note()

    def _write_note(self) -> None:
        """Tell a later leader that this host serves, or once left alone, which attempts still run here."""
        assert self._note is not None
        text = "abandoned\n" if self._source.lost else "serving\n"
        text += "".join(f"{running.job_id} {running.version}\n" for running in self._running.values())
        temporary = self._note + ".new"
        with open(temporary, "w", encoding="ascii") as note:
            note.write(text)
        os.replace(temporary, self._note)

    def _remove_note(self) -> None:
        with suppress(FileNotFoundError):  # somebody has cleaned the node already
            os.unlink(str(self._note))


def _drain(wake: socket.socket) -> None:
    try:
        while wake.recv(4096):
            continue
    except BlockingIOError:
        return
