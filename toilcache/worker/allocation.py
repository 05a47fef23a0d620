"""A worker host in an allocation of a scheduler: `python -m toilcache.worker.allocation VERB STORE RUN QUEUE
WORD...`.

Knows how a host on another node begins, what ends it, and how it cleans its node. Must not know which
scheduler started it: the setup in the job store says which variables tell about the allocation. It is what
`toilcache.enter` becomes, in the same process, so that signals always reach the one that is there; one of:

* `serve` takes work until there is none (`toilcache.worker.store_source`), and cleans the node on the way out
  if the leader has ordered it and nobody else uses it;
* `box IMAGE` has a container do that, in which this module's only argument says where to connect;
* `clean` removes this workflow from a node on which no host is left to do it;
* `after` does for a host what it could not do itself, if it ended without a last word.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

from toilcache.batch.protocol import forget_bind_now
from toilcache.errors import ToilcacheError
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.job_store.liveness import closing
from toilcache.job_store.work import queue_needs
from toilcache.node.coordination import NodeDirs, node_dirs
from toilcache.node.handover import take
from toilcache.node.machine import end_marked_processes, node_id
from toilcache.worker.failures import describe
from toilcache.worker.host import Host, leave_clean
from toilcache.worker.posix import default_signals
from toilcache.worker.store_source import Rules, StoreSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from toilcache.job_store.abstract import AbstractJobStore

SPARE_SECONDS = 60.0
_WARNINGS = {signal.SIGTERM: "terminated", signal.SIGUSR1: "time"}
MOST_EARLY = 120.0
"""So many seconds may a warning of the time limit come before it is due: those of Slurm, and as many as it
was asked to leave. One that comes before that is no matter of imprecision.
"""
CLEANINGS = 3


def main(arguments: list[str]) -> int:
    """Run one of the programs; returns the exit status."""
    forget_bind_now()
    try:
        if len(arguments) == 1:
            return _serve_inside(*arguments)
        verb, locator, run, queue, *more = arguments
        store = FileJobStore(locator)
        store.resume()
        return _PROGRAMS[verb](store, int(run), queue, *more)
    except ToilcacheError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _serve(store: AbstractJobStore, run: int, queue: str) -> int:
    dirs = _take_part(store, run)
    source = _source(store, run, queue, dirs)
    _heed_warnings(source.warn, store.work(run).setup())
    status = _work(source)
    over = source.clean or closing(store.locator, run) == "clean"
    source.bye(_clean_up(store, run, dirs) if over else "left")
    return status


def _clean_up(store: AbstractJobStore, run: int, dirs: NodeDirs) -> str:
    """Remove the workflow from this node; returns "clean", or "busy" where others use it or are at it.

    Who leaves at the same moment may find the other one's lock, and be found: so it is tried again. Where a
    newer leader has begun the node is that one's. "left" where something cannot be removed: that is said, and
    the leader sees to it.
    """
    from toilcache.node.remains import cleanup

    places = os.path.dirname(dirs.work), os.path.dirname(dirs.coordination)
    for tries in range(CLEANINGS):
        try:
            if store.current_run() == run and cleanup(dirs.workflow_id, *places, run=run):
                return "clean"
        except FileNotFoundError:
            pass  # somebody else removes it at the same time
        except (OSError, ToilcacheError) as error:
            print(f"cannot clean this node: {error}", file=sys.stderr)
            return "left"
        if tries + 1 < CLEANINGS:
            time.sleep(0.05 + os.urandom(1)[0] / 2560)
    return "busy"


def _take_part(store: AbstractJobStore, run: int) -> NodeDirs:
    """Say that this node takes part, and return where the workflow is on it."""
    config = store.config
    dirs = node_dirs(config.workflowID or "", config.workDir, config.coordinationDir)
    store.register_node(node_id(), {"host": os.uname().nodename, "run": run})
    return dirs


def _source(store: AbstractJobStore, run: int, queue: str, dirs: NodeDirs, **more: Any) -> StoreSource:
    setup = store.work(run).setup()
    here, host = _here(setup, dirs), _host(setup)
    return StoreSource(store, run, queue, here, _rules(setup), _identity(setup), host, **more)


def _identity(setup: dict[str, Any]) -> list[str]:
    """Return what names this allocation to the leader."""
    return [os.environ.get(name, "") for name in setup["identity"]]


def _host(setup: dict[str, Any]) -> str:
    """Return the name of this host: all that it starts has it in its environment."""
    return os.environ.setdefault(setup["host_variable"], os.urandom(8).hex())


def _work(source: StoreSource, fault: str = "") -> int:
    """Run jobs until there are none for this host; returns the exit status."""
    source.hello()
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
    except Exception as error:  # the user's module may raise anything while it is imported
        source.broken(describe(error))
    return 1


def _box(store: AbstractJobStore, run: int, queue: str, image: str) -> int:
    """Have a container of the image serve, and do here what is to be done when it has ended."""
    from toilcache.batch.container_allocation import Launcher

    setup = store.work(run).setup()
    dirs = _take_part(store, run)
    host = _host(setup)
    node = {"node": _node(dirs), "locator": store.locator, "run": run}
    told = node | {"queue": queue, "name": os.uname().nodename, "image": image}
    words = [queue, os.uname().nodename, image.encode("utf-8", "surrogateescape").hex(), *_identity(setup)]
    fetching = store.work(run).fetching(host, " ".join(word or "-" for word in words))
    launcher = Launcher(setup["container"], dirs, image, host, *queue_needs(queue)[:2], told, fetching)
    _heed_warnings(launcher.warn, setup)
    status = 1
    try:
        status = launcher.serve()
    except (ToilcacheError, OSError) as error:
        why = str(error) if isinstance(error, ToilcacheError) else f"cannot start a container: {error}"
        print(why, file=sys.stderr)
        source = _source(store, run, queue, dirs)
        _work(source, fault=why)
        source.bye("left")
    leave_clean(node)
    _finish(store, run, host)
    return status


def _serve_inside(directory: str) -> int:
    """Be the host in a container; its launcher does what is to be done afterwards."""
    descriptor, content, fault = take(directory)
    os.environ.update(content["environment"])
    told = content["told"]
    store = FileJobStore(told["locator"])
    store.resume()
    line = socket.socket(fileno=descriptor)
    line.set_inheritable(False)  # programs that jobs start must not keep it open
    dirs = NodeDirs(*told["node"])
    source = _source(
        store, told["run"], told["queue"], dirs, image=told["image"], node=told["name"], line=line
    )
    _heed_warnings(source.warn, store.work(told["run"]).setup())
    status = _work(source, fault)
    if not source.clean:
        source.bye("left")
    return status


def _after(store: AbstractJobStore, run: int, queue: str) -> int:
    """Take care of what a killed host has left: its processes, its container, its last word, its node."""
    setup = store.work(run).setup()
    host = _host(setup)
    if setup["container"] is not None:
        from toilcache.batch.container_allocation import remove_host

        remove_host(setup["container"], host)
    end_marked_processes(f"{setup['host_variable']}={host}")
    leave_clean({"node": _node(_dirs(store)), "locator": store.locator, "run": run})
    _finish(store, run, host)
    return 0


def _finish(store: AbstractJobStore, run: int, host: str) -> None:
    """Say a host's last word if it has not, now that nothing of it runs any more, and clean what is to be."""
    work = store.work(run)
    said = work.read_log(host, 0)[0]
    if not said or said[-1].startswith(b"bye"):
        return
    ordered = b"stop clean" in work.orders(0)[0]
    word = _clean_up(store, run, _dirs(store)) if ordered else "lost"
    with work.open_log(host) as log:
        log.write(f"bye {word}\n".encode("ascii"))


def _dirs(store: AbstractJobStore) -> NodeDirs:
    """Return where the workflow is on this node, if it is."""
    config = store.config
    return node_dirs(config.workflowID or "", config.workDir, config.coordinationDir, create=False)


def _here(setup: dict[str, Any], dirs: NodeDirs) -> dict[str, Any]:
    """Return the setup with this node's directories in the place of the leader's."""
    return setup | {
        "node": _node(dirs),
        "jobs_dir": dirs.jobs,
        "names_base": dirs.names_base,
        "notes_dir": dirs.notes,
    }


def _node(dirs: NodeDirs) -> tuple[str, str, str]:
    """Return what `NodeDirs` is made of."""
    return dirs.workflow_id, os.path.dirname(dirs.work), os.path.dirname(dirs.coordination)


def _rules(setup: dict[str, Any]) -> Rules:
    """Return when to take nothing more; the end of the allocation is told by a variable, or was asked for."""
    ends = _end(setup)
    left = setup["time"] if ends is None else ends - time.time()
    limits = [seconds for seconds in (left, setup["lifetime"]) if seconds is not None]
    until = time.monotonic() + min(limits) if limits else None
    spare = min(SPARE_SECONDS, min(limits) / 10) if limits else 0.0
    return Rules(setup["idle"], setup["max_jobs"], until, spare)


def _end(setup: dict[str, Any]) -> float | None:
    """Return when the allocation ends (seconds since 1970), None if nobody says so."""
    ends = os.environ.get(setup["end_variable"], "")
    return float(ends) if ends.isdigit() else None


def _heed_warnings(warn: Callable[..., None], setup: dict[str, Any]) -> None:
    """End the host cleanly on a warning, and let the processes of jobs take signals as any program does.

    That of the time limit may come up to a minute too early (sbatch(1), `--signal`). One that says so is
    heeded when a quarter of the time is left, or as many seconds as were asked for.
    """
    ends, now, host = _end(setup), time.time(), os.getpid()
    due = now if ends is None else ends - min(setup["warning"], (ends - now) / 4)

    def warned(number: int, frame: object) -> None:
        why = _WARNINGS[signal.Signals(number)]
        early = due - time.time() if why == "time" else 0.0
        warn(why, early if early <= MOST_EARLY else 0.0)

    def forget() -> None:
        if os.getppid() == host:
            default_signals(*_WARNINGS)

    for number in _WARNINGS:
        signal.signal(number, warned)
    os.register_at_fork(after_in_child=forget)


def _clean(store: AbstractJobStore, run: int, queue: str, host: str) -> int:
    """Remove this workflow from the node; if another host still uses it, that one does so when it ends.

    A clean-up that comes so late that another leader has begun leaves the node to that one. One that has an
    allocation for itself also removes the containers of launchers that were killed.
    """
    if queue == "-":
        _remove_containers(store, run)
    word = _clean_up(store, run, _dirs(store))
    if word == "left":
        return 1  # the leader, which hears nothing, tells the person
    with store.work(run).open_log(host) as log:
        log.write(f"bye {word}\n".encode("ascii"))
    return 0


def _remove_containers(store: AbstractJobStore, run: int) -> None:
    text = store.work(run).setup()["container"]
    if text is not None:
        from toilcache.batch.container_plan import HostContainer
        from toilcache.batch.container_sweep import sweep

        sweep(HostContainer.from_json(text), range(run, 0, -1))


_PROGRAMS: dict[str, Callable[..., int]] = {
    "serve": _serve,
    "box": _box,
    "clean": _clean,
    "after": _after,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
