"""The command `toilcache explain`: which job is meant, what is known of it, the answer on the terminal.

Knows the job store's notes of its leader. Must not know how an answer is found. It reads one journal and a
few records, and asks a scheduler one question at most; while the leader runs or after it has ended.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import suppress

from toilcache.errors import JobException, LeaderAliveError, NoSuchJobException
from toilcache.explain.answer import Explainer
from toilcache.explain.overview import Overview
from toilcache.job.description import JobDescription
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.leader.account import Account
from toilcache.systems import make_waits

TEXT = "say why a job is not running, or what all that waits is waiting for"
MOST_ANSWERS = 20
"""So many jobs of one name are answered for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = TEXT[0].upper() + TEXT[1:] + "."
    parser.epilog = (
        "examples:\n"
        "  toilcache explain ./my-store              all that waits, counted by what it waits for\n"
        "  toilcache explain ./my-store align        the jobs of that name\n"
        "  toilcache explain ./my-store 3fa9         the job whose id begins so\n\n"
        "exit status: 0 answered, 1 there is no such job or no workflow, 2 wrong usage"
    )
    parser.add_argument(
        "jobStore", metavar="JOBSTORE", help="the directory of the job store, or file:DIRECTORY"
    )
    parser.add_argument("job", metavar="JOB", nargs="?", help="an id, the beginning of one, or a name")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")


def explain(options: argparse.Namespace) -> int:
    """Answer; raises JobException where no such job is known."""
    store = FileJobStore(options.jobStore)
    store.resume()
    account, live = _account(store), _is_live(store)
    run = account.run or store.current_run()
    record = json.loads(store.standing(run) or b"{}")
    waits = make_waits(store.config, store, run, record)
    if options.job is None:
        overview = Overview(account, waits, live=live)
        print(json.dumps(overview.as_dict()) if options.json else str(overview))
        return 0
    jobs = _find(store, account, options.job)
    tries = int(store.config.retryCount) + 1
    explainer = Explainer(account, waits, _loader(store), live=live, tries=tries)
    answers = [explainer.explain(job_id) for job_id in jobs[:MOST_ANSWERS]]
    if options.json:
        print(json.dumps({"run": run, "leader": live, "jobs": [answer.as_dict() for answer in answers]}))
        return 0
    for answer in answers:
        print(answer)
    if len(jobs) > MOST_ANSWERS:
        print(f"and {len(jobs) - MOST_ANSWERS} more jobs that {options.job!r} means")
    if not live:
        print(
            f"no leader runs this workflow; run the script again with --restart to go on (run {run} is over)"
        )
    return 0


def _account(store: FileJobStore) -> Account:
    """Read the journal of the newest run; an empty one if there is none yet."""
    journals = store.journals()
    if not journals:
        return Account(b"")
    with journals[-1]() as stream:
        return Account(stream.read())


def _is_live(store: FileJobStore) -> bool:
    try:
        store.check_unled()
    except LeaderAliveError:
        return True
    return False


def _find(store: FileJobStore, account: Account, text: str) -> list[str]:
    jobs = account.find(text)
    if jobs:
        return jobs
    with suppress(NoSuchJobException):
        store.load_job(text)
        raise JobException(
            f"cannot explain {text}: no job that has returned names it yet, so it does not belong to the "
            "workflow; its predecessor is still at work, or was lost and will make another"
        )
    raise JobException(
        f"cannot explain {text!r}: no job of run {account.run} has this id, an id that begins so, or this "
        "name; ask without a job for all that waits"
    )


def _loader(store: FileJobStore) -> Callable[[str], JobDescription | None]:
    known: dict[str, JobDescription | None] = {}

    def load(job_id: str) -> JobDescription | None:
        if job_id not in known:
            known[job_id] = None
            with suppress(NoSuchJobException):
                known[job_id] = store.load_job(job_id)
        return known[job_id]

    return load
