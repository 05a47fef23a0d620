"""What every job store promises about URLs: local ones by all their spellings, others through plug-ins."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import fsspec
import pytest

from tests.fakes.job_stores import KINDS, NAMES, Bench
from toilcache.errors import NoSuchFileException
from toilcache.job_store import urls


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(request.param, tmp_path)


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


@pytest.mark.parametrize("symlink", [True, False])
@pytest.mark.parametrize("spelling", ["{}", "file:{}", "file://{}", "FILE://{}"])
def test_importing_a_local_file(bench: Bench, spelling: str, symlink: bool) -> None:
    path = bench.local(b"data", "plain", 0o755)
    uri = spelling.format(path if spelling == "{}" else quote(path))
    file_id = bench.store.import_file(uri, symlink=symlink)
    assert (file_id.size, file_id.executable) == (4, True)
    assert bench.read(file_id) == b"data"
    assert bench.store.import_file(uri, "shared", symlink=symlink) is None
    with bench.store.read_shared_file_stream("shared") as stream:
        assert stream.read() == b"data"


def test_a_copied_import_no_longer_needs_the_original(bench: Bench) -> None:
    path = Path(bench.local(b"data"))
    ids = [bench.store.import_file(str(path), symlink=False, hardlink=hardlink) for hardlink in (True, False)]
    path.write_bytes(b"other")
    assert [bench.read(file_id) for file_id in ids] == [b"data", b"data"]


def test_importing_what_is_not_there(bench: Bench, bucket: str) -> None:
    for uri in (str(bench.home / "nothing"), f"{bucket}/nothing"):
        for symlink in (True, False):
            for shared in (None, "shared"):
                with pytest.raises(FileNotFoundError):
                    bench.store.import_file(uri, shared, symlink=symlink)  # type: ignore[arg-type]
        assert not bench.store.url_exists(uri)
    for symlink in (True, False):
        with pytest.raises(IsADirectoryError):
            bench.store.import_file(str(bench.home), symlink=symlink)


def test_importing_through_a_plugin(bench: Bench, bucket: str) -> None:
    uri = put(f"{bucket}/some name.txt", b"data")
    file_id = bench.store.import_file(uri)
    assert (file_id.size, file_id.executable) == (4, False)
    assert bench.read(file_id) == b"data"
    assert file_id.endswith("-some%20name.txt")
    assert bench.store.import_file(uri, "shared") is None
    with bench.store.read_shared_file_stream("shared") as stream:
        assert stream.read() == b"data"


@pytest.mark.parametrize("name", NAMES)
def test_exporting_to_a_local_path(bench: Bench, name: str) -> None:
    out = bench.home / f"out {name}"[:255]
    for executable in (True, False):
        file_id = bench.store.write_file(bench.local(b"data", "tool", 0o755 if executable else 0o644))
        bench.store.export_file(file_id, str(out))
        assert out.read_bytes() == b"data"
        assert bool(out.stat().st_mode & stat.S_IXUSR) is executable
        assert out.stat().st_nlink == 1
        bench.store.export_file(str(file_id), urls.file_url(str(out)))
        assert bool(out.stat().st_mode & stat.S_IXUSR) is executable


def test_an_export_has_the_permissions_of_any_new_file(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local())
    old = os.umask(0o027)
    try:
        bench.store.export_file(file_id, str(bench.home / "out"))
    finally:
        os.umask(old)
    assert stat.S_IMODE((bench.home / "out").stat().st_mode) == 0o640


def test_exporting_to_a_pipe(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local(b"data"))
    reader, writer = os.pipe()
    try:
        bench.store.export_file(file_id, f"/dev/fd/{writer}")
        assert os.read(reader, 100) == b"data"
    finally:
        os.close(reader)
        os.close(writer)


def test_exporting_through_a_plugin(bench: Bench, bucket: str) -> None:
    file_id = bench.store.write_file(bench.local(b"data"))
    bench.store.export_file(file_id, f"{bucket}/out")
    assert bench.store.get_size(f"{bucket}/out") == 4


def test_exporting_what_is_not_there(bench: Bench) -> None:
    with pytest.raises(NoSuchFileException):
        bench.store.export_file("free/0123456789abcdef-x", str(bench.home / "out"))
    file_id = bench.store.write_file(bench.local())
    with pytest.raises(FileNotFoundError):
        bench.store.export_file(file_id, str(bench.home / "no such" / "out"))


def test_public_urls_lead_to_the_content(bench: Bench) -> None:
    file_id = bench.store.write_file(bench.local(b"data", "näme\n"))
    with bench.store.write_shared_file_stream("shared") as stream:
        stream.write(b"data")
    path = bench.local(b"data", "original")
    linked = bench.store.import_file(path)
    for url in (
        bench.store.get_public_url(file_id),
        bench.store.get_public_url(str(linked)),
        bench.store.get_shared_public_url("shared"),
    ):
        assert url.startswith("file:/")
        assert url.isprintable()
        with bench.store.open_url(url) as stream:
            assert stream.read() == b"data"
    assert bench.store.publicUrlExpiration >= timedelta(hours=1)
