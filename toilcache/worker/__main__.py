"""Start a worker host: ``python -m toilcache.worker FD``, with the adapter's socket inherited as descriptor
FD.
"""

from __future__ import annotations

import os
import signal
import sys

from toilcache.worker.failures import describe
from toilcache.worker.host import Host
from toilcache.worker.source import SocketSource


def main(arguments: list[str]) -> int:
    """Serve until the adapter says stop or goes away; returns the exit status."""
    if len(arguments) != 1 or not arguments[0].isdigit():
        print(
            "usage: python -m toilcache.worker FD (started by a batch adapter, not by hand)", file=sys.stderr
        )
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    source = SocketSource(int(arguments[0]))
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
