"""The command ``toilcache``: look at a workflow, stop it, remove it. Workflows are Python scripts."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from toilcache import __version__
from toilcache.bench.command import add_arguments as bench_arguments
from toilcache.bench.command import bench as run_bench
from toilcache.cache.command import add_arguments as cache_arguments
from toilcache.cache.command import show_cache
from toilcache.doctor.command import TEXT as DOCTOR_TEXT
from toilcache.doctor.command import add_arguments as doctor_arguments
from toilcache.doctor.command import doctor as run_doctor
from toilcache.errors import JobStoreUnavailableError, NoSuchJobStoreException, ToilcacheError
from toilcache.explain.command import TEXT as EXPLAIN_TEXT
from toilcache.explain.command import add_arguments as explain_arguments
from toilcache.explain.command import explain as run_explain
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.leader.account import Status
from toilcache.node_cleanup import TEXT as CLEANUP_TEXT
from toilcache.node_cleanup import add_arguments as cleanup_arguments
from toilcache.node_cleanup import node_cleanup

_EPILOG = """\
A workflow is a Python script, run by itself:

  python my_workflow.py ./my-store          run it, with ./my-store as its job store
  python my_workflow.py ./my-store --restart    continue it after a failure or a kill
  python my_workflow.py --help              all options

exit status: 0 fine, 1 it failed, 2 wrong usage
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except ToilcacheError as error:
        print(f"toilcache: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toilcache",
        description="Look at, stop and remove workflows by their job stores.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"toilcache {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    status = _command(commands, "status", _status, "say how far a workflow is")
    status.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    status.add_argument(
        "--follow",
        action="store_true",
        help="print the status again whenever it changes, until the workflow ends",
    )
    explain = commands.add_parser("explain", help=EXPLAIN_TEXT)
    explain_arguments(explain)
    explain.set_defaults(command=run_explain)
    _command(commands, "kill", _kill, "ask the leader of a workflow to stop; it can be restarted")
    clean = _command(commands, "clean", _clean, "remove a job store with all its files")
    clean.add_argument("--force", action="store_true", help="also if its leader seems alive")
    text = "show what the cache of a workflow holds on this node, and whether it is sound"
    cache = commands.add_parser("cache", help=text, description=text[0].upper() + text[1:] + ".")
    cache_arguments(cache)
    cache.set_defaults(command=show_cache)
    text = "measure the engine on this machine"
    bench = commands.add_parser("bench", help=text, description=text[0].upper() + text[1:] + ".")
    bench_arguments(bench)
    bench.set_defaults(command=run_bench)
    doctor = commands.add_parser("doctor", help=DOCTOR_TEXT)
    doctor_arguments(doctor)
    doctor.set_defaults(command=run_doctor)
    cleanup = commands.add_parser("node-cleanup", help=CLEANUP_TEXT)
    cleanup_arguments(cleanup)
    cleanup.set_defaults(command=node_cleanup)
    return parser


def _command(commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str) -> Any:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument(
        "jobStore", metavar="JOBSTORE", help="the directory of the job store, or file:DIRECTORY"
    )
    parser.set_defaults(command=function)
    return parser


def _open_store(options: argparse.Namespace) -> FileJobStore:
    store = FileJobStore(options.jobStore)
    store.resume()
    return store


def _status(options: argparse.Namespace) -> int:
    store = _open_store(options)
    last = ""
    while True:
        status = Status(*_journals(store))
        text = json.dumps(status.as_dict()) if options.json else _describe(status)
        if text != last:
            print(text, flush=True)
            last = text
        if status.ended or not options.follow:
            return 1 if status.failed else 0
        time.sleep(1)


def _journals(store: FileJobStore) -> list[bytes]:
    """Read the journals of all runs: the newest may not have counted anything yet."""
    found = []
    for open_journal in store.journals():
        with open_journal() as stream:
            found.append(stream.read())
    return found


def _describe(status: Status) -> str:
    jobs = status.counts
    state = "ended" if status.ended else "running"
    lines = [
        f"{state} (run {status.run}): {jobs['done']} of {jobs['known']} jobs done, {jobs['ran']} ran, "
        f"{len(status.running)} issued, {jobs['failed']} failed, {jobs['retried']} attempts retried"
    ]
    now = time.time()
    for job, details in list(status.running.items())[:20]:
        lines.append(f"  issued {now - details['since']:.0f} s ago: {details['name'] or job} {job}")
    lines += [f"  failed: {job}: {why}" for job, why in status.failed.items()]
    return "\n".join(lines)


def _kill(options: argparse.Namespace) -> int:
    store = _open_store(options)
    try:
        store.write_kill_flag(True)
    except JobStoreUnavailableError:
        store.release_reserve()  # a leader on a full store waits; some room is set aside to stop it
        store.write_kill_flag(True)
    print("asked the leader to stop; it looks every 2 s. Continue with --restart.")
    return 0


def _clean(options: argparse.Namespace) -> int:
    store = FileJobStore(options.jobStore)
    try:
        store.resume()
    except NoSuchJobStoreException:
        if not os.path.isdir(store.path):
            raise  # else a kill has left it half made or half removed
    if not options.force:
        store.check_unled()
    store.destroy()
    return 0
