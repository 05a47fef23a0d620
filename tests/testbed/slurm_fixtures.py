"""Clusters of the Slurm test-bed as fixtures, with the engine for their users and a way to run workflows on
them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.testbed.slurm_cluster import LOCAL, SlurmCluster, wait_for
from tests.testbed.slurm_engine import install_engine

ROOT = Path(__file__).resolve().parents[2]
TURN = "/run/toilcache-slurm.lock"


class Finished(NamedTuple):
    """How a workflow ended."""

    status: int
    out: str
    err: str


class Site:
    """A cluster with the engine installed, as a test user has it."""

    def __init__(self, cluster: SlurmCluster) -> None:
        self.cluster = cluster
        self.home = cluster.shared / "home" / "tcalice"
        self.python = install_engine(cluster.shared / "engine")
        self.count = 0

    def script(self, path: str) -> Path:
        """Put a script of the repository where the user can read it."""
        target = self.cluster.shared / Path(path).name
        shutil.copy(ROOT / path, target)
        target.chmod(0o644)
        return target

    def begin(self, script: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a workflow as the user, on the host as on a login node."""
        user = self.cluster.user()
        user["env"] = {**user["env"], **environment}  # type: ignore[dict-item]
        argv = [str(self.python), str(script), "--batchSystem", "slurm", "--defaultMemory", "100M"]
        return subprocess.Popen(
            [*argv, "--defaultDisk", "1M", *arguments],
            text=True,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **user,  # type: ignore[call-overload]
        )

    def finish(self, process: subprocess.Popen[str], seconds: float = 240) -> Finished:
        out, err = process.communicate(timeout=seconds)
        return Finished(process.returncode, out, err)

    def run(self, script: Path, *arguments: str, **environment: str) -> Finished:
        return self.finish(self.begin(script, *arguments, **environment))

    def new_name(self) -> str:
        self.count += 1
        return f"wf{self.count}"

    def diary(self, name: str) -> list[list[str]]:
        """The lines that jobs have left, as words."""
        path = self.home / f"{name}.diary"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    @contextlib.contextmanager
    def configured(self, line: str) -> Iterator[None]:
        """Have one more line in slurm.conf; the daemons read it anew, nodes a moment later."""
        usual = (self.cluster.base / "etc/slurm.conf").read_text()
        try:
            self._configure(f"{usual}{line}\n")
            yield
        finally:
            self._configure(usual)

    def _configure(self, text: str) -> None:
        (self.cluster.base / "etc/slurm.conf").write_text(text)
        self.cluster.run("scontrol", "reconfigure")

    def as_user(self, *argv: str | Path) -> str:
        """Run a program as the user on the host; return what it printed."""
        user = self.cluster.user()
        done = subprocess.run(
            [str(word) for word in argv],
            cwd=self.home,
            check=True,
            capture_output=True,
            text=True,
            timeout=100,
            **user,  # type: ignore[call-overload]
        )
        return str(done.stdout)

    def qos(self, name: str, *settings: str) -> None:
        """Have a quality of service that all users may ask for."""
        self.cluster.run("sacctmgr", "-i", "add", "qos", name, *settings)
        self.cluster.run("sacctmgr", "-i", "modify", "account", "proj", "set", f"qos+={name}")

    def await_begun(self, name: str, count: int, word: str = "begin") -> None:
        """Wait until so many jobs have begun; or with `word` "end", have come to their end."""
        wait_for(lambda: sum(words[0] == word for words in self.diary(name)) >= count, f"jobs to {word}")

    def local_files(self, node: str) -> str:
        """What is in the directories that a node has for itself, one name a line."""
        places = (*LOCAL, str(self.cluster.base / "local"))
        return "".join(self.cluster.in_node(node, "ls", "-A", place) for place in places)

    def worker_pids(self) -> list[int]:
        """The programs of workers, each the child of its batch script."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                is_ours = entry.name.isdigit() and entry.stat().st_uid == self.cluster.user()["user"]
                words = (entry / "cmdline").read_bytes().split(b"\0") if is_ours else []
                if b"toilcache.worker" in words and _is_child_of_shell(entry):
                    found.append(int(entry.name))
        return found

    def check_clean(self) -> None:
        """Nothing of the user is left: in Slurm, among the processes, on any local disk."""
        self.check_nodes_clean()
        own = re.compile("toilcache-(?!tests-)")
        left = [name for place in LOCAL for name in os.listdir(place) if own.match(name)]
        assert [name for name in left if self._is_of_user(name)] == []

    def check_nodes_clean(self) -> None:
        """Nothing of the user is left in Slurm, among the processes, on the nodes' local disks."""
        wait_for(lambda: not self.cluster.jobs(), "the last job to leave Slurm", 20)
        wait_for(lambda: not self.cluster.processes(), "the last process to end", 20)
        for node in self.cluster.nodes:
            assert self.local_files(node) == "", f"local directories of {node}"

    def _is_of_user(self, name: str) -> bool:
        uid = self.cluster.user()["user"]
        paths = [Path(place, name) for place in LOCAL]
        return any(path.exists() and path.stat().st_uid == uid for path in paths)


def _is_child_of_shell(entry: Path) -> bool:
    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
    return Path(f"/proc/{parent}/cmdline").read_bytes().startswith(b"/bin/sh\0")


def _site(accounting: bool, extra: str = "") -> Iterator[Site]:
    cluster = SlurmCluster(accounting=accounting, extra=extra)
    try:
        yield Site(cluster.up())
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def the_machine() -> Iterator[None]:
    """The machine has one cluster: who wants it waits for its turn, as another run of the tests may."""
    with open(TURN, "a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def site(the_machine: None) -> Iterator[Site]:
    """Four nodes, with accounting."""
    yield from _site(accounting=True)


@pytest.fixture(scope="module")
def bare_site(the_machine: None) -> Iterator[Site]:
    """Four nodes without accounting, whose controller forgets ended jobs at once."""
    yield from _site(accounting=False, extra="MinJobAge=2")
