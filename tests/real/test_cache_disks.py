"""The node cache on real file systems: blocks are shared where they can be, and a full disk is a full disk.

Each file system is an image file, loop-mounted, or a tmpfs of a few megabytes.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.cache_nodes import CHANGES, Node, commit, node_in, spoil, write
from tests.fakes.power_cut import mounted
from toilcache.cache.check import check
from toilcache.errors import JobStoreUnavailableError
from toilcache.file_store.caching import CachingFileStore
from toilcache.job.job import Job

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("engines")]

MB = 1 << 20
SHARED = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}
IMAGE_BYTES = 512 * MB


@contextmanager
def disk_of(kind: str, base: Path) -> Iterator[Path]:
    """A new file system of this kind."""
    image = base / "image"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run([*SHARED[kind], str(image)], check=True, capture_output=True)
    with mounted(image, base / "disk", "loop") as place:
        yield place


def shares_all_blocks(path: Path | str) -> bool:
    """Say whether every extent of a file is another file's too (FIEMAP_EXTENT_SHARED)."""
    os.sync()  # an extent that is yet to be written has no place that could be shared
    listed = subprocess.run(["filefrag", "-v", str(path)], check=True, capture_output=True, text=True).stdout
    extents = [line for line in listed.splitlines() if line.split(":")[0].strip().isdecimal()]
    assert extents
    return all("shared" in line for line in extents)


def bytes_used(place: Path) -> int:
    os.sync()
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.mark.parametrize("kind", SHARED)
def test_reads_and_writes_share_their_blocks(tmp_path: Path, kind: str) -> None:
    size = 32 * MB
    with disk_of(kind, tmp_path) as disk, node_in(disk / "node", disk=4 * size) as node:
        file_id = node.uploaded(os.urandom(size))
        before = bytes_used(disk)
        with node.job() as fs:
            assert fs.cachingIsFree()
            paths = [fs.readGlobalFile(file_id) for _ in range(3)]
            write("mine", os.urandom(size))
            written = fs.writeGlobalFile("mine")
            commit(fs)
            assert node.states() == {"cached": 2}
            for path in [*paths, "mine", *node.payloads()]:
                assert shares_all_blocks(path), path
            # Two files of content, and what file systems keep about them.
            assert bytes_used(disk) - before < size + size // 4
            with open(paths[0], "rb") as first, open(paths[1], "rb") as second:
                assert not os.path.sameopenfile(first.fileno(), second.fileno())
        with node.job() as reader:
            assert shares_all_blocks(reader.readGlobalFile(written))
            assert not shares_all_blocks(reader.readGlobalFile(written, mutable=True))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", SHARED)
def test_where_blocks_are_shared_nobody_can_harm_anybody(tmp_path: Path, kind: str, change: str) -> None:
    """As root, with the very file that the job was handed."""
    data = os.urandom(MB)
    with disk_of(kind, tmp_path) as disk, node_in(disk / "node", disk=8 * MB) as node:
        file_id = node.uploaded(data)
        with node.job() as vandal, node.job() as victim:
            held = victim.readGlobalFile(file_id)
            path = vandal.readGlobalFile(file_id)
            os.chmod(path, 0o644)
            spoil(path, change)
            mine = write(vandal.getLocalTempFile(), data)
            written = vandal.writeGlobalFile(mine)
            spoil(mine, change)
            commit(vandal)
            commit(victim)
            assert Path(held).read_bytes() == data
        assert node.stored(file_id) == node.stored(written) == data


@contextmanager
def small_node(tmp_path: Path, size: int) -> Iterator[Node]:
    """A node on a disk of so many bytes, with its job store."""
    (tmp_path / "small").mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(tmp_path / "small")], check=True
    )
    try:
        with node_in(tmp_path / "small" / "node", disk=0) as node:
            yield node
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "small")], check=True)


def fill(node: Node, leave: int) -> Path:
    """Somebody else takes all that the disk has, but for this."""
    ballast = node.where / "ballast"
    free = os.statvfs(node.where)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - leave)
    return ballast


def try_all(node: Node, fs: CachingFileStore, file_id: str, data: bytes) -> int:
    """Do what jobs do; each thing is done, or told to have found no room. Returns how many were told."""
    told = 0
    for mutable in (False, True):
        try:
            assert Path(fs.readGlobalFile(file_id, mutable=mutable)).read_bytes() == data
        except OSError as error:
            told += is_no_room(error)
    try:
        path = write(fs.getLocalTempFile(), data)
        written = fs.writeGlobalFile(path)
        fs.startCommit()
        fs.waitForCommit()
        assert node.stored(written) == data
    except (OSError, JobStoreUnavailableError) as error:
        told += is_no_room(error)
    return told


def is_no_room(error: Exception) -> bool:
    """True; fails if the error is another one."""
    cause = error if isinstance(error, OSError) else error.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == errno.ENOSPC
    return True


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """With less and less room left: nothing is wrong afterwards, and with room again all is as before."""
    data = os.urandom(200_000)
    told = []
    with small_node(tmp_path, 32 * MB) as node:
        file_id = node.uploaded(data)
        with node.job() as fs:
            fs.readGlobalFile(node.uploaded(os.urandom(10)))
        for leave in (2 * MB, 1 * MB, 500_000, 300_000, 150_000, 50_000, 4096, 0):
            fs = node.file_store()
            ballast = fill(node, leave)
            try:
                with fs.open(Job()):
                    told.append(try_all(node, fs, file_id, data))
            except OSError as error:
                told.append(4 * is_no_room(error))
            ballast.unlink()
            assert check(node.cache) == []
            with node.job() as fs:
                assert try_all(node, fs, file_id, data) == 0
    print(f"told of no room, with less and less left: {told}")
    assert told[0] == 0
    assert told[-1] > 0
