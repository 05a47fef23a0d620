"""The worker host: a small long-lived process that has one forked process per job chain.

Knows work items, child processes and their output. Must not know what a job is: that is
:mod:`toilcache.worker.chain`, which runs in the child, and :mod:`toilcache.worker.bare`. It has one thread,
holds no lock and no connection but its work source, and stays small, since the price of a fork grows."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections import deque
from contextlib import suppress

from toilcache import vfs
from toilcache.batch import protocol
from toilcache.errors import ToilcacheError
from toilcache.io import write_durable
from toilcache.job_store.liveness import closing, note_of
from toilcache.node.coordination import NodeDirs, NodeHold
from toilcache.node.identity import get_process_name
from toilcache.node.namespaces import pid_namespace
from toilcache.worker import posix
from toilcache.worker.bare import BareFunctions, obey, order_to_commit
from toilcache.worker.chain import run_chain
from toilcache.worker.context import WorkerContext
from toilcache.worker.helpers import MOST_CALLERS, Helpers
from toilcache.worker.immortal import make_all_immortal
from toilcache.worker.rehearsal import rehearse
from toilcache.worker.runners import Runners
from toilcache.worker.running import Running

_MANY_SIGNS = 256
"""Where as many have come at once, more may have been lost: the kernel keeps a few more than these."""

MOST_BARE = os.sysconf("SC_OPEN_MAX") // 8
"""A running bare function takes one more of the host's descriptors than another job."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from toilcache.file_store.scratch import Spare
    from toilcache.job.description import JobDescription
    from toilcache.worker.source import WorkSource

    Shape: TypeAlias = Any  # only compared


class Host:
    """Runs what its source asks for until the source ends.

    When the source is lost (the leader was killed), the host starts nothing new, leaves a note of what still
    runs for the next leader, lets that finish and commit, and ends."""

    def __init__(self, source: WorkSource) -> None:
        self._source = source
        self._running: dict[int, Running] = {}
        self._queue: deque[tuple[str, int, Shape]] = deque()
        self._kernel = posix.Kernel()
        self._bare = BareFunctions()
        self._pid = os.getpid()
        self._stopping = False
        self._note: str | None = None
        self._hold: NodeHold | None = None

    def serve(self) -> int:
        """Work until told to stop or left alone; returns the exit status."""
        protocol.forget_bind_now()
        wake = self._watch_children()
        setup = self._source.setup()
        if setup is None:
            return 0
        try:
            return self._serve(setup, wake)
        finally:
            self._leave_node(setup)

    def _serve(self, setup: dict[str, Any], wake: socket.socket) -> int:
        self._dirs = dirs = NodeDirs(*setup["node"])
        self._hold = dirs.hold(setup["run"], note_of(setup["locator"]))
        if closing(setup["locator"], setup["run"]) in ("clean", "keep"):
            return 0  # asked with the lock held: no clean-up can have come between
        name = get_process_name(dirs.names_base)
        self._note = dirs.host_note(name + ".note")
        self._context = WorkerContext(setup, self._source.record)
        stay = self._wake_writer.fileno() if setup.get("share_process") else -1
        self._runners = Runners(setup["jobs_dir"], self._leave_the_host, self._run, stay)
        rehearse(self._context, self._rehearse)
        make_all_immortal()
        self._context.preload_main()
        self._kernel.adopt_orphans()
        posix.be_killed_first()
        gc.collect()
        gc.freeze()
        self._helpers = Helpers(self._kernel, self._context, dirs, self._leave_the_host)
        self._helpers.call_for_the_dead()
        self._helpers.wait(wake, self._reap)
        self._write_note()
        self._source.ready(self._pid, name)
        self._helpers.sweep()
        while not self._stopping or self._running or self._helpers.are_calling:
            commands = self._source.wait(wake)
            if self._source.lost and not self._stopping:
                self._abandoned()  # first: what came together with the loss is not to start anything
            for command in commands:
                self._obey(command)
            signs = _drain(wake)
            if signs:
                self._finish()
            if signal.SIGCHLD in signs or len(signs) >= _MANY_SIGNS:
                self._reap()
        self._runners.dismiss()
        self._remove_note()
        return 0

    def _leave_node(self, setup: dict[str, Any]) -> None:
        """Let go of the node, and leave it clean if the run is over and nobody else has cleaned it."""
        if self._hold is None:
            return
        self._hold.close()
        leave_clean(setup)

    def _watch_children(self) -> socket.socket:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._wake_writer = writer
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _be_woken)
        return reader

    def _obey(self, command: tuple[Any, ...]) -> None:
        verb = command[0]
        if verb == protocol.CANCEL:
            self._cancel(command[1], command[2])
        elif verb == protocol.STOP:
            self._stop()
        elif not self._may_start():
            return
        elif verb == protocol.RUN:
            self._start(command[1], command[2], command[3])
        elif verb == protocol.QUEUE:
            self._queue.extend((*attempt, command[1]) for attempt in command[2])
        elif verb == protocol.START:
            self._start_queued(command[1])

    def _may_start(self) -> bool:
        return not self._stopping and not self._source.lost

    def _start_queued(self, job_id: str) -> None:
        for attempt in self._queue:
            if attempt[0] == job_id:
                self._queue.remove(attempt)
                self._start(*attempt)
                return

    def _start(self, job_id: str, version: int, shape: Shape) -> None:
        """Begin an attempt."""
        if not self._runners.pids:
            self._context.prepare()
        order, desc = b"", None
        if not self._runners.are_shared and len(self._running) < MOST_BARE:
            is_alone = not self._running
            order, desc = self._bare.order(self._context, job_id, version, is_alone)
        self._begin(job_id, version, shape, order, desc)

    def _begin(
        self, job_id: str, version: int, shape: Shape, order: bytes, desc: JobDescription | None = None
    ) -> None:
        """Give it to a process; a lack of those, of descriptors or of room ends this attempt and no other."""
        try:
            runner = self._runners.start(job_id, version, order)
        except OSError as error:
            why = os.fsencode(f"{error.strerror or error}")
            self._report_end(job_id, version, shape, protocol.NOT_STARTED, log=why)
            return
        self._running[runner.pid] = Running(job_id, version, shape, runner, desc)

    def _run(self, job_id: str, version: int, order: bytes, spare: Spare | None) -> int:
        """In a runner: run the chain that begins with this attempt, or what it was ordered to."""
        os.environ[protocol.JOB_MARKER] = f"{job_id}:{version}"
        if order:
            return obey(self._context, job_id, version, order, self._runners.hand_over)
        return run_chain(self._context, job_id, version, spare)

    def _rehearse(self, context: WorkerContext, job_id: str, version: int) -> None:
        """Do in the host itself, and in other surroundings, what a runner does, as a bare function or not."""
        real, self._context = self._context, context
        home, marker = os.open(".", os.O_PATH | os.O_DIRECTORY), os.environ.get(protocol.JOB_MARKER)
        try:
            order, desc = self._bare.order(context, job_id, version, is_alone=True)
            result = self._runners.rehearse(job_id, version, order)
            if desc is not None and result:
                self._bare.commit(context, desc, result)
        finally:
            self._context = real
            os.fchdir(home)
            os.close(home)
            os.environ.pop(protocol.JOB_MARKER, None)
            if marker is not None:
                os.environ[protocol.JOB_MARKER] = marker

    def _leave_the_host(self, log: int) -> None:
        self._kernel.leave(self._pid, log)
        posix.reseed()

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
            elif not self._runners.ended(pid):
                self._helpers.ended(pid, status)

    def _finish(self) -> None:
        """Take note of attempts that are over while their process waits for another one.

        A child of ours that we do not know is a daemon of one of these or of another job: then they get no
        more. Nor do those that are about to die. Their attempts are over when they have ended.
        """
        for pid in self._runners.finished():
            running = self._running.get(pid)
            if running is None or running.cancelled:
                continue
            if posix.children_but(self._known()):
                running.runner.give_nothing_more()
                continue
            del self._running[pid]
            posix.empty(running.runner.log)
            self._runners.wait_again(running.runner)
            self._report_end(running.job_id, running.version, running.shape, 0)
            if self._source.lost:
                self._write_note()

    def _end(self, pid: int, running: Running, status: int, max_rss: int) -> None:
        self._kill_left_behind(pid, running)
        calling = self._call_deferred(running, status)
        running.ended = running.ended or (status, max_rss)
        if calling:
            return
        status, max_rss = running.ended
        if running.bare is not None and status == 0 and not running.cancelled:
            committed = self._commit(running, running.bare)
            if committed is None:
                return
            status = committed
        log = posix.tail(running.runner.log, protocol.LOG_TAIL) if status else b""
        if running.cancelled:
            status = protocol.CANCELLED
        self._runners.bury(running.runner)
        self._report_end(running.job_id, running.version, running.shape, status, max_rss, log)
        if self._source.lost:
            self._write_note()

    def _commit(self, running: Running, desc: JobDescription) -> int | None:
        """Commit what a bare function has returned, if its process has left that to us; returns the status of
        a process that has done so, None if one does it now: where a store is full that takes long.
        """
        result = running.runner.handed_over()
        if not result:
            return 0
        if not self._bare.leaves_the_store(is_alone=not self._running):
            with suppress(Exception):  # a process meets it again, and what it does then is its own affair
                return self._bare.commit(self._context, desc, result) << 8
        self._runners.bury(running.runner)
        self._begin(running.job_id, running.version, running.shape, order_to_commit(result))
        if self._source.lost:
            self._write_note()
        return None

    def _call_deferred(self, running: Running, status: int) -> bool:
        """Have a child call what an attempt has deferred and not called itself; False if there is nothing.

        Until that child ends the attempt has not ended: what follows it may need what is being cleaned up.
        Only who has asked for its end is not kept waiting.
        """
        again = running.callers > 0
        if again and (status == 0 or running.callers == MOST_CALLERS):
            return False
        pid = self._helpers.call_left_by(running.attempt, 1 if running.cancelled else running.runner.log)
        if pid is None:
            return False
        if running.cancelled:
            self._helpers.set_aside(pid)
            return False
        running.callers += 1
        self._running[pid] = running
        if self._source.lost:
            self._write_note()
        return True

    def _report_end(
        self, job_id: str, version: int, shape: Shape, status: int, max_rss: int = 0, log: bytes = b""
    ) -> None:
        """Report an end and start a queued attempt of the same shape in its place, if there is one."""
        following = None
        if self._may_start() and self._queue and self._queue[0][2] == shape:
            following = self._queue.popleft()
        self._source.ended(job_id, version, status, max_rss, log, following[0] if following else None)
        if following is not None and self._may_start():
            self._start(*following)

    def _kill_left_behind(self, pid: int, running: Running) -> None:
        """End what the job started and did not wait for: its process group, and strays by their marker."""
        with suppress(ProcessLookupError):  # the usual case: nothing is left of the group
            os.killpg(pid, signal.SIGKILL)
        posix.kill_orphans(running.marker.encode(), pid, self._known())

    def _known(self) -> set[int]:
        """Our children, but for what jobs have left to us."""
        return {*self._running, *self._runners.pids, *self._helpers.pids}

    def _cancel(self, job_id: str, version: int) -> None:
        for attempt in self._queue:
            if attempt[:2] == (job_id, version):
                self._queue.remove(attempt)
                self._source.ended(job_id, version, protocol.CANCELLED, 0, b"", None)
                return
        for pid, running in list(self._running.items()):
            if running.attempt == (job_id, version):
                self._kill(pid, running)

    def _stop(self) -> None:
        self._stopping = True
        self._queue.clear()
        for pid, running in list(self._running.items()):
            self._kill(pid, running)

    def _kill(self, pid: int, running: Running) -> None:
        """Kill a job; where only its deferred functions are being called, they are no longer part of it."""
        if running.ended is None:
            running.cancelled = True
            os.kill(pid, signal.SIGKILL)
            return
        del self._running[pid]
        self._helpers.set_aside(pid)
        running.runner.close()
        running.runner.drop_spare()
        os.close(running.runner.log)
        self._report_end(running.job_id, running.version, running.shape, protocol.CANCELLED)

    def _abandoned(self) -> None:
        """The leader is gone: what runs may finish, nothing else starts."""
        self._stopping = True
        self._queue.clear()
        self._write_note()

    def _write_note(self) -> None:
        """Tell a later leader that this host serves, or once left alone, which attempts still run here.

        Without room on the disk the next change is another occasion; until then the later leader fences.
        """
        assert self._note is not None
        text = f"{'abandoned' if self._source.lost else 'serving'} {pid_namespace()}\n"
        text += "".join(f"{job.job_id} {job.version} {pid}\n" for pid, job in self._running.items())
        try:
            write_durable(self._note, text.encode("ascii"), sync=False)
        except OSError as error:
            print(f"cannot write {self._note!r}: {error}", file=sys.stderr)

    def _remove_note(self) -> None:
        with suppress(FileNotFoundError):  # somebody has cleaned the node already
            vfs.unlink(str(self._note))


def _be_woken(signum: int, frame: object) -> None:
    """Do nothing: that a child has ended is told by the byte at the descriptor."""


def leave_clean(setup: dict[str, Any]) -> None:
    """Clean this node if the run is over and nobody uses the workflow's directories."""
    with suppress(OSError, ToilcacheError):  # what stays behind is found by whoever sweeps the node
        if closing(setup["locator"], setup["run"]) in ("clean", "gone"):
            from toilcache.node.remains import cleanup

            workflow_id, work_base, coordination_base = setup["node"]
            cleanup(workflow_id, work_base, coordination_base, run=setup["run"])


def _drain(wake: socket.socket) -> bytes:
    """Return what has come since this was called last: numbers of signals, zeros of runners."""
    try:
        return wake.recv(_MANY_SIGNS)
    except BlockingIOError:
        return b""
