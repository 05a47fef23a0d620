"""The batch adapter for this machine: worker hosts as child processes, resources by arithmetic.

Knows hosts, sockets and what the machine has. Must not know the job store, retries or the graph. A host
serves the jobs of one image and number of threads (its user's module was imported under that
``OMP_NUM_THREADS``); a job with accelerators, or with limits that an engine enforces, gets a fresh host of
its own."""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from toilcache.batch import protocol
from toilcache.batch.adoption import Adoption, Source
from toilcache.batch.container_plan import HostContainer, box_for
from toilcache.batch.container_sweep import sweep
from toilcache.batch.host_process import HostProcess, host_environment, host_program, run_marker
from toilcache.batch.local_waits import standing
from toilcache.batch.model import Ended, JobRequest, Update
from toilcache.batch.model import Record as RecordUpdate
from toilcache.batch.orphans import Orphans
from toilcache.batch.resources import Pending, Pool, Shape
from toilcache.batch.status import explain
from toilcache.batch.waker import Waker
from toilcache.errors import ProcessError
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.node.coordination import NodeDirs
from toilcache.node.machine import end_marked_processes, kill_marked_processes, oom_kills

QUEUE_AHEAD = 128
"""So many attempts a host may hold ready, so that it need not ask the leader when a job ends. Jobs of a third
of a millisecond are done with them in 20 ms, and a leader that deletes what a sync has let go takes as long.
"""

GATHER_SECONDS = 0.005
"""So seldom are hosts listened to that have plenty ready: what a look costs is taken from their jobs."""

STOP_SECONDS = 5.0
CANCEL_SECONDS = 20.0
"""So long a host may take to end an attempt that it was asked to end; a host that is stopped never does."""

Kind = tuple[int, str | None]
"""What distinguishes hosts: the number of threads that libraries in them may use, and the image."""


class LocalAdapter:
    """Runs workers as processes of this machine (see :class:`toilcache.batch.model.BatchAdapter`).

    :param pool: what may be used.
    :param run: the number of the leader's run.
    :param setup: the first message to a host (see ``toilcache.batch.protocol``).
    :param clean: called once at the end of :meth:`shutdown`, to remove the workflow's directories on this
        node.
    :param container: what hosts run in; None: they are plain processes, whatever image jobs ask for.
    :param left: what tells of attempts of earlier leaders, beside the notes of hosts."""

    def __init__(
        self,
        pool: Pool,
        workflow_id: str,
        run: int,
        setup: dict[str, Any],
        clean: Callable[[], None],
        container: HostContainer | None = None,
        left: Sequence[Source] = (),
    ) -> None:
        self._container = container
        self._may_be_left = False
        """True once a host in a container did not end in order: somebody has to look for the container."""
        self._pool = pool
        self._workflow_id = workflow_id
        self._run = run
        self._setup = setup
        self._clean = clean
        self._pending = Pending()
        self._hosts: dict[int, HostProcess] = {}
        self._by_pidfd: dict[int, HostProcess] = {}
        self._by_kind: dict[Kind, HostProcess] = {}
        self._devices = list(range(pool.capacity.accelerators))
        self._lent: dict[int, tuple[Shape, tuple[int, ...]]] = {}
        self._began: dict[str, float] = {}
        self._ready: list[Update] = []
        self._poll = select.poll()
        self._waker = Waker(self._poll)
        self._dirs = NodeDirs(*setup["node"])
        notes = Orphans(setup["notes_dir"], setup["names_base"], workflow_id, run)
        self._adoption = Adoption(*left, notes)
        self._oom_kills = oom_kills()
        self._heard = 0.0
        self._closed = False

    def check(self, request: JobRequest) -> None:
        self._pool.check(request)

    def submit(self, requests: Sequence[JobRequest]) -> None:
        for request in requests:
            self._pending.add(request)
        self._dispatch()

    def cancel(self, job_ids: Collection[str]) -> None:
        for job_id in job_ids:
            request = self._pending.discard(job_id)
            if request is not None:
                self._end(request, protocol.CANCELLED, 0, b"")
                continue
            if self._adoption.cancel(job_id):
                continue
            for host in self._hosts.values():
                if host.cancel(job_id):
                    break

    def running(self) -> dict[str, float]:
        now = time.monotonic()
        return {job_id: now - began for job_id, began in self._began.items()}

    def standing(self) -> dict[str, Any]:
        return standing(self._pool, self._pending, self._hosts.values(), self._began)

    def adopt(self) -> list[tuple[str, int]]:
        return self._adoption.find()

    def adopted(self, requests: Sequence[JobRequest]) -> None:
        for request, devices, seconds in self._adoption.take(requests):
            self._devices = [device for device in self._devices if device not in devices]
            self._began[request.job_id] = time.monotonic() - seconds
            self._pool.take(request.shape)

    def wake(self) -> None:
        self._waker.wake()

    def updates(self, timeout: float | None) -> list[Update]:
        if not self._ready:
            self._wait(self._adoption.limit(timeout))
        self._part_with(self._adoption.ended())
        ready, self._ready = self._ready, []
        return ready

    def _part_with(self, orphans: list[tuple[tuple[str, int], Source]]) -> None:
        """Report adopted attempts that have ended, once nothing of theirs runs, and give back what they had.

        Their host has seen to that, unless it was killed.
        """
        if not orphans:
            return
        kill_marked_processes(protocol.job_marker(*attempt) for attempt, _ in orphans)
        for attempt, source in orphans:
            ended, adopted = self._adoption.part_with(attempt, source)
            if adopted is not None:
                self._began.pop(ended.job_id, None)
                self._devices += adopted.devices
                self._pool.give(adopted.request.shape)
            self._ready.append(ended)
        self._dispatch()

    def _end_the_deaf(self, timeout: float | None) -> float | None:
        """Kill hosts that do not end what they were asked to end; returns how long to wait for the next."""
        now = time.monotonic()
        for host in self._hosts.values():
            if not host.asked:
                continue
            left = min(host.asked.values()) + CANCEL_SECONDS - now
            if left <= 0:
                host.kill()
            else:
                timeout = left if timeout is None else min(timeout, left)
        return timeout

    def _wait(self, timeout: float | None) -> None:
        rest = self._heard + GATHER_SECONDS - time.monotonic()
        if rest > 0 and self._all_have_plenty():
            time.sleep(rest)
        timeout = self._end_the_deaf(timeout)
        milliseconds = None if timeout is None else math.ceil(max(0.0, timeout) * 1000)
        for host in self._hosts.values():
            if not host.silent:
                self._poll.modify(host, host.events)
        dead: list[HostProcess] = []
        found = self._poll.poll(milliseconds)
        self._heard = time.monotonic()
        for descriptor, events in found:
            if self._waker.is_at(descriptor):
                self._waker.hear()
            elif descriptor in self._by_pidfd:
                dead.append(self._by_pidfd[descriptor])
            else:
                if events & select.POLLOUT:
                    self._hosts[descriptor].flush()
                if events & ~select.POLLOUT:
                    self._hear(self._hosts[descriptor])
        for host in dead:
            self._hear(host)
            self._bury(host)
        self._dispatch()

    def _all_have_plenty(self) -> bool:
        """True if no host that is at work needs us for a while."""
        ahead = [len(host.queued) for host in self._hosts.values() if host.running]
        return bool(ahead) and min(ahead) > QUEUE_AHEAD // 4

    def _hear(self, host: HostProcess) -> None:
        """Take all messages of a host."""
        while not host.silent:
            try:
                message = protocol.receive(host.socket, block=False)
            except BlockingIOError:
                return
            if message is None:
                self._silence(host)
                return
            self._understand(host, message)

    def _silence(self, host: HostProcess) -> None:
        """Nothing more will come from its socket; the end of its process is told by another descriptor."""
        if not host.silent:
            host.silent = True
            self._poll.unregister(host.fileno())

    def _understand(self, host: HostProcess, message: tuple[Any, ...]) -> None:
        verb = message[0]
        if verb == protocol.READY:
            host.ready = True
        elif verb == protocol.RECORD:
            self._ready.append(RecordUpdate(message[1], message[2]))
        elif verb == protocol.ENDED:
            self._chain_ended(host, *message[1:])
        elif verb == protocol.BROKEN:
            host.doom(BatchJobExitReason.ERROR, f"cannot be run by its worker: {message[1]}")
        elif verb == protocol.FATE:
            host.doom(BatchJobExitReason(message[1]), message[2])

    def _chain_ended(
        self,
        host: HostProcess,
        job_id: str,
        version: int,
        status: int,
        max_rss: int,
        log_tail: bytes,
        next_id: str | None,
    ) -> None:
        """Pass the room of what ended on to what runs in its place; with devices, the host keeps it."""
        ended, started = host.ended(job_id, next_id)
        if ended is not None:
            self._began.pop(job_id, None)
            if host.fileno() not in self._lent:
                self._pool.give(ended.shape)
        else:
            ended = host.forgotten(job_id)
        if started is not None:
            self._pool.take(started.shape)
            self._began[started.job_id] = time.monotonic()
        if ended is not None and host.fileno() in self._lent:
            host.stop_with(ended, status, max_rss, log_tail)
        elif ended is not None:
            self._end(ended, status, max_rss, log_tail)

    def _end(
        self, request: JobRequest, status: int, max_rss: int, log_tail: bytes, oom: bool | None = None
    ) -> None:
        if oom is None:
            oom = status != 0 and self._memory_ran_out()
        reason, detail = explain(status, oom_killed=oom)
        if status == protocol.NOT_STARTED:
            detail, log_tail = f"{detail}: {os.fsdecode(log_tail)}", b""
        self._ready.append(Ended(request.job_id, request.version, reason, detail, max_rss, log_tail))

    def _memory_ran_out(self) -> bool:
        before, self._oom_kills = self._oom_kills, oom_kills()
        return self._oom_kills > before

    def _bury(self, host: HostProcess) -> None:
        """A host is gone: what ran is lost, what it only had queued goes back among the pending.

        First of all, nothing may go on that its jobs started: another attempt may follow at once.
        """
        if host.running or host.held:
            attempts = map(_attempt, host.running.values())
            kill_marked_processes([host.marker, *(protocol.job_marker(*attempt) for attempt in attempts)])
        self._silence(host)
        self._poll.unregister(host.pidfd)
        descriptor = host.fileno()
        del self._hosts[descriptor], self._by_pidfd[host.pidfd]
        self._by_kind = {kind: other for kind, other in self._by_kind.items() if other is not host}
        lent = self._lent.pop(descriptor, None)
        if lent is not None:
            self._pool.give(lent[0])
            self._devices += lent[1]
        host.close()
        self._may_be_left = self._may_be_left or (host.is_boxed and not host.ended_well)
        if host.held is not None:
            self._end(*host.held, host.ran_out_of_memory)
        for request in host.running.values():
            self._began.pop(request.job_id, None)
            if lent is None:
                self._pool.give(request.shape)
            self._ready.append(Ended(*_attempt(request), *host.fate_of(request), 0, b""))
        for request in host.queued:
            self._pending.add(request)
        if any(os.path.lexists(self._dirs.call_file(_attempt(one))) for one in host.running.values()):
            self._follow(next(iter(host.running.values())))

    def _follow(self, request: JobRequest) -> None:
        """Start a host like the one that ran this: it first calls what the dead one's jobs have deferred."""
        if not self._closed:
            with suppress(OSError, ProcessError):  # then the next host that is needed does, or the clean-up
                box = box_for(self._container, request, ())
                if box is not None and box.is_limited:
                    self._start_host(_threads(request.cores), (), box).stop()
                else:
                    self._host_for(request._replace(accelerators=0))

    def _dispatch(self) -> None:
        """Start what there is room for, then give each host a few of the same shape to hold ready."""
        if self._closed:
            return
        while True:
            request = self._pending.next(self._pool)
            if request is None:
                break
            try:
                host = self._host_for(request)
            except (OSError, ProcessError) as error:
                detail = f"cannot be run: its worker cannot be started: {error}"
                self._ready.append(
                    Ended(request.job_id, request.version, BatchJobExitReason.ERROR, detail, 0, b"")
                )
                continue
            self._pool.take(request.shape)
            self._began[request.job_id] = time.monotonic()
            host.run(request)
        self._queue_ahead()

    def _queue_ahead(self) -> None:
        shape = self._pending.only_shape()
        if shape is None or shape[3]:
            return
        host = self._by_kind.get((_threads(shape[0]), shape[4]))
        if host is None or not host.running or not host.runs_only(shape):
            return
        if len(host.queued) <= QUEUE_AHEAD // 2:
            more = (self._pending.pop(shape) for _ in range(QUEUE_AHEAD - len(host.queued)))
            host.queue(shape, [request for request in more if request is not None])

    def _host_for(self, request: JobRequest) -> HostProcess:
        devices = tuple(self._devices[: request.accelerators])
        box = box_for(self._container, request, devices)
        threads = _threads(request.cores)
        if request.accelerators or (box is not None and box.is_limited):
            host = self._start_host(threads, devices, box)
            del self._devices[: len(devices)]
            self._lent[host.fileno()] = (request.shape, devices)
            return host
        kind = (threads, request.image)
        if kind not in self._by_kind:
            self._by_kind[kind] = self._start_host(threads, (), box)
        return self._by_kind[kind]

    def _start_host(self, threads: int, devices: tuple[int, ...], box: HostContainer | None) -> HostProcess:
        environment = host_environment(run_marker(self._workflow_id, self._run), threads, devices)
        log_path = os.path.join(self._setup["notes_dir"], f"host-{os.urandom(6).hex()}.log")
        setup = self._setup | {"image": box and box.image}
        host = HostProcess(host_program(box), environment, setup, log_path, is_boxed=box is not None)
        self._hosts[host.fileno()] = host
        self._by_pidfd[host.pidfd] = host
        self._poll.register(host.fileno(), select.POLLIN)
        self._poll.register(host.pidfd, select.POLLIN)
        return host

    def shutdown(self, fenced: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        for host in self._hosts.values():
            host.stop()
        deadline = time.monotonic() + STOP_SECONDS
        while self._hosts and time.monotonic() < deadline:
            self._wait(deadline - time.monotonic())
        runs = range(self._run, self._run - 1 if fenced else 0, -1)
        for run in runs:
            end_marked_processes(run_marker(self._workflow_id, run))
        left = self._may_be_left or any(host.is_boxed for host in self._hosts.values())
        if self._container is not None and (left or self._run > 1):
            sweep(self._container, runs)
        for host in self._hosts.values():
            host.close()
        self._clean()


def _attempt(request: JobRequest) -> tuple[str, int]:
    return request.job_id, request.version


def _threads(cores: float) -> int:
    """Return the number of threads that libraries in a job may use."""
    return max(1, math.floor(cores))
