"""The programs of Slurm as calls: one method each, run with a scrubbed environment and a limit of time.

Knows how a call can go wrong and raises that sorted. Must not decide anything: when to call again is for
those who call. A program that is missing is an error for the person at once.
"""

from __future__ import annotations

import logging
import os
import pwd
import time
from collections.abc import Callable, Mapping, Sequence

from toilcache.batch.slurm import commands, parse
from toilcache.batch.slurm.evidence import Look, look_of, look_of_accounts
from toilcache.batch.slurm.trouble import Trouble, classify, said
from toilcache.errors import ProcessError, ProcessTimeoutError, ToilcacheError
from toilcache.process import run
from toilcache.retry import ErrorCondition, retry

logger = logging.getLogger(__name__)

CALL_SECONDS = 60.0
_NOT_FOUND = 127


class SlurmError(ToilcacheError):
    """A program of Slurm refused; `trouble` says what may be done about it, `text` is what it said."""

    def __init__(self, program: str, text: str, trouble: Trouble) -> None:
        super().__init__(f"cannot run {program}: {text}; {trouble.value}")
        self.text = text
        self.trouble = trouble


class Limits:
    """How much may be submitted: tasks in one array, and tasks of ours at a time."""

    def __init__(self, array: int, jobs: int) -> None:
        self.array = array
        self.jobs = jobs


class SlurmClient:
    """Calls for one workflow, whose jobs all have the name `name`.

    `calls` counts them by program, for reports and tests.
    """

    def __init__(
        self, name: str, clusters: str | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.calls: dict[str, int] = {}
        self._clusters = clusters
        self._environment = commands.client_environment(os.environ if environ is None else environ)
        self._user = pwd.getpwuid(os.geteuid()).pw_name
        self._since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - 60))
        self._has_accounting = True

    def submit(self, argv: Sequence[str], script: bytes) -> parse.Submitted:
        """Hand a script to sbatch. SlurmError also where no id can be found in what it prints."""
        text = self._call(argv, script)
        made = parse.parse_submission(text)
        if made is None:
            raise SlurmError("sbatch", f"it printed no job id but {said(text)!r}", Trouble.AMBIGUOUS)
        return made

    def look(self) -> Look:
        """Ask for the state of all tasks of the workflow, in one call."""
        at = time.monotonic()
        return look_of(parse.parse_squeue(self._call(self._on(commands.squeue))), at)

    def look_back(self) -> Look:
        """Ask accounting, which knows ended tasks for longer; the controller where accounting is off."""
        if self._has_accounting:
            at = time.monotonic()
            argv = commands.sacct(self.name, self._user, self._since, self._clusters)
            try:
                lines = parse.parse_sacct(self._call(argv))
            except ProcessError:
                lines = []  # there is no sacct here
            except SlurmError:
                self._has_accounting = False
                raise
            if lines:
                return look_of_accounts(lines, at)
            self._has_accounting = False
            logger.debug("accounting knows nothing of this workflow, and is not asked again")
        return self.look()

    def cancel_pending(self) -> None:
        """Cancel all of the workflow that has not begun."""
        self._patiently(self._on(commands.scancel_pending))

    def cancel_all(self) -> None:
        """Cancel all of the workflow."""
        self._patiently(self._on(commands.scancel_all))

    def partitions(self) -> list[parse.NodeGroup]:
        """Return what kinds of nodes there are; none if sinfo does not tell."""
        try:
            return parse.parse_sinfo(self._call(commands.sinfo(self._clusters)))
        except SlurmError as error:
            logger.warning("%s; jobs are submitted without looking what there is", error)
            return []

    def limits(self) -> Limits:
        """Ask for the limits of controller and accounting; where they do not tell, modest ones."""
        config: dict[str, str] = {}
        submitted: list[int] = []
        try:
            config = parse.parse_config(self._call(commands.show_config()))
            submitted = parse.parse_limits(self._call(commands.show_limits(self._user)))
        except (SlurmError, ProcessError) as error:
            logger.debug("%s", error)
        array = parse.parse_number(config, "MaxArraySize") or 1000
        jobs = (parse.parse_number(config, "MaxJobCount") or 10_000) // 2
        return Limits(max(1, min(array, jobs)), max(1, min([jobs, *submitted])))

    def _on(self, builder: Callable[[str, str, str | None], list[str]]) -> list[str]:
        return builder(self.name, self._user, self._clusters)

    def _patiently(self, argv: Sequence[str]) -> None:
        """Cancelling may be done twice, so what may work another time is tried again at once, a few times."""
        passing = ErrorCondition(SlurmError, error_message_must_include="may be")
        retry([0.5, 1.0, 2.0], errors=[passing])(self._call)(argv)

    def _call(self, argv: Sequence[str], stdin: bytes = b"") -> str:
        program = argv[0]
        self.calls[program] = self.calls.get(program, 0) + 1
        try:
            done = run(argv, stdin=stdin, env=self._environment, timeout=CALL_SECONDS)
        except ProcessTimeoutError:
            raise SlurmError(program, f"no answer in {CALL_SECONDS:g} s", Trouble.AMBIGUOUS) from None
        except ProcessError as error:
            if error.returncode == _NOT_FOUND:
                raise
            text = (error.stderr or error.stdout).decode("utf-8", "replace")
            raise SlurmError(program, said(text), classify(text)) from None
        return done.stdout.decode("utf-8", "replace")
