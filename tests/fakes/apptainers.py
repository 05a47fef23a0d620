"""The fake `apptainer` in a directory of its own, with its faults."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PROGRAM = Path(__file__).with_name("apptainer")


class FakeApptainer:
    """A program that can be made to fail; ``directory`` is to be put on PATH."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.program = str(directory / "apptainer")
        shutil.copy(PROGRAM, self.program)
        self.image = str(directory / "image.sif")
        Path(self.image).write_bytes(bytes(32) + b"SIF_MAGIC\x00" + bytes(6) + os.urandom(16))

    def fail(self, *faults: str) -> None:
        """From now on, show these faults and no others."""
        (self.directory / "FAULTS").write_text("\n".join(faults))

    @property
    def builds(self) -> list[str]:
        """The sources that it was asked to build from, in order."""
        place = self.directory / "BUILDS"
        return place.read_text().split() if place.exists() else []

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to find it."""
        return {"PATH": f"{self.directory}{os.pathsep}{os.environ['PATH']}"}
