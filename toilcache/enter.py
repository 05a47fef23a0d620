"""The first program of an allocation: `python -m toilcache.enter VERB STORE RUN QUEUE WORD...`.

It takes the leader's environment from the job store and becomes `toilcache.worker.allocation`, which so has
that from its start, with what it says to Python and to the loader of libraries. Must not know what a host is,
so as not to import it: a worker would begin twice.
"""

from __future__ import annotations

import os
import sys

from toilcache.errors import ToilcacheError
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.job_store.work import queue_needs
from toilcache.process import own_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main(arguments: list[str]) -> int:
    """Go on as the worker's program of that verb; returns the exit status if there is nothing to do."""
    verb, locator, run, queue, *more = arguments
    try:
        store = FileJobStore(locator)
        store.resume()
        work = store.work(int(run))
        if not work.exists():
            return 0  # the run is over, and the environment to work in is gone
        setup = work.setup()
        _take_environment(setup)
        if verb in ("serve", "box"):
            threads = str(max(1, int(queue_needs(queue)[0])))
            os.environ.update(dict.fromkeys(setup["thread_variables"], threads))
    except ToilcacheError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sys.stdout.flush()
    words = (verb, store.locator, run, queue, *more)
    os.execv(sys.executable, own_program("toilcache.worker", "toilcache.worker.allocation", *words))


def _take_environment(setup: dict[str, Any]) -> None:
    """Have the leader's environment, but for what tells about this allocation."""
    prefixes, names = setup["own_prefixes"], setup["own_names"]
    own = {name: value for name, value in os.environ.items() if name.startswith(prefixes) or name in names}
    os.environ.clear()
    os.environ.update(setup["environment"])
    os.environ.update(own)
    os.environ[setup["marker"][0]] = setup["marker"][1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
