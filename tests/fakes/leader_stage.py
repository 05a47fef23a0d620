"""A workflow over a job store, and leaders for it that are driven by an adapter without workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.fakes.job_stores import Bench
from tests.fakes.null_adapter import Committer, NullAdapter
from toilcache.config import Config
from toilcache.job.description import JobDescription
from toilcache.job.job import Job
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.leader.account import Status
from toilcache.leader.leader import Leader
from toilcache.leader.report import Reporter


class Killed(BaseException):
    """The leader is killed: nothing of it runs any more."""


class Stage:
    """A workflow in a store, and leaders for it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.store = bench.store
        self.config: Config = bench.store.config
        self.config.retryCount = 1
        self.config.retryBackoff = 0.0001
        self.store.write_config()
        self.leader: Leader | None = None

    def worker(self, change: Callable[[AbstractJobStore, JobDescription], object] | None = None) -> Committer:
        """A worker with its own connection for each attempt."""
        connect = lambda: self.bench.another(resume=True)  # noqa: E731
        return Committer(connect) if change is None else Committer(connect, change)

    def save(self, root: Job) -> JobDescription:
        root.assignConfig(self.config)
        return root.saveAsRootJob(self.store)

    def lead(
        self,
        adapter: NullAdapter,
        root: JobDescription,
        resume: bool = False,
        adopted: Sequence[tuple[str, int]] = (),
    ) -> Leader:
        """Lead to the end."""
        run = self.store.claim_run()
        self.leader = Leader(self.store, self.config, adapter, run, Reporter(self.config))
        self.leader.run(root, resume=resume, adopted=adopted)
        return self.leader

    def lead_again(self, adapter: NullAdapter) -> Leader:
        """Lead what an earlier leader left, as a restart does."""
        return self.lead(adapter, self.store.clean(), resume=True)

    def status(self) -> Status:
        journals = []
        for open_journal in self.store.journals():
            with open_journal() as stream:
                journals.append(stream.read())
        return Status(*journals)

    def jobs(self) -> list[str]:
        """The names of all jobs that the store holds."""
        return sorted(desc.jobName for desc in self.store.jobs())


def job(name: str, **attributes: Any) -> Job:
    """A job that the adapter runs, so that its body does not matter."""
    return Job(memory=1000, cores=1, disk=1000, displayName=name, unitName=name, **attributes)


def named(adapter: NullAdapter) -> list[tuple[str, int]]:
    """What was submitted: names and versions."""
    return [(request.name, request.version) for request in adapter.submitted]


def diamond() -> Job:
    """A root with two children that share one, and a follow-on."""
    root, left, right, shared = job("root"), job("left"), job("right"), job("shared")
    root.addChild(left)
    root.addChild(right)
    left.addChild(shared)
    right.addChild(shared)
    root.addFollowOn(job("last"))
    return root


def chain(*names: str) -> Job:
    root = last = job(names[0])
    for name in names[1:]:
        last = last.addChild(job(name))
    return root
