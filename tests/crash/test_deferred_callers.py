"""Who finds a process gone makes its calls: one finder alone, each call in a child, come what may."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from tests.fakes.faults import KILL_AFTER, KILL_BEFORE, Plan, in_child
from tests.runs import DEADLINE
from tests.unit.repository import ROOT
from toilcache.node.deferred import CallFile, files_in
from toilcache.node.leftovers import call_left_behind
from toilcache.node.machine import process_start_time
from toilcache.worker.caller import Caller
from toilcache.worker.deferred import Deferred, Surroundings
from toilcache.worker.posix import Kernel

pytestmark = pytest.mark.crash

CALLS = """
import os, signal, sys, time

def note(place, word):
    descriptor = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (word + ";").encode())
    os.close(descriptor)

def hang(place):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(place, "hanging")
    while True:
        time.sleep(1)

def wait(place):
    note(place, "begun")
    while not os.path.exists(place + ".go"):
        time.sleep(0.01)
    note(place, "ended")

def leave_program(place):
    import subprocess
    program = subprocess.Popen(["sleep", "600"], start_new_session=True, stdin=subprocess.DEVNULL)
    note(place, str(program.pid))
"""
OWNER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import calls
from toilcache.worker.deferred import Deferred, Surroundings

class Context:
    def call_file(self):
        return sys.argv[2]
    def surroundings(self):
        return Surroundings(("0123456789abcdef", 7), None, [sys.argv[1]], None)

deferred = Deferred(Context(), "'a job'", None)
for words in sys.argv[4:]:
    name, *rest = words.split(",")
    deferred.add(getattr(calls, name), sys.argv[3], *rest)
print("here", os.getpid(), flush=True)
signal.pause()
"""
FINDER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from toilcache.worker.caller import Caller
from toilcache.worker.posix import Kernel
print("here", os.getpid(), flush=True)
sys.stdin.readline()
Caller(Kernel(), lambda surroundings: None, lambda surroundings: True, limit=2.0).call_all_in(sys.argv[2])
"""
Started = subprocess.Popen[str]


class Stage:
    """A directory of deferred calls, those who own them, and those who find them."""

    def __init__(self, base: Path) -> None:
        self.code = base / "code"
        self.code.mkdir()
        (self.code / "calls.py").write_text(CALLS)
        self.directory = base / "it's\n-deferred"
        self.notes = base / "notes"
        self.started: list[Started] = []

    def start(self, *argv: str) -> Started:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        self.started.append(process)
        return process

    def owner(self, *calls: str, name: str = "job.7", apart: bool = False) -> Started:
        """Start a process that has promised these calls when this returns."""
        path = str(self.directory / name)
        owner = self.start(*_argv(apart), OWNER, str(self.code), path, str(self.notes), *calls)
        assert _line(owner).startswith("here")
        return owner

    def orphan(self, *calls: str, name: str = "job.7") -> None:
        """Leave these calls behind."""
        owner = self.owner(*calls, name=name)
        owner.kill()
        owner.wait()

    def finder(self, apart: bool = False, code: Path | None = None) -> Started:
        """Start a process that looks for such calls when it is told to."""
        return self.start(*_argv(apart), FINDER, str(code or self.code), str(self.directory))

    def find(self, *finders: Started) -> str:
        """Let these look, all at once; returns what they print."""
        finders = finders or (self.finder(),)
        for finder in finders:
            assert _line(finder).startswith("here")
        for finder in finders:
            assert finder.stdin
            finder.stdin.write("go\n")
            finder.stdin.flush()
        outputs = [finder.communicate(timeout=DEADLINE)[0] for finder in finders]
        assert [finder.returncode for finder in finders] == [0] * len(finders), outputs
        return "".join(outputs)

    def words(self) -> list[str]:
        return self.notes.read_text("utf-8").split(";")[:-1] if self.notes.exists() else []

    def wait_for(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, "what was waited for did not come"
            time.sleep(0.005)

    def left(self) -> list[str]:
        return [os.path.basename(path) for path in files_in(str(self.directory))]


def _argv(apart: bool) -> list[str]:
    """Python, in a process namespace of its own if that is asked for."""
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"] if apart else []
    return [*namespace, sys.executable, "-c"]


def _line(process: Started) -> str:
    assert process.stdout
    return process.stdout.readline()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    for process in stage.started:
        process.kill()
        process.communicate()


def test_calls_of_the_living_are_left_alone(stage: Stage) -> None:
    owner = stage.owner("note,one")
    assert stage.find() == ""
    assert stage.words() == []
    owner.kill()
    owner.wait()
    stage.find()
    assert stage.words() == ["one"]
    assert stage.left() == []


def test_of_many_finders_one_makes_the_calls(stage: Stage) -> None:
    stage.orphan("note,last", "note,first")
    stage.find(*(stage.finder() for _ in range(6)))
    assert stage.words() == ["first", "last"]


def test_of_two_processes_with_one_pid_the_dead_one_is_told(stage: Stage) -> None:
    """In process namespaces of their own each is process 1; the locks tell them apart."""
    probe = subprocess.run([*_argv(True), "pass"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this user may not make process namespaces")
    one = stage.owner("note,one", name="one.1", apart=True)
    other = stage.owner("note,other", name="other.1", apart=True)
    finders = [stage.finder(apart=True) for _ in range(2)]
    (inner,) = psutil.Process(one.pid).children()
    inner.kill()
    one.wait()
    stage.find(*finders)
    assert stage.words() == ["one"]
    assert stage.left() == ["other.1"]
    assert other.poll() is None


def test_one_that_hangs_is_killed_and_the_others_are_made(stage: Stage) -> None:
    stage.orphan("note,last", "hang", "note,first")
    said = stage.find()
    assert stage.words() == ["first", "hanging", "last"]
    assert "deferred function hang of job 'a job' took longer than 2 s and was killed" in said
    assert stage.left() == []


def test_what_a_call_has_started_goes_with_it(stage: Stage) -> None:
    stage.orphan("leave_program")
    stage.find()
    (pid,) = stage.words()
    assert process_start_time(int(pid)) is None


def test_a_finder_that_is_killed_leaves_the_call_to_the_next(stage: Stage) -> None:
    stage.orphan("note,last", "wait", "note,first")
    finder = stage.finder()
    assert _line(finder).startswith("here")
    assert finder.stdin
    finder.stdin.write("go\n")
    finder.stdin.flush()
    stage.wait_for(lambda: "begun" in stage.words())
    (child,) = psutil.Process(finder.pid).children()
    finder.kill()
    finder.wait()
    child.wait(DEADLINE)
    Path(f"{stage.notes}.go").touch()
    stage.find()
    assert stage.words() == ["first", "begun", "begun", "ended", "last"]


def test_what_cannot_be_loaded_waits_for_who_can(stage: Stage, tmp_path: Path) -> None:
    stage.orphan("note,one")
    said = stage.find(stage.finder(code=tmp_path))
    assert "cannot load deferred function note of job 'a job': ModuleNotFoundError" in said
    assert stage.words() == []
    stage.find()
    assert stage.words() == ["one"]


def test_a_planted_file_is_named_and_the_others_are_called(stage: Stage) -> None:
    stage.orphan("note,one", name="b.1")
    (stage.directory / "a.1").symlink_to(stage.directory / "b.1")
    said = stage.find()
    assert "a.1" in said
    assert "it is not a file that only you can write; remove it" in said
    assert stage.words() == ["one"]


def test_a_planted_directory_is_not_looked_into(stage: Stage, tmp_path: Path) -> None:
    stage.orphan("note,one")
    os.rename(stage.directory, tmp_path / "elsewhere")
    stage.directory.symlink_to(tmp_path / "elsewhere")
    assert "it is not a directory" in stage.find()
    assert stage.words() == []


# The clean-up


def test_a_clean_up_calls_what_it_can_and_names_the_rest(
    stage: Stage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage.orphan("note,one", name="a.1")
    (stage.code / "gone.py").write_text("def lost(place):\n    pass\n")
    (stage.code / "calls.py").write_text(CALLS + "\nfrom gone import lost\n")
    stage.orphan("lost", name="b.1")
    (stage.code / "gone.py").unlink()
    (stage.code / "calls.py").write_text(CALLS)
    call_left_behind(str(stage.directory))
    assert stage.words() == ["one"]
    said = capfd.readouterr().err.splitlines()
    assert said[-1] == (
        "toilcache: never called, because their code cannot be loaded here: lost of job 'a job'"
    )


def test_a_clean_up_of_nothing_starts_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    call_left_behind(str(stage.directory))
    stage.directory.mkdir(mode=0o700)
    call_left_behind(str(stage.directory))


def test_what_another_user_has_deferred_is_not_called(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    stage.orphan("note,one")
    os.chown(stage.directory, 12345, 12345)
    call_left_behind(str(stage.directory))
    assert stage.words() == []
    assert "cannot call what jobs have deferred" in capfd.readouterr().err


def test_a_call_that_was_begun_too_often_is_given_up(stage: Stage) -> None:
    stage.orphan("note,last", "note,deadly")
    file = CallFile.take_over(str(stage.directory / "job.7"))
    assert file
    file.set_state(1, 3)
    file.close()
    said = stage.find()
    assert "deferred function note of job 'a job' is given up: begun 3 times, ended never" in said
    assert stage.words() == ["last"]


# At each step


def note(place: str, word: str) -> None:
    descriptor = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{word};".encode())
    os.close(descriptor)


class Where:
    """The surroundings of an owner in this process."""

    def __init__(self, stage: Stage) -> None:
        self._path = str(stage.directory / "job.7")

    def call_file(self) -> str:
        return self._path

    def surroundings(self) -> Surroundings:
        return Surroundings(("0123456789abcdef", 7), None, [], None)


def promise_and_call(stage: Stage) -> None:
    """Promise calls, say so of each, and make them."""
    deferred = Deferred(cast(Any, Where(stage)), cast(Any, "'a job'"), None)
    for word in ("three", "two", "one"):
        deferred.add(note, str(stage.notes), word)
        note(f"{stage.notes}.promised", word)
    deferred.make_calls()


def find(stage: Stage) -> None:
    def load(surroundings: Surroundings) -> None:
        sys.path[:0] = surroundings.sys_path

    Caller(Kernel(), load, lambda surroundings: True).call_all_in(str(stage.directory))


@pytest.mark.parametrize("then", [KILL_BEFORE, KILL_AFTER])
def test_an_owner_killed_at_any_step_leaves_no_promise_unkept(then: str, stage: Stage) -> None:
    for step in itertools.count(1):
        plan = Plan(f"{stage.notes}-trace-{step}", step, then)
        in_child(plan, lambda: promise_and_call(stage))
        in_child(Plan(f"{stage.notes}-calm-{step}"), lambda: find(stage))
        promised = Path(f"{stage.notes}.promised")
        words = promised.read_text().split(";")[:-1] if promised.exists() else []
        assert set(words) <= set(stage.words()), plan.steps()
        assert max(map(stage.words().count, stage.words()), default=0) <= 2
        assert stage.left() == []
        for path in (stage.notes, promised):
            path.unlink(missing_ok=True)
        shutil.rmtree(stage.directory, ignore_errors=True)
        if not plan.happened:
            break
    assert step > 12


@pytest.mark.parametrize("then", [KILL_BEFORE, KILL_AFTER])
def test_a_finder_killed_at_any_step_leaves_the_rest_to_the_next(then: str, stage: Stage) -> None:
    for step in itertools.count(1):
        stage.orphan("note,two", "note,one")
        plan = Plan(f"{stage.notes}-trace-{step}", step, then)
        in_child(plan, lambda: find(stage))
        in_child(Plan(f"{stage.notes}-calm-{step}"), lambda: find(stage))
        words = stage.words()
        assert list(dict.fromkeys(words)) == ["one", "two"], plan.steps()
        assert len(words) <= 3
        assert stage.left() == []
        stage.notes.unlink()
        if not plan.happened:
            break
    assert step > 5
