"""Services: programs that run beside the successors of a job.

Knows the interface that a person implements, the job that hosts one, and the flag files by which host and
leader talk. Must not know when services are started or how many may run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from toilcache.job.requirements import Requirer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from toilcache.job.job import Job
    from toilcache.job.requirements import (
        ParseableAcceleratorRequirement,
        ParseableDivisibleResource,
        ParseableFlag,
        ParseableIndivisibleResource,
    )


class Service(Requirer, ABC):
    """What a person subclasses to run a server beside the successors of a job (specification lines 465-490).

    It is no job: it runs within the host job that `Job.addService` makes for it.
    """

    hostID: Any = None

    def __init__(
        self,
        memory: ParseableIndivisibleResource | None = None,
        cores: ParseableDivisibleResource | None = None,
        disk: ParseableIndivisibleResource | None = None,
        accelerators: ParseableAcceleratorRequirement | None = None,
        preemptible: ParseableFlag | None = None,
        unitName: str | None = None,
    ) -> None:
        """Take the requirements of the host job: memory and disk in bytes."""
        super().__init__(
            {
                "memory": memory,
                "cores": cores,
                "disk": disk,
                "accelerators": accelerators,
                "preemptible": preemptible,
            }
        )
        self.unitName = unitName

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to the graph and to the process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("hostID", "_config")}

    def __str__(self) -> str:
        """Name the service for a person."""
        return f"service {type(self).__name__}"

    @abstractmethod
    def start(self, job: Job) -> Any:
        """Start the service; what is returned tells jobs how to reach it, so it must pickle."""

    @abstractmethod
    def stop(self, job: Job) -> None:
        """Stop the service; may block until it has."""

    def check(self) -> bool:
        """Tell whether the service still runs.

        False ends it as a success; RuntimeError, where overridden, marks it failed.
        """
        return True
