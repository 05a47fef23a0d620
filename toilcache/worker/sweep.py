"""Finding out which workflows have died and left something on this node, and removing that.

Knows when what is left may go: nobody uses it, and its job store is gone, or says that the workflow has
ended, or its leader has been silent for days. Must not know who asks, nor what a person reads about it. An
idle workflow is not a dead one, and one whose store does not answer is left alone.
"""

from __future__ import annotations

import os
from contextlib import suppress

from toilcache.job_store.liveness import Verdict, judge
from toilcache.late import late
from toilcache.node.remains import IN_USE, remains_here, remove_leader_lock, stale_leader_locks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from toilcache.node.coordination import NodeDirs
    from toilcache.node.remains import Remains

ANSWER_SECONDS = 5.0
REMOVED, WOULD_GO, LEFT, FAILED = "removed", "would-remove", "left", "failed"


class Finding:
    """What was done about the remains of one workflow and boot, and why."""

    __slots__ = ("action", "boot", "paths", "why", "workflow_id")

    def __init__(self, remains: Remains, action: str, why: str) -> None:
        self.workflow_id = remains.workflow_id
        self.boot = remains.boot
        self.paths = remains.paths
        self.action = action
        self.why = why


def sweep_besides(dirs: NodeDirs) -> list[Finding]:
    """Remove what dead workflows of this user, and this one's earlier boots, have left beside a workflow."""
    work, coordination = os.path.dirname(dirs.work), os.path.dirname(dirs.coordination)
    sweep_leader_locks(work, coordination)
    found = remains_here(work, coordination)
    mine = os.geteuid()
    return [
        sweep_one(remains)
        for remains in found
        if remains.owner == mine and not (remains.is_of_this_boot and remains.workflow_id == dirs.workflow_id)
    ]


def sweep_leader_locks(work_dir: str | None, coordination_dir: str | None) -> list[str]:
    """Remove the locks that leaders of this user have left who were killed days ago; return their paths."""
    removed = []
    for path in stale_leader_locks(work_dir, coordination_dir):
        with suppress(OSError):  # not ours to remove, after all
            if remove_leader_lock(path):
                removed.append(path)
    return removed


def sweep_one(
    remains: Remains,
    *,
    everyone: bool = False,
    force: bool = False,
    run: int | None = None,
    dry_run: bool = False,
) -> Finding:
    """Remove the remains of one workflow and boot if that is dead, or with `force` if nobody uses them.

    With `everyone` also those of another user. They stay if a later run of the leader than `run` has used
    them. A `dry_run` only says what would be done.
    """
    latest_run = remains.latest_run if run is None else min(run, remains.latest_run)
    try:
        verdict = _may_go(remains, everyone=everyone, force=force)
        if not verdict.over or dry_run:
            return Finding(remains, WOULD_GO if verdict.over else LEFT, verdict.why)
        _remove_containers(remains, latest_run)
        why_left = remains.remove(verdict.run if run is None else run)
    except OSError as error:
        return Finding(remains, FAILED, f"{error.filename or remains.paths[0]!r}: {error.strerror or error}")
    return Finding(remains, LEFT, why_left) if why_left else Finding(remains, REMOVED, verdict.why)


def _remove_containers(remains: Remains, latest_run: int) -> None:
    """Remove the containers that launchers could not: they were killed, or the node was started anew.

    A run of the leader that begins meanwhile has a higher number.
    """
    if remains.had_containers:
        with suppress(ImportError):  # we are in a container, where no engine is to be seen
            late("toilcache.batch.container_sweep:remove_left")(remains.workflow_id, latest_run)


def _may_go(remains: Remains, *, everyone: bool, force: bool) -> Verdict:
    if remains.owner != os.geteuid() and not everyone:
        return Verdict(False, f"it belongs to user {remains.owner}")
    if remains.are_used():
        return Verdict(False, IN_USE)
    if force:
        return Verdict(True, "nobody uses it")
    if remains.is_kept:
        return Verdict(False, "it was asked to be kept (--cleanWorkDir)")
    if not remains.is_of_this_boot and remains.are_local:
        return Verdict(True, "the node has been started anew since")
    note, last_used = remains.about(), remains.last_used()
    answer = _in_time(lambda: judge(note, last_used))
    return answer or Verdict(False, f"its job store {note[0]!r} does not answer")


def _in_time(ask: Callable[[], Verdict]) -> Verdict | None:
    """Return what is answered within a few seconds: a file server that is away answers never."""
    import threading

    answers: list[Any] = []

    def put() -> None:
        try:
            answers.append(ask())
        except BaseException as error:  # it is raised where it was asked
            answers.append(error)

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if not answers:
        return None
    if isinstance(answers[0], BaseException):
        raise answers[0]
    verdict: Verdict = answers[0]
    return verdict
