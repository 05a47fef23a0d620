"""Workflow scripts run as a person runs them: a process of its own over a job store with an awkward name.

Each run has its work and coordination directories below one place, so that what is left behind can be told.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import toilcache

DEADLINE = 300.0  # only a failure waits so long, however busy the machine is
ENGINE = os.path.dirname(os.path.abspath(toilcache.__file__))
QUOTED = "    | "


class Finished(NamedTuple):
    """How a process ended: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on standard error."""
        return self.err.rstrip("\n").rpartition("\n")[2]

    @property
    def own_lines(self) -> str:
        """Standard error without the quoted logs of jobs."""
        return "\n".join(line for line in self.err.splitlines() if not line.startswith(QUOTED))

    def check_result(self, result: object) -> None:
        """The workflow has succeeded with this result."""
        assert self.status == 0, self.err
        assert self.out == f"result {result!r}\n"

    def check_refused(self, *words: str, status: int = 1) -> None:
        """It failed with one line for a person at the end, and nothing of the engine's own code before."""
        assert self.status == status, self.err
        assert self.last.startswith("error: cannot "), self.err
        assert "Traceback" not in self.own_lines, self.err
        assert ENGINE not in self.err
        assert "result" not in self.out
        for word in words:
            assert word in self.err, f"{word!r} is not in:\n{self.err}"


class Place:
    """A job store, a work directory and a coordination directory, and a script that is run over them."""

    def __init__(self, base: Path, script: str | Path) -> None:
        self.base = base / 'it\'s a "place"'
        self.store = self.base / "-the store"
        self.work = self.base / "work dir"
        self.coordination = self.base / "coordination"
        self.script = str(script)
        self.environment = dict(os.environ)
        for directory in (self.base, self.work, self.coordination):
            directory.mkdir()

    @property
    def directories(self) -> tuple[str, ...]:
        """The options that name the two directories."""
        return ("--workDir", str(self.work), "--coordinationDir", str(self.coordination))

    def argv(self, *arguments: str) -> list[str]:
        """The command line of a run; without retries unless the arguments say otherwise."""
        usual = (str(self.store), *self.directories, "--retryCount", "0", "--maxCores", "2")
        return [sys.executable, self.script, *usual, *arguments]

    def begin(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the script."""
        return self.spawn(self.argv(*arguments), **environment)

    def spawn(self, argv: list[str], **environment: str) -> subprocess.Popen[str]:
        """Start any command with the place's environment."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(argv, env={**self.environment, **environment}, cwd=self.base, **pipes)

    def run(self, *arguments: str, **environment: str) -> Finished:
        """Run the script to its end."""
        return self.finish(self.begin(*arguments, **environment))

    def restart(self, *arguments: str, **environment: str) -> Finished:
        """Run the script again with ``--restart``."""
        return self.run("--restart", *arguments, **environment)

    def finish(self, process: subprocess.Popen[str]) -> Finished:
        """Wait for the end of a process that was begun."""
        out, err = process.communicate(timeout=DEADLINE)
        return Finished(process.returncode, out, err)

    def wait_for(self, condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
        """Wait until something is true while the process runs."""
        end = time.monotonic() + DEADLINE
        while not condition():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "what was waited for did not come"
            time.sleep(0.005)

    def wait_for_no_process(self) -> None:
        """Wait until what a killed process has started has ended too."""
        end = time.monotonic() + DEADLINE
        while left := self.processes():
            assert time.monotonic() < end, left
            time.sleep(0.005)

    def check_clean(self) -> None:
        """No process and no file of the workflow is left on the node; the job store is another matter."""
        assert self.processes() == []
        assert list(self.work.iterdir()) == []
        assert [path.name for path in self.coordination.iterdir() if path.suffix != ".lock"] == []

    def processes(self) -> list[str]:
        """The processes that have the place on their command line or in their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                words = [*process.cmdline(), *process.environ().values()]
            except psutil.Error:
                continue
            if process.pid != os.getpid() and any(str(self.base) in word for word in words):
                found.append(" ".join(words[:4]))
        return found
