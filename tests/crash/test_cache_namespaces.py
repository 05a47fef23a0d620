"""Two containers of a node: workers with equal process ids share a cache, one adopts what the other left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes.cache_nodes import BIG, Node, node_in
from tests.unit.repository import ROOT

pytestmark = pytest.mark.crash

WORKER = """
import os, sys
from toilcache.file_store.caching import CachingFileStore
from toilcache.job.job import Job
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.node.coordination import NodeDirs

store = FileJobStore(sys.argv[1])
store.resume()
config = store.config
dirs = NodeDirs(config.workflowID, config.workDir, config.coordinationDir)
fs = CachingFileStore(store, store.load_job(sys.argv[2]), dirs.jobs, bool)
with fs.open(Job()):
    fs.readGlobalFile(sys.argv[3])
    with fs.as_process() as name:
        print(os.getpid(), name, flush=True)
    for line in sys.stdin:
        print(fs._node().adopt_dead(), flush=True)
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path / "node") as made:
        yield made


def unshare() -> list[str]:
    """Return how to start a program in a PID namespace of its own, or skip."""
    program = shutil.which("unshare")
    for options in (["-p", "-f"], ["-r", "-p", "-f"]):
        if program and not subprocess.run([program, *options, "true"], capture_output=True).returncode:
            return [program, *options, "--kill-child"]
    pytest.skip("this system lets us make no PID namespace (unshare, as root or with user namespaces)")


def start(node: Node, file_id: str) -> subprocess.Popen[str]:
    job_id = str(node.new_job().jobStoreID)
    argv = [*unshare(), sys.executable, "-c", WORKER, str(node.where / "store"), job_id, file_id]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    )


def hear(worker: subprocess.Popen[str]) -> list[str]:
    assert worker.stdout is not None
    return worker.stdout.readline().split()


def adopt(worker: subprocess.Popen[str]) -> list[str]:
    assert worker.stdin is not None
    worker.stdin.write("adopt\n")
    return hear(worker)


def test_one_of_two_equal_pids_dies_and_the_other_adopts_once(node: Node) -> None:
    file_id = node.uploaded(b"x" * BIG)
    with start(node, file_id) as one, start(node, file_id) as two:
        (pid_one, name_one), (pid_two, name_two) = hear(one), hear(two)
        assert pid_one == pid_two == "1"
        assert name_one != name_two
        assert adopt(two) == ["False"]
        assert len(os.listdir(node.dirs.jobs)) == 2
        psutil.Process(one.pid).children()[0].kill()
        one.wait()
        assert adopt(two) == ["True"]
        assert adopt(two) == ["False"]
        assert len(os.listdir(node.dirs.jobs)) == 1
        workers = node.cache.generation.database.con.execute("SELECT worker FROM jobs").fetchall()
        assert workers == [(name_two,)]
        assert node.findings() == []
        assert two.stdin is not None
        two.stdin.close()
    assert (one.returncode != 0, two.returncode) == (True, 0)
    assert os.listdir(node.dirs.jobs) == []
