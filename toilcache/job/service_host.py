"""Jobs that host services, and how a service is attached to a job.

Knows the host's body and the promise of its start value. Must not know when the leader starts or ends it.
"""

from __future__ import annotations

from time import sleep

from toilcache.errors import JobException
from toilcache.job.body import dumps
from toilcache.job.description_kinds import ServiceJobDescription
from toilcache.job.job import Job
from toilcache.job.service import Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from toilcache.file_store.abstract import AbstractFileStore
    from toilcache.job.placeholder import Promise
    from toilcache.job_store.abstract import AbstractJobStore

POLL_SECONDS = 1.0
"""How often a host looks whether it shall end, in seconds."""


class ServiceHostJob(Job):
    """A job that starts a service, watches it, and stops it when it is told to."""

    def __init__(self, service: Service) -> None:
        """Host the service with its own requirements."""
        super().__init__(
            **service._requirements, unitName=service.unitName, descriptionClass=ServiceJobDescription
        )
        self.description.jobName = self.description.displayName = type(service).__name__
        self.service = service

    def body_parts(self) -> list[tuple[str, Any]]:
        """The service."""
        return [(str(self.service), self.service)]

    def body_module(self) -> str:
        """Name of the module that defines the service."""
        return type(self.service).__module__

    def run(self, fileStore: AbstractFileStore) -> Any:
        """Start the service, publish how to reach it, and stop it once it is told to, has failed or ended.

        Raises RuntimeError where a job that needed the service failed. Returns what `start` gave.
        """
        store = fileStore.jobStore
        desc = self.description
        assert isinstance(desc, ServiceJobDescription)
        value = self.service.start(self)
        try:
            self._publish(store, desc, value)
            while store.file_exists(str(desc.terminateJobStoreID)):
                if not store.file_exists(str(desc.errorJobStoreID)):
                    raise RuntimeError(f"cannot keep {self} running: the job that it serves has failed")
                if not self.service.check():
                    break
                sleep(POLL_SECONDS)
        finally:
            self.service.stop(self)
        return value

    def _publish(self, store: AbstractJobStore, desc: ServiceJobDescription, value: Any) -> None:
        data, promised = dumps(value, f"the start value of {self}")
        if promised:
            raise JobException(f"cannot publish the start value of {self}: it contains a promise")
        with store.update_file_stream(str(desc.start_value_file)) as stream:
            stream.write(data)
        store.delete_file(str(desc.startJobStoreID))

    def addChild(self, childJob: Job) -> Job:
        """Refuse: a service has no successors."""
        raise JobException(f"cannot add {childJob} to {self}: a service host has no successors")

    def addFollowOn(self, followOnJob: Job) -> Job:
        """Refuse: a service has no successors."""
        return self.addChild(followOnJob)


def add_service(job: Job, service: Service, parent: Service | None) -> Promise:
    """Make a host for the service and attach it; see `Job.addService`."""
    if not isinstance(service, Service):
        raise JobException(f"cannot add {service!r} to {job}: it is no Job.Service")
    if "_requirements" not in service.__dict__:
        raise JobException(f"cannot add {service} to {job}: its __init__ did not call Job.Service.__init__")
    if service.hostID is not None:
        raise JobException(
            f"cannot add {service} to {job}: it is the service of a job already; make another instance"
        )
    if parent is not None and not job.hasService(parent):
        raise JobException(
            f"cannot start {service} after {parent}: that is no service of {job}; add it first"
        )
    host = ServiceHostJob(service)
    service.hostID = host.jobStoreID
    job.description.addServiceHostJob(service.hostID, None if parent is None else parent.hostID)
    if job._services is None:
        job._services = {}
    job._services[host] = None
    return host.rv()
