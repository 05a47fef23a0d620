"""The command ``toilcache doctor``: what is asked for, and the findings as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import closing

from toilcache.arguments import add_named_options, named_values
from toilcache.config import Config
from toilcache.doctor.examine import examine
from toilcache.doctor.verdicts import CHANGE, TOPICS, Finding

TEXT = "look whether workflows can run on this node, and say what to change"
_DESCRIPTION = """\
Look whether workflows can run on this node, from here and from inside a container
of an image, as workers run in one. Without --container the other half is a second
process of this machine. Looked at are:

"""
_EPILOG = """\
examples:
  toilcache doctor                                   this node as it is
  toilcache doctor ./store --container python:3.12   and from inside a container
  toilcache doctor --workDir /scratch --json         for scripts

Directories are made as a workflow makes them, and removed again. In JSON a finding
has topic, verdict ("ok", "note" or "change"), found, and change: what to do.

exit status: 0 nothing has to be changed; 1 something has; 2 wrong usage
"""
_OPTIONS = ("container", "containerEngine", "imageCache", "workDir", "coordinationDir", "defaultDisk")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the texts and options of the command."""
    topics = "\n".join(f"  {topic:<13}{text}" for topic, text in TOPICS.items())
    parser.description, parser.epilog = _DESCRIPTION + topics, _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "jobStore",
        nargs="?",
        metavar="JOBSTORE",
        help="where job stores are, or will be; a directory is made there and removed again",
    )
    add_named_options(parser, _OPTIONS)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")


def doctor(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    config = Config(jobStore=options.jobStore, **named_values(options, _OPTIONS))
    findings = []
    # What was made is removed, too, if we are asked to end.
    usual = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with closing(examine(config)) as examination:
            for finding in examination:
                findings.append(finding)
                if not options.json:
                    print(_as_text(finding), flush=True)
    finally:
        signal.signal(signal.SIGTERM, usual)
    must_change = any(finding.verdict == CHANGE for finding in findings)
    if options.json:
        rows = [finding._asdict() for finding in findings]
        print(json.dumps({"node": os.uname().nodename, "ok": not must_change, "findings": rows}))
    return 1 if must_change else 0


def _as_text(finding: Finding) -> str:
    line = f"{finding.verdict:<8}{finding.topic:<13}{finding.found}"
    return f"{line}\n{'':<21}-> {finding.change}" if finding.change else line
