"""Whether a worker goes on with a successor, how it commits to a full store, and how failures read."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from copy import copy
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
from toilcache.job.job import Job
from toilcache.job.saving import save_as_root
from toilcache.job_store.backed import BackedJobStore
from toilcache.worker import commit as commit_module
from toilcache.worker.chain import _may_follow, _Run, describe, run_chain
from toilcache.worker.commit import FIRST_PAUSE, LONGEST_PAUSE, is_full, patiently
from toilcache.worker.deferred import Surroundings

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

    write = staticmethod(patiently)

    def __init__(self, bench: Bench) -> None:
        self.store = bench.store
        self.has_main = True
        self.jobs_dir = str(bench.home)
        self.attempt = ("", 0)
        self.reports: list[tuple[str, int]] = []

    def report(self, job_id: str, version: int) -> None:
        self.reports.append((job_id, version))

    def call_file(self) -> str:
        return f"{self.jobs_dir}/deferred/{self.attempt[0]}.{self.attempt[1]}"

    def surroundings(self) -> Surroundings:
        return Surroundings(self.attempt, None, [], None)


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


# Whole attempts, in this process

DO: dict[str, Callable[[Job], Any]] = {}
SMALL: dict[str, Any] = {"memory": 1000, "cores": 1, "disk": 1000}
LARGE = b"x" * 100_000


@pytest.fixture(autouse=True)
def nothing_to_do() -> Iterator[None]:
    """Forget what a test had a job do, and with it the store in which that was."""
    yield
    DO.clear()


def does(job: Job) -> Any:
    """A job that does what the test says."""
    return DO["this"](job)


def constant(value: Any) -> Any:
    return value


class FullNow(Context):
    """A worker at a store some of whose writes find no room: those that the test numbers."""

    def __init__(self, bench: Bench, *full: int) -> None:
        super().__init__(bench)
        self.store: BackedJobStore = bench.another(resume=True)
        self.full = set(full)
        self.writes = 0
        self.keys: list[str] = []
        backend: Any = self.store._backend
        for verb in ("make_scope", "put_if_absent", "writer"):
            setattr(backend, verb, self._counted(getattr(backend, verb)))

    def _counted(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(key: str, *args: Any, **options: Any) -> Any:
            number = self.writes
            self.writes += 1
            self.keys.append(key)
            if number in self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(key, *args, **options)

        return counted

    def run(self, job_id: str) -> int:
        return run_chain(cast(Any, self), job_id, 1)


def fresh(directory: Path, do: Callable[[Job], Any]) -> tuple[Bench, str]:
    """A store with a root job that does this; its id."""
    directory.mkdir()
    bench = Bench("file", directory)
    bench.store.config.workDir = str(directory)
    DO["this"] = do
    return bench, str(save_as_root(Job.wrapJobFn(does, **SMALL), bench.store).jobStoreID)


def family(job: Job) -> Any:
    """Jobs below in some depth, one of them with two predecessors and one with a body in a file."""
    one = job.addChildFn(constant, LARGE, **SMALL)
    two = job.addFollowOnFn(constant, one.rv(), **SMALL)
    both = two.addChildFn(constant, 3, **SMALL).addFollowOnFn(constant, [two.rv()], **SMALL)
    two.addChildFn(constant, 4, **SMALL).addFollowOn(both)
    return LARGE


def shape(bench: Bench, job_id: str) -> Any:
    """The phases of jobs below one, by name; all of them must be there, with their bodies."""
    desc = bench.store.load_job(job_id)
    if desc.has_body():
        with bench.store.read_file_stream(desc.get_body()[0]) as body:
            assert body.read()
    return [[shape(bench, below) for below in phase] for phase in desc._phases], desc.predecessorNumber


def test_births_value_and_commit_wait_for_room_at_every_write(tmp_path: Path, pauses: list[float]) -> None:
    bench, root = fresh(tmp_path / "with room", family)
    context = FullNow(bench)
    assert context.run(root) == 0
    expected, writes = shape(bench, root), context.writes
    assert writes >= 9
    for number in range(writes):
        bench, root = fresh(tmp_path / f"full {number}", family)
        context = FullNow(bench, number)
        assert context.run(root) == 0
        assert shape(bench, root) == expected
        assert context.reports[0] == (root, 2)
        desc = bench.store.load_job(root)
        assert bench.read(str(desc.result_file)).count(b"x") >= len(LARGE)
        assert len(pauses) == 1
        pauses.clear()


def fail(job: Job) -> None:
    print("last words")
    raise ValueError("my own mistake")


def test_a_failure_is_recorded_with_its_log(tmp_path: Path, pauses: list[float]) -> None:
    bench, root = fresh(tmp_path / "it", fail)
    assert FullNow(bench).run(root) == 1
    desc = bench.store.load_job(root)
    assert desc.failure == "ValueError: my own mistake"
    assert desc.logJobStoreFileID is not None
    assert pauses == []


@pytest.mark.parametrize("full", [(0,), (0, 1, 2), (1,), (1, 2, 3)], ids=str)
def test_a_failure_waits_for_room_without_its_log(
    full: tuple[int, ...], tmp_path: Path, pauses: list[float]
) -> None:
    bench, root = fresh(tmp_path / "it", fail)
    context = FullNow(bench, *full)
    assert context.run(root) == 1
    desc = bench.store.load_job(root)
    assert (desc.version, desc.failure) == (2, "ValueError: my own mistake")
    assert desc.remainingTryCount == 3
    assert desc.logJobStoreFileID is None
    logs = [path for path in Path(bench.where).glob("jobs/*/*/**/*log*") if path.is_file()]
    assert logs == [], "a log must not take the room that the record needs"
    assert len(pauses) == len(full) - 1, "the first refusal only drops the log"
    assert context.reports == [(root, 2)]


def test_a_disk_that_fails_before_a_job_has_begun_is_waited_for(tmp_path: Path, pauses: list[float]) -> None:
    bench, root = fresh(tmp_path / "it", lambda job: 1)
    context = FullNow(bench)
    backend: Any = context.store._backend
    get, failures = backend.get, [errno.EIO, errno.EIO]

    def failing(key: str) -> bytes:
        if failures and key.startswith("jobs/"):
            raise OSError(failures.pop(), "Input/output error")
        return bytes(get(key))

    backend.get = failing
    assert context.run(root) == 0
    assert len(pauses) == 2
    assert not bench.store.load_job(root).has_body()


def test_what_the_job_itself_writes_is_not_waited_for(tmp_path: Path, pauses: list[float]) -> None:
    def write(job: Job) -> None:
        Path("file").touch()
        job.fileStore.writeGlobalFile("file")

    bench, root = fresh(tmp_path / "it", write)
    context = FullNow(bench)
    context.store.config.caching = False  # with a cache it is the worker that writes, once the job has ended
    context.store._backend.upload = no_room  # type: ignore[method-assign]
    assert context.run(root) == 1
    assert "No space left on device" in str(bench.store.load_job(root).failure)
    assert pauses == []


def no_room(*args: Any, **options: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("end", [fail, lambda job: 1], ids=["fails", "returns"])
def test_the_attempt_of_a_job_that_is_gone_is_refused(end: Callable[[Job], Any], tmp_path: Path) -> None:
    def vanish(job: Job) -> Any:
        bench.another(resume=True).delete_job(root)
        return end(job)

    bench, root = fresh(tmp_path / "it", vanish)
    context = FullNow(bench)
    assert context.run(root) == 75
    assert context.reports == []


def test_an_error_that_cannot_be_shown_is_told_all_the_same(tmp_path: Path) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    def raise_mute(job: Job) -> None:
        raise Mute

    bench, root = fresh(tmp_path / "it", raise_mute)
    assert FullNow(bench).run(root) == 1
    assert bench.store.load_job(root).failure == "Mute"


def test_a_job_that_closed_its_output_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(job: Job) -> None:
        with open("stdout", "w") as out, open("stderr", "w") as err:
            monkeypatch.setattr(sys, "stdout", out)
            monkeypatch.setattr(sys, "stderr", err)
        raise ValueError("my own mistake")

    bench, root = fresh(tmp_path / "it", close)
    assert FullNow(bench).run(root) == 1
    assert bench.store.load_job(root).failure == "ValueError: my own mistake"


# After the commit


def with_child(job: Job) -> str:
    return str(job.addChildFn(constant, 1, **SMALL).rv())


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt(), ValueError("no")], ids=repr)
def test_a_deferred_function_fails_no_job(end: BaseException, tmp_path: Path) -> None:
    called = []

    def throw() -> None:
        called.append(end)
        raise copy(end)  # that of the parameter would keep the store

    def defers(job: Job) -> None:
        job.defer(called.append, "first")
        job.defer(throw)
        job.addChildFn(constant, 1, **SMALL)

    bench, root = fresh(tmp_path / "it", defers)
    context = FullNow(bench)
    assert context.run(root) == 0
    assert called == [end, "first"]
    child = str(bench.store.load_job(root).chained_to)
    assert context.reports == [(root, 2), (child, 2)]
    assert not bench.store.load_job(child).has_body()


def test_a_deferred_function_does_not_hide_why_the_job_failed(tmp_path: Path) -> None:
    def defers(job: Job) -> None:
        job.defer(sys.exit, 3)
        raise ValueError("my own mistake")

    bench, root = fresh(tmp_path / "it", defers)
    assert FullNow(bench).run(root) == 1
    assert bench.store.load_job(root).failure == "ValueError: my own mistake"


@pytest.mark.parametrize("full", [(), (3, 4)], ids=["room", "full"])
@pytest.mark.parametrize("error", [OSError(errno.EBADF, "Bad file descriptor"), SystemExit(1)], ids=repr)
def test_after_a_commit_the_chain_ends_and_nobody_pays(
    error: BaseException, full: tuple[int, ...], tmp_path: Path, pauses: list[float]
) -> None:
    bench, root = fresh(tmp_path / "it", lambda job: job.addChildFn(constant, 1, **SMALL) and None)
    context = FullNow(bench, *full)
    reports = context.reports

    def report(job_id: str, version: int) -> None:
        reports.append((job_id, version))
        if job_id == root:
            raise copy(error)

    context.report = report  # type: ignore[method-assign]
    assert context.run(root) == 0
    desc = bench.store.load_job(root)
    child = bench.store.load_job(str(desc.chained_to))
    assert (desc.version, desc.has_body()) == (2, False)
    assert (child.version, child.has_body(), child.remainingTryCount) == (2, True, 4)
    assert str(child.failure).startswith("was not begun")
    assert reports == [(root, 2), (child.jobStoreID, 2)]
    assert len(pauses) == len(full)


def test_a_successor_that_cannot_be_given_back_is_left_to_the_leader(tmp_path: Path) -> None:
    bench, root = fresh(tmp_path / "it", lambda job: job.addChildFn(constant, 1, **SMALL) and None)
    context = FullNow(bench)

    def report(job_id: str, version: int) -> None:
        bench.store.delete_job(str(bench.store.load_job(root).chained_to))
        raise OSError(errno.EBADF, "Bad file descriptor")

    context.report = report  # type: ignore[method-assign]
    assert context.run(root) == 0


def test_an_error_after_the_commit_of_a_leaf_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, root = fresh(tmp_path / "it", lambda job: "value")
    context = FullNow(bench)

    def report(job_id: str, version: int) -> None:
        raise RuntimeError("no")

    context.report = report  # type: ignore[method-assign]
    assert context.run(root) == 0
    assert bench.store.load_job(root).version == 2


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
