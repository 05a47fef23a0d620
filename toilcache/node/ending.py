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
from contextlib import ExitStack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Targets: TypeAlias = list[tuple[int, int]]

_ROUNDS = 10


def end_processes(find: Callable[[], Targets], grace: float) -> list[int]:
    """End all that `find` returns as (pid, start time), until it returns nothing new; return the pids.

    The first round asks with SIGTERM and waits up to `grace` seconds, the later ones kill; without any grace
    the first one kills too, and no round waits longer than a tenth of a second. What may not be
    signalled, or does not end (it hangs in the kernel), is not among the returned.
    """
    seen: set[tuple[int, int]] = set()
    refused: set[tuple[int, int]] = set()
    for number in range(_ROUNDS):
        targets = [target for target in find() if target not in refused]
        if not targets:
            break
        seen.update(targets)
        if number == 0 and grace:
            refused |= _signal_all(targets, find, signal.SIGTERM, grace)
        else:
            refused |= _signal_all(targets, find, signal.SIGKILL, 1.0 if grace else 0.1)
    return sorted(pid for pid, _ in seen - set(find()))


def _signal_all(
    targets: Targets, find: Callable[[], Targets], number: int, wait: float
) -> set[tuple[int, int]]:
    """Signal those targets that are still the same processes and wait for their end; return the refused."""
    refused = set()
    with ExitStack() as stack:
        descriptors = {target: _open_process(target[0], stack) for target in targets}
        same = set(find())  # looked again with the descriptors open: who is found now is whom they hold
        signalled = [target for target in targets if target in same]
        for target in signalled:
            try:
                _send(target[0], descriptors[target], number)
            except ProcessLookupError:
                pass
            except PermissionError:
                refused.add(target)
        waited = [target for target in signalled if target not in refused]
        deadline = time.monotonic() + wait
        held = [fd for target in waited if (fd := descriptors[target]) is not None]
        _wait_for_end(held, deadline)
        if len(held) < len(waited):
            _look_for_end(waited, find, deadline)
    return refused


def _open_process(pid: int, stack: ExitStack) -> int | None:
    """Open a process; None if it is gone, or if this kernel (before 5.3) or this Python cannot."""
    if not hasattr(os, "pidfd_open"):  # Python built with old kernel headers
        return None
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


def _look_for_end(targets: Targets, find: Callable[[], Targets], deadline: float) -> None:
    """Wait where the kernel has no descriptors of processes: look again and again."""
    while set(targets) & set(find()) and time.monotonic() < deadline:
        time.sleep(0.01)
