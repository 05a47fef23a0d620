"""What a person may get wrong, through real processes: one line, a status that is not 0, and nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.contract import bad_workflow
from tests.runs import QUOTED, Place
from toilcache.config import Config
from toilcache.errors import JobStoreUnavailableError
from toilcache.job_store.file_job_store import FileJobStore

MIB = 1 << 20


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path, bad_workflow.__file__)
    place.environment["WITNESS"] = str(tmp_path)
    return place


@contextmanager
def mounted(directory: Path, options: str) -> Generator[None, None, None]:
    """A file system in memory for one block; skips where this user may not mount one."""
    directory.mkdir(exist_ok=True)
    argv = ["mount", "-t", "tmpfs", "-o", options, "none", str(directory)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount a tmpfs here: {done.stderr.strip() or 'no root'}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


# Job stores


def test_a_job_store_that_exists(place: Place) -> None:
    place.run("--clean", "never").check_result("mended")
    place.run().check_refused("it exists", "--restart", "-the%20store")
    place.check_clean()
    place.restart("--clean", "never").check_result("mended")
    place.check_clean()


def test_a_job_store_that_does_not_exist(place: Place) -> None:
    place.restart().check_refused("it does not exist", "without --restart")
    place.check_clean()
    assert not place.store.exists()


def test_a_job_store_whose_workflow_was_never_started(place: Place) -> None:
    place.run("--kind", "missing_import", "--clean", "never").check_refused("no such file")
    place.restart("--clean", "never").check_refused("start")
    place.check_clean()
    place.run().check_result("mended")


def test_a_job_store_of_another_version(place: Place) -> None:
    place.run("--clean", "never").check_result("mended")
    version = place.store / "version"
    text = version.read_text(encoding="ascii")
    version.write_text(text.replace("1", "2"), encoding="ascii")
    place.restart().check_refused("version 2", "reads 1")
    assert place.run().status == 1, "it must not be taken over either"
    place.check_clean()
    version.write_text(text, encoding="ascii")
    place.restart().check_result("mended")


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_something_else_where_the_job_store_should_be(place: Place, kind: str) -> None:
    if kind == "file":
        place.store.write_text("mine", encoding="ascii")
    else:
        place.store.mkdir()
        (place.store / "thesis.txt").write_text("mine", encoding="ascii")
    place.run().check_refused("something else is there")
    place.restart().check_refused()
    mine = place.store if kind == "file" else place.store / "thesis.txt"
    assert mine.read_text(encoding="ascii") == "mine"
    place.check_clean()


def test_a_job_store_in_a_directory_that_is_missing(place: Place) -> None:
    place.store = place.base / "missing" / "store"
    place.run().check_refused("its parent is no directory")
    place.check_clean()


def test_a_job_store_that_cannot_be_made(place: Place) -> None:
    place.store = place.base / "disk" / "store"
    if os.geteuid() == 0:
        with mounted(place.store.parent, "ro,size=1m"):
            place.run().check_refused("mount it writable")
    else:
        place.store.parent.mkdir(mode=0o500)
        place.run().check_refused("Permission denied")
    place.check_clean()


def test_a_job_store_that_became_read_only(place: Place) -> None:
    disk = place.base / "disk"
    place.store = disk / "store"
    with mounted(disk, "size=20m"):
        place.run("--kind", "failing_child").check_refused("the value is wrong")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        place.restart(MENDED="1").check_refused("Read-only file system")
        place.check_clean()
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        place.restart(MENDED="1").check_result([1, 2, "mended"])
    place.check_clean()


# Options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--retryConut", "3"], ["--retryConut", "did you mean --retry"]),
        (["--batchSystem", "slrum"], ["'slrum'", "single_machine"]),
        (["--defaultMemory", "2 Gigs"], ["'2 Gigs'", "2 GiB"]),
        (["--clean", "sometimes"], ["'sometimes'", "onSuccess"]),
        (["--config", "no such file"], ["no such file"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_options_that_mean_nothing(place: Place, arguments: list[str], words: list[str]) -> None:
    done = place.run(*arguments)
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert done.last.startswith("bad_workflow.py: error: ")
    assert all(word in done.last for word in words), done.last
    assert not place.store.exists()
    place.check_clean()


def test_settings_that_mean_nothing(place: Place) -> None:
    done = place.run(TOILCACHE_RETRY_COUNT="often")
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert "'often'" in done.last
    assert "TOILCACHE_RETRY_COUNT" in done.last


# Graphs and jobs that cannot be begun


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cycle", ["cycle", "'ok'"]),
        ("roots", ["2 roots", "'ok'", "'raises'"]),
        ("size_root", ["'2 Gigs'", "2 GiB"]),
        ("unpicklable_root", ["'hand_back'", "argument 1 'x'", "_thread.lock"]),
        ("promise_of_nobody", ["'hand_back'", "not in the workflow", "addChild"]),
        ("missing_import", ["cannot import file:///no/such%20file", "there is no such file"]),
        ("directory_import", ["is a directory"]),
    ],
)
def test_workflows_that_cannot_be_begun(place: Place, kind: str, words: list[str]) -> None:
    place.run("--kind", kind).check_refused(*words)
    place.check_clean()
    place.run().check_result("mended")


def test_a_root_that_asks_for_more_than_there_is(place: Place) -> None:
    place.run("--kind", "giant_root").check_refused("900 TiB of memory", "this machine has", "'ok'")
    place.check_clean()


def test_a_child_that_asks_for_more_than_there_is(place: Place, tmp_path: Path) -> None:
    done = place.run("--kind", "giant_child")
    done.check_refused("900 TiB of memory", "this machine has", "1 job failed", "'ok'")
    place.check_clean()
    assert len(list(tmp_path.glob("small *"))) == 3, "the others must run"


# Jobs that fail; once mended they are all that runs again


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("raises", ["'raises'", "ValueError: the value is wrong"]),
        ("exits", ["'exits'", "called sys.exit(0)"]),
        ("osexit", ["'osexit'", "exited with status 3", QUOTED + "printed before the end"]),
        ("segfault", ["'segfault'", "crashed (SIGSEGV)"]),
        ("unpicklable_value", ["the return value of job 'unpicklable_value'", "['answer'] item 0"]),
        ("unpicklable_argument", ["job 'hand_back'", "argument 1 'x' ['conn'] item 0 (_thread.lock)"]),
        ("bad_size", ["'bad_size'", "'2 Gigs'"]),
        ("promise_used", ["cannot use the promise of job 'ok'", "before it ran"]),
        ("promise_early", ["cannot hand the promise of job 'ok'", "it may run first"]),
        ("imports", ["'imports'", "/no/such file"]),
        ("serves", ["cannot run the services of job 'serves'"]),
    ],
)
def test_a_job_that_fails(place: Place, kind: str, words: list[str]) -> None:
    place.run("--kind", kind).check_refused(*words, "1 job failed", "--restart")
    place.check_clean()
    if kind != "promise_early":  # its graph is written down and stays wrong
        place.restart(MENDED="1").check_result("mended")
        place.check_clean()
        assert not place.store.exists()


def test_a_deferred_function_that_quits_fails_no_job(place: Place) -> None:
    done = place.run("--kind", "quits_later")
    done.check_result("mended")
    assert "failed" not in done.err
    place.check_clean()


def test_a_job_that_breaks_its_process_costs_its_successor_no_try(place: Place) -> None:
    done = place.run("--kind", "closes_all")
    done.check_result("mended")
    assert "was not begun" in done.err
    place.check_clean()


def test_nothing_that_was_done_is_done_again(place: Place, tmp_path: Path) -> None:
    place.run("--kind", "failing_child").check_refused("the value is wrong")
    place.restart("--kind", "failing_child").check_refused("the value is wrong")
    place.restart(MENDED="1").check_result([1, 2, "mended"])
    place.check_clean()
    assert (tmp_path / "value 1").read_text(encoding="ascii") == "."
    assert (tmp_path / "value 2").read_text(encoding="ascii") == "."


@contextmanager
def memory_group(limit: int) -> Generator[str, None, None]:
    """A cgroup of so many bytes; yields the file to write a pid to, skips where there can be none."""
    name = f"toilcache-test-{os.getpid()}"
    one, two = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    first = (one / "memory.limit_in_bytes").exists()
    group = (one if first else two) / name
    limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if first else ("memory.max",)
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"may not make a memory cgroup here: {error}")
    try:
        if not (group / limits[0]).exists():
            pytest.skip("the cgroup's parent does not control memory")
        for file in limits:
            if (group / file).exists():
                (group / file).write_text(str(limit), encoding="ascii")
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0", encoding="ascii")
        yield str(group / "cgroup.procs")
    finally:
        group.rmdir()


def test_a_job_that_the_kernel_kills_for_memory(place: Place) -> None:
    with memory_group(160 * MIB) as entrance:
        join = 'echo $$ > "$1" && shift && exec "$@"'
        run = place.argv("--kind", "hungry")
        done = place.finish(place.spawn(["sh", "-c", join, "sh", entrance, *run]))
    done.check_refused("'hungry'", "memory ran out", "raise its memory requirement")
    place.check_clean()
    place.restart(MENDED="1").check_result("mended")
    place.check_clean()


# Disks


def test_a_job_store_without_room_for_a_file(place: Place, tmp_path: Path) -> None:
    disk = place.base / "disk"
    place.store = disk / "store"
    with mounted(disk, f"size={20 * MIB}"):
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(12 * MIB))
        done = place.run("--caching", "false", "--kind", "uploads")
        done.check_refused("'upload'", "No space left on device", "free some space")
        place.check_clean()
        ballast.unlink()
        place.restart().check_result([7, 10_000_000])
        assert (tmp_path / "value 7").read_text(encoding="ascii") == ".", "it must not run again"
    place.check_clean()


def begin_and_wait_for_room(place: Place, kind: str, ballast: Path, *options: str) -> subprocess.Popen[str]:
    """Begin a workflow whose job fills the disk; return when its worker says that it waits."""
    leader = place.begin("--kind", kind, *options, FILL=str(ballast))
    pid = Path(place.environment["WITNESS"], "pid")
    place.wait_for(lambda: pid.exists() and pid.read_text(encoding="ascii"), leader)
    place.wait_for(lambda: any("waiting for room" in output for output in outputs(leader)), leader)
    return leader


def outputs(leader: subprocess.Popen[str]) -> Iterator[str]:
    """What the jobs of a leader have printed: files without a name. Who waits need not be who ran the job."""
    for process in psutil.Process(leader.pid).children(recursive=True):
        with suppress(OSError):
            yield Path(f"/proc/{process.pid}/fd/2").read_text(encoding="utf-8")


def test_a_job_store_that_fills_up_to_the_last_byte(place: Place, tmp_path: Path) -> None:
    disk = place.base / "disk"
    place.store = disk / "store"
    with mounted(disk, f"size={20 * MIB}"):
        leader = begin_and_wait_for_room(place, "uploads", disk / "ballast", "--caching", "false")
        (disk / "ballast").unlink()
        done = place.finish(leader)
        done.check_refused("'upload'", "No space left on device", "free some space", "1 job failed")
        place.check_clean()
        place.restart(MENDED="1").check_result([7, 10_000_000])
        assert (tmp_path / "value 7").read_text(encoding="ascii") == "."
    place.check_clean()


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("full_small", "kept"),
        ("full_large", bad_workflow.LARGE),
        ("full_births", [1, 2, 3]),
        ("full_upload", 10_000_000),  # out of the cache, once the job has ended
    ],
)
def test_what_a_job_has_done_waits_for_room(place: Place, tmp_path: Path, kind: str, result: object) -> None:
    disk = place.base / "disk"
    place.store = disk / "store"
    with mounted(disk, f"size={20 * MIB}"):
        leader = begin_and_wait_for_room(place, kind, disk / "ballast")
        (disk / "ballast").unlink()
        done = place.finish(leader)
        done.check_result(result)
        assert "failed" not in done.err
    assert (tmp_path / "ran").read_text(encoding="ascii") == ".", "it must not run again"
    place.check_clean()


def test_a_failure_waits_for_room(place: Place) -> None:
    disk = place.base / "disk"
    place.store = disk / "store"
    with mounted(disk, f"size={20 * MIB}"):
        leader = begin_and_wait_for_room(place, "full_raises", disk / "ballast")
        (disk / "ballast").unlink()
        done = place.finish(leader)
        done.check_refused("'full_raises'", "ValueError: the value is wrong", "1 job failed")
        assert "No space" not in done.err, "what the job failed of is another matter"
        place.check_clean()
        place.restart(MENDED="1").check_result("mended")
    place.check_clean()


def test_no_room_for_a_heartbeat(place: Place) -> None:
    disk = place.base / "disk"
    with mounted(disk, f"size={MIB}"):
        store = FileJobStore(str(disk / "store"))
        store.initialize(Config())
        run = store.claim_run()
        bad_workflow.fill(str(disk / "ballast"))
        with pytest.raises(JobStoreUnavailableError, match="free some space"):
            store.beat(run)
        (disk / "ballast").unlink()
        store.beat(run)


def test_no_room_for_a_job_store_at_all(place: Place) -> None:
    disk = place.base / "disk"
    place.store = disk / "store"
    with mounted(disk, f"size={MIB}"):
        bad_workflow.fill(str(disk / "ballast"))
        place.run().check_refused("No space left on device")
        (disk / "ballast").unlink()
        place.run().check_result("mended")
    place.check_clean()


# Damaged files


def _newest_records(store: Path) -> list[Path]:
    newest = []
    for job in store.glob("jobs/*/*"):
        newest.append(
            max((slot for slot in job.iterdir() if slot.name.isdecimal()), key=lambda p: int(p.name))
        )
    return newest


@pytest.mark.parametrize("where", ["head", "middle"])
def test_a_damaged_job_file(place: Place, where: str) -> None:
    place.run("--kind", "raises").check_refused()
    (record,) = _newest_records(place.store)
    whole = record.read_bytes()
    position = 1 if where == "head" else len(whole) // 2
    flipped = bytes([whole[position] ^ 0x20])
    record.write_bytes(whole[:position] + flipped + whole[position + 1 :])
    done = place.restart(MENDED="1")
    done.check_refused("the file is damaged")
    assert f"{record.parent.name}/{record.name}" in done.last
    place.check_clean()
    record.write_bytes(whole)
    place.restart(MENDED="1").check_result("mended")
    place.check_clean()


@pytest.mark.parametrize("name", ["config.pickle", "rootJobStoreID"])
def test_a_damaged_shared_file(place: Place, name: str) -> None:
    place.run("--kind", "raises").check_refused()
    shared = place.store / "shared" / name
    whole = shared.read_bytes()
    shared.unlink()
    shared.write_bytes(b"\x80nonsense")
    place.restart(MENDED="1").check_refused(name if name == "config.pickle" else "nonsense")
    place.check_clean()
    shared.write_bytes(whole)
    place.restart(MENDED="1").check_result("mended")


def test_damaged_notes_of_an_earlier_leader_do_no_harm(place: Place) -> None:
    place.run("--kind", "raises").check_refused()
    for name in ("leader/1", "shared/pid.log", "shared/leader_node_id.log", "shared/kill_flag"):
        note = place.store / name
        note.unlink()
        note.write_bytes(b"\x80nonsense")
    place.restart(MENDED="1").check_result("mended")
    place.check_clean()


def test_the_script_says_what_it_can_do() -> None:
    argv = [sys.executable, bad_workflow.__file__, "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    for name in ("--retryCount", "--restart", "--kind", "JOBSTORE"):
        assert name in done.stdout
