"""The adapter for Slurm over the fake one, for the suite that every adapter passes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.contract.adapter_bench import SLOTS, Bench, host_setup
from tests.fakes.slurm.cluster import FakeSlurm
from toilcache.batch.host_process import run_marker
from toilcache.batch.slurm import make
from toilcache.batch.slurm.adapter import SlurmAdapter
from toilcache.batch.slurm.client import SlurmClient
from toilcache.batch.slurm.commands import Placement
from toilcache.batch.slurm.fleet import Fleet
from toilcache.batch.slurm.submitter import Submitter
from toilcache.node.coordination import node_dirs

NAME = "toilcache-contract"


class SlurmBench(Bench):
    """The adapter for Slurm, with two slots in the fake cluster."""

    adapter: SlurmAdapter

    def __init__(self, home: Path, **settings: Any) -> None:
        super().__init__(home)
        self.places = {
            "TOILCACHE_WORK_DIR": str(home / "work"),
            "TOILCACHE_COORDINATION_DIR": str(home / "co"),
        }
        for place in self.places.values():
            os.mkdir(place)
        self.dirs = node_dirs(str(self.config.workflowID), *self.places.values(), create=False)
        self.slurm = FakeSlurm(home / "fake slurm", slots=SLOTS, **settings)
        self.cleans = True
        self.run = self.store.claim_run()
        self.adapter = self.new_adapter()

    def new_adapter(self, setup: dict[str, Any] | None = None, **more: Any) -> SlurmAdapter:
        """An adapter as the options `more` would make it."""
        for name, value in more.items():
            setattr(self.config, name, value)
        marker = run_marker(str(self.config.workflowID), self.run)
        whole = host_setup(self.store, self.dirs) | make.of_allocations(self.config, marker, None)
        whole |= {"run": self.run, "environment": whole["environment"] | self.places}
        client = SlurmClient(NAME, environ=os.environ | self.slurm.environment)
        limits = client.limits()
        fleet = Fleet(limits.array, limits.jobs, self.config.maxWorkers, self.config.workerReuse)
        placement = Placement(partition=self.config.slurmPartition)
        submitter = Submitter(client, self.store, self.run, placement, fleet)
        whole |= setup or {}
        return SlurmAdapter(
            client, self.store, self.run, placement, submitter, whole, self.clean, lambda: self.cleans
        )

    def next_leader(self) -> SlurmAdapter:
        """Have the leader die and another one come; returns the dead one's adapter."""
        dead = self.adapter
        self.run = self.store.claim_run()
        self.adapter = self.new_adapter()
        return dead

    def slurm_looks(self, count: int) -> None:
        """Take updates until Slurm was asked so many times more for the state of jobs."""
        wanted = self._looks() + count
        self.hear(lambda: self._looks() >= wanted)

    def _looks(self) -> int:
        return len(self.slurm.calls("squeue") + self.slurm.calls("sacct"))

    def close(self) -> None:
        self.adapter.shutdown()
        self.slurm.end()
