"""The demo with its jobs in containers of real engines: the same answer as without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.test_demo import here, read_line, run, temporary
from tests.testbed.fixtures import Engines

__all__ = ["here", "temporary"]  # fixtures

pytestmark = pytest.mark.real


@pytest.mark.parametrize("engine", ["docker", "singularity"])
def test_the_demo_gives_the_same_answer_in_containers(
    engine: str, engines: Engines, here: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in engines.environment.items():
        monkeypatch.setenv(name, value)
    boxed = ["--container", engines.image(engine), "--containerEngine", engine]
    plain = read_line(run("demo.py", "--parts", "4", cwd=here, temporary=temporary))
    assert read_line(run("demo.py", "--parts", "4", *boxed, cwd=here, temporary=temporary)) == plain
    assert list(here.iterdir()) == []
    assert list(temporary.iterdir()) == []
