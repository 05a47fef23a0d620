"""The fake `apptainer` in a directory of its own, with its faults."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("apptainer")


class FakeApptainer:
    """A program that can be made to fail; ``directory`` is to be put on PATH, ``python`` is the images'."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.program = str(directory / "apptainer")
        own = f"#!{sys.executable}\n"  # whatever python3 a test puts on PATH
        Path(self.program).write_text(own + PROGRAM.read_text().partition("\n")[2])
        os.chmod(self.program, 0o755)
        self.python = directory / "inside" / "python3"
        self.python.parent.mkdir()
        self.python.symlink_to(sys.executable if sys.prefix == sys.base_prefix else sys._base_executable)
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
