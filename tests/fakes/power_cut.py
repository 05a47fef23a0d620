"""A disk whose power can be cut: what a cut leaves is a copy of the disk as it was at that moment.

An ext4 in an image file stands on an xfs that is an image file too, both loop-mounted, the xfs in memory. It
can copy a file of any size in one step, a few milliseconds (a reflink), and while it does, the loop device
writes nothing. So a copy of the ext4's image is all that had reached the disk, and what the kernel still held
back is lost. The ext4 commits by itself every five minutes only: what survives, survives because somebody
asked for it. A power cut also takes the node's own directories and its boot id, and it takes a minute or two.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fcntl import ioctl
from pathlib import Path

FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
OUTER_BYTES, DISK_BYTES = 3 << 30, 256 << 20
OPTIONS = "loop,commit=300"
INJECT = Path(__file__).resolve().parent / "without_sync"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
DOWN_SECONDS = 120.0


def _run(*argv: str | Path) -> None:
    subprocess.run([os.fspath(word) for word in argv], check=True, capture_output=True, text=True)


@contextmanager
def mounted(image: Path, place: Path, options: str) -> Iterator[Path]:
    """Mount an image file for one block; its loop device goes with the mount."""
    place.mkdir(exist_ok=True)
    _run("mount", "-o", options, image, place)
    try:
        yield place
    finally:
        _run("umount", "--lazy", place)


class Disk:
    """A disk, mounted at `place` while the power is on, and the copies that cuts have left."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.place = base / "disk"
        self._stack = ExitStack()
        self._power = ExitStack()

    def __enter__(self) -> Disk:
        with ExitStack() as stack:
            memory = self.base / "memory"
            memory.mkdir()
            _run("mount", "-t", "tmpfs", "-o", f"size={OUTER_BYTES}", "none", memory)
            stack.callback(_run, "umount", "--lazy", memory)
            outer = memory / "outer.img"
            with outer.open("wb") as file:
                file.truncate(OUTER_BYTES - (64 << 20))
            _run("mkfs.xfs", "-q", "-m", "reflink=1", outer)
            self.copies = stack.enter_context(mounted(outer, self.base / "outer", "loop"))
            image = self.copies / "disk.img"
            with image.open("wb") as file:
                file.truncate(DISK_BYTES)
            _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
            stack.callback(self.turn_off)
            self.turn_on(image)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def turn_on(self, image: Path) -> None:
        """Mount an image in the place of the disk; its file system mends itself by its journal."""
        self._power.enter_context(mounted(image, self.place, OPTIONS))
        self._on = image

    def turn_off(self) -> None:
        """Unmount what is mounted in the place of the disk."""
        self._power.close()

    def cut(self, name: str) -> Path:
        """Take a copy of the disk that is on as it is in this moment."""
        copy = self.copies / name
        with self._on.open("rb") as source, copy.open("wb") as target:
            ioctl(target.fileno(), FICLONE, source.fileno())
        return copy

    def shows(self, copy: Path, name: Path) -> bool:
        """Say whether something has reached a copy; the disk itself is off from then on."""
        self.turn_off()
        self.turn_on(copy)
        there = name.exists()
        self.turn_off()
        return there

    @contextmanager
    def after(self, copy: Path) -> Iterator[None]:
        """Have a copy in the place of the disk for one block, then remove it; the disk itself is off."""
        self.turn_off()
        try:
            self.turn_on(copy)
            yield
        finally:
            self.turn_off()
            copy.unlink()


def rebooted(argv: list[str], base: Path) -> list[str]:
    """Give the command that runs another one under a boot id of its own."""
    boot_id = base / "boot_id"
    boot_id.write_text(f"{os.urandom(4).hex()}-0000-4000-8000-{os.urandom(6).hex()}\n")
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(boot_id), BOOT_ID, *argv]


def lose_the_node(directories: list[Path], store: Path) -> None:
    """Empty what was on the node, and let the time pass that a reboot takes."""
    for directory in directories:
        shutil.rmtree(directory)
        directory.mkdir()
    then = time.time() - DOWN_SECONDS
    for sign in store.glob("leader/*"):
        os.utime(sign, (then, then))


def without_sync() -> dict[str, str]:
    """The environment in which no process of ours syncs anything."""
    others = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{INJECT}{os.pathsep}{others}" if others else str(INJECT)}
