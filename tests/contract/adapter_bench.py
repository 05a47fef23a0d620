"""Adapters to test, with a real job store and jobs for them: the one for this machine, and the one without
workers.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import psutil

from tests.contract import adapter_jobs
from tests.fakes.null_adapter import Committer, NullAdapter
from tests.runs import DEADLINE
from toilcache.batch.host_process import run_marker
from toilcache.batch.local import LocalAdapter
from toilcache.batch.model import BatchAdapter, Ended, JobRequest, Record, Update
from toilcache.batch.resources import Capacity, Pool
from toilcache.config import Config
from toilcache.job.job import Job
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.node.coordination import NodeDirs, node_dirs

SLOTS = 2
MIB = 1 << 20


class Bench:
    """An adapter with two slots over a real job store, and jobs for it."""

    adapter: BatchAdapter
    many = 50

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = FileJobStore(str(home / "the 'store'"))
        self.store.initialize(Config(retryCount=0))
        self.config = self.store.config
        self.gate = str(home / "the gate\n'")
        self.cleaned = 0
        self.updates: list[Update] = []

    def clean(self) -> None:
        self.cleaned += 1

    def close(self) -> None:
        self.adapter.shutdown()

    def request(self, function: Callable[..., Any], *args: Any, cores: float = 1, **more: Any) -> JobRequest:
        """Save a job and make the request for its first attempt."""
        job = Job.wrapJobFn(function, *args, cores=cores, memory=10 * MIB, disk=10 * MIB, **more)
        job.assignConfig(self.config)
        return JobRequest.of(job.saveAsRootJob(self.store))

    def quick(self, **more: Any) -> JobRequest:
        return self.request(adapter_jobs.quick, **more)

    def tiny(self) -> JobRequest:
        """One of many jobs that can run at the same time."""
        return self.quick()._replace(cores=0.001, memory=1, disk=1)

    def waiting(self, **more: Any) -> JobRequest:
        """A job that runs until the gate is open."""
        return self.request(adapter_jobs.wait_for, self.gate, **more)

    def open_gate(self) -> None:
        """Let the waiting jobs go on."""
        Path(self.gate).touch()

    def hear(self, condition: Callable[[], bool]) -> None:
        """Take updates until something is true."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, (self.updates, self.adapter.running())
            self.updates += self.adapter.updates(0.05)

    def ends(self) -> dict[str, Ended]:
        """The ends heard so far; no attempt may have two."""
        ends = [update for update in self.updates if isinstance(update, Ended)]
        assert len({end.job_id for end in ends}) == len(ends)
        return {end.job_id: end for end in ends}

    def end_of(self, *requests: JobRequest) -> list[Ended]:
        """Wait for the ends of these."""
        self.hear(lambda: all(request.job_id in self.ends() for request in requests))
        found = [self.ends()[request.job_id] for request in requests]
        assert [end.version for end in found] == [request.version for request in requests]
        return found

    def records(self) -> set[str]:
        return {update.job_id for update in self.updates if isinstance(update, Record)}

    def has_run(self, request: JobRequest) -> bool:
        return not self.store.load_job(request.job_id).has_body()

    def await_running(self, count: int) -> None:
        """Wait until so many jobs are at work."""
        self.hear(lambda: len(self.adapter.running()) >= count and self.at_work() >= count)

    def at_work(self) -> int:
        return len(self.marks("running"))

    def marks(self, kind: str) -> list[Path]:
        """What jobs at the gate have left there."""
        return list(Path(self.gate).parent.glob(f"*.{kind}"))


class LocalBench(Bench):
    """The adapter for this machine."""

    adapter: LocalAdapter
    setup: ClassVar[dict[str, Any]] = {}

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        (home / "work").mkdir()
        (home / "coordination").mkdir()
        self.dirs = node_dirs(str(self.config.workflowID), str(home / "work"), str(home / "coordination"))
        self.gate = os.path.join(self.dirs.work, "the gate\n'")  # jobs in containers see it too
        self.adapter = self.new_adapter()

    def new_adapter(
        self, setup: dict[str, Any] | None = None, run: int = 1, devices: int = 0
    ) -> LocalAdapter:
        pool = Pool(Capacity(SLOTS, 1000 * MIB, 1000 * MIB, devices))
        made = host_setup(self.store, self.dirs) | self.setup | (setup or {})
        return LocalAdapter(pool, str(self.config.workflowID), run, made, self.clean)

    def next_leader(self, devices: int = 0) -> LocalAdapter:
        """Have the leader die and another one come; returns the dead one's adapter."""
        dead = self.adapter
        for host in dead._hosts.values():
            host.socket.close()
        self.adapter = self.new_adapter(run=2, devices=devices)
        return dead

    def kill_hosts(self, adapter: LocalAdapter) -> None:
        """Kill the hosts of an adapter."""
        for host in adapter._hosts.values():
            os.kill(host.pid, signal.SIGKILL)

    def hosts(self) -> list[int]:
        return [host.pid for host in self.adapter._hosts.values()]

    def processes(self, run: int = 1) -> list[int]:
        """All processes that a run of this workflow started."""
        marker = os.fsencode(run_marker(str(self.config.workflowID), run))
        found = []
        for pid in psutil.pids():
            try:
                environ = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if marker in environ.split(b"\0"):
                found.append(pid)
        return found


class SharingBench(LocalBench):
    """The same with processes that run one job after the other."""

    setup: ClassVar[dict[str, Any]] = {"share_process": True}


class NullBench(Bench):
    """The adapter without workers."""

    adapter: NullAdapter

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._commit = Committer(self._connect)
        self._functions: dict[str, Callable[..., Any]] = {}
        self._waiting: list[JobRequest] = []
        self.adapter = NullAdapter(self._work, SLOTS, SLOTS)

    def _connect(self) -> FileJobStore:
        store = FileJobStore(self.store.path)
        store.resume()
        return store

    def request(self, function: Callable[..., Any], *args: Any, cores: float = 1, **more: Any) -> JobRequest:
        request = super().request(function, *args, cores=cores, **more)
        self._functions[request.job_id] = function
        return request

    def _work(self, request: JobRequest) -> list[Update] | None:
        if self._functions[request.job_id] is adapter_jobs.wait_for:
            self._waiting.append(request)
            return None
        return self._commit(request)

    def at_work(self) -> int:
        return len(self.adapter.running())

    def open_gate(self) -> None:
        self._functions = dict.fromkeys(self._functions, adapter_jobs.quick)
        for request in self._waiting:
            if request.job_id in self.adapter.running():
                self.adapter.report(*self._commit(request))

    def hear(self, condition: Callable[[], bool]) -> None:
        super().hear(condition)

    def clean(self) -> None:
        raise AssertionError("there is nothing to clean")


def host_setup(store: FileJobStore, dirs: NodeDirs) -> dict[str, Any]:
    """The first message to a host; the main program is this test run, which no worker needs."""
    return {
        "locator": store.locator,
        "run": 1,
        "node": (dirs.workflow_id, os.path.dirname(dirs.work), os.path.dirname(dirs.coordination)),
        "jobs_dir": dirs.jobs,
        "names_base": dirs.names_base,
        "notes_dir": os.path.dirname(dirs.host_note("any")),
        "sys_path": [str(Path(__file__).resolve().parents[2])],
        "main": None,
        "preload": False,
    }


def alive_with(word: str) -> list[int]:
    """The processes with this word on their command line, zombies left aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if word in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def bury(adapter: LocalAdapter) -> None:
    """Wait for the hosts of a leader that is dead."""
    for host in adapter._hosts.values():
        host.close()
