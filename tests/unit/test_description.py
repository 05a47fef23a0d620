"""Descriptions: successors by phase, services, versions, chains, tries, and what a pickle of one holds."""

from __future__ import annotations

import pickle

import pytest

from tests.unit.job_fakes import DictStore
from toilcache.config import Config
from toilcache.errors import JobException
from toilcache.job import (
    BatchJobExitReason,
    CheckpointJobDescription,
    JobDescription,
    ModuleDescriptor,
    ServiceJobDescription,
    TemporaryID,
)


def describe(job_id="own", name="align", **attributes):
    description = JobDescription({}, name)
    description.jobStoreID = job_id
    vars(description).update(attributes)
    return description


def with_successors(job_id="own"):
    description = describe(job_id)
    for child in ("c1", "c2"):
        description.addChild(child)
    description.addFollowOn("f1")
    return description


def test_successors_are_kept_in_order_and_by_phase():
    description = with_successors()
    assert list(description.allSuccessors()) == ["f1", "c1", "c2"]
    assert list(description.successors_by_phase()) == [(0, "f1"), (1, "c1"), (1, "c2")]
    assert (description.childIDs, description.followOnIDs) == ({"c1", "c2"}, {"f1"})
    assert description.hasChild("c1")
    assert not description.hasChild("f1")
    assert description.hasFollowOn("f1")
    assert not description.hasFollowOn("c1")


def test_adding_a_successor_twice_changes_nothing():
    description = with_successors()
    description.addChild("c1")
    assert list(description.allSuccessors()) == ["f1", "c1", "c2"]


def test_next_successors_wait_for_the_body_then_for_each_phase():
    description = with_successors()
    description.attach_inline_body(b"x", None)
    assert description.nextSuccessors() == set()
    description.detach_body()
    assert description.nextSuccessors() == {"c1", "c2"}
    description.filterSuccessors(lambda job: job != "c1")
    assert description.nextSuccessors() == {"c2"}
    description.filterSuccessors(lambda job: job != "c2")
    assert description.nextSuccessors() == {"f1"}
    description.filterSuccessors(lambda job: False)
    assert description.nextSuccessors() is None


def test_a_filtered_description_can_be_added_to():
    description = with_successors()
    description.filterSuccessors(lambda job: False)
    description.addChild("c3")
    description.addFollowOn("f3")
    assert list(description.successors_by_phase()) == [(0, "f3"), (1, "c3")]


def test_services_start_in_batches_parents_first():
    description = describe()
    description.addServiceHostJob("db")
    description.addServiceHostJob("cache")
    description.addServiceHostJob("web", "db")
    description.addServiceHostJob("proxy", "web")
    assert list(description.serviceHostIDsInBatches()) == [["db", "cache"], ["web"], ["proxy"]]
    assert sorted(description.services) == ["cache", "db", "proxy", "web"]
    assert description.hasServiceHostJob("web")
    assert not description.hasServiceHostJob("own")
    description.addChild("c1")
    assert set(description.successorsAndServiceHosts()) == {"c1", "cache", "db", "proxy", "web"}


def test_a_service_needs_a_parent_that_is_there():
    with pytest.raises(JobException, match="cannot start service web after db"):
        describe().addServiceHostJob("web", "db")


def test_filtered_services_are_forgotten_everywhere():
    description = describe()
    description.addServiceHostJob("db")
    description.addServiceHostJob("web", "db")
    description.addServiceHostJob("proxy", "web")
    description.filterServiceHosts(lambda service: service != "web")
    assert description.services == ["db", "proxy"]
    assert list(description.serviceHostIDsInBatches()) == [["db", "proxy"]]


def test_a_subtree_is_done_when_nothing_is_left():
    description = with_successors()
    description.addServiceHostJob("db")
    description.attach_inline_body(b"x", None)
    assert not description.is_subtree_done()
    description.filterSuccessors(lambda _: False)
    description.filterServiceHosts(lambda _: False)
    assert not description.is_subtree_done()
    description.detach_body()
    assert description.is_subtree_done()
    description.addServiceHostJob("db")
    assert not description.is_subtree_done()


def test_dependents_that_the_store_lost_are_forgotten():
    store = DictStore()
    store.records = {"c2": b"", "db": b""}
    description = with_successors()
    description.addServiceHostJob("db")
    description.addServiceHostJob("web")
    description.clear_nonexistent_dependents(store)
    assert list(description.successorsAndServiceHosts()) == ["c2", "db"]


def test_placeholders_are_renamed_everywhere_but_in_the_own_id():
    child, follow_on, host, other = (TemporaryID() for _ in range(4))
    description = describe(TemporaryID())
    own = description.jobStoreID
    description.addChild(child)
    description.addFollowOn(follow_on)
    description.addServiceHostJob(host)
    description.addServiceHostJob(other, host)
    description.renameReferences({child: "c", follow_on: "f", host: "h", own: "x"})
    assert list(description.successors_by_phase()) == [(0, "f"), (1, "c")]
    assert description.serviceTree == {"h": [other], other: []}
    assert description.jobStoreID is own


def test_versions_decide_what_is_newer():
    old, new, foreign = describe(version=3), describe(version=4), describe("other", version=9)
    assert old.is_updated_by(new)
    assert not new.is_updated_by(old)
    assert not old.is_updated_by(old)
    assert not old.is_updated_by(foreign)
    old.assert_is_not_newer_than(new)
    old.assert_is_not_newer_than(foreign)
    with pytest.raises(RuntimeError, match=r"v4.*v3"):
        new.assert_is_not_newer_than(old)


def test_replacing_takes_place_successors_and_cleaning():
    parent = with_successors("parent")
    parent.version, parent.token = 7, "cafe"
    parent.filesToDelete, parent.jobsToDelete = ["file-1"], ["gone"]
    parent.addPredecessor()
    parent.predecessorsFinished = {"before"}
    chained = describe("c1", "call", filesToDelete=["file-2"])
    chained.addChild("g1")
    chained.attach_inline_body(b"body", None)
    chained.replace(parent)
    assert (chained.jobStoreID, chained.version, chained.token) == ("parent", 7, "cafe")
    assert [job for _, job in sorted(chained.successors_by_phase(), reverse=True)] == ["g1", "c2", "f1"]
    assert chained.filesToDelete == ["file-1", "file-2"]
    assert chained.jobsToDelete == ["gone", "c1"]
    assert (chained.predecessorNumber, chained.predecessorsFinished) == (1, {"before"})
    assert chained.has_body()
    assert [names.display_name for names in chained.get_chain()] == ["align", "call"]
    assert [names.job_store_id for names in chained.get_chain()] == ["parent", "c1"]


def test_inherited_phases_come_after_the_own_ones():
    parent = with_successors("parent")
    parent.filterSuccessors(lambda job: job != "c2")
    chained = describe("c1")
    chained.addChild("g1")
    chained.replace(parent)
    assert chained.nextSuccessors() == {"g1"}
    chained.filterSuccessors(lambda job: job != "g1")
    assert chained.nextSuccessors() == {"f1"}
    chained.addChild("late")
    assert chained.nextSuccessors() == {"late"}
    assert chained.hasChild("late")


def test_a_job_that_did_not_chain_is_a_chain_of_one():
    description = JobDescription({}, "align", "chr1", "Align")
    description.jobStoreID = "id"
    assert description.get_chain() == [("align", "chr1", "Align", "align Align", "id")]


def test_bodies_are_attached_named_and_detached():
    module = ModuleDescriptor("/dir with space", "flow")
    description = describe()
    assert not description.has_body()
    with pytest.raises(JobException, match=r"'align' own.*has run already"):
        description.get_body()
    description.attach_body("file-9", module)
    assert description.get_body() == ("file-9", module)
    description.detach_body()
    assert not description.has_body()
    description.attach_inline_body(b"", module)
    assert description.has_body()
    assert description.get_body() == ("body:own", module)


def test_one_more_try_than_retries():
    description = describe()
    description.assignConfig(Config(retryCount=2))
    assert description.remainingTryCount == 3
    description.setupJobAfterFailure(1, BatchJobExitReason.FAILED)
    assert description.remainingTryCount == 2
    for _ in range(5):
        description.setupJobAfterFailure()
    assert description.remainingTryCount == 0
    assert description.clearRemainingTryCount()
    assert description.remainingTryCount == 3
    assert not description.clearRemainingTryCount()


def test_memory_is_at_least_the_default_after_a_failure():
    small, large = JobDescription({"memory": 10}, "small"), JobDescription({"memory": 1000}, "large")
    for description in (small, large):
        description.assignConfig(Config(defaultMemory=100))
        description.setupJobAfterFailure(137, BatchJobExitReason.MEMLIMIT)
    assert (small.memory, large.memory) == (100, 1000)


@pytest.mark.parametrize(
    ("reason", "doubles", "memory"),
    [
        (BatchJobExitReason.MEMLIMIT, True, 2000),
        (BatchJobExitReason.FAILED, True, 1000),
        (BatchJobExitReason.MEMLIMIT, False, 1000),
        (None, True, 1000),
    ],
)
def test_memory_doubles_only_for_lack_of_it_and_only_when_asked(reason, doubles, memory):
    config = Config(defaultMemory=100)
    config.doubleMem = doubles
    description = JobDescription({"memory": 1000}, "job")
    description.assignConfig(config)
    description.setupJobAfterFailure(137, reason)
    assert description.memory == memory


@pytest.mark.parametrize(
    ("reason", "doubles", "times"),
    [
        (BatchJobExitReason.MAXJOBDURATION, True, 4),
        (BatchJobExitReason.MAXJOBDURATION, False, 1),
        (BatchJobExitReason.MEMLIMIT, True, 1),
        (BatchJobExitReason.KILLED, True, 1),
        (None, True, 1),
    ],
)
def test_time_doubles_only_after_a_time_limit_and_only_when_asked(reason, doubles, times):
    config = Config(doubleTime=doubles)
    description = JobDescription({"memory": 1000}, "job")
    description.assignConfig(config)
    for _ in range(2):
        description.setupJobAfterFailure(1, reason)
    assert pickle.loads(pickle.dumps(description)).times == times


def test_tries_need_a_configuration():
    with pytest.raises(JobException, match="no configuration"):
        describe().setupJobAfterFailure()


def test_the_log_is_read_from_the_store():
    store = DictStore()
    store.files["log-1"] = b"last words"
    with pytest.raises(JobException, match="it has none"):
        describe().getLogFileHandle(store)
    with describe(logJobStoreFileID="log-1").getLogFileHandle(store) as log:
        assert log.read() == b"last words"


def test_a_pickle_holds_everything_but_what_belongs_to_the_process():
    description = with_successors()
    description.assignConfig(Config())
    description.attach_body("file-1", ModuleDescriptor("/d", "m"))
    description.addServiceHostJob("db")
    description.addPredecessor()
    description.has_result, description.result, description.result_refs = True, b"r", ["c1"]
    description.promised, description.messages = ["p"], [(20, "hello")]
    description.user_streams, description.filesToDelete = [("out", "x")], ["file-2"]
    description.chained_to, description.failure, description.remainingTryCount = "c1", "boom", 2
    copy = pickle.loads(pickle.dumps(description, 5))
    expected = vars(description).copy()
    del expected["_config"]
    assert vars(copy) == expected


def test_a_fresh_description_makes_a_small_pickle_and_lists_come_back():
    data = pickle.dumps(describe(), 5)
    assert len(data) < 160
    copy = pickle.loads(data)
    assert (copy.messages, copy.filesToDelete, copy.promised, copy.result_refs) == ([], [], [], [])
    copy.addChild("c")
    assert copy.hasChild("c")
    assert (copy.unitName, copy.services, copy.local) == ("", [], False)


CONTAINERS = (
    "result_refs",
    "promised",
    "messages",
    "user_streams",
    "filesToDelete",
    "jobsToDelete",
    "_chain",
)


def test_a_description_has_no_containers_but_those_that_were_looked_at():
    one, other = describe(), pickle.loads(pickle.dumps(describe()))
    assert set(vars(one)).isdisjoint({*CONTAINERS, "predecessorsFinished"})
    assert set(vars(other)).isdisjoint({*CONTAINERS, "predecessorsFinished"})
    for name in CONTAINERS:
        getattr(one, name).append("mine")
        assert (getattr(one, name), getattr(other, name)) == (["mine"], [])
    one.predecessorsFinished.add("mine")
    assert (one.predecessorsFinished, other.predecessorsFinished) == ({"mine"}, set())
    again = pickle.loads(pickle.dumps(one))
    assert [getattr(again, name) for name in CONTAINERS] == [["mine"]] * len(CONTAINERS)
    assert again.predecessorsFinished == {"mine"}
    assert len(pickle.dumps(other)) == len(pickle.dumps(describe()))  # looked at, and empty still


def test_names_are_shown_to_people():
    description = JobDescription({}, "align", "chr 1", "Align reads", local=True)
    description.jobStoreID, description.version = "0123", 4
    assert str(description) == "'Align reads' 'chr 1' 0123 v4"
    assert repr(description) == "JobDescription('Align reads' 'chr 1' 0123 v4)"
    assert description.local is True


def test_placeholders_are_distinct_and_never_equal_a_real_id():
    one, two = TemporaryID(), TemporaryID()
    assert one != two
    assert one == one
    assert len({one, two, one}) == 2
    assert one != str(one)


def test_a_checkpoint_keeps_its_body_for_a_restart():
    description = CheckpointJobDescription({}, "check")
    description.jobStoreID = "own"
    description.attach_inline_body(b"again", None)
    description.detach_body()
    description = pickle.loads(pickle.dumps(description))
    assert not description.has_body()
    assert description.can_restart()
    description.addChild("c1")
    description.addServiceHostJob("db")
    description.has_result, description.result, description.result_refs = True, b"r", ["c1"]
    description.remainingTryCount = 0
    assert set(description.restart()) == {"c1", "db"}
    assert description.inline_body == b"again"
    assert not description.has_result
    assert (description.result, description.result_refs) == (None, [])
    assert not any(description.successorsAndServiceHosts())
    assert not description.can_restart()


def test_a_service_host_gets_its_flag_files_with_the_store():
    store = DictStore()
    description = ServiceJobDescription({}, "Database")
    description.jobStoreID = "host"
    assert description.published_value(store) is None
    description.onRegistration(store)
    flags = [description.startJobStoreID, description.terminateJobStoreID, description.errorJobStoreID]
    assert len({*flags, description.start_value_file}) == 4
    assert all(store.file_exists(flag) for flag in flags)
    assert set(store.owners.values()) == {"host"}
    assert description.published_value(store) is None
    store.delete_file(description.startJobStoreID)
    assert description.published_value(store) == description.start_value_file
