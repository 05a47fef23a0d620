"""The command ``toilcache node-cleanup``: remove from this node what dead workflows have left on it.

Knows what a person or a scheduler's epilog asks for, and how it is answered. What is dead, and how it goes,
is the business of :mod:`toilcache.worker.sweep`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence

from toilcache.errors import ConfigError, CoordinationDirError
from toilcache.node.coordination import boot_id, checked_id
from toilcache.node.remains import remains_here
from toilcache.worker.sweep import FAILED, LEFT, REMOVED, WOULD_GO, Finding, sweep_leader_locks, sweep_one

VARIABLE = "TOILCACHE_WORKFLOW"

_WORDS = {
    REMOVED: "removed",
    WOULD_GO: "would be removed",
    LEFT: "left",
    FAILED: "cannot be removed; try again, or remove it by hand",
}

TEXT = "remove from this node what dead workflows have left on it"
_DESCRIPTION = """\
Remove from this node what dead workflows have left on it: job directories, cached
files, notes, locks, containers. What their jobs have deferred is called first
(Job.defer), as far as its code can be loaded here; what cannot be called is named.

A workflow is dead, and what it left is removed, if nobody on this node uses it and
  * its job store is gone, or says that the workflow has ended, or
  * its leader has not been heard of for 3 days, or
  * the node has been started anew since.
Everything else is left, each with a line that says why: a workflow that is idle on
this node for the moment keeps its cached files. Nothing is waited for, and nothing
happens if this runs twice, or while a workflow starts.
"""
_EPILOG = f"""\
examples:
  toilcache node-cleanup --all --dry-run        what is here, and what would be removed
  toilcache node-cleanup --all                  remove what the dead have left
  toilcache node-cleanup --workflow ID --force  remove it though its leader may live,
                                                or --cleanWorkDir has kept it

in the batch script of a job, or in an epilog of Slurm (as the job's user, so that
deferred functions are called too):
  runuser -u "$SLURM_JOB_USER" -- toilcache node-cleanup --all

Without --workflow and --all the workflow is the one that the variable {VARIABLE}
names, which all processes of a workflow have in their environment. The directories
are looked for in all places that a workflow would choose by itself; give --workDir
and --coordinationDir, or set TOILCACHE_WORK_DIR and TOILCACHE_COORDINATION_DIR, if
others were named. Root cleans for all users, but calls no functions of theirs.

exit status: 0 nothing dead is left, whatever was left alone; 1 something could not
be removed; 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the texts and options of the command."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--workflow", metavar="ID", help="this workflow alone; ID.RUN: up to that run of it")
    which.add_argument("--all", action="store_true", help="every workflow that has left something")
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --workflow: also if it may be alive; never while somebody on this node uses it",
    )
    parser.add_argument("--dry-run", action="store_true", help="remove nothing, say what would be removed")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.add_argument("--workDir", metavar="DIR", help="the work directory that workflows were given")
    parser.add_argument("--coordinationDir", metavar="DIR", help="the coordination directory they were given")


def node_cleanup(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    try:
        workflow_id, run = _asked_for(options)
    except (ConfigError, CoordinationDirError) as error:
        print(f"toilcache: error: {error}", file=sys.stderr)
        return 2
    found = remains_here(options.workDir, options.coordinationDir)
    if workflow_id is None and not options.dry_run:
        sweep_leader_locks(options.workDir, options.coordinationDir)
    findings = [
        sweep_one(
            remains,
            everyone=os.geteuid() == 0,
            force=options.force,
            run=run,
            dry_run=options.dry_run,
        )
        for remains in found
        if workflow_id in (None, remains.workflow_id)
    ]
    print(_as_json(findings, options.dry_run) if options.json else _as_text(findings, workflow_id))
    return 1 if any(finding.action == FAILED for finding in findings) else 0


def _asked_for(options: argparse.Namespace) -> tuple[str | None, int | None]:
    """Return the workflow and the run up to which its remains go; None for all."""
    named = options.workflow or (None if options.all else os.environ.get(VARIABLE))
    if named is None and not options.all:
        raise ConfigError(f"cannot tell what to clean: give --workflow ID or --all, or set {VARIABLE}")
    if options.force and named is None:
        raise ConfigError("cannot force all: give --force with --workflow ID")
    if named is None:
        return None, None
    workflow_id, _, run = named.partition(".")
    if run and not re.fullmatch("[0-9]{1,9}", run):
        raise ConfigError(f"cannot use {named!r} as a workflow: give ID, or ID.RUN with a number")
    return checked_id(workflow_id), int(run) if run else None


def _as_text(findings: Sequence[Finding], workflow_id: str | None) -> str:
    if not findings:
        return "nothing is left on this node" + (f" of workflow {workflow_id}" if workflow_id else "")
    return "\n".join(map(_line, findings))


def _line(finding: Finding) -> str:
    when = "" if finding.boot == boot_id()[:8] else f" (of boot {finding.boot})"
    return f"{finding.workflow_id}{when}: {_WORDS[finding.action]}: {finding.why}"


def _as_json(findings: Sequence[Finding], dry_run: bool) -> str:
    rows = [
        {
            "workflow": finding.workflow_id,
            "boot": finding.boot,
            "action": finding.action,
            "why": finding.why,
            "paths": finding.paths,
        }
        for finding in findings
    ]
    return json.dumps({"node": os.uname().nodename, "dry_run": dry_run, "workflows": rows})
