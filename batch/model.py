"""The contract between the leader and whatever runs its workers.

Knows the verbs, the requests and the updates. Must not know any particular scheduler: adapters are the
modules beside this one, and the composition root picks one by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from toilcache.job.description import JobDescription
from toilcache.job.exit_reason import BatchJobExitReason


class JobRequest(NamedTuple):
    """What an adapter needs to start a job: the attempt is ``(job_id, version)``.

    ``cores`` is a number of processors, ``memory`` and ``disk`` are bytes, ``accelerators`` a count,
    ``image`` what the job asked to run in, None for the adapter's choice, ``times`` how many times the usual
    time it is to have where there is a limit.
    """

    job_id: str
    version: int
    name: str
    cores: float
    memory: int
    disk: int
    accelerators: int
    preemptible: bool
    image: str | None = None
    times: int = 1

    @classmethod
    def of(cls, desc: JobDescription) -> JobRequest:
        """Make the request for an attempt that builds on this state of a job."""
        count = sum(int(accelerator["count"]) for accelerator in desc.accelerators)
        return cls(
            str(desc.jobStoreID),
            desc.version,
            str(desc.displayName),
            float(desc.cores),
            int(desc.memory),
            int(desc.disk),
            count,
            bool(desc.preemptible),
            desc.image,
            desc.times,
        )

    @property
    def shape(self) -> tuple[float, int, int, int, str | None]:
        """Resources and image as one comparable value: who has an equal one can take another's place."""
        return (self.cores, self.memory, self.disk, self.accelerators, self.image)


class Record(NamedTuple):
    """A worker says that it wrote record ``version`` of a job. A hint where to look: the record itself is
    evidence.
    """

    job_id: str
    version: int


class Ended(NamedTuple):
    """The worker issued for ``(job_id, version)`` runs no more; says nothing about success.

    ``max_rss`` is the peak memory in bytes (0 if unknown), ``log_tail`` the last bytes of its output if it
    broke."""

    job_id: str
    version: int
    reason: BatchJobExitReason
    detail: str
    max_rss: int
    log_tail: bytes


Update = Record | Ended


class BatchAdapter(Protocol):
    """Runs workers somewhere. Every verb works on sets; none blocks longer than the scheduler takes to
    answer.
    """

    def check(self, request: JobRequest) -> None:
        """Return if such a job could ever run here.

        :raises InsufficientSystemResources: it never can; the message names the resource and what there is.
        """

    def submit(self, requests: Sequence[JobRequest]) -> None:
        """Take over these attempts. Each of them ends in exactly one ``Ended``, whatever happens to it."""

    def cancel(self, job_ids: Collection[str]) -> None:
        """Kill or forget these; their ``Ended`` follows through :meth:`updates`. Unknown ids are ignored."""

    def updates(self, timeout: float | None) -> list[Update]:
        """Block until something happened, :meth:`wake` was called, or ``timeout`` seconds passed (None: no
        limit).
        """

    def wake(self) -> None:
        """Make :meth:`updates` return; may be called from any thread and from a signal handler."""

    def running(self) -> dict[str, float]:
        """Return the seconds for which each submitted job that has started has been running, by job id."""

    def standing(self) -> Mapping[str, Any]:
        """Return what explains why submitted attempts have not begun, as JSON values.

        The same again while nothing has changed. Asked every few seconds, so it costs little however many
        there are. What explains the adapter's attempts (`toilcache.batch.waits`) reads it, perhaps elsewhere.
        """

    def adopt(self) -> list[tuple[str, int]]:
        """Return the attempts of an earlier leader that still run here; their ``Ended`` will follow."""

    def adopted(self, requests: Sequence[JobRequest]) -> None:
        """Take note of what attempts that :meth:`adopt` returned have reserved.

        ``job_id`` and ``version`` are as returned there, the resources those of the job that the attempt
        began with. From now on they count as running: they have room until they end, even if that is more
        than there is, :meth:`running` names them, and :meth:`cancel` kills them. Other attempts are ignored.
        """

    def shutdown(self, fenced: bool = False) -> None:
        """Kill what runs, end the hosts and leave this workflow's directories on every node removed.
        Idempotent.

        ``fenced``: a newer leader has taken the workflow over and may have adopted what earlier runs started;
        only what this run started is ended.
        """
