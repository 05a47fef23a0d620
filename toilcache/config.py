"""The configuration of one workflow.

Knows which values there are and how they are filled from parsed options. Must not know what they do. A worker
unpickles Config, so argparse and TOML are imported only where a person's input is read.
"""

from __future__ import annotations

from toilcache.errors import ConfigError
from toilcache.options import OPTIONS, near_misses, option_defaults
from toilcache.readers import BATCH_SYSTEM_ALIASES, KNOWN_BATCH_SYSTEMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection
    from typing import Any

__all__ = [
    "BATCH_SYSTEM_ALIASES",
    "KNOWN_BATCH_SYSTEMS",
    "OPTIONS",
    "Config",
    "add_options",
    "config_from_options",
    "default_options",
    "given_options",
    "option_defaults",
    "wants_cleaning",
]


class Config:
    """The values that a workflow runs with; plain attributes, named as the options are.

    Sizes are bytes, times seconds. None means: no limit, or whatever the part concerned chooses.
    """

    jobStore: str | None
    workflowID: str | None
    workflowAttemptNumber: int
    restart: bool
    forceRestart: bool
    clean: str
    cleanWorkDir: str
    workDir: str | None
    coordinationDir: str | None
    batchSystem: str
    maxLocalJobs: int | None
    maxCores: float | None
    maxMemory: int | None
    maxDisk: int | None
    slurmAccount: str | None
    slurmPartition: str | None
    slurmQos: str | None
    slurmConstraint: str | None
    slurmReservation: str | None
    slurmClusters: str | None
    slurmTime: float | None
    slurmMemory: str
    slurmArgs: list[str]
    workerReuse: bool
    workerIdleTime: float
    workerMaxJobs: int | None
    workerLifetime: float | None
    maxWorkers: int | None
    disableChaining: bool
    shareProcess: bool
    preload: bool
    caching: bool | None
    symlinkImports: bool
    container: str | None
    containerEngine: str
    containerLimits: bool
    imageCache: str | None
    defaultMemory: int
    defaultCores: float
    defaultDisk: int
    defaultAccelerators: list[Any]
    defaultPreemptible: bool
    retryCount: int
    retryBackoff: float
    doubleMem: bool
    doubleTime: bool
    maxJobDuration: float | None
    logLevel: str
    logFile: str | None
    writeLogs: str | None
    writeLogsFromAllJobs: bool
    disableProgress: bool

    def __init__(self, **values: Any) -> None:
        """Take every option's default, but the values given here; ConfigError on a name that is none."""
        self.__setstate__({})
        for name, value in values.items():
            if name not in self.__dict__:
                advice = near_misses(name, self.__dict__)
                raise ConfigError(
                    f"cannot set {name!r} in a configuration: there is no such option; {advice}"
                )
            setattr(self, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a pickle; an option that it does not hold gets its default."""
        self.__dict__.update(option_defaults(), workflowID=None, workflowAttemptNumber=0)
        self.__dict__.update(state)

    def continue_from(self, stored: Config, given: Collection[str]) -> None:
        """Take the place of the configuration of an earlier run: what was not given anew stays as it was.

        Given is also what a script has changed from its default. How to begin and where is never inherited.
        """
        defaults = option_defaults()
        for dest in OPTIONS.keys() - {*given, "jobStore", "restart", "forceRestart"}:
            if getattr(self, dest) == defaults[dest]:
                setattr(self, dest, getattr(stored, dest))
        self.jobStore = stored.jobStore
        self.workflowID = stored.workflowID
        self.workflowAttemptNumber = stored.workflowAttemptNumber + 1

    def __eq__(self, other: object) -> bool:
        """Compare all values."""
        return isinstance(other, Config) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # the values may change

    def setOptions(self, options: argparse.Namespace) -> None:
        """Take over what a parser filled in or a script assigned; ConfigError names an unusable value.

        What `options` lacks, or has as None where that means nothing, comes from the sources beneath.
        """
        from toilcache.sources import values_beneath_command_line

        given = {
            dest: value
            for dest, value in vars(options).items()
            if dest in OPTIONS and (value is not None or OPTIONS[dest].default is None)
        }
        if len(given) < len(OPTIONS):
            given = {**values_beneath_command_line(getattr(options, "config", None)), **given}
        for dest, option in OPTIONS.items():
            value = given.get(dest, option.default)
            setattr(self, dest, value if value is None else option.read(value))
        self.restart = self.restart or self.forceRestart
        if self.writeLogsFromAllJobs and self.writeLogs is None:
            raise ConfigError("cannot write the logs of all jobs: no directory is given; add --writeLogs DIR")
        if self.batchSystem == "docker":
            self._check_docker()

    def _check_docker(self) -> None:
        if self.containerEngine not in ("auto", "docker"):
            raise ConfigError(
                f"cannot use batch system docker with container engine {self.containerEngine}: its "
                "containers are Docker's; leave --containerEngine out, or use --batchSystem single_machine"
            )
        if self.container is None:
            raise ConfigError(
                "cannot use batch system docker: there is no image for jobs that ask for none; "
                "add --container IMAGE"
            )
        self.containerEngine = "docker"


def wants_cleaning(policy: str, *, failed: bool) -> bool:
    """Tell whether a policy such as ``--clean`` has something removed that succeeded or failed."""
    return policy == "always" or policy == ("onError" if failed else "onSuccess")


def config_from_options(options: argparse.Namespace) -> Config:
    """Return the configuration for parsed options; ConfigError names a value that cannot be used."""
    config = Config()
    config.setOptions(options)
    return config


def given_options(options: argparse.Namespace) -> set[str]:
    """Return the names of the options that command line, environment or file have set.

    In options that no parser of ours has filled, all that are there.
    """
    from toilcache.arguments import given_on_command_line
    from toilcache.sources import values_beneath_command_line

    present = vars(options).keys() & OPTIONS.keys()
    if len(present) < len(OPTIONS):
        return present
    beneath = values_beneath_command_line(getattr(options, "config", None))
    return {*given_on_command_line(options), *beneath}


def default_options(job_store: str) -> argparse.Namespace:
    """Return options as parsing a command line with nothing but the job store would."""
    from toilcache.arguments import default_options as fill

    return fill(job_store)


def add_options(parser: argparse.ArgumentParser, jobstore_as_flag: bool = False) -> None:
    """Give a parser all options of the engine; the job store as a positional argument or as --jobStore.

    The parsed namespace holds final values: environment and file are its defaults, so what a script assigns
    to it afterwards counts. Errors of the parser become one line. ConfigError for an optparse parser.
    """
    from toilcache.arguments import add_options as add

    add(parser, jobstore_as_flag)
