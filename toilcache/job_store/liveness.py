"""What became of a workflow, asked by somebody who knows no more of it than where its job store is.

Knows what can be told without trusting the store: names and times, no pickles. Must not know what the answer
is used for. A store that cannot be seen says nothing: only one that is certainly gone is gone.
"""

from __future__ import annotations

import os
import time

from toilcache.errors import ToilcacheError
from toilcache.io import look_at
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.node.mounts import file_system_type
from toilcache.units import format_duration

SILENT_SECONDS = 3 * 24 * 3600.0
"""A leader that has not been heard of for so long will not come back; a restart makes anew what it needs."""
_MISSING = (FileNotFoundError, NotADirectoryError)


class Verdict:
    """Whether a workflow is over, in words too; `run` is the newest run of its leader if there is one."""

    __slots__ = ("over", "run", "why")

    def __init__(self, over: bool, why: str, run: int | None = None) -> None:
        self.over = over
        self.why = why
        self.run = run


def note_of(locator: str) -> tuple[str, str]:
    """Return what must be remembered of a store to judge it later: locator and type of its file system.

    A directory on a file system that is not mounted looks like one that was removed; the type tells them
    apart.
    """
    return locator, file_system_type(_nearest(FileJobStore(locator).path))


def judge(note: list[str], last_used: float) -> Verdict:
    """Say what became of a workflow from what `note_of` returned; nothing is known from an empty list.

    `last_used` is when it was last seen at work where the question comes up, in seconds since 1970.
    """
    silence = max(0.0, time.time() - last_used)
    try:
        locator, fs_type = note
        store = FileJobStore(locator)
        verdict = _judge_store(store, fs_type, silence)
    except (ValueError, ToilcacheError):
        verdict = None
    except OSError as error:
        verdict = Verdict(False, f"its job store cannot be read: {error.strerror}")
    if verdict is not None and (verdict.over or verdict.run is not None):
        return verdict
    if silence >= SILENT_SECONDS:
        return Verdict(True, f"nobody has used it for {format_duration(silence)}")
    return verdict or Verdict(False, f"used {format_duration(silence)} ago, by what workflow is not known")


def closing(locator: str, run: int) -> str:
    """Return "clean" or "keep" where no worker of a run may begin any more (see `LeaderVerbs.closing`).

    "gone" where there is no job store, and "" where workers may begin.
    """
    store = FileJobStore(locator)
    try:
        return store.closing(run)
    except _MISSING:
        return "" if _stands(store.path) else "gone"


def _judge_store(store: FileJobStore, fs_type: str, silence: float) -> Verdict:
    if not _stands(store.path):
        if file_system_type(_nearest(store.path)) != fs_type:
            return Verdict(False, f"its job store {store.path!r} is not mounted here")
        return Verdict(True, "its job store is gone")
    try:
        run = store.current_run()
        if run == 0:
            return Verdict(True, "its job store is gone")
        if store.is_ended() or store.closing(run):
            return Verdict(True, "it has ended", run)
        age = time.time() - (store.last_beat() or 0.0)
    except _MISSING:
        return Verdict(True, "its job store is gone")  # something else stands there, or is about to go
    age = max(0.0, min(age, silence))
    if age >= SILENT_SECONDS:
        return Verdict(True, f"its leader has been silent for {format_duration(age)}", run)
    return Verdict(False, f"its leader has been silent for {format_duration(age)} only", run)


def _stands(path: str) -> bool:
    """Tell whether there is something; an OSError is no answer, unlike with `os.path.lexists`."""
    for again in (True, False):
        try:
            os.lstat(path)
            return True
        except _MISSING:
            if again:
                look_at(os.path.dirname(path))
    return False


def _nearest(path: str) -> str:
    """Return the path, or what stands nearest above it."""
    while not _stands(path):
        path = os.path.dirname(path)
    return path
