"""Start a worker host: ``python -m toilcache.worker FD``, with the adapter's socket inherited as descriptor
FD, or, in a container, ``python -m toilcache.worker DIRECTORY``, where the launcher hands that socket over.
"""

from __future__ import annotations

import os
import signal
import sys

from toilcache.errors import CoordinationDirError
from toilcache.node.handover import take
from toilcache.worker.failures import describe
from toilcache.worker.host import Host
from toilcache.worker.source import SocketSource


def main(arguments: list[str]) -> int:
    """Serve until the adapter says stop or goes away; returns the exit status."""
    if len(arguments) != 1 or not (arguments[0].isdigit() or arguments[0].startswith("/")):
        print(
            "usage: python -m toilcache.worker FD|DIRECTORY (started by a batch adapter, not by hand)",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        source, fault = _source(arguments[0])
    except CoordinationDirError as error:
        print(error, file=sys.stderr)
        return 1
    if fault:
        source.broken(fault)
        return 1
    try:
        return Host(source).serve()
    except SystemExit as error:
        source.broken(
            f"the script called sys.exit({error.code!r}) while a worker loaded it; "
            "put what starts the workflow under: if __name__ == '__main__':"
        )
        return 1
    except Exception as error:  # the user's module may raise anything while it is imported
        source.broken(describe(error))
        return 1


def _source(word: str) -> tuple[SocketSource, str]:
    """Return the adapter's socket, and what is wrong with the container that this process is in, or ""."""
    if word.isdigit():
        return SocketSource(int(word)), ""
    descriptor, environment, fault = take(word)
    os.environ.update(environment)
    return SocketSource(descriptor), fault


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
