"""A worker host in an allocation of a scheduler: `python -m toilcache.worker.allocation VERB STORE RUN
QUEUE`.

Knows how a host on another node begins, what ends it, and how it cleans its node. Must not know which
scheduler started it: the setup in the job store says which variables tell about the allocation. It is three
programs one after the other in one process, so that signals always reach the one that is there:

* `enter` reads the setup and becomes one of the others with the leader's environment;
* `serve` takes work until there is none (`toilcache.worker.store_source`);
* `clean`, if the leader has ordered it, removes this workflow from the node, now that nothing of it is in
  use.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

from toilcache.errors import ToilcacheError
from toilcache.file_store.abstract import AbstractFileStore
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.job_store.work import queue_needs
from toilcache.node.coordination import node_dirs
from toilcache.node.machine import node_id
from toilcache.worker.failures import describe
from toilcache.worker.host import Host
from toilcache.worker.store_source import Rules, StoreSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from toilcache.job_store.abstract import AbstractJobStore
    from toilcache.node.coordination import NodeDirs

SPARE_SECONDS = 60.0
_WARNINGS = {signal.SIGTERM: "terminated", signal.SIGUSR1: "time"}


def main(arguments: list[str]) -> int:
    """Run one of the three programs; returns the exit status."""
    try:
        verb, locator, run, queue, *more = arguments
        store = FileJobStore(locator)
        store.resume()
        if verb == "enter" and not store.work(int(run)).exists():
            return 0  # the run is over: there is nothing to do, and the environment to do it in is gone
        if verb == "enter":
            return _enter(store, int(run), queue, more)
        if verb == "serve":
            return _serve(store, int(run), queue)
        return _clean(store, int(run), *more)
    except ToilcacheError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _become(verb: str, store: AbstractJobStore, run: int, queue: str, *more: str) -> None:
    """Go on as the next program, with the environment as it is now."""
    sys.stdout.flush()
    command = [sys.executable, "-c", _START, "toilcache.worker", verb, store.locator, str(run), queue, *more]
    os.execv(sys.executable, command)


# As -m would, but without modules of the current directory, which may have the names of Python's own.
_START = (
    "import sys; sys.path[:1] = filter(None, sys.path[:1]); "
    "from toilcache.worker.allocation import main; sys.exit(main(sys.argv[2:]))"
)


def _enter(store: AbstractJobStore, run: int, queue: str, more: list[str]) -> int:
    """Take the leader's environment; go on with cleaning if that is all there is to do, which `more` says."""
    setup = store.work(run).setup()
    prefixes, names = setup["own_prefixes"], setup["own_names"]
    own = {name: value for name, value in os.environ.items() if name.startswith(prefixes) or name in names}
    os.environ.clear()
    os.environ.update(setup["environment"])
    os.environ.update(own)
    os.environ[setup["marker"][0]] = setup["marker"][1]
    if more:
        _become("clean", store, run, queue, *more)
    os.environ.update(dict.fromkeys(setup["thread_variables"], str(max(1, int(queue_needs(queue)[0])))))
    _become("serve", store, run, queue)
    return 1


def _serve(store: AbstractJobStore, run: int, queue: str) -> int:
    setup = store.work(run).setup()
    dirs = node_dirs(store.config.workflowID or "", store.config.workDir, store.config.coordinationDir)
    store.register_node(node_id(), {"host": os.uname().nodename, "run": run})
    values = [os.environ.get(name, "") for name in setup["identity"]]
    source = StoreSource(store, run, queue, _here(setup, dirs), _rules(setup), values)
    _heed_warnings(source)
    source.hello()
    status = 1
    try:
        status = Host(source).serve()
    except SystemExit as error:
        source.broken(
            f"the script called sys.exit({error.code!r}) while a worker loaded it; "
            "put what starts the workflow under: if __name__ == '__main__':"
        )
    except Exception as error:  # the user's module may raise anything while it is imported
        source.broken(describe(error))
    if source.clean:
        _become("clean", store, run, queue, source.host)
    source.bye("left")
    return status


def _here(setup: dict[str, Any], dirs: NodeDirs) -> dict[str, Any]:
    """Return the setup with this node's directories in the place of the leader's."""
    node = (dirs.workflow_id, os.path.dirname(dirs.work), os.path.dirname(dirs.coordination))
    return setup | {
        "node": node,
        "jobs_dir": dirs.jobs,
        "names_base": dirs.names_base,
        "notes_dir": dirs.notes,
    }


def _rules(setup: dict[str, Any]) -> Rules:
    """Return when to take nothing more; the end of the allocation is told by a variable, or was asked for."""
    now = time.monotonic()
    ends = os.environ.get(setup["end_variable"], "")
    left = float(ends) - time.time() if ends.isdigit() else setup["time"]
    limits = [seconds for seconds in (left, setup["lifetime"]) if seconds is not None]
    until = now + min(limits) if limits else None
    spare = min(SPARE_SECONDS, min(limits) / 10) if limits else 0.0
    return Rules(setup["idle"], setup["max_jobs"], until, spare)


def _heed_warnings(source: StoreSource) -> None:
    """End the host cleanly on a warning, and let the processes of jobs take signals as any program does."""

    def warned(number: int, frame: object) -> None:
        source.warn(_WARNINGS[signal.Signals(number)])

    for number in _WARNINGS:
        signal.signal(number, warned)
    os.register_at_fork(after_in_child=_forget_warnings)


def _forget_warnings() -> None:
    for number in _WARNINGS:
        signal.signal(number, signal.SIG_DFL)


def _clean(store: AbstractJobStore, run: int, host: str) -> int:
    """Remove this workflow from the node; if another host still uses it, that one does so when it ends.

    A clean-up that comes so late that another leader has begun leaves the node to that one.
    """
    config = store.config
    workflow_id = str(config.workflowID)
    if store.current_run() == run:
        with suppress(FileNotFoundError):  # somebody else removes it at the same time
            AbstractFileStore.shutdownFileStore(workflow_id, config.workDir, config.coordinationDir, run)
    dirs = node_dirs(workflow_id, config.workDir, config.coordinationDir, create=False)
    busy = os.path.exists(dirs.coordination) or os.path.exists(dirs.work)
    with store.work(run).open_log(host) as log:
        log.write(b"bye busy\n" if busy else b"bye clean\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
