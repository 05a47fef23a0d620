"""Services: how they are attached, saved, run by their host, and reached through a promise."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.unit.job_fakes import DictStore, FakeFileStore, identity, run_one
from toilcache.errors import JobException, JobPromiseConstraintError
from toilcache.job import Job, ServiceHostJob, ServiceJobDescription, run_job, service_host


class Server(Job.Service):
    """Remembers what happened to it; `end` says how its checks go."""

    events: ClassVar[list[str]] = []
    store: DictStore
    flag = ""
    end: object = "told"

    def __init__(self, **requirements):
        super().__init__(**requirements)
        self.port = 80

    def start(self, job):
        self.events.append("start")
        return {"port": self.port}

    def stop(self, job):
        self.events.append("stop")

    def check(self):
        self.events.append("check")
        if isinstance(self.end, Exception):
            raise self.end
        if self.end == "told":
            self.store.delete_file(Server.flag)
        return self.end != "ended"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Server, "events", [])
    monkeypatch.setattr(Server, "end", "told")
    monkeypatch.setattr(service_host, "sleep", lambda seconds: Server.events.append(f"slept {seconds:g}"))
    return Server(memory="1 GiB", cores=2, unitName="main db")


def saved(server):
    """Save a job with the service; give the store, the job and the description of the host."""
    store = Server.store = DictStore()
    root = Job()
    promise = root.addService(server)
    user = root.addChildFn(identity, promise)
    root.saveAsRootJob(store)
    (host,) = store.load_job(store.root).services
    description = store.load_job(host)
    Server.flag = description.terminateJobStoreID
    return store, user, description


def test_a_service_gets_a_host_with_its_requirements(server):
    store, _, description = saved(server)
    assert type(description) is ServiceJobDescription
    assert (description.memory, description.cores, description.unitName) == (2**30, 2.0, "main db")
    assert description.displayName == "Server"
    assert store.file_exists(description.startJobStoreID)
    assert store.load_job(store.root).hasServiceHostJob(description.jobStoreID)
    assert len(store.records) == 3
    assert type(Job.loadJob(store, description)) is ServiceHostJob
    assert server.hostID == description.jobStoreID


def test_services_start_after_their_parents():
    job, one, two = Job(), Server(), Server()
    assert not job.hasService(one)
    job.addService(one)
    job.addService(two, parentService=one)
    assert job.hasService(one)
    assert not Job().hasService(one)
    store = DictStore()
    job.saveAsRootJob(store)
    assert list(job.description.serviceHostIDsInBatches()) == [[one.hostID], [two.hostID]]
    assert list(store.load_job(store.root).serviceHostIDsInBatches()) == [[one.hostID], [two.hostID]]
    assert job.hasService(two)


def test_a_service_belongs_to_one_job():
    job, server = Job(), Server()
    job.addService(server)
    for other in (job, Job()):
        with pytest.raises(JobException, match="is the service of a job already"):
            other.addService(server)


def test_bad_services_are_refused():
    class Careless(Server):
        def __init__(self):
            pass

    job = Job()
    with pytest.raises(JobException, match=r"no Job\.Service"):
        job.addService(Job())
    with pytest.raises(JobException, match="that is no service of"):
        job.addService(Server(), parentService=Server())
    with pytest.raises(JobException, match=r"Job\.Service\.__init__"):
        job.addService(Careless())
    with pytest.raises(TypeError, match="abstract"):
        Job.Service()


def test_a_host_has_no_successors(server):
    host = ServiceHostJob(server)
    for link in (host.addChild, host.addFollowOn):
        with pytest.raises(JobException, match="no successors"):
            link(Job())


def test_the_start_value_is_there_while_the_service_runs(server):
    store, user, description = saved(server)
    with pytest.raises(JobPromiseConstraintError):
        run_one(store, user.jobStoreID)
    host = Job.loadJob(store, description)
    seen = []
    Server.end = "told"
    told = Server.check

    def check(self):
        seen.append(Job.loadJob(store, store.load_job(user.jobStoreID)).run(None))
        return told(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "check", check)
        assert run_job(host, FakeFileStore(store)) == {"port": 80}
    assert seen == [{"port": 80}]
    assert Server.events == ["start", "check", "slept 1", "stop"]


def test_a_service_that_ends_by_itself_is_a_success(server):
    store, _, description = saved(server)
    Server.end = "ended"
    assert run_job(Job.loadJob(store, description), FakeFileStore(store)) == {"port": 80}
    assert Server.events == ["start", "check", "stop"]


def test_a_service_that_fails_is_stopped_and_fails_its_host(server):
    store, _, description = saved(server)
    Server.end = RuntimeError("disk gone")
    with pytest.raises(RuntimeError, match="disk gone"):
        run_job(Job.loadJob(store, description), FakeFileStore(store))
    assert Server.events[-1] == "stop"


def test_a_host_whose_job_failed_stops_its_service(server):
    store, _, description = saved(server)
    store.delete_file(description.errorJobStoreID)
    with pytest.raises(RuntimeError, match="the job that it serves has failed"):
        run_job(Job.loadJob(store, description), FakeFileStore(store))
    assert Server.events == ["start", "stop"]


def test_a_start_value_must_not_contain_promises(server, monkeypatch):
    store, user, description = saved(server)
    monkeypatch.setattr(Server, "start", lambda self, job: user.rv())
    with pytest.raises(JobException, match="contains a promise"):
        run_job(Job.loadJob(store, description), FakeFileStore(store))
    assert store.file_exists(description.startJobStoreID)


def test_a_default_check_says_that_the_service_runs(server):
    assert Job.Service.check(server) is True
    assert str(server) == "service Server"
