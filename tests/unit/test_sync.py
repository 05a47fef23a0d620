"""Syncing the file system of a store: its errors, and that none of them escapes us."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from toilcache import vfs
from toilcache.job_store.directory import DirectoryBackend


def test_one_descriptor_is_kept_so_that_no_error_is_told_to_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new descriptor would not be told of an error that, say, another workflow's sync has met."""
    synced: list[int] = []
    monkeypatch.setattr(vfs, "syncfs", synced.append)
    backend = DirectoryBackend(str(tmp_path), "trash")
    backend.sync()
    backend.sync()
    assert synced[0] == synced[1]
    os.fstat(synced[0])
    del backend
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(synced[0])


def test_a_store_that_is_gone_is_not_synced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DirectoryBackend(str(tmp_path / "missing"), "trash").sync()


def test_without_syncfs_everything_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    called: list[bool] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(vfs, "sync", lambda: called.append(True))
    DirectoryBackend(str(tmp_path), "trash").sync()
    assert called == [True]


def test_a_disk_that_fails_to_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    def syncfs(_: int) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: type("C", (), {"syncfs": staticmethod(syncfs)}))
    with pytest.raises(OSError, match="Input/output") as caught:
        DirectoryBackend(str(tmp_path), "trash").sync()
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path))
