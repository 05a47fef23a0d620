"""Ending processes for certain, and no others.

This module knows pids, their start times and descriptors of processes. It must not know why they are to end.
A pid alone may be given to another process between looking and signalling: a process descriptor cannot.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from contextlib import ExitStack, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS = 20


def end_processes(find: Callable[[], list[tuple[int, int]]], grace: float) -> list[int]:
    """End all that `find` returns as (pid, start time) until it returns nothing; return the pids.

    The first round asks with SIGTERM and waits up to `grace` seconds, the later ones kill.
    """
    ended: set[int] = set()
    for number in range(_ROUNDS):
        targets = find()
        if not targets:
            break
        ended.update(pid for pid, _ in targets)
        if number == 0:
            _signal_all(targets, find, signal.SIGTERM, grace)
        else:
            _signal_all(targets, find, signal.SIGKILL, max(grace, 1.0))
    return sorted(ended)


def _signal_all(
    targets: list[tuple[int, int]], find: Callable[[], list[tuple[int, int]]], number: int, wait: float
) -> None:
    """Signal those of the targets that are still the same processes, and wait for their end."""
    with ExitStack() as stack:
        descriptors = {target: _open_process(target[0], stack) for target in targets}
        same = set(find())  # looked again with the descriptors open: who is found now is whom they hold
        signalled = [target for target in targets if target in same]
        for target in signalled:
            with suppress(ProcessLookupError):
                _send(target[0], descriptors[target], number)
        held = [fd for target in signalled if (fd := descriptors[target]) is not None]
        deadline = time.monotonic() + wait
        _wait_for_end(held, deadline)
        if len(held) < len(signalled):
            _look_for_end(signalled, find, deadline)


def _open_process(pid: int, stack: ExitStack) -> int | None:
    """Open a process; None if it is gone, or if the kernel (before 5.3) cannot."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):  # a container's filter may forbid the call
            raise
        return None
    stack.callback(os.close, fd)
    return fd


def _send(pid: int, descriptor: int | None, number: int) -> None:
    if descriptor is None:
        os.kill(pid, number)
    else:
        signal.pidfd_send_signal(descriptor, number)


def _wait_for_end(descriptors: list[int], deadline: float) -> None:
    """Wait in the kernel until every process has ended, or the time is up."""
    poller = select.poll()
    for fd in descriptors:
        poller.register(fd, select.POLLIN)
    left = set(descriptors)
    while left and (rest := deadline - time.monotonic()) > 0:
        for fd, _ in poller.poll(rest * 1000):
            poller.unregister(fd)
            left.discard(fd)


def _look_for_end(
    targets: list[tuple[int, int]], find: Callable[[], list[tuple[int, int]]], deadline: float
) -> None:
    """Wait where the kernel has no descriptors of processes: look again and again."""
    while set(targets) & set(find()) and time.monotonic() < deadline:
        time.sleep(0.01)
