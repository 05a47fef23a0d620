"""The rehearsal before a host's first fork: jobs have run, and nothing shows."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from toilcache import vfs
from toilcache.config import Config
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.node.coordination import has_cache
from toilcache.worker import rehearsal
from toilcache.worker.chain import run_chain
from toilcache.worker.context import WorkerContext


@pytest.fixture
def context(tmp_path: Path) -> WorkerContext:
    store = FileJobStore(str(tmp_path / "store"))
    store.initialize(Config())
    jobs = tmp_path / "the jobs"
    jobs.mkdir()
    setup = {"jobs_dir": str(jobs), "main": None, "sys_path": [], "locator": store.locator, "preload": True}
    setup["node"] = ("workflow", str(tmp_path), str(tmp_path))
    return WorkerContext(setup, lambda job_id, version: pytest.fail("somebody heard of the rehearsal"))


def test_jobs_run_and_nothing_is_left(context: WorkerContext) -> None:
    ran = []
    before = os.getcwd(), dict(os.environ), sorted(os.listdir(context.store.locator.removeprefix("file:")))
    rehearsal.rehearse(context, lambda *arguments: ran.append(run_chain(*arguments)))
    assert len(ran) > 20
    assert not any(ran)
    assert os.listdir(context.jobs_dir) == []
    after = os.getcwd(), dict(os.environ), sorted(os.listdir(context.store.locator.removeprefix("file:")))
    assert after == before
    assert list(context.store.jobs()) == []


def test_a_cache_that_the_node_has_is_left_alone(context: WorkerContext, tmp_path: Path) -> None:
    """A connection to its database, once open in the host, would be of no use to any job."""
    (tmp_path / "cache").mkdir()
    assert has_cache(context.jobs_dir)
    rehearsal.rehearse(context, run_chain)
    assert os.listdir(tmp_path / "cache") == []
    assert os.listdir(context.jobs_dir) == []


def test_a_full_disk_is_no_reason_not_to_begin(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(vfs, "link", full)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("a rehearsal waits for nobody"))
    rehearsal.rehearse(context, run_chain)
    monkeypatch.undo()
    assert os.listdir(context.jobs_dir) == []
