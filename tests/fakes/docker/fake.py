"""The fake Docker as a test has it: a daemon of its own that can be made to fail, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.fakes.docker import daemon

PROGRAM = Path(daemon.__file__)


class FakeDocker:
    """A daemon over a new directory, whose path must be short: a socket lies in it."""

    image = daemon.IMAGE

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.host = f"unix://{directory}/docker.sock"
        (directory / "inside").mkdir()
        self.python = directory / "inside" / "python3"
        self.python.symlink_to(sys.executable if sys.prefix == sys.base_prefix else sys._base_executable)
        self.start()

    def start(self) -> None:
        """Start the daemon, and wait until it answers."""
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"READY\n"

    def kill(self, *, containers: bool) -> None:
        """Kill the daemon; its containers go on, or end as well."""
        self._process.kill()
        self._process.communicate()
        if containers:
            for container in self.containers():
                self.signal(container, signal.SIGKILL)

    def restart(self, *, containers: bool) -> None:
        """Have the daemon killed, and a new one started over the same directory."""
        self.kill(containers=containers)
        self.start()

    def close(self) -> None:
        """End the daemon and whatever runs in its containers."""
        self.kill(containers=True)

    def fail(self, *faults: str) -> None:
        """From now on, show these faults and no others."""
        (self.directory / "FAULTS").write_text("\n".join(faults))

    def containers(self) -> list[str]:
        """The ids of all containers that there are."""
        return os.listdir(self.directory / "containers")

    def processes(self, container: str) -> list[int]:
        """The processes in a container, the oldest first."""
        return daemon.marked(container)

    def signal(self, container: str, number: int) -> None:
        """Send a signal to all in a container."""
        for pid in self.processes(container):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def run_out_of_memory(self, container: str, pid: int) -> None:
        """Kill a process as the kernel would where memory runs out; the daemon will tell."""
        (self.directory / "containers" / container / "oom").touch()
        os.kill(pid, signal.SIGKILL)
