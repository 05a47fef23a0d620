"""Jobs that do everything by which a job changes a store, and a server that runs them, or stops them midway.

The server forks a process for each attempt that it is asked to run, as a host does, but no leader knows of
it. An attempt may be stopped (SIGSTOP) right before the n-th step by which it changes the store, and be let
go on when the leader has long given it up: a zombie, as a partition of the network or a suspended machine
makes it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NamedTuple

from tests.fakes.faults.inject import fault_steps
from toilcache import Job
from toilcache.worker.chain import run_chain
from toilcache.worker.context import WorkerContext

SMALL = {"cores": 1, "memory": "10M", "disk": "10M"}


def root(job: Job) -> Any:
    """Begin a chain of two jobs, beside another one so that no process goes on with it; delete its value."""
    with job.fileStore.writeGlobalFileStream() as (stream, doomed):
        stream.write(b"deleted by the first job")
    job.addChildFn(str, "another", displayName="side", **SMALL)
    chain = job.addChildJobFn(first, doomed, displayName="first", **SMALL)
    return job.addFollowOnFn(len, chain.rv(), displayName="last", **SMALL).rv()


def first(job: Job, doomed: Any) -> str:
    """Write, upload, delete, speak, make a job, and return a value that takes a file of its own."""
    path = job.fileStore.getLocalTempFile()
    with open(path, "wb") as local:
        local.write(b"uploaded")
    job.fileStore.writeGlobalFile(path)
    job.fileStore.writeGlobalFile(path, cleanup=True)
    job.fileStore.deleteGlobalFile(doomed)
    job.fileStore.log_to_leader("first has run")
    job.addChildJobFn(second, displayName="second", **SMALL)
    return "x" * 100_000


def second(job: Job) -> str:
    """Write a file that outlives the job."""
    with job.fileStore.writeGlobalFileStream(basename="second") as (stream, _):
        stream.write(b"second")
    return "y" * 100_000


class Outcome(NamedTuple):
    """How far an attempt has come: its process, and its exit status, None if it is stopped."""

    pid: int
    status: int | None


class Server:
    """Runs attempts in processes of its own; made before the test has threads."""

    def __init__(self, under: str, setup: dict[str, Any], output: str) -> None:
        self._under, self._setup, self._output = under, setup, output
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._commands)
            os.close(self._answers)
            self._serve(commands, answers)
        os.close(commands)
        os.close(answers)

    def run(self, job_id: str, version: int, stop_at: int = 0) -> Outcome:
        """Run an attempt to its end, or until it is about to make a step."""
        return self._ask(f"run {job_id} {version} {stop_at}")

    def wake(self, zombie: Outcome) -> Outcome:
        """Let a stopped attempt go on to its end."""
        return self._ask(f"wake {zombie.pid}")

    def close(self) -> None:
        """End it, and what it holds stopped."""
        os.close(self._commands)
        os.waitpid(self._pid, 0)
        os.close(self._answers)

    def _ask(self, command: str) -> Outcome:
        os.write(self._commands, command.encode() + b"\n")
        pid, status = os.read(self._answers, 100).decode().split()
        return Outcome(int(pid), None if status == "stopped" else int(status))

    def _serve(self, commands: int, answers: int) -> None:
        stopped: set[int] = set()
        try:
            while words := os.read(commands, 100).decode().split():
                if words[0] == "run":
                    pid = self._fork(words[1], int(words[2]), int(words[3]))
                else:
                    pid = int(words[1])
                    os.kill(pid, signal.SIGCONT)
                status = os.waitpid(pid, os.WUNTRACED)[1]
                (stopped.add if os.WIFSTOPPED(status) else stopped.discard)(pid)
                ended = "stopped" if os.WIFSTOPPED(status) else str(os.waitstatus_to_exitcode(status))
                os.write(answers, f"{pid} {ended}".encode())
            for pid in stopped:
                os.kill(pid, signal.SIGKILL)
        finally:
            os._exit(0)

    def _fork(self, job_id: str, version: int, stop_at: int) -> int:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                log = os.open(self._output, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(log, 1)
                os.dup2(log, 2)
                sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
                _install(self._under, stop_at)
                context = WorkerContext(self._setup, lambda job_id, version: None)
                status = run_chain(context, job_id, version)
                sys.stdout.flush()
            except BaseException:
                sys.__excepthook__(*sys.exc_info())
                sys.stderr.flush()
            finally:
                os._exit(status)
        return pid


def _install(under: str, stop_at: int) -> None:
    """Have this process stop right before a step that changes what is below a path."""

    class Stops(fault_steps.Steps):
        made = 0

        def _before(self, call: str, path: str) -> bool:
            if path.startswith(under):
                self.made += 1
                if self.made == stop_at:
                    os.kill(os.getpid(), signal.SIGSTOP)
            return False

    fault_steps.install(Stops(fault_steps.Plan("/dev/null"), fault_steps.LEADER))
