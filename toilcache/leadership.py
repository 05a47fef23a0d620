"""Who leads: one leader per job store, told by a lock on this node and by numbered runs in the store.

Knows the store's leader records and the node's locks. Must not know what a leader does. Two things make a
second leader harmless: it is refused while the first is seen alive, and should both live all the same, the
later run number fences the earlier one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from toilcache.errors import LeaderAliveError, NoSuchFileException
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.node.coordination import NodeDirs
from toilcache.node.machine import is_process, node_id, process_start_time

SILENT_SECONDS = 60.0
"""A leader on another node that has not been heard of for so long counts as gone (it beats every 15 s)."""

_NOTE = "leader"


@contextmanager
def take_lead(store: AbstractJobStore, dirs: NodeDirs, *, force: bool) -> Iterator[int]:
    """Become the leader of a store for one block; yields the run number.

    :param force: do not ask whether the previous leader lives; it is fenced by our newer run.
    :raises LeaderAliveError: another leader lives.
    """
    from filelock import FileLock, Timeout

    with dirs.hold(), ExitStack() as stack:
        lock = FileLock(dirs.leader_lock(store.locator), timeout=0)
        try:
            stack.enter_context(lock)
        except Timeout:
            if not force:  # by force, the newer run number is what keeps the other leader out
                raise LeaderAliveError(_refusal(store, "by a process on this machine")) from None
        if not force:
            refuse_if_alive(store)
        run = store.claim_run()
        stack.enter_context(dirs.hold(run))
        store.write_leader_pid()
        store.write_leader_node_id()
        _write_note(store, run, living=True)
        store.beat(run)
        try:
            yield run
        finally:
            with suppress(FileNotFoundError):  # the store may have been removed meanwhile
                if store.current_run() == run:
                    _write_note(store, run, living=False)


def refuse_if_alive(store: AbstractJobStore) -> None:
    """Look at the last leader's note: on this boot of this node its process tells, else its heartbeat."""
    note = _read_note(store)
    if not note.get("living"):
        return
    if note["node"] == node_id():
        if is_process(note["pid"], note["start"]):
            raise LeaderAliveError(_refusal(store, f"by process {note['pid']} on this machine"))
        return
    beat = store.last_beat()
    if beat is not None and time.time() - beat < SILENT_SECONDS:
        raise LeaderAliveError(_refusal(store, f"from {note['node']}"))


def _refusal(store: AbstractJobStore, where: str) -> str:
    return (
        f"cannot lead the workflow in {store.locator}: it is being led {where}; "
        "wait for it or stop it (toilcache kill), or take over with --forceRestart"
    )


def _write_note(store: AbstractJobStore, run: int, *, living: bool) -> None:
    pid = os.getpid()
    note = {"run": run, "pid": pid, "start": process_start_time(pid), "node": node_id(), "living": living}
    with store.write_shared_file_stream(_NOTE) as stream:
        stream.write(json.dumps(note).encode())


def _read_note(store: AbstractJobStore) -> dict[str, Any]:
    try:
        with store.read_shared_file_stream(_NOTE) as stream:
            note: dict[str, Any] = json.load(stream)
    except NoSuchFileException:
        return {}
    except ValueError:
        return {}  # damaged: the lock on this node and the newer run keep two leaders apart all the same
    return note
