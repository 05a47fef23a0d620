"""Child programs: what they get, what they leave, and how they end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest

from toilcache.errors import ProcessError, ProcessTimeoutError
from toilcache.process import run, spawn

HOSTILE = [
    "",
    " ",
    "-x",
    "--",
    "a b",
    "it's",
    '"',
    "$HOME `id` \\",
    "*",
    "new\nline",
    "\u00fc\u4e2d",
    "\udcff\udcfe",
]
HOSTILE += ["False", "None", "x" * 50_000]


def python(code: str, *args: str) -> list[str]:
    """The argv of a Python program that imports nothing of the environment."""
    return [sys.executable, "-I", "-S", "-c", code, *args]


def test_arguments_arrive_byte_for_byte() -> None:
    printed = run(python("import os, sys; print(*map(ascii, sys.argv[1:]), sep='\\n')", *HOSTILE)).stdout
    assert printed.decode().splitlines() == [ascii(argument) for argument in HOSTILE]


def test_all_output_comes_back_as_bytes() -> None:
    data = bytes(range(256)) * 40_000
    done = run(["cat"], stdin=data)
    assert done.stdout == data
    done = run(["sh", "-c", r"printf 'a\000b'; printf 'c\r\n' >&2; printf d"])
    assert (done.argv[0], done.returncode, done.stdout, done.stderr) == ("sh", 0, b"a\0bd", b"c\r\n")


def test_reopened_output_is_not_written_over() -> None:
    assert run(["sh", "-c", "printf one; printf two >>/dev/stdout; printf three"]).stdout == b"onetwothree"


def test_standard_input_is_empty_not_the_terminal() -> None:
    assert run(["cat"]).stdout == b""


def test_the_program_stands_alone(tmp_path: Path) -> None:
    leak = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        shown = run(["sh", "-c", "ls /proc/$$/fd; ps -o sid= $$ 2>/dev/null; grep SigIgn /proc/$$/status"])
    finally:
        os.close(leak)
    assert str(leak).encode() not in shown.stdout.split()
    ignored = int(shown.stdout.rsplit(maxsplit=1)[1], 16)
    wanted = [signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ]
    assert not any(ignored >> (number - 1) & 1 for number in wanted)
    assert b"tty" not in run(["sh", "-c", "test -t 1 && echo tty; true"]).stdout


def test_the_environment_is_replaced_and_used_for_the_search(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "only here"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$A,$HOME"')
    program.chmod(0o700)
    assert run(["only here"], env={"PATH": str(program.parent), "A": "1"}).stdout == b"1,\n"
    with pytest.raises(ProcessError, match="no such executable"):
        run(["only here"])


@pytest.mark.descriptors(2)  # sh keeps the ends of a pipe that it has made for a program which did not start
def test_the_working_directory(tmp_path: Path) -> None:
    place = tmp_path / "a 'b'\n-c"
    place.mkdir()
    assert run(["pwd", "-P"], cwd=place).stdout.decode() == f"{place}\n"
    with pytest.raises(ProcessError, match=r"cannot be started.*No such file") as caught:
        run(["true"], cwd=tmp_path / "missing")
    assert caught.value.returncode == 126


def test_failures_carry_everything() -> None:
    argv = ["sh", "-c", "echo out; echo why >&2; exit 3"]
    with pytest.raises(ProcessError, match="exit code 3: why") as caught:
        run(argv)
    error = caught.value
    assert (error.argv, error.returncode, error.stdout, error.stderr) == (argv, 3, b"out\n", b"why\n")
    assert run(argv, check=False).returncode == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE])
def test_signals_are_negative(number: signal.Signals) -> None:
    assert run(["sh", "-c", f"kill -{number.value} $$"], check=False).returncode == -number
    with pytest.raises(ProcessError, match=f"killed by signal {number.value}"):
        run(["sh", "-c", f"kill -{number.value} $$"])


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    plain = tmp_path / "not executable"
    plain.touch(0o600)
    for name in ("no-such-program", "/no/such/program", str(plain), str(tmp_path)):
        with pytest.raises(ProcessError, match="no such executable") as caught:
            run([name, "x"])
        assert caught.value.returncode == 127
        assert caught.value.argv == [name, "x"]


@pytest.mark.descriptors(2)
def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"\0\1\2")
    junk.chmod(0o700)
    for start in (run, spawn):
        with pytest.raises(ProcessError, match="cannot be started"):
            start([junk])


def test_too_long_ends_the_program_and_its_children(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    alive = os.open(fifo, os.O_RDWR)
    reader = os.open(fifo, os.O_RDONLY)
    # The grandchild holds the fifo open for writing; the end of file comes when it is gone.
    argv = ["sh", "-c", 'echo begun; sleep 1000 >"$1" & wait', "sh", str(fifo)]
    with pytest.raises(ProcessTimeoutError, match=r"longer than 0\.3 s") as caught:
        run(argv, timeout=0.3)
    os.close(alive)
    assert caught.value.stdout == b"begun\n"
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_an_interrupt_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sh

    programs = []

    wait = sh.RunningCommand.wait

    def interrupted(self: sh.RunningCommand, timeout: float | None = None) -> None:
        monkeypatch.setattr(sh.RunningCommand, "wait", wait)
        programs.append(psutil.Process(self.process.pid))
        raise KeyboardInterrupt

    monkeypatch.setattr(sh.RunningCommand, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(["sleep", "1000"])
    [program] = programs
    assert not program.is_running(), "its end was waited for"


def test_programs_run_beside_other_threads_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert run(["echo", "x"]).stdout == b"x\n"
    finally:
        stop.set()
        thread.join()
    assert caplog.records == []


def test_a_spawned_program_has_only_what_it_was_given(tmp_path: Path) -> None:
    place = tmp_path / "- a 'b'"
    place.mkdir()
    leak = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leak, True)
    reader, writer = os.pipe()
    code = "import os; fds = [fd for fd in range(1000) if os.path.exists(f'/proc/self/fd/{fd}')]; "
    code += "os.write(7, repr((fds, os.getcwd(), os.getsid(0) == os.getpid(), os.environ.get('A'))).encode())"
    try:
        pid = spawn(python(code), env={"A": "1"}, pass_fds={writer: 7}, cwd=place, new_session=True)
    finally:
        os.close(writer)
        os.close(leak)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert os.read(reader, 10_000).decode() == repr(([0, 1, 2, 7], str(place), True, "1"))
    os.close(reader)


def test_spawn_can_exchange_descriptors_and_give_one_twice(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one", "two")]
    one, two = (os.open(file, os.O_WRONLY | os.O_CREAT, 0o600) for file in files)
    pid = spawn(
        python(
            f"import os; os.write({one}, b'2'); os.write({two}, b'1'); os.write(1, b'3'); os.write(2, b'4')"
        ),
        pass_fds=[(one, two), (two, one), (one, 1), (one, 2)],
    )
    os.close(one)
    os.close(two)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert [file.read_text() for file in files] == ["134", "2"]


def test_spawn_gives_numbers_that_are_free_here(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one", "two")]
    one, two = (os.open(file, os.O_WRONLY | os.O_CREAT, 0o600) for file in files)
    free = os.dup(0)
    os.close(free)
    code = f"import os; os.write({free + 1}, b'1'); os.write({free}, b'2')"
    pid = spawn(python(code), pass_fds={one: free + 1, two: free})
    os.close(one)
    os.close(two)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert [file.read_text() for file in files] == ["1", "2"]


def test_spawn_searches_in_the_given_environment(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "only here"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho $0 >&3")
    program.chmod(0o700)
    for cwd in (None, tmp_path):
        reader, writer = os.pipe()
        pid = spawn(["only here"], env={"PATH": str(program.parent)}, pass_fds={writer: 3}, cwd=cwd)
        os.close(writer)
        assert os.waitpid(pid, 0) == (pid, 0)
        assert os.read(reader, 10_000).decode() == f"{program}\n"
        os.close(reader)


def test_spawn_stays_in_the_session_unless_asked() -> None:
    reader, writer = os.pipe()
    pid = spawn(python("import os; print(os.getsid(0))"), pass_fds={writer: 1})
    os.close(writer)
    os.waitpid(pid, 0)
    assert int(os.read(reader, 100)) == os.getsid(0)
    os.close(reader)


def test_spawn_names_what_it_cannot_start(tmp_path: Path) -> None:
    for name in ("no-such-program", str(tmp_path)):
        with pytest.raises(ProcessError, match="no such executable") as caught:
            spawn([name])
        assert caught.value.returncode == 127
    with pytest.raises(ProcessError, match="no directory"):
        spawn(["true"], cwd=tmp_path / "missing")
