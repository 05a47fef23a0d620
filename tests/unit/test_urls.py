"""URLs: local ones by all their spellings, others through whatever plug-in there is."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import fsspec
import pytest

from toilcache.errors import ToilcacheError
from toilcache.job_store import urls
from toilcache.job_store.abstract import AbstractJobStore


@pytest.fixture
def bucket() -> Iterator[str]:
    """A place that only a plug-in reaches."""
    system = fsspec.filesystem("memory")
    name = f"/bucket-{uuid.uuid4().hex}"
    system.mkdir(name)
    yield f"memory:/{name}"
    system.rm(name, recursive=True)


def put(uri: str, data: bytes) -> str:
    with fsspec.open(uri, "wb") as stream:
        stream.write(data)
    return uri


@pytest.mark.parametrize("prefix", ["file:", "file://", "FILE://", "File://LOCALHOST", "file://localhost"])
@pytest.mark.parametrize("name", ["plain", "a b%41#?é\n", "-rf"])
def test_all_spellings_of_a_local_file_are_the_same(tmp_path: Path, prefix: str, name: str) -> None:
    path = str(tmp_path / name)
    assert urls.local_path(prefix + quote(path)) == urls.local_path(path) == path
    assert urls.local_path(urls.file_url(path)) == path


def test_a_bare_path_is_not_unquoted_and_may_be_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert urls.local_path("a%20b:c") == f"{tmp_path}/a%20b:c"


@pytest.mark.parametrize("uri", ["file://elsewhere/x", "file:", "file:relative", "file://"])
def test_what_names_no_file_of_this_machine(uri: str) -> None:
    with pytest.raises(ToilcacheError, match=r"cannot use .*file:/path or /path"):
        urls.local_path(uri)


def test_looking_at_local_urls(tmp_path: Path) -> None:
    (tmp_path / "d r" / "sub").mkdir(parents=True)
    (tmp_path / "d r" / "f%").write_bytes(b"12345")
    (tmp_path / "d r" / "f%").chmod(0o755)
    base = urls.file_url(str(tmp_path / "d r"))
    store = AbstractJobStore
    for directory in (base, base + "/", str(tmp_path / "d r")):
        assert store.get_is_directory(directory)
        assert store.url_exists(directory)
    assert store.list_url(base) == ["f%25", "sub/"]
    assert store.list_url(str(tmp_path / "d r") + "/") == ["f%", "sub/"]
    for file in (f"{base}/f%25", str(tmp_path / "d r" / "f%")):
        assert not store.get_is_directory(file)
        assert store.get_size(file) == 5
        target = io.BytesIO()
        assert store.read_from_url(file, target) == (5, True)
        assert target.getvalue() == b"12345"
        with store.open_url(file) as stream:
            assert stream.read() == b"12345"
    for call in (store.open_url, store.get_size, store.list_url):
        with pytest.raises(FileNotFoundError):
            call(f"{base}/nothing")


def test_looking_through_a_plugin(bucket: str) -> None:
    put(f"{bucket}/file", b"12345")
    put(f"{bucket}/sub/x", b"")
    store = AbstractJobStore
    assert store.list_url(bucket) == store.list_url(bucket + "/") == ["file", "sub/"]
    assert store.get_is_directory(bucket)
    assert not store.get_is_directory(f"{bucket}/file")
    assert store.url_exists(f"{bucket}/file")
    assert store.get_size(f"{bucket}/file") == 5
    target = io.BytesIO()
    assert store.read_from_url(f"{bucket}/file", target) == (5, False)
    with store.open_url(f"{bucket}/file") as stream:
        assert stream.read() == b"12345"
    with pytest.raises(FileNotFoundError):
        store.open_url(f"{bucket}/nothing")


def test_a_scheme_that_nothing_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToilcacheError, match=r"cannot open nosuch://x/y.*install the fsspec plug-in"):
        AbstractJobStore.url_exists("nosuch://x/y")

    def missing(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(
        ToilcacheError, match=r"cannot open s3://b/k: Install s3fs .*pip install 'toilcache\[s3\]'"
    ):
        AbstractJobStore.open_url("s3://b/k")


def test_a_plugin_that_fails_in_its_own_way(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("quota\nexceeded")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "exists", fail)
    with pytest.raises(ToilcacheError, match=r"cannot reach memory:.*RuntimeError: quota exceeded"):
        AbstractJobStore.url_exists(f"{bucket}/x")
