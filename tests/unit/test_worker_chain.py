"""Whether a worker goes on with a successor, how it commits to a full store, and how failures read."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, cast

import pytest

from tests.fakes.job_stores import Bench
from toilcache.errors import (
    ConcurrentFileModificationException,
    JobException,
    JobStoreUnavailableError,
    NoSuchJobException,
)
from toilcache.job.description import JobDescription
from toilcache.worker import commit as commit_module
from toilcache.worker.chain import _may_follow, _Run, describe, run_chain
from toilcache.worker.commit import FIRST_PAUSE, LONGEST_PAUSE, is_full, patiently

GPU = {"count": 1, "kind": "gpu"}
RESERVED = {"memory": 1000, "cores": 1.0, "disk": 1000, "accelerators": [], "preemptible": False}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench("memory", tmp_path)


def desc_of(bench: Bench, **changes: Any) -> JobDescription:
    desc = JobDescription(RESERVED | changes, "a job")
    desc.assignConfig(bench.store.config)
    desc.predecessorNumber = 1
    return desc


# Chains


def test_a_job_of_the_same_needs_may_follow(bench: Bench) -> None:
    assert _may_follow(desc_of(bench), desc_of(bench))


@pytest.mark.parametrize(
    ("needs", "may"),
    [
        ({"memory": 1001}, False),
        ({"cores": 1.001}, False),
        ({"disk": 1001}, False),
        ({"accelerators": [GPU]}, False),
        ({"preemptible": True}, False),
        ({"memory": 1, "cores": 0.1, "disk": 1}, True),
    ],
)
def test_a_job_follows_only_where_it_fits(bench: Bench, needs: dict[str, Any], may: bool) -> None:
    assert _may_follow(desc_of(bench, **needs), desc_of(bench)) is may


def test_a_job_without_accelerators_does_not_keep_them_from_others(bench: Bench) -> None:
    assert not _may_follow(desc_of(bench), desc_of(bench, accelerators=[GPU]))


def test_a_job_with_two_predecessors_does_not_follow(bench: Bench) -> None:
    candidate = desc_of(bench)
    candidate.predecessorNumber = 2
    assert not _may_follow(candidate, desc_of(bench))


def test_a_checkpoint_does_not_follow(bench: Bench) -> None:
    candidate = desc_of(bench)
    candidate.checkpoint = True
    assert not _may_follow(candidate, desc_of(bench))


class Context:
    """As much of a worker's surroundings as the choice needs."""

    def __init__(self, bench: Bench) -> None:
        self.store = bench.store
        self.main = None
        self.jobs_dir = str(bench.home)
        self.reports: list[tuple[str, int]] = []

    def report(self, job_id: str, version: int) -> None:
        self.reports.append((job_id, version))


def chosen(bench: Bench, desc: JobDescription) -> str | None:
    """The successor that a worker which ran this job goes on with."""
    desc.assignConfig(bench.store.config)
    desc.detach_body()
    return _Run(cast(Any, Context(bench)), desc, 1, desc)._choose_successor()


def born(bench: Bench, **attributes: Any) -> str:
    return str(bench.job("successor", predecessorNumber=1, **attributes).jobStoreID)


def test_the_only_child_follows(bench: Bench) -> None:
    desc = bench.job("first")
    desc.addChild(child := born(bench))
    assert chosen(bench, desc) == child


def test_the_only_child_follows_though_there_are_follow_ons(bench: Bench) -> None:
    desc = bench.job("first")
    desc.addChild(child := born(bench))
    desc.addFollowOn(born(bench))
    desc.addFollowOn(born(bench))
    assert chosen(bench, desc) == child


def test_the_only_follow_on_follows(bench: Bench) -> None:
    desc = bench.job("first")
    desc.addFollowOn(follow_on := born(bench))
    assert chosen(bench, desc) == follow_on


def test_of_two_children_none_follows(bench: Bench) -> None:
    desc = bench.job("first")
    desc.addChild(born(bench))
    desc.addChild(born(bench))
    assert chosen(bench, desc) is None


def test_nothing_follows_a_leaf(bench: Bench) -> None:
    assert chosen(bench, bench.job("leaf")) is None


def test_nothing_follows_where_chaining_is_off_or_services_run(bench: Bench) -> None:
    desc = bench.job("first")
    desc.addChild(born(bench))
    bench.store.config.disableChaining = True
    assert chosen(bench, desc) is None
    bench.store.config.disableChaining = False
    desc.addServiceHostJob("0123456789abcdef")
    assert chosen(bench, desc) is None


def test_an_attempt_whose_record_is_not_there_is_refused(bench: Bench) -> None:
    context = Context(bench)
    assert run_chain(cast(Any, context), "0123456789abcdef", 1) == 75
    assert context.reports == []


# Writing to a store that is full


class Write:
    """Fails in given ways, then works."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "written"


def unavailable(code: int) -> JobStoreUnavailableError:
    error = JobStoreUnavailableError("cannot write")
    error.__cause__ = OSError(code, "why")
    return error


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(commit_module.time, "sleep", pauses.append)
    return pauses


def test_what_works_is_written_once(pauses: list[float]) -> None:
    write = Write()
    assert patiently(write) == "written"
    assert (write.calls, pauses) == (1, [])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_store_is_waited_for(
    code: int, pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    write = Write(OSError(code, "no room"), unavailable(code))
    assert patiently(write) == "written"
    assert (write.calls, pauses) == (3, [FIRST_PAUSE, 2 * FIRST_PAUSE])
    output = capsys.readouterr()
    assert output.err.count("waiting for room") == 1
    assert output.out == ""


def test_pauses_grow_to_a_limit(pauses: list[float]) -> None:
    patiently(Write(*(OSError(errno.ENOSPC, "no room") for _ in range(12))))
    assert pauses == sorted(pauses)
    assert pauses[-1] == pauses[-2] == LONGEST_PAUSE


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOENT, "gone"),
        unavailable(errno.EROFS),
        JobStoreUnavailableError("no cause"),
        ConcurrentFileModificationException("a job"),
        NoSuchJobException("a job"),
        KeyboardInterrupt(),
    ],
)
def test_what_waiting_does_not_mend_is_raised_at_once(error: BaseException, pauses: list[float]) -> None:
    write = Write(error)
    with pytest.raises(type(error)):
        patiently(write)
    assert (write.calls, pauses) == (1, [])


def test_a_refusal_after_a_full_store_ends_the_waiting(pauses: list[float]) -> None:
    write = Write(OSError(errno.ENOSPC, "no room"), ConcurrentFileModificationException("a job"))
    with pytest.raises(ConcurrentFileModificationException):
        patiently(write)
    assert write.calls == 2


def test_which_errors_mean_a_full_store() -> None:
    assert is_full(OSError(errno.ENOSPC, "no room"))
    assert is_full(unavailable(errno.EDQUOT))
    assert not is_full(ValueError("no room"))


# Failures in words


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("not a number"), "ValueError: not a number"),
        (ValueError(), "ValueError"),
        (ValueError("two\nlines"), "ValueError: two"),
        (SystemExit(3), "called sys.exit(3); a job must return"),
        (SystemExit("why\nso"), "called sys.exit('why\\nso'); a job must return"),
        (SystemExit(), "called sys.exit(None); a job must return"),
        (KeyboardInterrupt(), "was interrupted (SIGINT)"),
        (JobException("cannot do this"), "cannot do this"),
        (KeyError("a key"), "KeyError: 'a key'"),
    ],
)
def test_a_failure_in_one_line(error: BaseException, text: str) -> None:
    assert describe(error).startswith(text)
    assert "\n" not in describe(error)
