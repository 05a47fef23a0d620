"""Every way to write a workflow works: scripts, modules, programs without a file; with awkward names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import Finished, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, "no script of its own")


PROGRAM = """\
import sys
from toilcache import Job, Toil

FACTOR = 6

def times(number):
    return number * FACTOR

def root(job):
    offset = 100
    children = [job.addChildFn(times, 7), job.addChildFn(lambda number: number + offset, 1)]
    return [child.rv() for child in children] + [job.addChildFn(Shape(3).area).rv()]

class Shape:
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side ** 2
"""
START = """
    options = Job.Runner.getDefaultArgumentParser().parse_args(sys.argv[1:])
    with Toil(options) as toil:
        print("result", repr(toil.start(Job.wrapJobFn(root))))
"""
GUARDED = PROGRAM + '\nif __name__ == "__main__":' + START
BARE = PROGRAM + "\nif True:" + START
ANSWER = [42, 101, 9]


def small(place: Place) -> list[str]:
    sizes = ("--defaultMemory", "10M", "--defaultDisk", "10M")
    return [str(place.store), *place.directories, "--retryCount", "0", *sizes]


def test_a_program_on_the_command_line(place: Place) -> None:
    place.finish(place.spawn([sys.executable, "-c", BARE, *small(place)])).check_result(ANSWER)
    place.check_clean()


def test_a_program_on_standard_input(place: Place) -> None:
    argv = [sys.executable, "-", *small(place)]
    done = subprocess.run(
        argv, input=BARE, capture_output=True, text=True, cwd=place.base, env=place.environment, check=False
    )
    Finished(done.returncode, done.stdout, done.stderr).check_result(ANSWER)
    place.check_clean()


def test_a_module_of_a_package(place: Place) -> None:
    package = place.base / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "numbers.py").write_text("FACTOR = 6\n", encoding="ascii")
    text = GUARDED.replace("FACTOR = 6", "from pkg.numbers import FACTOR")
    (package / "mod.py").write_text(text, encoding="ascii")
    argv = [sys.executable, "-m", "pkg.mod", *small(place)]
    place.finish(place.spawn(argv)).check_result(ANSWER)
    place.check_clean()


@pytest.mark.parametrize("name", ['it\'s "my" work', "-flow", "ünï code", "json", "a\nb"])
def test_a_script_in_a_directory_with_an_awkward_name(place: Place, name: str) -> None:
    directory = place.base / name
    directory.mkdir()
    (directory / "helper.py").write_text("FACTOR = 6\n", encoding="ascii")
    script = directory / "work flow.py"
    script.write_text(GUARDED.replace("FACTOR = 6", "from helper import FACTOR"), encoding="utf-8")
    place.finish(place.spawn([sys.executable, str(script), *small(place)])).check_result(ANSWER)
    place.check_clean()


def test_a_script_that_a_relative_path_names(place: Place) -> None:
    (place.base / "flow.py").write_text(GUARDED, encoding="ascii")
    place.finish(place.spawn([sys.executable, "flow.py", *small(place)])).check_result(ANSWER)
    place.check_clean()


def test_modules_of_the_current_directory_are_not_meant(place: Place) -> None:
    for name in ("socket", "select", "random", "toilcache"):
        (place.base / f"{name}.py").write_text("raise ValueError('the wrong module')\n", encoding="ascii")
    directory = place.base / "elsewhere"
    directory.mkdir()
    (directory / "flow.py").write_text(GUARDED, encoding="ascii")
    argv = [sys.executable, str(directory / "flow.py"), *small(place)]
    place.finish(place.spawn(argv)).check_result(ANSWER)
    place.check_clean()


def test_a_script_without_a_main_guard(place: Place) -> None:
    script = place.base / "bare.py"
    script.write_text(BARE, encoding="ascii")
    done = place.finish(place.spawn([sys.executable, str(script), *small(place)]))
    done.check_refused("__main__")
    place.check_clean()


def test_a_script_that_cannot_be_imported_by_workers(place: Place) -> None:
    script = place.base / "broken.py"
    text = 'import os\nif "TOILCACHE_WORKFLOW" in os.environ:\n    raise ValueError("not here")\n'
    script.write_text(text + GUARDED, encoding="ascii")
    done = place.finish(place.spawn([sys.executable, str(script), *small(place)]))
    done.check_refused("not here")
    place.check_clean()
