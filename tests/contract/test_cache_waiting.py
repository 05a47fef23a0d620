"""One download for all who ask, whatever becomes of the downloader."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.cache_nodes import BIG, Child, Node, node_in
from toilcache.cache import database, downloads

MANY = 64


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path / "node", disk=2 * BIG) as made:
        yield made


def fetches(node: Node, child: Child | None = None) -> Callable[..., None]:
    """Fetching that is counted in a file, and that stops in the middle where a child is given."""
    read = node.store.read_file

    def fetch(file_id: str, path: str, symlink: bool = False) -> None:
        with open(node.where / "fetched", "ab", buffering=0) as log:
            log.write(b".")
        if child is not None:
            Path(path).with_name(".half").write_bytes(b"half")
            child.reach("fetching")
            os.unlink(Path(path).with_name(".half"))
        read(file_id, path, symlink)

    return fetch


def fetched(node: Node) -> int:
    try:
        return (node.where / "fetched").stat().st_size
    except FileNotFoundError:
        return 0


def reader(node: Node, file_id: str, *, stops: bool = False, says: str = "") -> Callable[[Child], None]:
    def work(child: Child) -> None:
        node.store.read_file = fetches(node, child if stops else None)  # type: ignore[method-assign]
        with node.job() as fs:
            if says:
                child.note(says)
            assert Path(fs.readGlobalFile(file_id)).read_bytes() == b"x" * BIG

    return work


def waits_for_lock(pid: int) -> bool:
    """Say whether a process waits in the kernel for a lock of a download."""
    locks = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f" {pid} " in line for line in locks)


def until(condition: Callable[[], Any]) -> None:
    while not condition():
        os.sched_yield()


def test_all_wait_for_one_download(node: Node) -> None:
    file_id = node.uploaded(b"x" * BIG)
    downloader = Child(reader(node, file_id, stops=True))
    assert downloader.hear() == "fetching"
    waiters = [Child(reader(node, file_id, says="asks")) for _ in range(MANY - 1)]
    assert [child.hear() for child in waiters] == ["asks"] * (MANY - 1)
    downloader.go_on()
    assert [child.end() for child in [downloader, *waiters]] == [0] * MANY
    assert fetched(node) == 1


def test_a_waiter_waits_in_the_kernel_and_is_woken(node: Node) -> None:
    file_id = node.uploaded(b"x" * BIG)
    downloader = Child(reader(node, file_id, stops=True))
    assert downloader.hear() == "fetching"
    waiter = Child(reader(node, file_id))
    until(lambda: waits_for_lock(waiter.pid))
    downloader.go_on()
    assert [waiter.end(), downloader.end()] == [0, 0]
    assert fetched(node) == 1


def test_one_waiter_takes_over_from_a_downloader_that_died(node: Node) -> None:
    file_id = node.uploaded(b"x" * BIG)
    downloader = Child(reader(node, file_id, stops=True))
    assert downloader.hear() == "fetching"
    waiters = [Child(reader(node, file_id)) for _ in range(8)]
    until(lambda: all(waits_for_lock(child.pid) for child in waiters))
    downloader.kill()
    assert [child.end() for child in waiters] == [0] * 8
    assert fetched(node) == 2
    assert node.findings() == []


def test_a_download_that_fails_is_tried_by_the_next(node: Node) -> None:
    file_id = node.uploaded(b"x" * BIG)

    def fails(child: Child) -> None:
        def refuse(*arguments: Any) -> None:
            child.reach("fetching")
            raise ZeroDivisionError

        node.store.read_file = refuse  # type: ignore[method-assign]
        with node.job() as fs, pytest.raises(ZeroDivisionError):
            fs.readGlobalFile(file_id)

    downloader = Child(fails)
    assert downloader.hear() == "fetching"
    waiter = Child(reader(node, file_id))
    until(lambda: waits_for_lock(waiter.pid))
    downloader.go_on()
    assert [downloader.end(), waiter.end()] == [0, 0]
    assert fetched(node) == 1


def test_nobody_waits_for_ever_for_a_downloader_that_was_stopped(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "STALL_SECS", 0.2)
    file_id = node.uploaded(b"x" * BIG)
    downloader = Child(reader(node, file_id, stops=True))
    assert downloader.hear() == "fetching"
    downloader.signal(signal.SIGSTOP)
    waiters = [Child(reader(node, file_id)) for _ in range(3)]
    assert [child.end() for child in waiters] == [0] * 3
    assert fetched(node) == 1 + 3
    downloader.signal(signal.SIGCONT)
    downloader.go_on()
    assert downloader.end() == 0
    assert node.findings() == []
    assert node.states() == {"cached": 1}


def test_a_minute_is_the_longest_that_a_stopped_process_holds_anybody_up() -> None:
    """Its download is given up at a look after so long; its transaction, after half the time."""
    assert downloads.STALL_SECS * (1 + 1 / downloads._LOOKS) <= 60
    assert database.SQLITE_TIMEOUT_SECS / 2 <= 30


def test_a_download_that_grows_is_waited_for(node: Node, tmp_path: Path) -> None:
    """Twice as long as nothing may grow: what is waited for is progress, not an end."""
    lock, place = tmp_path / "lock", tmp_path / "place"
    lock.touch()
    place.mkdir()

    def work(child: Child) -> None:
        from toilcache.node.locks import LockFile

        with LockFile(str(lock)) as file:
            file.lock(shared=False, wait=True)
            child.reach("holds")

    holder = Child(work)
    assert holder.hear() == "holds"
    looks: list[int] = []

    def sizes(directory: str) -> dict[str, int]:
        looks.append(1)
        if len(looks) == 8:
            holder.go_on()
        return {"file": len(looks)}

    original, downloads._sizes = downloads._sizes, sizes
    try:
        assert downloads._has_ended(str(lock), str(place), 0.06)
    finally:
        downloads._sizes = original
    assert holder.end() == 0
    assert len(looks) >= 8
