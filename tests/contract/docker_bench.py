"""The Docker batch system to test: over a fake daemon, or a real one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.contract.adapter_bench import MIB, SLOTS, LocalBench, host_setup
from tests.fakes.docker.fake import FakeDocker
from toilcache.batch.container_plan import HostContainer
from toilcache.batch.docker import make_adapter
from toilcache.batch.host_process import HOST_VARIABLES
from toilcache.batch.local import LocalAdapter
from toilcache.batch.resources import Capacity, Pool
from toilcache.containers.docker_engine import DockerEngine
from toilcache.containers.model import RUN_LABEL, STORE_LABEL, WORKFLOW_LABEL, Container

REPOSITORY = Path(__file__).resolve().parents[2]


class DockerBench(LocalBench):
    """A container for each job, by a fake Docker."""

    many = 6

    def __init__(self, home: Path) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="docker-", dir="/tmp"))  # short: sockets lie in it
        self.docker = FakeDocker(self.place / "fake")
        self._begin(home, self.docker.host, self.docker.image)

    def _begin(self, home: Path, host: str, image: str) -> None:
        self.image = image
        self._before = os.environ.get("DOCKER_HOST")
        os.environ["DOCKER_HOST"] = host
        self.engine = DockerEngine(host)
        super().__init__(home)

    def new_adapter(
        self, setup: dict[str, Any] | None = None, run: int = 1, devices: int = 0
    ) -> LocalAdapter:
        made = host_setup(self.store, self.dirs) | (setup or {})
        workflow = str(self.config.workflowID)
        box = HostContainer(
            "docker",
            None,
            self.image,
            (self.store.path,),
            made["node"],
            scripts=(str(REPOSITORY),),
            labels={WORKFLOW_LABEL: workflow, RUN_LABEL: str(run), STORE_LABEL: self.store.path},
            variables=HOST_VARIABLES,
        )
        pool = Pool(Capacity(SLOTS, 1000 * MIB, 1000 * MIB, devices))
        return make_adapter(pool, workflow, run, made | {"run": run}, self.clean, box)

    def kill_hosts(self, adapter: LocalAdapter) -> None:
        for container in self.containers():
            self.engine.kill(container.id)

    def containers(self) -> list[Container]:
        """All of this workflow."""
        return self.engine.find({STORE_LABEL: self.store.path})

    def close(self) -> None:
        """Shut down, and see that no container is left; then end the daemon."""
        try:
            super().close()
            left = self.containers()
            assert left == []
        finally:
            self.engine.close()
            os.environ.pop("DOCKER_HOST")
            if self._before is not None:
                os.environ["DOCKER_HOST"] = self._before
            self._end()

    def _end(self) -> None:
        self.docker.close()
        shutil.rmtree(self.place)


class RealDockerBench(DockerBench):
    """The same by a real Docker."""

    def __init__(self, home: Path, host: str, image: str) -> None:
        self._begin(home, host, image)

    def _end(self) -> None:
        """It goes on."""
