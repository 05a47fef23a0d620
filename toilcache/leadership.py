"""Who leads: one leader per job store, told by a lock on this node and by numbered runs in the store.

Knows the order in which lock and run are taken and given up. Must not know what a leader does. Two things
make a second leader harmless: it is refused while the first is seen alive, and should both live all the same,
the later run number fences the earlier one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from toilcache import vfs
from toilcache.errors import (
    CoordinationDirError,
    JobStoreUnavailableError,
    LeaderAliveError,
    LeaderFencedError,
)
from toilcache.job_store.abstract import AbstractJobStore

BEAT_SECONDS = 15.0


@contextmanager
def take_lead(store: AbstractJobStore, lock_path: str, *, new: bool, force: bool) -> Iterator[int]:
    """Become the leader of a store for one block; yields the run number.

    :param new: the store is yet to be made, in this block.
    :param force: do not ask whether the previous leader lives; it is fenced by our newer run.
    :raises LeaderAliveError: another leader lives.
    """
    with ExitStack() as stack:
        if not _lock(lock_path, stack) and not force:  # by force, the newer run keeps the other leader out
            raise LeaderAliveError(
                f"cannot lead the workflow in {store.locator}: it is being led by a process on this machine; "
                "wait for it or stop it (toilcache kill), or take over with --forceRestart"
            )
        run = store.reserve() if new else store.claim_run(after=None if force else store.check_unled())
        stack.callback(_give_up, store, run)
        stack.enter_context(_shown_alive(store, run))
        yield run


def _lock(path: str, stack: ExitStack) -> bool:
    """Take the lock until the stack is closed; False if another process has it."""
    from filelock import FileLock, Timeout

    try:
        stack.enter_context(FileLock(path, timeout=0, mode=0o600))
    except Timeout:
        return False
    except OSError as error:
        raise CoordinationDirError(
            f"cannot lock {path!r}: {error.strerror}; set --coordinationDir to a directory of your own"
        ) from error
    # Who opens the file in this moment may lock what is no longer there; its run is refused all the same.
    stack.callback(_remove, path)
    return True


def _remove(path: str) -> None:
    with suppress(OSError):  # a file that stays is in nobody's way: it is not locked any more
        vfs.unlink(path)


def _give_up(store: AbstractJobStore, run: int) -> None:
    # The store may be full for good or removed: who comes next then looks at our process or our last beat.
    with suppress(JobStoreUnavailableError, OSError):
        try:
            store.mark_ended(run)
        except JobStoreUnavailableError:
            store.release_reserve()
            store.mark_ended(run)


@contextmanager
def _shown_alive(store: AbstractJobStore, run: int) -> Iterator[None]:
    """Beat during the block, also while the script imports, waits or exports and no workflow runs."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_SECONDS):
            try:
                store.beat(run)
            except LeaderFencedError:
                return  # the leader finds out where it matters
            except (JobStoreUnavailableError, OSError):
                continue  # full, or being removed

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
