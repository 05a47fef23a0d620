"""The image cache: a file per digest, fetched once, whoever asks, whoever dies, whatever fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fakes.apptainers import FakeApptainer
from tests.testbed.fixtures import Engines
from toilcache.containers import images, registry
from toilcache.containers.images import ImageCache
from toilcache.containers.model import Image
from toilcache.containers.sources import sif_id
from toilcache.errors import ContainerImageError

DIGEST = "sha256:" + "5a" * 32
ASK = """
import sys
from toilcache.containers.images import ImageCache
print(ImageCache(sys.argv[1], sys.argv[2]).resolve(sys.argv[3]).digest)
"""


@pytest.fixture
def fake(tmp_path: Path) -> FakeApptainer:
    return FakeApptainer(tmp_path / "fake")


@pytest.fixture
def cache(fake: FakeApptainer, tmp_path: Path) -> ImageCache:
    return ImageCache(fake.program, str(tmp_path / "the cache"))


class Registry(BaseHTTPRequestHandler):
    """Tells one digest for every name, after asking for a token; of the name `gone` it knows nothing."""

    asked = 0

    def do_HEAD(self) -> None:
        type(self).asked += 1
        if "/gone/" in self.path:
            self.send_error(404)
        elif self.headers["Authorization"] != "Bearer abc":
            self.send_response(401)
            where = f"http://localhost:{self.server.server_address[1]}/token"
            self.send_header(
                "WWW-Authenticate", f'Bearer realm="{where}",service="s",scope="repository:x:pull"'
            )
            self.end_headers()
        else:
            self.send_response(200)
            self.send_header("Docker-Content-Digest", DIGEST)
            self.end_headers()

    def do_GET(self) -> None:
        assert self.path == "/token?service=s&scope=repository%3Ax%3Apull"
        body = json.dumps({"token": "abc"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def host() -> Iterator[str]:
    """The address of a registry on this machine."""
    Registry.asked = 0
    with ThreadingHTTPServer(("localhost", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def asking(cache: ImageCache, fake: FakeApptainer, reference: str) -> subprocess.Popen[str]:
    """Another process that asks for an image."""
    argv = [sys.executable, "-c", ASK, fake.program, cache.directory, reference]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def names(cache: ImageCache) -> list[str]:
    """What lies in the cache, but for notes about names."""
    return sorted(name for name in os.listdir(cache.directory) if not name.endswith(".name"))


def archive(path: Path, digest: str) -> str:
    """A Docker archive, as far as its manifest."""
    manifest = path.parent / "manifest.json"
    manifest.write_text(json.dumps([{"Config": f"blobs/sha256/{digest}", "RepoTags": ["x:1"]}]))
    with tarfile.open(path, "w") as file:
        file.add(manifest, "manifest.json")
    return f"docker-archive:{path}"


def test_an_image_is_fetched_once_and_named_by_its_digest(
    cache: ImageCache, fake: FakeApptainer, host: str
) -> None:
    image = cache.resolve(f"docker://{host}/tools/mapper:1")
    assert image.digest == DIGEST
    assert image.handle == f"{cache.directory}/sha256-{'5a' * 32}.sif"
    assert cache.resolve(f"{host}/tools/mapper:1") == Image(f"{host}/tools/mapper:1", DIGEST, image.handle)
    assert fake.builds == [f"docker://{host}/tools/mapper:1"]
    assert names(cache) == [f"sha256-{'5a' * 32}.sif"]
    assert os.stat(image.handle).st_mode & 0o777 == 0o444


def test_two_names_of_one_digest_are_one_file(cache: ImageCache, fake: FakeApptainer, host: str) -> None:
    one, two = (cache.resolve(f"docker://{host}/a:{tag}") for tag in ("1", "latest"))
    assert one.handle == two.handle
    assert len(fake.builds) == 1


def test_a_registry_is_not_asked_again_for_a_while(
    cache: ImageCache, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.resolve(f"{host}/a:1")
    asked = Registry.asked
    cache.resolve(f"{host}/a:1")
    assert Registry.asked == asked
    monkeypatch.setattr(images, "NAME_SECONDS", 0.0)
    cache.resolve(f"{host}/a:1")
    assert Registry.asked > asked


def test_without_an_answer_the_name_means_what_it_meant(
    cache: ImageCache, fake: FakeApptainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "NAME_SECONDS", 0.0)
    monkeypatch.setattr(registry, "digest", lambda name: None)
    image = cache.resolve("docker://nobody.invalid/a:1")
    assert image.digest == sif_id(image.handle)
    assert cache.resolve("docker://nobody.invalid/a:1") == image
    assert len(fake.builds) == 1


def test_many_who_ask_at_once_fetch_it_once(cache: ImageCache, fake: FakeApptainer, tmp_path: Path) -> None:
    reference = archive(tmp_path / "image.tar", "ab" * 32)
    processes = [asking(cache, fake, reference) for _ in range(8)]
    answers = [process.communicate() for process in processes]
    assert answers == [(f"sha256:{'ab' * 32}\n", "")] * 8
    assert fake.builds == [reference]
    assert names(cache) == [f"sha256-{'ab' * 32}.sif"]


def test_many_who_ask_for_what_nobody_can_name_fetch_it_once(cache: ImageCache, fake: FakeApptainer) -> None:
    processes = [asking(cache, fake, "docker://localhost:1/a") for _ in range(4)]
    answers = {process.communicate() for process in processes}
    assert len(answers) == 1
    assert fake.builds == ["docker://localhost:1/a:latest"]


def test_a_fetch_that_was_killed_is_nobodys_image(
    cache: ImageCache, fake: FakeApptainer, tmp_path: Path
) -> None:
    reference = archive(tmp_path / "image.tar", "cd" * 32)
    fake.fail("pull-torn")
    with pytest.raises(ContainerImageError, match=r"cannot fetch image"):
        cache.resolve(reference)
    assert [name for name in names(cache) if not name.endswith(".failed")] == []


def test_who_dies_in_the_middle_keeps_nobody_waiting(
    cache: ImageCache, fake: FakeApptainer, tmp_path: Path
) -> None:
    reference = archive(tmp_path / "image.tar", "ef" * 32)
    fake.fail("slow-build")
    first = asking(cache, fake, reference)
    while not fake.builds:
        assert first.poll() is None
        time.sleep(0.005)
    second = asking(cache, fake, reference)
    fake.fail()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.communicate() == (f"sha256:{'ef' * 32}\n", "")
    assert len(fake.builds) == 2
    assert names(cache) == [f"sha256-{'ef' * 32}.sif"]


def test_a_fetch_that_failed_is_told_to_all_for_a_while(
    cache: ImageCache, fake: FakeApptainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = archive(tmp_path / "image.tar", "01" * 32)
    fake.fail("pull-fails")
    with pytest.raises(ContainerImageError, match=r"manifest unknown; check its name"):
        cache.resolve(reference)
    fake.fail()
    with pytest.raises(ContainerImageError, match=r"manifest unknown.*not again for 60 s.*to try at once"):
        cache.resolve(reference)
    assert len(fake.builds) == 1
    monkeypatch.setattr(images, "FAILED_SECONDS", 0.0)
    assert cache.resolve(reference).digest == f"sha256:{'01' * 32}"
    assert names(cache) == [f"sha256-{'01' * 32}.sif"]


def test_an_image_file_is_used_where_it_is(cache: ImageCache, fake: FakeApptainer) -> None:
    image = cache.resolve(fake.image)
    assert image == Image(fake.image, sif_id(fake.image), fake.image)
    assert not os.path.exists(cache.directory)
    assert cache.resolve(f"file://{fake.image}").handle == fake.image


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("/no such.sif", r"cannot use image '/no such.sif': no such file"),
        ("", r"cannot use '' as an image"),
        ("-x", r"cannot use '-x' as an image"),
        ("A B", r"cannot use 'A B' as an image"),
        ("Upper/Case:1", r"cannot use 'Upper/Case:1' as an image"),
        ("docker-archive:/no such.tar", r"cannot read image '/no such.tar'"),
        ("docker-archive:/no:such.tar", r"cannot use image /no:such.tar: .* take no ':' in the path"),
        (__file__, r"it is no Singularity image file"),
    ],
)
def test_what_is_no_image_is_named(cache: ImageCache, fake: FakeApptainer, reference: str, why: str) -> None:
    with pytest.raises(ContainerImageError, match=why):
        cache.resolve(reference)
    assert fake.builds == []


def test_a_cache_that_cannot_be_written_is_named(fake: FakeApptainer, tmp_path: Path) -> None:
    reference = archive(tmp_path / "image.tar", "23" * 32)
    (tmp_path / "file").touch()
    with pytest.raises(
        ContainerImageError, match=r"cannot use the image cache .*/file/cache: not a directory"
    ):
        ImageCache(fake.program, f"{tmp_path}/file/cache").resolve(reference)


@pytest.mark.parametrize("character", [":", ";", "'", '"', "\n"])
def test_a_cache_where_no_image_can_be_made_is_named(
    fake: FakeApptainer, tmp_path: Path, character: str
) -> None:
    """A real one says no more than "exit status 255" there, or that it found no file of half the name."""
    reference = archive(tmp_path / "image.tar", "45" * 32)
    cache = ImageCache(fake.program, f"{tmp_path}/a{character}b")
    with pytest.raises(ContainerImageError, match=r"cannot fetch images into .*; set --imageCache"):
        cache.resolve(reference)
    assert fake.builds == []
    assert not os.path.exists(cache.directory)
    assert cache.resolve(fake.image).handle == fake.image


def test_one_way_to_an_image_that_failed_says_nothing_of_another(
    cache: ImageCache, fake: FakeApptainer, tmp_path: Path
) -> None:
    fake.fail("pull-fails")
    with pytest.raises(ContainerImageError, match=r"image\.tar: .*manifest unknown"):
        cache.resolve(archive(tmp_path / "image.tar", "67" * 32))
    fake.fail()
    assert cache.resolve(archive(tmp_path / "other.tar", "67" * 32)).digest == f"sha256:{'67' * 32}"


@pytest.mark.parametrize(
    ("text", "name", "local"),
    [
        ("python", "docker.io/library/python:latest", False),
        ("python:3.12", "docker.io/library/python:3.12", False),
        ("org/tool:1", "docker.io/org/tool:1", False),
        ("quay.io/org/tool", "quay.io/org/tool:latest", False),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c", True),
        (f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}", False),
    ],
)
def test_names_in_registries(text: str, name: str, local: bool) -> None:
    parsed = registry.parse(text)
    assert (str(parsed), parsed.is_local) == (name, local)


def test_a_registry_tells_the_digest_or_nothing(host: str) -> None:
    assert registry.digest(registry.parse(f"{host}/a")) == DIGEST
    assert registry.digest(registry.parse(f"{host}/gone/a")) is None
    assert registry.digest(registry.parse("localhost:1/a")) is None
    assert registry.digest(registry.parse(f"localhost:1/a@{DIGEST}")) == DIGEST


@pytest.mark.real
def test_real_images_of_a_daemon_and_of_an_archive(
    engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in engines.environment.items():
        monkeypatch.setenv(name, value)
    program = os.path.join(engines.programs, "apptainer")
    cache = ImageCache(program, str(tmp_path / "the cache"))
    from_daemon = cache.resolve("docker-daemon:testbed:py313")
    subprocess.run(
        ["docker", "save", "--output", str(tmp_path / "an image.tar"), "testbed:py313"], check=True
    )
    from_archive = cache.resolve(f"docker-archive:{tmp_path}/an image.tar")
    assert from_daemon.digest == from_archive.digest
    assert from_daemon.handle == from_archive.handle
    assert names(cache) == [os.path.basename(from_daemon.handle)]
    said = subprocess.run(
        [program, "-q", "exec", "--no-privs", from_daemon.handle, "python3", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.startswith("Python 3.13.")
