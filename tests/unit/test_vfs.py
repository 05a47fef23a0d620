"""Every call that changes a file goes through `toilcache.vfs`: the source of all other modules is read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from toilcache import vfs

ROOT = Path(__file__).resolve().parents[2]

# What changes files without being a name of `vfs`.
OTHERS = (
    "chown fchown fdatasync lchown lockf mkfifo mknod pwrite remove removedirs renames replace setxattr "
    "splice truncate writev"
)
SEEN = {*vfs.__all__, *OTHERS.split()}
MODULES = {"os", "fcntl", "posix"}
LIBRARIES = {"shutil", "tempfile", "sqlite3"}
METHODS = {"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to"}
READING = {
    "os.O_RDONLY",
    "os.O_DIRECTORY",
    "os.O_NOFOLLOW",
    "os.O_NONBLOCK",
    "os.O_PATH",
    "os.O_CLOEXEC",
    "_OPEN",
}


def offences(source: str) -> Iterator[str]:
    """Yield each call that changes files past the seam."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield from (name.name for name in node.names if name.name in SEEN)
        elif isinstance(node, ast.Call) and _changes(node):
            yield ast.unparse(node)


def _changes(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    owner, _, attribute = name.rpartition(".")
    if name == "os.open":
        return not _only_reads(call)
    if name in ("open", "os.fdopen"):
        return _writes(call)
    if owner in LIBRARIES:
        return attribute != "which"
    if attribute == "touch":
        return owner != "" and not call.args  # with arguments it is a function of ours
    return attribute in METHODS or (owner in MODULES and attribute in SEEN)


def _only_reads(call: ast.Call) -> bool:
    parts = [part for part in ast.walk(call.args[1]) if isinstance(part, ast.Attribute | ast.Name)]
    flags = {ast.unparse(part) for part in parts} - {"os"}
    return flags <= READING


def _writes(call: ast.Call) -> bool:
    modes = [ast.unparse(mode) for mode in call.args[1:2]]
    modes += [ast.unparse(word.value) for word in call.keywords if word.arg == "mode"]
    return any(set(mode) & set("wax+") for mode in modes)


def modules() -> list[Path]:
    """Return the engine's modules; the benchmark measures it from outside, and is left out."""
    found = [path for room in ("toilcache", "batch", "containers") for path in (ROOT / room).rglob("*.py")]
    return [path for path in found if "bench" not in path.parts and path != ROOT / "toilcache" / "vfs.py"]


# A memory file of a child's output is gone with its descriptor.
ALLOWED = {  # what is no file: memory, and pipes
    "process.py": {"os.fdopen(os.memfd_create('toilcache', os.MFD_CLOEXEC), 'w+b', buffering=0)"},
    "runners.py": {
        "os.write(self._pipe, f'{job_id} {version}'.encode('ascii'))",
        "os.write(self._done[1], f'{os.getpid()} '.encode('ascii'))",
        "os.write(self._wake, b'\\x00')",
    },
}


def test_no_module_changes_files_past_the_seam() -> None:
    assert len(modules()) > 100
    for path in modules():
        found = set(offences(path.read_text())) - ALLOWED.get(path.name, set())
        assert not found, f"{path.relative_to(ROOT)}: {found}; call it through toilcache.vfs"


@pytest.mark.parametrize(
    "line",
    [
        "os.link(a, b)",
        "os.replace(a, b)",
        "os.open(a, os.O_WRONLY)",
        "os.open(a, flags)",
        "os.open(a, os.O_RDONLY | os.O_CREAT)",
        "open(a, 'wb')",
        "open(a, mode='r+')",
        "os.fdopen(a, 'ab')",
        "fcntl.flock(a, 2)",
        "shutil.rmtree(a)",
        "sqlite3.connect(a)",
        "path.write_text(a)",
        "path.touch()",
        "from os import unlink",
    ],
)
def test_what_would_go_past_it_is_seen(line: str) -> None:
    assert list(offences(line))


@pytest.mark.parametrize(
    "line",
    [
        *("os.open(a, os.O_RDONLY)", "open(a, 'rb')", "open(a)", "vfs.link(a, b)", "shutil.which(a)"),
        *("touch(a)", "rows.touch(a, b)"),
    ],
)
def test_what_only_reads_is_left_alone(line: str) -> None:
    assert not list(offences(line))
