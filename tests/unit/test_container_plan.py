"""What a host in a container is made of, and the engine that is carried into it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toilcache.batch.container_host import attend
from toilcache.batch.container_plan import (
    HOST_MEMORY,
    PIDS,
    HostContainer,
    box_for,
    fate_of,
    mounts_of,
    readable_places,
)
from toilcache.batch.container_service import Service
from toilcache.batch.model import JobRequest
from toilcache.containers import tool
from toilcache.containers.engines import engine_names, make_engine
from toilcache.containers.kit import FIRST, LAST, make_kit
from toilcache.containers.model import ATTEMPT_LABEL, DEVICES_LABEL, Exit, Mount
from toilcache.containers.tool import ToolRequest
from toilcache.errors import ConfigError, ContainerError, EngineUnavailableError
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.node.coordination import NodeDirs

PLAN = HostContainer(
    engine="docker",
    image_cache=None,
    image="a\udce9 image",
    stores=("/data/-the store",),
    node=("abc", "/scratch/x", "/tmp"),
    scripts=("/home/me/it's",),
    labels={"toilcache.run": "1"},
    variables=("A",),
    gpus=(0, 2),
)


def test_a_plan_is_one_word_of_any_characters() -> None:
    word = PLAN.to_json()
    assert word.isascii()
    assert HostContainer.from_json(word) == PLAN


def test_each_place_is_where_it_is_outside_and_parents_come_first() -> None:
    dirs = NodeDirs(*PLAN.node)
    mounts = mounts_of(PLAN, dirs, ["/data", "/scratch/x"])
    assert all(mount.source == mount.target for mount in mounts)
    assert {mount.target for mount in mounts if not mount.read_only} == {
        *("/data/-the store", dirs.work, dirs.coordination, dirs.lock_path)
    }
    order = [mount.target for mount in mounts]
    assert order.index("/data") < order.index("/data/-the store")
    assert order.index("/scratch/x") < order.index(dirs.work) < order.index(dirs.engine)
    assert Mount(dirs.engine, dirs.engine) in mounts


def test_what_is_written_wins_over_what_is_read() -> None:
    mounts = mounts_of(PLAN, NodeDirs(*PLAN.node), ["/data/-the store"])
    assert Mount("/data/-the store", "/data/-the store", read_only=False) in mounts
    assert len({mount.target for mount in mounts}) == len(mounts)


def test_links_and_their_ends_are_seen(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "link").symlink_to("real")
    other = tmp_path / "other"
    other.mkdir()
    (other / "to file").symlink_to(tmp_path / "real" / "file")
    places = readable_places(
        [str(tmp_path / "link")], [str(other / "to file"), str(tmp_path / "missing" / "x")]
    )
    assert places == sorted(map(str, [tmp_path / "link", tmp_path / "real", other]))


def test_of_a_directory_that_images_have_only_the_file_is_seen() -> None:
    assert readable_places([], ["/etc/hostname", "/tmp"]) == ["/etc/hostname", "/tmp"]


@pytest.mark.parametrize("directory", ["/", "/usr/bin", "/etc", "/tmp"])
def test_code_in_a_directory_that_images_have_is_refused_by_name(directory: str) -> None:
    with pytest.raises(ContainerError, match=f"cannot show {directory} to containers"):
        readable_places([directory], [])


def test_the_kit_is_made_once_and_runs_without_anything_else(tmp_path: Path) -> None:
    kit = tmp_path / "the kit"
    make_kit(str(kit))
    first = os.stat(kit).st_ino
    make_kit(str(kit))
    assert os.stat(kit).st_ino == first
    assert sorted(os.listdir(kit / FIRST)) == ["toilcache"]
    assert {path.stem for path in (kit / LAST).iterdir()} == {"cloudpickle", "fsspec", "sh"}
    assert not any(path.is_symlink() for path in kit.rglob("*"))
    code = "import toilcache.worker, toilcache.batch.protocol as p; print(p.__file__, 'site' in dir())"
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path[:] = [{str(kit / FIRST)!r}, *sys.path]; {code}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{kit}/{FIRST}/toilcache/batch/protocol.py")


def test_a_kit_that_was_half_made_is_made_anew(tmp_path: Path) -> None:
    half = tmp_path / "kit.part" / FIRST
    half.mkdir(parents=True)
    make_kit(str(tmp_path / "kit"))
    assert sorted(os.listdir(tmp_path / "kit" / FIRST)) == ["toilcache"]
    assert not half.exists()


def test_an_engine_that_there_is_not_is_named() -> None:
    assert {"auto", "docker", "singularity", "apptainer", "podman"} <= set(engine_names())
    with pytest.raises(
        ConfigError, match=r"cannot use container engine 'rkt'.*choose apptainer, auto, docker"
    ):
        make_engine("rkt")


REQUEST = JobRequest("job1", 3, "name", 0.001, 100, 7, 1, False)


def test_a_job_without_an_image_runs_in_no_container() -> None:
    container = HostContainer("docker", None, None, (), ("wf", "/w", "/c"), per_job=True)
    assert box_for(None, REQUEST, ()) is None
    assert box_for(container, REQUEST, ()) is None
    box = box_for(container, REQUEST._replace(image="own:1"), ())
    assert box is not None
    assert box.image == "own:1"


def test_a_container_for_all_has_no_limits_and_one_for_a_job_has_those_of_the_job() -> None:
    warm = HostContainer("docker", None, "python:3", (), ("wf", "/w", "/c"), labels={"a": "b"})
    box = box_for(warm, REQUEST, (2,))
    assert box == replace(warm, gpus=(2,))
    assert not box.is_limited
    own = box_for(replace(warm, per_job=True), REQUEST, (2, 3))
    assert own is not None
    assert own.is_limited
    assert (own.cores, own.memory, own.pids, own.gpus) == (0.01, 100 + HOST_MEMORY, PIDS, (2, 3))
    assert own.labels["a"] == "b"
    assert (own.labels[ATTEMPT_LABEL], own.labels[DEVICES_LABEL]) == ("job1:3", "2,3")
    assert HostContainer.from_json(own.to_json()) == own


@pytest.mark.parametrize(
    ("ended", "reason", "words"),
    [
        (Exit(137, oom_killed=True), BatchJobExitReason.MEMLIMIT, "memory ran out"),
        (Exit(0, oom_killed=True), BatchJobExitReason.MEMLIMIT, "memory ran out"),
        (Exit(137), BatchJobExitReason.LOST, "was lost: its container was killed by signal 9"),
        (Exit(None), BatchJobExitReason.LOST, "was lost: its container is gone"),
        (Exit(1), BatchJobExitReason.LOST, "was lost: its container ended with status 1"),
    ],
)
def test_what_the_end_of_a_container_means(ended: Exit, reason: BatchJobExitReason, words: str) -> None:
    assert fate_of(ended)[0] == reason
    assert words in fate_of(ended)[1]


@pytest.mark.parametrize(
    ("asked", "given"),
    [((None, None), (2.0, 1000)), ((1.0, 500), (1.0, 500)), ((8.0, 5000), (2.0, 1000))],
)
def test_a_program_beside_a_job_has_no_more_than_the_job(
    asked: tuple[float | None, int | None], given: tuple[float, int]
) -> None:
    request = ToolRequest("docker", None, "image", ("true",), (), "/", cores=asked[0], memory=asked[1])
    limited = Service(2.0, 1000)._limited(request)
    assert (limited.cores, limited.memory) == given
    assert Service()._limited(request) == request


class Stubborn:
    """A launch, and the engine beside it that cannot remove what it has run."""

    def __init__(self, words: ContainerError | None) -> None:
        self.words = words
        self.at_door, self.door = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.waiting: Any = SimpleNamespace(ended=Exit(0), join=lambda: None)
        self.reader, self.writer = os.pipe()
        self.waiting.fileno = lambda: self.reader
        self.handover: Any = SimpleNamespace(fileno=self.door.fileno, accept=self.accept)
        self.engine: Any = SimpleNamespace(
            resolve=lambda name: name, run=lambda spec: "c", close=lambda: None, remove=self.remove
        )
        self.engine.output = lambda container: iter(())
        self.engine.wait = lambda container: Exit(0)

    def accept(self) -> socket.socket:
        self.door.recv(1)
        return self.theirs

    def remove(self, container: str) -> None:
        if self.words is not None:
            raise self.words

    def logs(self) -> bytes:
        return b""

    def ask(self) -> None:
        """Ask for a program as a job does, hear all about it, and end."""
        tool.send_request(self.ours, ToolRequest("docker", None, "image", ("true",), (), "/"))
        self.at_door.send(b"x")
        while self.ours.recv(1 << 16):
            pass
        os.write(self.writer, b"e")

    def close(self) -> None:
        for end in (self.at_door, self.door, self.ours, self.theirs):
            end.close()
        os.close(self.reader)
        os.close(self.writer)


@pytest.mark.parametrize(
    ("words", "status"), [(None, 0), (EngineUnavailableError("away"), 1), (ContainerError("no"), 1)]
)
def test_a_launcher_that_may_leave_a_program_s_container_does_not_end_well(
    words: ContainerError | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = Stubborn(words)
    monkeypatch.setattr(tool, "make_engine", lambda *names: launch.engine)
    asking = threading.Thread(target=launch.ask)
    asking.start()
    found: Any = launch
    assert attend(found, PLAN) == status
    asking.join()
    launch.close()
