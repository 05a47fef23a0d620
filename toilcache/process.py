"""Child programs: run to their end, or started to live on.

The only module that starts one. Knows argv lists, bytes and exit codes, and the habits of `sh`. Must not know
any program by name. `sh` is imported when the first program is run.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from contextlib import ExitStack, suppress

from toilcache.errors import ProcessError, ProcessTimeoutError
from toilcache.links import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, BinaryIO, TypeAlias

    AnyPath: TypeAlias = str | os.PathLike[str]

_NOT_FOUND = 127
_NOT_STARTED = 126

# Makes a working directory for a spawned program, which keeps the process id: posix_spawn has no such action.
_CHANGE_DIRECTORY = ("sh", "-c", 'cd -- "$1" && shift && exec "$@"', "sh")


class Completed:
    """What a program that ended has left: argv, exit code (negative: a signal) and all it printed."""

    __slots__ = ("argv", "returncode", "stderr", "stdout")

    def __init__(self, argv: list[str], returncode: int, stdout: bytes, stderr: bytes) -> None:
        """Take the four as they are."""
        self.argv = argv
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr


def own_program(name: str, module: str, *arguments: str) -> list[str]:
    """Return the argv of Python that calls ``main(arguments)`` of a module of ours, and exits as that says.

    As ``-m`` would, but without modules of the current directory, which may have the names of Python's own.
    `name` is the word by which the process is found among others.
    """
    start = (
        "import sys; sys.path[:1] = filter(None, sys.path[:1]); "
        f"from {module} import main; sys.exit(main(sys.argv[2:]))"
    )
    return [sys.executable, "-c", start, name, *arguments]


def run(
    argv: Sequence[AnyPath],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: AnyPath | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> Completed:
    """Run a program to its end in a session of its own and return what it printed, as bytes.

    `env` is its whole environment, None this process's; `timeout` is in seconds. ProcessError if it cannot be
    started or, with `check`, if its exit code is not 0; ProcessTimeoutError if it ran too long. In that case,
    and if this call is interrupted, the program and all that it started in its session are killed.
    """
    words = [os.fspath(word) for word in argv]
    with ExitStack() as stack:
        files = [stack.enter_context(_memory_file(content)) for content in (stdin, b"", b"")]
        command = _start(words, files, env, None if cwd is None else os.fspath(cwd))
        timed_out = _wait(command, timeout)
        returncode: int = command.process.exit_code
        stdout, stderr = (_content(file) for file in files[1:])
    if timed_out:
        why = f"it took longer than {timeout:g} s and was killed"
        raise ProcessTimeoutError(words, returncode, stdout, stderr, why)
    if check and returncode != 0:
        raise ProcessError(words, returncode, stdout, stderr)
    return Completed(words, returncode, stdout, stderr)


def spawn(
    argv: Sequence[AnyPath],
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Mapping[int, int] | Iterable[tuple[int, int]] = (),
    cwd: AnyPath | None = None,
    new_session: bool = False,
) -> int:
    """Start a program that lives on and return its process id; the caller waits for it.

    `pass_fds` are pairs of a descriptor here and its number there. Besides them the program gets only 0, 1
    and 2 of this process, whatever else is open. ProcessError if it cannot be started.
    """
    words = [os.fspath(word) for word in argv]
    path, shown = _find(words, env), words
    if cwd is not None:
        path, shown = "/bin/sh", [*_CHANGE_DIRECTORY, _directory(words, cwd), path, *words[1:]]
    pairs = list(pass_fds.items() if hasattr(pass_fds, "items") else pass_fds)
    targets = {there for _, there in pairs}
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_CLOSE, here) for here in _inheritable() if here > 2 and here not in targets
    ]
    with ExitStack() as stack:
        for here, there in pairs:
            # First to numbers above all targets, so that no target overwrites a descriptor still needed.
            copy = fcntl.fcntl(here, fcntl.F_DUPFD_CLOEXEC, max(targets) + 1)
            stack.callback(os.close, copy)
            actions.append((os.POSIX_SPAWN_DUP2, copy, there))
        try:
            return os.posix_spawn(
                path,
                shown,
                os.environ if env is None else dict(env),
                file_actions=actions,
                setsid=new_session,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError as error:
            raise _not_started(words, error.strerror or str(error)) from None


class _Argument(str):
    """A word that `sh` hands over byte for byte: file names need not be UTF-8."""

    __slots__ = ()

    def __str__(self) -> str:
        return self

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return super().encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def _start(words: list[str], files: list[BinaryIO], env: Mapping[str, str] | None, cwd: str | None) -> Any:
    """Start through sh and return its running command.

    Real files as streams spare sh's reading threads, which look for a program's end in steps and cut long
    output; `_bg` gives the command at once, so that whatever happens while waiting can end the program.
    """
    import warnings

    sh = _sh()
    search = None if env is None or "PATH" not in env else env["PATH"].split(os.pathsep)
    try:
        program = sh.Command(words[0], search)
        with warnings.catch_warnings():
            # Python 3.12 warns of forking where there are threads; the child of sh soon becomes the program.
            warnings.simplefilter("ignore", DeprecationWarning)
            return program(
                *map(_Argument, words[1:]),
                _in=files[0],
                _out=files[1],
                _err=files[2],
                _env=None if env is None else dict(env),
                _cwd=cwd,
                _bg=True,
                _bg_exc=False,
                _preexec_fn=_usual_signals,
                _new_session=True,
                _tty_out=False,
            )
    except sh.CommandNotFound:
        raise _not_found(words) from None
    except sh.ForkException as error:
        # The text is the traceback of the child before it became the program; its last line says why.
        raise _not_started(words, str(error).strip().splitlines()[-1].strip()) from None


def _wait(command: Any, timeout: float | None) -> bool:
    """Wait for the end of the program; True if it was killed for taking too long."""
    import threading

    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _kill_session(command.pid)

    timer = None if timeout is None else threading.Timer(timeout, expire)
    try:
        if timer is not None:
            timer.start()
        with suppress(_sh().ErrorReturnCode):
            command.wait()
    except BaseException:
        # KeyboardInterrupt too: nothing that this call started outlives it. Its end is waited for: until then
        # it holds files open and their file systems busy.
        _kill_session(command.pid)
        with suppress(_sh().ErrorReturnCode):
            command.wait()
        raise
    finally:
        if timer is not None:
            timer.cancel()
    return expired.is_set()


def _usual_signals() -> None:
    """Undo, in the child, what Python and sh ignore."""
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def _kill_session(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _sh() -> Any:
    import logging

    import sh

    # It tells about each program at level INFO, on which people watch their workflow.
    logging.getLogger("sh").setLevel(logging.WARNING)
    return sh


def _memory_file(content: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("toilcache", os.MFD_CLOEXEC), "w+b", buffering=0)
    if content:
        write_all(file.fileno(), content)
        file.seek(0)
    # For programs that open /dev/stdout anew: they must not write over what is there.
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
    return file


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _inheritable() -> list[int]:
    """The open descriptors that a new program would get."""
    descriptors = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of the listing itself is closed again
            if not fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                descriptors.append(int(name))
    return descriptors


def _directory(words: list[str], cwd: AnyPath) -> str:
    path = os.path.abspath(cwd)
    if not os.path.isdir(path):
        raise _not_started(words, f"there is no directory {path!r}")
    return path


def _find(words: list[str], env: Mapping[str, str] | None) -> str:
    import shutil

    path = shutil.which(words[0], path=(os.environ if env is None else env).get("PATH"))
    if path is None:
        raise _not_found(words)
    return os.path.abspath(path)


def _not_found(words: list[str]) -> ProcessError:
    return ProcessError(words, _NOT_FOUND, why="there is no such executable; install it or set PATH")


def _not_started(words: list[str], why: str) -> ProcessError:
    return ProcessError(words, _NOT_STARTED, why=f"it cannot be started: {why}")
