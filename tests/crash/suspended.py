"""A workflow whose leader, hosts and jobs a test stops in the middle and continues."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import psutil

from tests.crash import suspended_workflow
from tests.crash.store_tree import Tree, reached, tree
from tests.processes import pid_runs
from tests.runs import DEADLINE, Finished, Place
from toilcache.job_store.file_job_store import FileJobStore

LED = "cannot lead the workflow"


class Suspended(Place):
    """A workflow whose leader, hosts and jobs can be stopped in the middle and continued."""

    def __init__(self, base: Path) -> None:
        super().__init__(base, suspended_workflow.__file__)
        self.flags = base / "flags"
        self.flags.mkdir()
        self.environment["FLAGS"] = str(self.flags)

    def at_work(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the workflow and wait until its job works."""
        leader = self.begin("--clean", "never", *arguments)
        self.wait_for(lambda: self.workers(), leader)
        return leader

    def workers(self) -> list[int]:
        """The processes that have begun to work."""
        return [int(path.name.partition("-")[2]) for path in self.flags.glob("works-*[0-9]")]

    def elsewhere(self, name: str) -> tuple[str, ...]:
        """Options of another node: directories of its own, so no lock of this node is in the way."""
        directories = [self.base / f"{name} work", self.base / f"{name} coordination"]
        for directory in directories:
            directory.mkdir()
        return ("--workDir", str(directories[0]), "--coordinationDir", str(directories[1]))

    def check_refused_and_nothing_touched(self, *arguments: str) -> Finished:
        """Start another leader; it ends with one line, and the store is what it was."""
        before = tree(self.store)
        done = self.run(*arguments)
        done.check_refused(LED)
        assert len(done.err.splitlines()) == 1, done.err
        assert tree(self.store) == before
        return done

    def claim(self, run: int = 1) -> Path:
        return self.store / "leader" / str(run)

    def move_claim(self, node: str, *, silent_for: float) -> None:
        """Have the first run's leader be of another node, and not have been heard of for so long."""
        token, pid, start, _ = self.claim().read_text(encoding="utf-8").split(" ")
        self.claim().write_text(f"{token} {pid} {start} {node}\n", encoding="utf-8")
        moment = time.time() - silent_for
        for path in self.claim().parent.iterdir():
            os.utime(path, (moment, moment))

    def release(self) -> None:
        (self.flags / "release").touch()

    def go(self) -> None:
        (self.flags / "go").touch()

    def restart_up_to_the_wait(self, *arguments: str) -> subprocess.Popen[str]:
        """Restart, and wait until all but the last job has run."""
        leader = self.begin("--clean", "never", *arguments)
        self.wait_for(self.is_settled, leader)
        return leader

    def kept(self) -> list[bytes]:
        """What jobs have written to outlive them."""
        contents = []
        for path in self.store.glob("kept/*/*/*/*"):
            try:
                contents.append(path.read_bytes())
            except (FileNotFoundError, NotADirectoryError):
                continue  # a lost attempt wrote it, and it is being discarded
        return contents

    def is_settled(self) -> bool:
        """True when the last job waits and what a lost attempt wrote is discarded for good.

        Its directory goes first, and then a file takes its place: none of both is not yet the end of it.
        """
        try:
            closed = [path.is_file() for path in self.store.glob("kept/*/*/1")]
            return (self.flags / "waits").exists() and len(self.kept()) == 2 and closed == [True]
        except FileNotFoundError:
            return False  # it is being discarded

    def tree(self) -> Tree:
        """All that belongs to the workflow."""
        store = FileJobStore(str(self.store))
        store.resume()
        return tree(self.store, reached(store))


def end_what_is_left(place: Place) -> None:
    """Kill what a test that failed has left running, or stopped; none but its processes know its place."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(place.base) in word for word in words):
                process.kill()


def send(number: signal.Signals, pids: Collection[int]) -> None:
    for pid in pids:
        os.kill(pid, number)


def family(leader: subprocess.Popen[str]) -> list[int]:
    """A leader's hosts and their jobs."""
    return [process.pid for process in psutil.Process(leader.pid).children(recursive=True)]


def await_end(pids: Collection[int]) -> None:
    """Wait until none of these processes runs any more; who is to bury them may be stopped."""
    end = time.monotonic() + DEADLINE
    while any(pid_runs(pid) for pid in pids):
        assert time.monotonic() < end, "they do not end"
        time.sleep(0.01)
