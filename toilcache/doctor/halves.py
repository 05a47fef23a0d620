"""The two halves of an examination: this process, and one in a container or beside us.

Knows how the other half is started and spoken to. Must not know what is asked.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from toilcache.batch import protocol
from toilcache.batch.container_launch import Launch
from toilcache.batch.container_plan import HostContainer
from toilcache.doctor.probes import Answer, Probes
from toilcache.errors import ContainerError
from toilcache.node.coordination import NodeDirs
from toilcache.process import spawn

_ANSWER_SECONDS = 120.0
_MODULE = "toilcache.doctor.far"
_CHILD = f"import sys; from {_MODULE} import main; sys.exit(main(sys.argv[1:]))"


class Near:
    """This process."""

    def __init__(self) -> None:
        self._probes = Probes()

    def ask(self, question: str, *arguments: Any) -> Answer:
        """Answer at once."""
        return self._probes.answer(question, *arguments)

    def close(self) -> None:
        """Let go of what is held."""
        self._probes.close()


class Far:
    """The other process; ``fault`` is what is wrong with the places that it is to see, or ""."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._channel.settimeout(_ANSWER_SECONDS)
        self.fault: str = self._receive()

    def ask(self, question: str, *arguments: Any) -> Answer:
        """Wait for the answer.

        :raises ContainerError: none comes.
        """
        self.begin(question, *arguments)
        return self.finish()

    def begin(self, question: str, *arguments: Any) -> None:
        """Ask, and do not wait: :meth:`finish` does."""
        try:
            protocol.send(self._channel, question, *arguments)
        except OSError as error:
            raise _lost(error.strerror or str(error)) from None

    def finish(self) -> Answer:
        """Return the answer to what was asked last."""
        answer: Answer = self._receive()
        return answer

    def _receive(self) -> Any:
        try:
            message = protocol.receive(self._channel)
        except OSError as error:
            raise _lost(error.strerror or str(error)) from None
        if message is None:
            raise _lost("it has ended")
        return message[0]


def _lost(why: str) -> ContainerError:
    return ContainerError(
        f"cannot hear from the other process: {why}; look at the engine's log and try again"
    )


@contextmanager
def in_container(wanted: HostContainer, dirs: NodeDirs) -> Iterator[Far]:
    """Start the other half as a worker host in a container is started; it is gone after the block.

    :raises ContainerError: it did not come up.
    """
    with ExitStack() as stack:
        launch = Launch(wanted, dirs, _MODULE, stack)
        ours, theirs = _pair(stack)
        why = launch.introduce(theirs.fileno(), {"TMPDIR": os.path.join(dirs.home, "tmp")})
        theirs.close()
        if why:
            raise ContainerError(why)
        yield Far(ours)


@contextmanager
def beside_us() -> Iterator[Far]:
    """Start the other half as a process of this machine; it is gone after the block."""
    with ExitStack() as stack:
        ours, theirs = _pair(stack)
        pid = spawn([sys.executable, "-c", _CHILD, "3"], pass_fds=[(theirs.fileno(), 3)])
        stack.callback(os.waitpid, pid, 0)
        stack.callback(ours.close)  # it ends when nobody can ask any more
        theirs.close()
        yield Far(ours)


def _pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        stack.callback(end.close)
    return pair
