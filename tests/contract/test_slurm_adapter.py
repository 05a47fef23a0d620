"""What the adapter for Slurm does when Slurm is slow, wrong, unreachable or forgetful: over the fake cluster.

Waits that are tens of seconds in earnest are short here; what happens in which order is the same.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import psutil
import pytest

from tests.contract.adapter_bench import SLOTS
from tests.contract.slurm_bench import SlurmBench
from toilcache.batch.model import Ended
from toilcache.batch.slurm import adapter, evidence, fleet, submitter, trouble
from toilcache.batch.slurm.evidence import LOOK_SECONDS
from toilcache.batch.slurm.hosts import Hosts
from toilcache.job.exit_reason import BatchJobExitReason as Reason
from toilcache.job.job import Job

TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
AWAY = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks and pauses follow each other within parts of a second."""
    for module, name, seconds in (
        (adapter, "LOOK_SECONDS", 0.2),
        (adapter, "DOUBT_SECONDS", 0.3),
        (evidence, "END_GRACE", 0.3),
        (evidence, "ABSENCE_GRACE", 0.5),
        (fleet, "ABSENCE_GRACE", 0.5),
        (fleet, "END_GRACE", 0.3),
    ):
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setattr(trouble.Patience, "FIRST", 0.05)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., SlurmBench]]:
    made: list[SlurmBench] = []

    def new(**settings: Any) -> SlurmBench:
        made.append(SlurmBench(tmp_path, **settings))
        return made[0]

    yield new
    for bench in made:
        bench.adapter.shutdown()
        left = bench.slurm.wait_idle()
        bench.slurm.end()
        assert left == {}


@pytest.fixture
def bench(soon: None, make: Callable[..., SlurmBench]) -> SlurmBench:
    return make()


def runs(bench: SlurmBench, count: int = 3) -> None:
    """Some jobs run, each once, and end well."""
    requests = [bench.quick() for _ in range(count)]
    bench.adapter.submit(requests)
    assert {end.reason for end in bench.end_of(*requests)} == {Reason.FINISHED}
    assert all(bench.has_run(request) for request in requests)


def worker_pid(bench: SlurmBench, key: str | None = None) -> int:
    """The process of a task that runs."""
    tasks = bench.slurm.tasks("RUNNING")
    return int((tasks[key] if key else next(iter(tasks.values())))["pid"])


def is_alive(pid: int) -> bool:
    """A process that its keeper has yet to bury is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Submitting


def test_many_jobs_take_few_calls_and_none_for_their_state(make: Callable[..., SlurmBench]) -> None:
    bench = make()
    runs(bench, 150)
    assert len(bench.slurm.calls("sbatch")) == 1
    seconds = time.time() - bench.slurm.calls("sbatch")[0].at
    assert len(bench.slurm.calls("squeue") + bench.slurm.calls("sacct")) <= 1 + seconds // LOOK_SECONDS


def test_without_reuse_each_job_has_an_allocation_of_its_own(make: Callable[..., SlurmBench]) -> None:
    bench = make()
    bench.adapter = bench.new_adapter(workerReuse=False)
    runs(bench, 5)
    assert len(bench.slurm.calls("sbatch")) == 1
    assert len(bench.slurm.tasks()) == 5


def test_an_answer_that_got_lost_is_looked_for_before_it_is_asked_again(bench: SlurmBench) -> None:
    bench.slurm.once("sbatch", {"stderr": TIMED_OUT, "cut": 0})
    runs(bench)
    assert len(bench.slurm.calls("sbatch")) == 1


def test_what_did_not_arrive_is_sent_again(bench: SlurmBench) -> None:
    bench.slurm.once("sbatch", {"instead": True, "stderr": TIMED_OUT}, {"instead": True, "stderr": AWAY})
    runs(bench)
    assert len(bench.slurm.calls("sbatch")) == 3


def test_chatty_wrappers_and_cluster_names(bench: SlurmBench) -> None:
    bench.slurm.always("sbatch", before="*** 12 GB of 100 GB used ***\n", after="\nthank you, 2 papers\n")
    bench.slurm.always("squeue", before="welcome\n", after="bye|1|2|RUNNING\n")
    runs(bench)
    (array,) = bench.adapter._submitter.fleet.arrays
    assert array == 1


def test_a_refusal_for_good_fails_the_job_with_the_words_of_sbatch(bench: SlurmBench) -> None:
    bench.adapter = bench.new_adapter(slurmPartition="nope")
    requests = [bench.quick(), bench.quick()]
    bench.adapter.submit(requests)
    ends = bench.end_of(*requests)
    assert {end.reason for end in ends} == {Reason.ERROR}
    assert "invalid partition specified: nope" in ends[0].detail
    assert bench.slurm.tasks() == {}


@pytest.mark.parametrize(
    "words",
    [
        "Invalid account or account/partition combination specified",
        "Invalid qos specification",
        "Requested node configuration is not available",
    ],
)
def test_other_refusals_for_good_are_quoted_in_one_line(bench: SlurmBench, words: str) -> None:
    bench.slurm.always("sbatch", instead=True, stderr=f"sbatch: error: Batch job submission failed: {words}")
    request = bench.quick()
    bench.adapter.submit([request])
    (end,) = bench.end_of(request)
    assert end.reason == Reason.ERROR
    assert end.detail == f"cannot be submitted to Slurm: Batch job submission failed: {words}"
    assert len(bench.slurm.calls("sbatch")) == 1


def sbatch_words(bench: SlurmBench, option: str) -> list[str]:
    """The values of an option in all calls of sbatch, "" where it was not given."""
    calls = [call.arguments for call in bench.slurm.calls("sbatch")]
    found = [[word for word in words if word.startswith(f"--{option}=")] for words in calls]
    return [(words[0] if words else "").partition("=")[2] for words in found]


def test_an_attempt_that_is_to_have_more_time_gets_an_allocation_with_more(
    soon: None, make: Callable[..., SlurmBench]
) -> None:
    node = {"P": "main*", "a": "up", "l": "1:00:00", "L": "10:00", "c": "2", "m": "1000", "d": "1000"}
    bench = make(sinfo=[node | {"G": "(null)", "f": "(null)", "D": "1", "T": "idle"}])
    usual, more, most = bench.quick(), bench.quick()._replace(times=2), bench.quick()._replace(times=64)
    for request in (usual, more, most):
        bench.adapter.submit([request])
        bench.end_of(request)
    assert sbatch_words(bench, "time") == ["", "20", "60"]


def test_a_node_that_failed_is_avoided_for_a_while(
    bench: SlurmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    (node,) = {host.node for host in bench.adapter._hosts.all.values()}
    pid = worker_pid(bench)
    bench.slurm.set_state("NODE_FAIL")
    os.killpg(pid, signal.SIGKILL)
    (end,) = bench.end_of(request)
    assert (end.reason, end.detail) == (Reason.LOST, "was lost: its node failed")
    runs(bench, 1)
    assert sbatch_words(bench, "exclude") == ["", node]
    later = time.monotonic() + submitter.AVOID_SECONDS
    assert bench.adapter._submitter._avoided(later) == []


def test_where_no_other_node_would_do_a_bad_one_is_taken(bench: SlurmBench) -> None:
    bench.adapter._submitter.avoid({"fake1"}, time.monotonic())
    words = "sbatch: error: Batch job submission failed: Requested node configuration is not available"
    bench.slurm.once("sbatch", {"instead": True, "stderr": words})
    runs(bench, 1)
    assert sbatch_words(bench, "exclude") == ["fake1", ""]


def test_a_limit_on_submissions_is_met_with_smaller_arrays(bench: SlurmBench) -> None:
    words = "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed"
    bench.slurm.once("sbatch", {"instead": True, "stderr": words}, {"instead": True, "stderr": words})
    runs(bench, 8)
    sizes = [word for call in bench.slurm.calls("sbatch") for word in call.arguments if "--array" in word]
    assert sizes[:3] == ["--array=0-7", "--array=0-3", "--array=0-1"]


def test_secrets_reach_the_jobs_and_not_slurm(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., SlurmBench]
) -> None:
    monkeypatch.setenv("MY_TOKEN", "open sesame")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "7")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    bench = make()
    told = str(bench.home / "told")
    request = bench.request(tell_environment, told)
    bench.adapter.submit([request])
    bench.end_of(request)
    assert Path(told).read_text() == "open sesame None None 1"
    hidden = {"MY_TOKEN", "SLURM_MEM_PER_NODE", "XDG_RUNTIME_DIR"}
    assert not hidden & {name for call in bench.slurm.calls("sbatch") for name in call.variables}
    setup = Path(bench.store.path) / f"work/{bench.run}/setup"
    assert stat.S_IMODE(setup.stat().st_mode) == 0o600
    bench.adapter.shutdown()
    left = [path for path in Path(bench.store.path).rglob("*") if path.is_file()]
    assert [path for path in left if b"open sesame" in path.read_bytes()] == []


def tell_environment(job: Job, path: str) -> None:
    names = ("MY_TOKEN", "SLURM_MEM_PER_NODE", "XDG_RUNTIME_DIR", "SLURM_ARRAY_JOB_ID")
    Path(path).write_text(" ".join(str(os.environ.get(name)) for name in names))


# Evidence


def test_a_state_that_nobody_knows_ends_nothing(bench: SlurmBench) -> None:
    state = bench.slurm.state()
    bench.slurm._write("state.json", state | {"shown": {"RUNNING": "DREAMING", "COMPLETED": "DREAMING"}})
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    bench.slurm_looks(4)
    assert set(bench.adapter.running()) == {request.job_id}
    bench.open_gate()
    assert [end.reason for end in bench.end_of(request)] == [Reason.FINISHED]


@pytest.mark.parametrize(
    "fault",
    [
        {"instead": True, "stderr": "slurm_load_jobs error: Unable to contact slurm controller"},
        {"instead": True, "stderr": "squeue: error: Socket timed out on send/recv operation"},
        {"cut": 20, "stderr": "slurm_load_jobs error: Zero Bytes were transmitted or received"},
    ],
)
def test_a_controller_that_does_not_answer_ends_nothing(bench: SlurmBench, fault: dict[str, Any]) -> None:
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    bench.slurm.always("squeue", **fault)
    bench.slurm_looks(5)
    assert set(bench.adapter.running()) == {request.job_id}
    bench.open_gate()
    assert [end.reason for end in bench.end_of(request)] == [Reason.FINISHED]


def test_a_worker_that_is_killed_alone_is_told_of_by_its_script(make: Callable[..., SlurmBench]) -> None:
    """It says the last word, so that Slurm need not be asked."""
    bench = make()
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    (worker,) = psutil.Process(worker_pid(bench)).children()
    worker.kill()
    (end,) = bench.end_of(request)
    assert end.reason == Reason.LOST
    assert "its worker ended without a record of it" in end.detail


@pytest.mark.parametrize("accounting", [True, False])
def test_a_killed_worker_that_slurm_has_forgotten_is_lost(
    soon: None, make: Callable[..., SlurmBench], accounting: bool
) -> None:
    bench = make(min_job_age=0.0, accounting=accounting)
    if not accounting:
        bench.slurm.always("sacct", instead=True, stderr="Slurm accounting storage is disabled")
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    os.killpg(worker_pid(bench), signal.SIGKILL)
    (end,) = bench.end_of(request)
    assert end.reason == Reason.LOST
    assert "without a trace" in end.detail or "its worker failed" in end.detail
    assert not bench.has_run(request)
    runs(bench)


def test_a_killed_worker_that_slurm_remembers_is_lost_sooner(bench: SlurmBench) -> None:
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    os.killpg(worker_pid(bench), signal.SIGKILL)
    (end,) = bench.end_of(request)
    assert (end.reason, end.detail) == (Reason.LOST, "was lost: its worker failed")


def test_a_suspended_worker_is_waited_for(bench: SlurmBench) -> None:
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    (key,) = bench.slurm.tasks("RUNNING")
    bench.slurm.run("scontrol", "suspend", key)
    bench.slurm_looks(5)
    bench.open_gate()
    bench.slurm.run("scontrol", "resume", key)
    assert [end.reason for end in bench.end_of(request)] == [Reason.FINISHED]


@pytest.mark.parametrize("spares", [False, True])
def test_a_requeued_task_has_lost_its_first_worker_even_if_that_goes_on(
    soon: None, make: Callable[..., SlurmBench], spares: bool
) -> None:
    bench = make(requeue_spares=spares)
    bench.adapter = bench.new_adapter(workerIdleTime=1000.0)
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    (key,) = bench.slurm.tasks("RUNNING")
    first = worker_pid(bench, key)
    bench.slurm.run("scontrol", "requeue", key)
    (end,) = bench.end_of(request)
    assert end.reason == Reason.LOST
    desc = bench.store.load_job(request.job_id)
    bench.store.update_job(desc)  # as the leader does before it issues the job again
    bench.open_gate()
    again = request._replace(version=desc.version)
    bench.updates.clear()
    bench.adapter.submit([again])
    assert [end.reason for end in bench.end_of(again)] == [Reason.FINISHED]
    assert bench.store.load_job(request.job_id).version == desc.version + 1
    if spares:  # it was told to leave, and does so when what it ran has ended
        bench.hear(lambda: not is_alive(first))


@pytest.mark.parametrize(
    ("number", "reason", "words"),
    [
        (signal.SIGUSR1, Reason.MAXJOBDURATION, "time limit of its allocation"),
        (signal.SIGTERM, Reason.LOST, "was taken back"),
    ],
)
def test_a_warning_ends_the_job_and_says_why(
    bench: SlurmBench, number: signal.Signals, reason: Reason, words: str
) -> None:
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    os.kill(worker_pid(bench), number)
    (end,) = bench.end_of(request)
    assert end.reason == reason
    assert words in end.detail


def test_a_warning_that_comes_too_early_waits(bench: SlurmBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's may come a minute before its time; a job that ends in that minute is not to be ended."""
    end = int(time.time()) + 15
    monkeypatch.setenv("END_OF_ALLOCATION", str(end))
    bench.adapter = bench.new_adapter({"end_variable": "END_OF_ALLOCATION", "warning": 3})
    early, late = bench.waiting(), bench.waiting()
    bench.adapter.submit([early, late])
    bench.await_running(2)
    for task in bench.slurm.tasks("RUNNING").values():
        os.kill(int(task["pid"]), signal.SIGUSR1)
    bench.end_of(early, late)
    assert time.time() >= end - 3
    assert {update.reason for update in bench.updates if isinstance(update, Ended)} == {Reason.MAXJOBDURATION}


def test_a_warning_long_before_the_end_is_meant_now(
    bench: SlurmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit may have been changed since, or somebody wants the nodes."""
    monkeypatch.setenv("END_OF_ALLOCATION", str(int(time.time()) + 3600))
    bench.adapter = bench.new_adapter({"end_variable": "END_OF_ALLOCATION"})
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    os.kill(worker_pid(bench), signal.SIGUSR1)
    assert [end.reason for end in bench.end_of(request)] == [Reason.MAXJOBDURATION]


def test_a_script_that_cannot_be_imported_says_so(bench: SlurmBench) -> None:
    script = bench.home / "broken.py"
    script.write_text("raise RuntimeError('not today')\n")
    main = (str(bench.home), "broken", False, str(script))
    bench.adapter = bench.new_adapter({"main": main, "preload": True})
    request = bench.quick()
    bench.adapter.submit([request])
    (end,) = bench.end_of(request)
    assert end.reason == Reason.ERROR
    assert end.detail.startswith("cannot be run by its worker")


def test_a_worker_that_cannot_begin_is_quoted(bench: SlurmBench, monkeypatch: pytest.MonkeyPatch) -> None:
    script = b"#!/bin/sh\necho cannot open it >&2\nexit 1\n"
    monkeypatch.setattr(submitter.commands, "worker_script", lambda argv, after: script)
    request = bench.quick()
    bench.adapter.submit([request])
    (end,) = bench.end_of(request)
    assert end.reason == Reason.ERROR
    assert "on fake1 before they began (FAILED, NonZeroExitCode): cannot open it" in end.detail


def test_nodes_that_do_not_see_the_store_are_named_in_one_line(
    bench: SlurmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm cannot even open the file for what a worker prints."""
    monkeypatch.setattr(
        bench.adapter._submitter._work, "output", lambda pattern: f"{bench.home}/nowhere/{pattern}"
    )
    request = bench.quick()
    bench.adapter.submit([request])
    (end,) = bench.end_of(request)
    assert end.reason == Reason.ERROR
    assert f"JobLaunchFailure); are {bench.store.locator}" in end.detail
    assert end.detail.endswith("visible on the nodes?")


# A leader dies


def test_what_runs_is_adopted_and_what_waits_is_seized(bench: SlurmBench) -> None:
    requests = [bench.waiting() for _ in range(SLOTS + 3)]
    bench.adapter.submit(requests)
    bench.await_running(SLOTS)
    running = set(bench.adapter.running())
    bench.next_leader()
    adopted = bench.adapter.adopt()
    assert {job_id for job_id, _ in adopted} == running
    assert bench.slurm.tasks("PENDING") == {}
    bench.adapter.adopted([request for request in requests if request.job_id in running])
    assert set(bench.adapter.running()) == running
    bench.open_gate()
    bench.updates.clear()
    first = [request for request in requests if request.job_id in running]
    assert {end.reason for end in bench.end_of(*first)} == {Reason.FINISHED}
    rest = [request for request in requests if request.job_id not in running]
    assert not any(bench.has_run(request) for request in rest)
    bench.adapter.submit(rest)
    assert {end.reason for end in bench.end_of(*rest)} == {Reason.FINISHED}


def test_a_worker_that_begins_under_a_newer_leader_takes_nothing(bench: SlurmBench) -> None:
    """Its submission was on the way when the leader died, and no cancellation could hit it."""
    dead = bench.next_leader()
    work = dead._work
    request = bench.quick()
    work.add("1.000-10485760-10485760-0-0", 0, [(request.job_id, request.version)])
    argv = dead._submitter.worker("serve", "1.000-10485760-10485760-0-0")
    environment = os.environ | bench.places
    pid = os.posix_spawn(argv[0], argv, environment)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not bench.has_run(request)
    assert work.claimed("1.000-10485760-10485760-0-0", 0) == set()


def test_a_worker_that_begins_when_all_is_over_does_nothing(bench: SlurmBench) -> None:
    bench.adapter.shutdown()
    argv = bench.adapter._submitter.worker("serve", "1.000-10485760-10485760-0-0")
    pid = os.posix_spawn(argv[0], argv, os.environ | bench.places)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [path for place in bench.places.values() for path in os.listdir(place)] == []


def test_an_adopted_attempt_can_be_cancelled(bench: SlurmBench) -> None:
    request = bench.waiting()
    bench.adapter.submit([request])
    bench.await_running(1)
    bench.next_leader()
    assert bench.adapter.adopt() == [(request.job_id, request.version)]
    bench.adapter.cancel([request.job_id])
    assert [end.reason for end in bench.end_of(request)] == [Reason.KILLED]


# The end


def test_the_end_leaves_nothing_in_slurm_and_on_the_node(bench: SlurmBench) -> None:
    bench.adapter.submit([bench.waiting() for _ in range(SLOTS + 2)])
    bench.await_running(SLOTS)
    bench.adapter.shutdown()
    assert bench.slurm.tasks("RUNNING", "PENDING") == {}
    assert [path for place in bench.places.values() for path in os.listdir(place)] == []
    assert bench.cleaned == 1
    assert pinned(bench) == []  # the workers have done it


def test_a_node_without_a_worker_is_cleaned_by_a_short_job(bench: SlurmBench) -> None:
    bench.adapter = bench.new_adapter(workerIdleTime=0.0)
    runs(bench)
    bench.hear(lambda: not bench.slurm.tasks("RUNNING"))
    assert os.listdir(bench.places["TOILCACHE_WORK_DIR"]) != []
    bench.adapter.shutdown()
    (call,) = pinned(bench)
    assert f"--nodelist={os.uname().nodename}" in call.arguments
    assert [path for place in bench.places.values() for path in os.listdir(place)] == []


def pinned(bench: SlurmBench) -> list[Any]:
    """The calls that submitted a job for a certain node: one that cleans it."""
    return [
        call for call in bench.slurm.calls("sbatch") if any("nodelist" in word for word in call.arguments)
    ]


def says(bench: SlurmBench, host: str, line: str) -> None:
    """Write into a host's log as it would."""
    with bench.adapter._work.open_log(host) as log:
        log.write(line.encode("ascii") + b"\n")


@pytest.mark.parametrize(
    ("ends", "clean"),
    [
        (("clean", "busy"), True),
        (("busy", "clean"), True),
        (("busy", "busy"), False),
        (("clean", "lost"), False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_node_is_clean_in_whichever_order_logs_are_read(
    bench: SlurmBench, ends: tuple[str, str], clean: bool
) -> None:
    """Who leaves a node to others, which use it, does not make it dirty again when one of them cleans it."""
    hosts = Hosts()
    for host in ("a", "b"):
        says(bench, host, f"hello 1 n1 queue 1 {host} 0")
        hosts.read(bench.adapter._work, 0.0, only=[host])
    for host, end in zip(("a", "b"), ends, strict=True):
        says(bench, host, f"bye {end}")
        hosts.read(bench.adapter._work, 0.0, only=[host])
        bench.adapter._work.forget_host(host)
    assert hosts.clean == {"n1": clean}


def test_at_the_end_a_worker_that_has_left_is_not_met_again(bench: SlurmBench) -> None:
    """A log that is read again is that of a worker which begins, on a node that is to be cleaned."""
    says(bench, "a", "hello 1 n1 queue 1 0 0")
    says(bench, "a", "bye clean")
    says(bench, "b", "hello 2 n1 queue 1 1 0")
    last = Timer(0.5, says, (bench, "b", "bye busy"))
    last.start()
    bench.adapter._await_hosts(time.monotonic() + 20)
    last.join()
    assert bench.adapter._hosts.clean == {"n1": True}
    assert bench.adapter._work.hosts() == []


def test_a_late_cleaning_job_leaves_a_restarted_workflow_alone(bench: SlurmBench) -> None:
    bench.adapter = bench.new_adapter(workerIdleTime=0.0)
    runs(bench)
    bench.hear(lambda: not bench.slurm.tasks("RUNNING"))
    dead = bench.next_leader()
    before = sorted(os.listdir(bench.places["TOILCACHE_WORK_DIR"]))
    argv = dead._submitter.worker("clean", "-", "clean-late")
    pid = os.posix_spawn(argv[0], argv, os.environ | bench.places)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sorted(os.listdir(bench.places["TOILCACHE_WORK_DIR"])) == before != []


def test_what_is_to_be_kept_is_kept(bench: SlurmBench) -> None:
    bench.cleans = False
    runs(bench)
    bench.adapter.shutdown()
    assert os.listdir(bench.places["TOILCACHE_WORK_DIR"]) != []
