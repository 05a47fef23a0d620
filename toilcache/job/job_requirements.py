"""The requirements of a job, read and set on the job itself.

Knows that a job has a description; must not know anything else about jobs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from toilcache.job.description import JobDescription
    from toilcache.job.requirements import (
        AcceleratorRequirement,
        ParseableAcceleratorRequirement,
        ParseableDivisibleResource,
        ParseableFlag,
        ParseableIndivisibleResource,
    )


class JobRequirements:
    """Properties that pass on to the description."""

    _description: JobDescription

    @property
    def memory(self) -> int:
        """Bytes of memory that the job will require at most (specification line 281)."""
        return self._description.memory

    @memory.setter
    def memory(self, value: ParseableIndivisibleResource) -> None:
        self._description.memory = value

    @property
    def cores(self) -> float:
        """Cores that the job will require."""
        return self._description.cores

    @cores.setter
    def cores(self, value: ParseableDivisibleResource) -> None:
        self._description.cores = value

    @property
    def disk(self) -> int:
        """Bytes of local disk that the job will require at most."""
        return self._description.disk

    @disk.setter
    def disk(self, value: ParseableIndivisibleResource) -> None:
        self._description.disk = value

    @property
    def accelerators(self) -> list[AcceleratorRequirement]:
        """Accelerators that the job will require (specification line 283)."""
        return self._description.accelerators

    @accelerators.setter
    def accelerators(self, value: ParseableAcceleratorRequirement) -> None:
        self._description.accelerators = value

    @property
    def preemptible(self) -> bool:
        """Whether the job may run where it can be taken off the machine."""
        return self._description.preemptible

    @preemptible.setter
    def preemptible(self, value: ParseableFlag) -> None:
        self._description.preemptible = value

    @property
    def image(self) -> str | None:
        """The container image that the job runs in, None for the one of ``--container``.

        As people name images there; ``--containerEngine none`` has it ignored.
        """
        return self._description.image

    @image.setter
    def image(self, value: str | None) -> None:
        from toilcache.readers import parse_image

        self._description.image = None if value is None else parse_image(value)
