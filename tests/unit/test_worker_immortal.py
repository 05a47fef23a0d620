"""Immortal objects of a host: what had been made before is, what a user makes later is not."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from toilcache.job.job import Job
from toilcache.worker import immortal

KNOWN = (3, 12) <= sys.version_info < (3, 14) and not set(sys.abiflags) & {"d", "t"}


def run(program: str) -> list[str]:
    """Run a program in a process of its own, which it is the end of, and return the words it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_what_had_been_made_is_immortal_and_python_still_ends_in_order() -> None:
    words = run("""
        import sys
        from toilcache.worker.immortal import make_all_immortal
        from toilcache.job.job import Job
        before = object()
        print(make_all_immortal())
        after = object()
        mark, some = sys.getrefcount(None), (Job, Job.addChild, Job.__init__.__code__)
        print(*[sys.getrefcount(one) == mark for one in some])
        print(sys.getrefcount(before) == mark, sys.getrefcount(after) == 2)
        print(make_all_immortal())
        """)
    assert words == [str(KNOWN), *[str(KNOWN)] * 4, "True", str(KNOWN)]


def test_a_child_that_calls_what_is_immortal_writes_to_fewer_pages() -> None:
    """The reason for it all, in pages that the kernel had to copy or to make for children."""
    program = """
        import os, resource, sys
        import toilcache.worker.host
        from toilcache.worker.immortal import make_all_immortal
        if sys.argv[1:] == ["immortal"]:
            make_all_immortal()
        classes = [value for module in list(sys.modules.values()) for value in vars(module).values()]
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                alike = [one for one in classes]
                os._exit(0)
            os.waitpid(pid, 0)
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt)
        """
    many, few = (
        int(
            subprocess.run(
                [sys.executable, "-c", textwrap.dedent(program), *words],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            ).stdout
        )
        for words in ([], ["immortal"])
    )
    assert (few < many * 0.75) == KNOWN


def test_a_python_that_counts_all_references_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(immortal, "_is_immortal", lambda one: False)
    monkeypatch.setattr(ctypes, "c_uint32", None)
    assert not immortal.make_all_immortal()


@pytest.mark.parametrize(
    "other",
    [
        {"implementation": SimpleNamespace(name="pypy")},
        {"version_info": (3, 14)},
        {"getobjects": None},
        {"maxsize": 2**31 - 1},
        {"byteorder": "big"},
        {"abiflags": "t"},
        {"abiflags": "d"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_where_a_count_is_somewhere_else_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, object]
) -> None:
    for name, value in other.items():
        monkeypatch.setattr(sys, name, value, raising=name != "getobjects")
    monkeypatch.setattr(ctypes, "c_uint32", None)
    assert not immortal.make_all_immortal()


SCRIPT = """
import os
import sys
from toilcache import Job, Toil
from toilcache.job.description import JobDescription

class Closes:
    def __del__(self):
        with open(os.environ["NOTE"], "a") as note:
            print(type(self).__name__, file=note)

held = Closes()

def look(job):
    global held
    none = sys.getrefcount(None)
    held = None
    return [sys.getrefcount(JobDescription) == none, sys.getrefcount(Closes) == none]

if __name__ == "__main__":
    with Toil(Job.Runner.getDefaultArgumentParser().parse_args()) as toil:
        print(*toil.start(Job.wrapJobFn(look)))
"""


def test_jobs_find_the_engine_immortal_and_their_own_objects_as_ever(tmp_path: Path) -> None:
    """What a script has loaded once for all its jobs is let go by a job like anything else."""
    script, note = tmp_path / "script.py", tmp_path / "note"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NOTE": str(note)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(KNOWN), "False"]
    assert "Closes" in note.read_text()


def test_job_is_what_it_was() -> None:
    """Nothing here has touched the process of the tests."""
    assert sys.getrefcount(Job) != sys.getrefcount(None)
