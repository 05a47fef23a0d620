"""The program that calls what jobs have deferred on a node that is being cleaned:
``toilcache.worker.leftovers DIRECTORY``.

Knows how a process that is no host loads the script of a call. Must not know who cleans, or why. For whoever
holds the workflow's lock exclusively, so that what cannot be called here is called by nobody any more: it is
said, in one line.
"""

from __future__ import annotations

import os
import sys

from toilcache.job.module import ModuleDescriptor
from toilcache.node.deferred import CallFile, files_in
from toilcache.worker.caller import Caller
from toilcache.worker.deferred import Surroundings, label_of
from toilcache.worker.failures import say
from toilcache.worker.posix import Kernel

LIMIT_SECONDS = 15.0
"""So long may a call take here: whoever cleans may wait for it, the end of a workflow for one."""


def main(arguments: list[str]) -> int:
    """Call all that can be called; returns the exit status."""
    (directory,) = arguments
    kernel = Kernel()
    kernel.die_with(os.getppid())
    Caller(kernel, _load, _are_here, LIMIT_SECONDS).call_all_in(directory)
    left = [label for path in files_in(directory) for label in _labels(path)]
    if left:
        say(f"toilcache: never called, because their code cannot be loaded here: {', '.join(left)}")
    return 0


def _are_here(surroundings: Surroundings) -> bool:
    return surroundings.image is None


def _load(surroundings: Surroundings) -> None:
    sys.path[:0] = [entry for entry in surroundings.sys_path if entry not in sys.path]
    if surroundings.main is not None:
        ModuleDescriptor(*surroundings.main).load()


def _labels(path: str) -> list[str]:
    file = CallFile.take_over(path)
    if file is None:
        return []
    labels = [label_of(file.calls[number]) for number in file.waiting()]
    file.close()
    return labels


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
