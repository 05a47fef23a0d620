"""``Job.Runner``: the options of a workflow script, and running it in one call. Knows only what it puts
together.
"""

from __future__ import annotations

import argparse
from typing import Any

from toilcache.config import add_options
from toilcache.job.job import Job
from toilcache.workflow import Toil


class Runner:
    """Set up and run a workflow (specification line 435)."""

    @staticmethod
    def getDefaultArgumentParser(jobstore_as_flag: bool = False) -> argparse.ArgumentParser:
        """Return an argument parser that knows the engine's options (specification line 437).

        The job store is the first positional argument, or ``--jobStore`` with ``jobstore_as_flag``.
        """
        parser = argparse.ArgumentParser()
        Runner.addToilOptions(parser, jobstore_as_flag)
        return parser

    @staticmethod
    def getDefaultOptions(jobStore: str | None = None, jobstore_as_flag: bool = False) -> argparse.Namespace:
        """Return the options as they are when only the job store is given (specification line 444)."""
        parser = Runner.getDefaultArgumentParser(jobstore_as_flag)
        arguments = [] if jobStore is None else ["--jobStore", jobStore] if jobstore_as_flag else [jobStore]
        return parser.parse_args(arguments)

    @staticmethod
    def addToilOptions(parser: argparse.ArgumentParser, jobstore_as_flag: bool = False) -> None:
        """Add the engine's options to a parser (specification line 450).

        :raises ConfigError: the parser is one of ``optparse``.
        """
        add_options(parser, jobstore_as_flag)

    @staticmethod
    def startToil(job: Job, options: argparse.Namespace) -> Any:
        """Run a workflow from this root job and return the root's value (specification line 457).

        With ``--restart`` the workflow in the job store is continued and ``job`` is not looked at.

        :raises FailedJobsException: some jobs failed for good.
        """
        with Toil(options) as toil:
            if toil.config.restart:
                return toil.restart()
            return toil.start(job)
