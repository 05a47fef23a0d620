"""One suite over every container engine: real Docker, real Apptainer, and a fake one.

What only a real engine can show carries the mark real alone.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apptainers import FakeApptainer
from tests.testbed.fixtures import Engines
from toilcache.containers.docker_engine import DockerEngine
from toilcache.containers.model import ContainerSpec, Engine, Exit, Image, Mount
from toilcache.containers.singularity import SingularityEngine
from toilcache.errors import ContainerError, ContainerImageError
from toilcache.node.namespaces import pid_here, pid_namespace

LABEL = "toilcache.test"
HOSTILE = "a, b:c \"d\" 'e' \n$(id) `id` \\ é $HOME"
REAL = pytest.mark.real
KINDS = [
    pytest.param("fake", id="fake"),
    pytest.param("docker", marks=REAL),
    pytest.param("singularity", marks=REAL),
]


class Bench:
    """An engine, an image for it, and containers that go with the test."""

    def __init__(self, kind: str, make: Callable[[], Engine], reference: str) -> None:
        self.kind = kind
        self._make = make
        self.engine = make()
        self.reference = reference
        self.image: Image = self.engine.resolve(reference)
        self.token = secrets.token_hex(8)

    def another(self) -> Engine:
        """The same engine as another process has it."""
        return self._make()

    def spec(self, *argv: str, **fields: Any) -> ContainerSpec:
        """A container with the test's label."""
        labels = {LABEL: self.token}
        name = f"test-{secrets.token_hex(6)}"
        return replace(ContainerSpec(self.image, argv, name, labels=labels), **fields)

    def run(self, *argv: str, **fields: Any) -> str:
        return self.engine.run(self.spec(*argv, **fields))

    def output(self, *argv: str, **fields: Any) -> str:
        """What a program prints; it must succeed."""
        container = self.run(*argv, **fields)
        ended = self.engine.wait(container)
        text = self.engine.logs(container, 1 << 16).decode()
        self.engine.remove(container)
        assert ended == Exit(0), text
        return text

    def left(self) -> list[str]:
        """The test's containers."""
        return [found.name for found in self.engine.find({LABEL: self.token})]

    def close(self) -> None:
        left = self.left()
        for found in self.engine.find({LABEL: self.token}):
            self.engine.remove(found.id)
        self.engine.close()
        assert left == []


def make_bench(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    if kind == "fake":
        fake = FakeApptainer(tmp_path / "fake programs")
        return Bench(kind, lambda: SingularityEngine(fake.program), fake.image)
    engines: Engines = request.getfixturevalue("engines")
    if kind == "docker":
        return Bench(kind, lambda: DockerEngine(engines.docker_host), engines.image("docker"))
    program = os.path.join(engines.programs, "apptainer")
    return Bench(kind, lambda: SingularityEngine(program), engines.image("singularity"))


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Every engine; the test ends with no container left."""
    made = make_bench(request.param, request, tmp_path)
    yield made
    made.close()


@pytest.fixture(params=KINDS[1:])
def real_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """The real engines alone."""
    made = make_bench(request.param, request, tmp_path)
    yield made
    made.close()


def test_it_says_which_engine_it_is(bench: Bench) -> None:
    kind, number = bench.engine.version().split()
    assert kind in ("docker", "apptainer")
    assert number[0].isdigit()


def test_an_image_has_one_digest(bench: Bench) -> None:
    again = bench.another()
    try:
        assert again.resolve(bench.reference) == bench.image
    finally:
        again.close()
    assert bench.image.reference == bench.reference
    assert ":" in bench.image.digest


def test_an_image_that_is_not_there_is_named(bench: Bench) -> None:
    missing = "docker-daemon:no-such-image:1" if bench.kind == "docker" else "/no such/image.sif"
    with pytest.raises(ContainerImageError, match=r"no[- ]such"):
        bench.engine.resolve(missing)


def test_status_and_output_are_those_of_the_program(bench: Bench) -> None:
    container = bench.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert bench.engine.wait(container) == Exit(7)
    assert bench.engine.wait(container) == Exit(7)
    assert sorted(bench.engine.logs(container, 1000).split()) == [b"err", b"out"]
    assert bench.engine.logs(container, 2) in (b"t\n", b"r\n")
    bench.engine.remove(container)


def test_output_comes_whole_and_by_its_stream(bench: Bench) -> None:
    script = "import sys; sys.stdout.write('x' * 300_000); sys.stderr.write('y' * 70_000)"
    container = bench.run("python3", "-c", script)
    parts: dict[int, bytes] = {1: b"", 2: b""}
    for number, part in bench.engine.output(container):
        parts[number] += part
    assert parts == {1: b"x" * 300_000, 2: b"y" * 70_000}
    assert bench.engine.wait(container) == Exit(0)
    assert list(bench.engine.output("no-such-container")) == []
    bench.engine.remove(container)


def test_waiting_ends_with_the_time_or_with_the_program(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    container = bench.run("cat", str(gate), mounts=(Mount(str(tmp_path), str(tmp_path)),))
    assert bench.engine.wait(container, 0.05) is None
    gate.write_text("go")
    assert bench.engine.wait(container, 60) == Exit(0)
    bench.engine.remove(container)


def test_words_and_values_arrive_as_they_are(bench: Bench) -> None:
    text = bench.output(
        "python3",
        "-c",
        "import os, sys; print(ascii([os.environ['VALUE'], sys.argv[1:]]))",
        HOSTILE,
        "-x",
        "",
        environment={"VALUE": HOSTILE},
    )
    assert text == ascii([HOSTILE, [HOSTILE, "-x", ""]]) + "\n"


def test_home_and_directory_can_be_chosen(bench: Bench, tmp_path: Path) -> None:
    home = tmp_path / HOSTILE
    home.mkdir()
    text = bench.output(
        "python3",
        "-c",
        "import os; print(ascii([os.environ['HOME'], os.getcwd()]))",
        mounts=(Mount(str(home), str(home), read_only=False),),
        environment={"HOME": str(home)},
        cwd=str(home),
    )
    assert text == ascii([str(home), str(home)]) + "\n"


def test_nothing_of_our_environment_gets_in(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "1")
    monkeypatch.setenv("APPTAINERENV_ANOTHER", "1")
    assert bench.output("sh", "-c", 'echo "[$SECRET_OF_OURS$ANOTHER]"') == "[]\n"


def test_files_belong_to_the_caller(bench: Bench, tmp_path: Path) -> None:
    bench.output("touch", str(tmp_path / "made"), mounts=(Mount(str(tmp_path), str(tmp_path), False),))
    assert (tmp_path / "made").stat().st_uid == os.geteuid()


def test_containers_are_found_by_label_and_by_anybody(bench: Bench) -> None:
    container = bench.run("sleep", "1000")
    other = bench.another()
    try:
        (found,) = other.find({LABEL: bench.token})
        assert (found.id, found.running, found.labels[LABEL]) == (container, True, bench.token)
        assert other.find({LABEL: "another"}) == []
        other.remove(found.id)
        assert other.find({LABEL: bench.token}) == []
    finally:
        other.close()
    assert bench.engine.wait(container, 60).code in (137, None)
    bench.engine.remove(container)


def test_a_name_is_given_once(bench: Bench) -> None:
    spec = bench.spec("sleep", "1000")
    container = bench.engine.run(spec)
    with pytest.raises(ContainerError):
        bench.engine.run(spec)
    assert bench.left() == [spec.name]
    bench.engine.remove(container)


def test_stopping_asks_first(bench: Bench) -> None:
    script = (
        "import signal, sys; signal.signal(15, lambda *_: sys.exit(9)); print('up', flush=True)\n"
        "signal.pause()"
    )
    container = bench.run("python3", "-c", script)
    while bench.engine.logs(container, 100) != b"up\n":
        assert bench.engine.wait(container, 0.01) is None
    bench.engine.stop(container, 60)
    assert bench.engine.wait(container) == Exit(9)
    bench.engine.remove(container)


def test_one_thread_may_wait_while_another_kills(bench: Bench) -> None:
    container = bench.run("sleep", "1000")
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(bench.engine.wait, container) for _ in range(4)]
        bench.engine.kill(container)
        assert {future.result().code for future in waiting} == {137}
    bench.engine.remove(container)


def test_who_does_not_listen_is_killed(bench: Bench) -> None:
    container = bench.run("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    bench.engine.stop(container, 0)
    assert bench.engine.wait(container).code == 137
    bench.engine.remove(container)


def test_killing_ends_everything_inside(real_bench: Bench, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    script = (
        "import fcntl, os, time; fd = os.open('lock', os.O_CREAT | os.O_RDWR); fcntl.flock(fd, 2)\n"
        "os.fork() or os.setsid() and os.fork() or os.close(0)\nprint('up', flush=True); time.sleep(1000)"
    )
    mounts = (Mount(str(tmp_path), str(tmp_path), read_only=False),)
    container = real_bench.run("python3", "-c", script, mounts=mounts, cwd=str(tmp_path))
    while b"up" not in real_bench.engine.logs(container, 100):
        assert real_bench.engine.wait(container, 0.01) is None
    real_bench.engine.kill(container)
    import fcntl

    with lock.open() as file:  # held by every process of the container: free means that all are gone
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert real_bench.engine.wait(container).code == 137
    real_bench.engine.remove(container)


def test_a_container_that_is_gone_is_nobody(bench: Bench) -> None:
    engine = bench.engine
    assert engine.wait("no-such-container", 60) == Exit(None)
    assert engine.logs("no-such-container", 10) == b""
    engine.stop("no-such-container", 0)
    engine.kill("no-such-container")
    engine.remove("no-such-container")


def test_a_running_container_can_be_removed_twice(bench: Bench) -> None:
    container = bench.run("sleep", "1000")
    bench.engine.remove(container)
    bench.engine.remove(container)
    assert bench.left() == []


def test_a_mount_that_is_not_there_is_refused(bench: Bench) -> None:
    with pytest.raises(ContainerError, match="/no such place"):
        bench.run("true", mounts=(Mount("/no such place", "/there"),))
    assert bench.left() == []


def test_a_mount_where_nothing_can_be_mounted_is_refused_by_name(bench: Bench, tmp_path: Path) -> None:
    """Apptainer puts an empty memory file system there; Docker can mount into its own."""
    mounts = (Mount(str(tmp_path), "/dev/shm/a/place"),)
    if bench.kind == "docker":
        assert bench.output("ls", "/dev/shm/a/place", mounts=mounts) == ""
        return
    with pytest.raises(ContainerError, match=r"cannot mount /dev/shm/a/place .*take another directory"):
        bench.run("true", mounts=mounts)
    assert bench.left() == []


def test_a_program_that_is_not_there_is_told(bench: Bench) -> None:
    if bench.kind != "docker":
        with pytest.raises(ContainerError, match="no-such-program"):
            bench.run("no-such-program")
        return
    container = bench.run("no-such-program")
    assert bench.engine.wait(container) == Exit(127)
    assert b"no-such-program" in bench.engine.logs(container, 1000)
    bench.engine.remove(container)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("argv", ()),
        ("argv", ("a\0b",)),
        ("environment", {"A=B": "x"}),
        ("cwd", "relative"),
        ("mounts", (Mount("/etc/../etc", "/x"),)),
        ("name", "--rm"),
        ("network", "container:other"),
    ],
)
def test_what_no_engine_can_do_is_refused_by_name(bench: Bench, field: str, value: Any) -> None:
    spec = replace(bench.spec("true"), **{field: value})
    with pytest.raises(ContainerError, match=r"^cannot "):
        bench.engine.run(spec)
    assert bench.left() == []


def test_mounts_appear_where_they_are_wanted(real_bench: Bench, tmp_path: Path) -> None:
    place = tmp_path / HOSTILE
    place.mkdir()
    (place / "file").write_text("content")
    text = real_bench.output("cat", f"/some/{HOSTILE}/file", mounts=(Mount(str(place), f"/some/{HOSTILE}"),))
    assert text == "content"


def test_only_what_is_writable_can_be_written(real_bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir()
    (tmp_path / "rw").mkdir()
    (tmp_path / "rw" / "nested ro").mkdir()
    mounts = (
        Mount(str(tmp_path / "ro"), str(tmp_path / "ro")),
        Mount(str(tmp_path / "rw"), str(tmp_path / "rw"), read_only=False),
        Mount(str(tmp_path / "rw" / "nested ro"), str(tmp_path / "rw" / "nested ro")),
    )
    script = """
import sys
for place in sys.argv[1:]:
    try:
        open(place + "/made", "w").close()
        print("yes")
    except OSError as error:
        print("no", error.errno)
"""
    places = [str(tmp_path / "ro"), str(tmp_path / "rw"), str(tmp_path / "rw" / "nested ro"), "/", "/tmp"]
    text = real_bench.output("python3", "-c", script, *places, mounts=mounts)
    assert text.splitlines() == ["no 30", "yes", "no 30", "no 30", "yes"]


def test_it_is_a_pid_namespace_of_its_own_with_an_init(real_bench: Bench) -> None:
    script = "import os; print(os.getpid() < 1000, os.getppid() > 0, len(os.listdir('/proc')) < 200)"
    assert real_bench.output("python3", "-c", script) == "True True True\n"
    assert real_bench.output("cat", "/proc/1/comm").strip() in ("docker-init", "tini", "appinit", "sinit")


def test_a_process_is_found_by_the_id_it_has_inside(real_bench: Bench) -> None:
    script = (
        "import os, time; print(os.getpid(), os.readlink('/proc/self/ns/pid'), flush=True); time.sleep(1000)"
    )
    container = real_bench.run("python3", "-c", script)
    while not (text := real_bench.engine.logs(container, 100)).endswith(b"\n"):
        assert real_bench.engine.wait(container, 0.01) is None
    inside, namespace = text.decode().split()
    here = pid_here(int(inside), namespace)
    assert pid_namespace(here) == namespace != pid_namespace()
    assert script.encode() in Path(f"/proc/{here}/cmdline").read_bytes()
    real_bench.engine.remove(container)
    assert pid_here(int(inside), namespace) == 0


def test_a_network_of_none_has_no_way_out(real_bench: Bench) -> None:
    script = "import os; print(sorted(os.listdir('/sys/class/net')))"
    assert real_bench.output("python3", "-c", script, network="none") in ("['lo']\n", "[]\n")


def test_memory_that_runs_out_is_told(real_bench: Bench) -> None:
    assert "memory" in real_bench.engine.enforces
    container = real_bench.run("python3", "-c", "b = bytearray(300 << 20)", memory=64 << 20)
    assert real_bench.engine.wait(container) == Exit(137, oom_killed=True)
    real_bench.engine.remove(container)


def test_the_number_of_processes_is_limited(real_bench: Bench) -> None:
    script = "import os, time\nfor _ in range(50):\n    os.fork() or time.sleep(60)"
    container = real_bench.run("python3", "-c", script, pids=20)
    ended = real_bench.engine.wait(container)
    assert ended == Exit(1)
    assert b"BlockingIOError" in real_bench.engine.logs(container, 4000)
    real_bench.engine.remove(container)


def test_modes_of_mounted_files_stay(real_bench: Bench, tmp_path: Path) -> None:
    mounts = (Mount(str(tmp_path), str(tmp_path), read_only=False),)
    real_bench.output("sh", "-c", f"umask 077; touch '{tmp_path}/private'", mounts=mounts)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
