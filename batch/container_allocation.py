"""A worker host in a container of an allocation: the launcher, outside of it.

Knows how the container is made on this node. Nothing goes over the socket that leads to the host inside but
warnings, since the host takes its work from the job store; its end tells the host that the launcher is gone.
Must not know schedulers, queues or what a host says.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from typing import Any

from toilcache.batch import protocol
from toilcache.batch.container_host import attend, handed
from toilcache.batch.container_launch import Launch
from toilcache.batch.container_plan import BOX_MEMORY, HostContainer
from toilcache.batch.container_sweep import remove_all
from toilcache.batch.host_process import visible_devices
from toilcache.containers.model import HOST_LABEL, WORKFLOW_LABEL
from toilcache.errors import ContainerError
from toilcache.node.coordination import NodeDirs

_HOST = "toilcache.worker.allocation"


class Launcher:
    """A container for one host.

    :param text: the `HostContainer` of the workflow, as it crosses command lines.
    :param image: what this host runs in.
    :param host: its name.
    :param cores: what its jobs may have, for engines whose containers do not count as part of the allocation.
    :param memory: likewise, in bytes.
    :param told: what the host is to know.
    :param fetching: entered while the image is seen to, which may take minutes.
    """

    def __init__(
        self,
        text: str,
        dirs: NodeDirs,
        image: str,
        host: str,
        cores: float,
        memory: int,
        told: dict[str, Any],
        fetching: AbstractContextManager[None],
    ) -> None:
        general = HostContainer.from_json(text)
        self._dirs = dirs
        self._wanted = replace(
            general,
            image=image,
            labels=general.labels | {HOST_LABEL: host},
            gpus=visible_devices(os.getpid()),
            cores=cores,
            memory=memory + BOX_MEMORY,
        )
        self._told = told
        self._fetching = fetching
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._has_begun = False

    def warn(self, why: str, wait: float = 0.0) -> None:
        """Pass a warning on; where no host has begun yet, end, and leave nothing."""
        if not self._has_begun:
            sys.exit(1)
        with suppress(OSError):  # it has ended, or has more warnings than it can read
            protocol.send(self._ours, protocol.WARN, why, wait, block=False)

    def serve(self) -> int:
        """Return the status of the host when it has ended and its container is removed.

        :raises ToilcacheError: there is no such image here, or no host came up in it.
        :raises OSError: a directory cannot be used.
        """
        with ExitStack() as stack:
            launch = Launch(self._wanted, self._dirs, _HOST, stack, self._fetching)
            why = launch.introduce(self._theirs.fileno(), {"environment": handed(launch), "told": self._told})
            if why:
                raise ContainerError(why)
            self._theirs.close()
            self._has_begun = True
            return attend(launch, self._wanted)


def remove_host(text: str, host: str) -> None:
    """Remove the container of a host whose launcher was killed, if it has one."""
    container = HostContainer.from_json(text)
    workflow = {WORKFLOW_LABEL: container.labels[WORKFLOW_LABEL]}
    remove_all(container, workflow | {HOST_LABEL: host}, lambda labels: True)
