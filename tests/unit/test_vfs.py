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
# Of a pathlib.Path; `touch`, `unlink`, `replace` and `open` are names of ours and of strings too.
METHODS = {
    *("chmod", "hardlink_to", "lchmod", "mkdir", "rename", "rmdir"),
    *("symlink_to", "write_bytes", "write_text"),
}
LOCKS = {"file", "_file", "lock", "_lock"}  # what a `LockFile` is called, whose `unlink` is ours
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
    """Yield each use of what changes files past the seam; a call as a whole."""
    nodes = list(ast.walk(ast.parse(source)))
    names = dict(pair for node in nodes for pair in _imported(node))
    calls = {node.func: node for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            yield from (full for _, full in _imported(node) if _is_taken(full))
        elif isinstance(node, ast.Attribute | ast.Name) and _changes(_full(node, names), calls.get(node)):
            yield ast.unparse(calls.get(node, node))


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield what names an import makes, and of what."""
    if isinstance(node, ast.Import):
        yield from ((name.asname, name.name) for name in node.names if name.asname)
    elif isinstance(node, ast.ImportFrom):
        yield from ((name.asname or name.name, f"{node.module}.{name.name}") for name in node.names)


def _is_taken(name: str) -> bool:
    """True for an import that would take a changing call out of its module, past any fault put there."""
    owner, _, attribute = name.rpartition(".")
    whole = attribute == "*" and owner in MODULES | LIBRARIES
    return whole or owner == "toilcache.vfs" or _changes(name, None)


def _full(node: ast.expr, names: dict[str, str]) -> str:
    """Return the name of a node as its module calls it, whatever it was imported as."""
    text = ast.unparse(node)
    first = text.partition(".")[0].partition("(")[0]
    return names.get(first, first) + text[len(first) :]


def _changes(name: str, call: ast.Call | None) -> bool:
    """Say whether what has this name changes files when it is called so; without a call, as it may be."""
    owner, _, attribute = name.rpartition(".")
    if name == "os.open":
        return call is None or not _only_reads(call)
    if name in ("open", "io.open", "os.fdopen"):
        return call is None or _writes(call.args[1:2], call)
    if owner in MODULES:
        return attribute in SEEN
    if owner in LIBRARIES:  # a class that is only named, as in an annotation, does nothing
        return attribute != "which" and (call is not None or attribute.islower())
    return owner not in ("", "vfs", "toilcache.vfs") and _is_of_a_path(owner, attribute, call)


def _is_of_a_path(owner: str, attribute: str, call: ast.Call | None) -> bool:
    if call is None or attribute in METHODS:
        return attribute in METHODS
    if attribute == "touch":
        return not call.args  # with arguments it is a function of ours
    if attribute == "unlink":
        return owner.rpartition(".")[2] not in LOCKS
    if attribute == "replace":
        return len(call.args) == 1 and not call.keywords  # a string's has two
    words = [word for word in call.args[:2] if isinstance(word, ast.Constant)]
    return attribute == "open" and _writes(words, call)


def _only_reads(call: ast.Call) -> bool:
    given = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "flags")]
    parts = [part for word in given for part in ast.walk(word) if isinstance(part, ast.Attribute | ast.Name)]
    flags = {ast.unparse(part) for part in parts} - {"os"}
    return bool(flags) and flags <= READING


def _writes(modes: list[ast.expr], call: ast.Call) -> bool:
    """Say whether one of these modes, or that which has its name, is one for writing, or not known."""
    values = [*modes, *(word.value for word in call.keywords if word.arg == "mode")]
    known = [value.value for value in values if isinstance(value, ast.Constant)]
    letters = [set(str(mode)) for mode in known]
    return len(known) < len(values) or any(mode & set("wax+") and mode <= set("rwxabt+") for mode in letters)


def modules() -> list[Path]:
    """Return the engine's modules; the benchmark measures it from outside, and is left out."""
    found = [path for room in ("toilcache", "batch", "containers") for path in (ROOT / room).rglob("*.py")]
    return [path for path in found if "bench" not in path.parts and path != ROOT / "toilcache" / "vfs.py"]


# A memory file of a child's output is gone with its descriptor.
ALLOWED = {  # what is no file: memory, and pipes
    "process.py": {"os.fdopen(os.memfd_create('toilcache', os.MFD_CLOEXEC), 'w+b', buffering=0)"},
    "runners.py": {
        "os.write(self._pipe, b'%s %d %s' % (job_id.encode('ascii'), version, order))",
        "os.write(self._to_host, data)",
        "os.write(self._done[1], f'{os.getpid()} '.encode('ascii'))",
        "os.write(self._wake, b'\\x00')",
    },
}


def test_no_module_changes_files_past_the_seam() -> None:
    assert len(modules()) > 100
    for path in modules():
        found = set(offences(path.read_text())) - ALLOWED.get(path.name, set())
        assert not found, f"{path.relative_to(ROOT)}: {found}; call it through toilcache.vfs"


PAST_IT = """
os.link(a, b)
os.replace(a, b)
os.open(a, os.O_WRONLY)
os.open(a, flags)
os.open(a, flags=flags)
os.open(a, os.O_RDONLY | os.O_CREAT)
map(os.unlink, a)
import os as o; o.unlink(a)
import os as o; o.open(a, o.O_WRONLY)
import os as o; map(o.remove, a)
from os import unlink
from os import unlink as gone
from os import *
def change(): from os import rename
fcntl.flock(a, 2)
from fcntl import flock
open(a, 'wb')
open(a, mode)
open(a, mode='r+')
map(open, a)
io.open(a, 'x')
os.fdopen(a, 'ab')
shutil.rmtree(a)
import shutil as s; s.move(a, b)
from shutil import rmtree
from shutil import which, copyfile as take
def change(): from shutil import rmtree
from tempfile import TemporaryDirectory; TemporaryDirectory()
tempfile.mkstemp()
sqlite3.connect(a)
from sqlite3 import connect
sqlite3.Connection(a)
from toilcache.vfs import unlink
path.open('w')
path.open(mode='a')
Path(a.b).open('r+')
tarfile.open(a, 'w')
path.write_text(a)
path.write_bytes(a)
path.touch()
path.touch(exist_ok=True)
path.unlink()
path.unlink(missing_ok=True)
Path(a).unlink()
self.path.mkdir(parents=True)
path.rmdir()
path.rename(a)
path.replace(a)
path.chmod(0o600)
path.symlink_to(a)
path.hardlink_to(a)
from pathlib import Path; map(Path.mkdir, a)
"""

HARMLESS = """
os.open(a, os.O_RDONLY)
os.path.exists(a)
import os.path as p; p.join(a, b)
from os import path, O_RDONLY
open(a, 'rb')
open(a)
path.open()
path.open('rb')
store.open(job)
tarfile.open(a)
path.read_text()
vfs.link(a, b)
vfs.unlink(a)
vfs.open(a, os.O_WRONLY)
from toilcache import vfs as v; v.mkdir(a)
shutil.which(a)
map(shutil.which, a)
from shutil import which; which(a)
from sqlite3 import Error
def look(con: sqlite3.Connection): return con.execute(a)
touch(a)
rows.touch(a, b)
file.unlink()
self._lock.unlink()
text.replace(a, b)
moment.replace(hour=1)
from toilcache.worker import posix; posix.write(a)
"""


@pytest.mark.parametrize("line", PAST_IT.strip().splitlines())
def test_what_would_go_past_it_is_seen(line: str) -> None:
    assert list(offences(line))


@pytest.mark.parametrize("line", HARMLESS.strip().splitlines())
def test_what_only_reads_is_left_alone(line: str) -> None:
    assert not list(offences(line))
