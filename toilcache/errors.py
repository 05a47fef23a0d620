"""The errors that the engine raises on purpose, each with a message for a person.

Knows names and wording only. Must not import any other module of the engine: every layer raises what
stands here. Each message fits one line, says what cannot be done, with which value, and what to do about
it. Every error survives pickling, since a worker's error is shown by the leader.
"""

from __future__ import annotations

from errno import ENOENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def show(value: object) -> str:
    """Give a value as a one-line message may hold it: quoted if blanks or control characters hide in it."""
    text = str(value)
    if text and text.isprintable() and not any(c in text for c in " '\""):
        return text
    return repr(text)


def one_line(text: str, limit: int = 400) -> str:
    """Fold a text of several lines into one of at most `limit` characters."""
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else folded[: limit - 3] + "..."


class ToilcacheError(Exception):
    """Base of all errors whose message is complete without a traceback."""

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from the finished message and the attributes, whatever the constructor takes."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    kind: type[ToilcacheError], args: tuple[object, ...], state: dict[str, object]
) -> ToilcacheError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(ToilcacheError):
    """An option, environment variable or configuration file has a value that cannot be used."""


class UnitError(ConfigError, ValueError):
    """A size, duration or number of cores cannot be read."""


class JobException(ToilcacheError):
    """A job or a graph of jobs was put together in a way that cannot run."""


class JobGraphDeadlockException(JobException):
    """A graph of jobs can never finish: it has a cycle, several roots or none."""


class JobPromiseConstraintError(JobException):
    """A promise was used by a job that can run before the promised value exists."""

    def __init__(self, promising_job: object, recipient_job: object = None) -> None:
        """Name the job that promises and, where known, the one that would be handed the promise too early."""
        recipient = "another job" if recipient_job is None else f"job {one_line(str(recipient_job))}"
        super().__init__(
            f"cannot hand the promise of job {one_line(str(promising_job))} to {recipient}: "
            "it may run first; make it a child or a follow-on of the promising job"
        )


class FailedJobsException(ToilcacheError):
    """The workflow ended and some of its jobs had failed for good."""

    def __init__(self, job_store_locator: str, failed_jobs: Sequence[object], exit_code: int = 1) -> None:
        """Take the job store, the failed jobs' descriptions and the exit code meant for the process."""
        names = ", ".join(one_line(str(job)) for job in failed_jobs[:3])
        more = f" and {len(failed_jobs) - 3} more" if len(failed_jobs) > 3 else ""
        noun = "job" if len(failed_jobs) == 1 else "jobs"
        listed = f" ({names}{more})" if names else ""
        super().__init__(
            f"cannot finish the workflow in {show(job_store_locator)}: "
            f"{len(failed_jobs)} {noun} failed{listed}; "
            "mend the cause and run again with --restart"
        )
        self.jobStoreLocator = job_store_locator
        self.numberOfFailedJobs = len(failed_jobs)
        self.failed_jobs = [str(job) for job in failed_jobs]
        self.exit_code = exit_code


class InsufficientSystemResources(ToilcacheError):
    """A job asks for more than any place it could run at has."""

    def __init__(
        self, who: object, resource: str, requested: object, available: object, where: str = "this machine"
    ) -> None:
        """Take the job, the resource ("memory") and both amounts as they shall be printed ("4 GiB")."""
        super().__init__(
            f"cannot run job {show(who)}: it asks for {requested} of {resource} and {where} has {available}; "
            "ask for less, or run where there is more"
        )
        self.resource = resource
        self.requested = requested
        self.available = available


class NoSuchJobException(ToilcacheError):
    """The job store has no job of this id."""

    def __init__(self, job_id: object) -> None:
        """Name the job id that was looked for."""
        super().__init__(f"cannot find job {show(job_id)} in the job store; it was deleted or never created")
        self.job_id = str(job_id)


class NoSuchFileException(ToilcacheError):
    """The job store has no file of this id."""

    def __init__(self, file_id: object, custom_name: str | None = None, *extra: object) -> None:
        """Name the file id and, where there is one, the name that people know the file by."""
        name = f" ({show(custom_name)})" if custom_name is not None else ""
        details = "".join(f"; {one_line(str(item))}" for item in extra)
        super().__init__(
            f"cannot find file {show(file_id)}{name} in the job store; "
            f"it was deleted or never written{details}"
        )
        self.file_id = str(file_id)
        self.custom_name = custom_name


class UnreadableInputError(ToilcacheError, OSError):
    """A file that was to be imported cannot be read."""

    def __init__(self, url: object, why: str) -> None:
        """Name the file's URL and say what is wrong with it."""
        super().__init__(f"cannot import {show(url)}: {one_line(why)}")


class MissingInputError(UnreadableInputError, FileNotFoundError):
    """A file that was to be imported does not exist."""

    errno = ENOENT

    def __init__(self, url: object) -> None:
        """Name the URL at which there is nothing."""
        super().__init__(url, "there is no such file; check the path")


class ConcurrentFileModificationException(ToilcacheError):
    """Someone else changed the job or file first, so this writer must stop and write nothing more."""

    def __init__(self, name: object) -> None:
        """Name the job or file whose newer state is not this writer's."""
        super().__init__(
            f"cannot update {show(name)}: a newer version of it exists; this attempt was given up"
        )
        self.name = str(name)


class JobStoreExistsException(ToilcacheError):
    """A new workflow was to be started in a job store that is in use."""

    def __init__(self, locator: object) -> None:
        """Name the job store."""
        super().__init__(
            f"cannot create job store {show(locator)}: it exists; "
            "continue its workflow with --restart, or remove it with 'toilcache clean'"
        )
        self.locator = str(locator)


class NoSuchJobStoreException(ToilcacheError):
    """The job store to be opened is not there."""

    def __init__(self, locator: object) -> None:
        """Name the job store."""
        super().__init__(
            f"cannot open job store {show(locator)}: it does not exist; "
            "check the path, or start the workflow without --restart"
        )
        self.locator = str(locator)


class JobStoreVersionError(ToilcacheError):
    """The job store was written in another format."""

    def __init__(self, locator: object, found: object, expected: object) -> None:
        """Name the job store, its format version and the one this engine reads."""
        super().__init__(
            f"cannot open job store {show(locator)}: its format is version {show(found)} and this program "
            f"reads {show(expected)}; use the toilcache that began the workflow, or start anew elsewhere"
        )
        self.locator = str(locator)
        self.found = found
        self.expected = expected


class JobStoreUnavailableError(ToilcacheError):
    """The job store is full, not writable, or the path holds something else."""


class CorruptRecordError(ToilcacheError):
    """A record of the job store is torn or was damaged."""

    def __init__(self, path: object, why: str) -> None:
        """Name the damaged file and what is wrong with it."""
        super().__init__(
            f"cannot read {show(path)}: {why}; the file is damaged: "
            "--restart mends what a power cut tore, else start anew elsewhere"
        )
        self.path = str(path)
        self.why = why


class LeaderFencedError(ToilcacheError):
    """A newer leader has taken the workflow over, so this one must stop and clean nothing."""


class LeaderAliveError(ToilcacheError):
    """The workflow seems to have a living leader."""


class CoordinationDirError(ToilcacheError):
    """No usable directory for the coordination of a node's workers, or an unsafe one."""


class CacheError(ToilcacheError):
    """The cache of this node cannot do what a job asks of it."""

    def __init__(self, message: object) -> None:
        """Take the whole message."""
        super().__init__(str(message))


class InvalidSourceCacheError(CacheError):
    """A file that is not local to the job was to be taken into the cache."""


class IllegalDeletionCacheError(CacheError, FileNotFoundError):
    """A job removed or moved a file that it had read, instead of calling `deleteLocalFile`."""

    errno = ENOENT

    def __init__(self, deletedFile: object) -> None:
        """Name the path at which the file should stand."""
        super().__init__(
            f"cannot find {show(deletedFile)}: it was moved or removed behind the cache's back; "
            "put it back, and remove it with deleteLocalFile()"
        )
        self.path = str(deletedFile)


class CacheUnbalancedError(CacheError):
    """The cache cannot make room for a job."""

    message = (
        "Unable unable to free enough space for caching. This error frequently arises due to jobs using "
        "more disk than they asked for; give them larger disk requirements, or the node a larger disk"
    )

    def __init__(self, details: str = "") -> None:
        """Take a table of who holds the space."""
        super().__init__(f"{self.message}\n{details}" if details else self.message)


class CacheUnavailableError(CacheError):
    """The cache cannot be used just now; whoever can does without it."""


class CacheDamagedError(CacheUnavailableError):
    """The cache's database cannot be read; it is replaced by a new one."""


class ChangedFileError(CacheError):
    """A file of the cache was changed by somebody while jobs held it."""


class ProcessError(ToilcacheError):
    """A child program could not be started or did not end with exit code 0."""

    def __init__(
        self, argv: Iterable[str], returncode: int, stdout: bytes = b"", stderr: bytes = b"", why: str = ""
    ) -> None:
        """Take the argv, the exit code (negative: a signal's number) and all that the program printed."""
        self.argv = list(argv)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        ending = why or (f"killed by signal {-returncode}" if returncode < 0 else f"exit code {returncode}")
        super().__init__(f"cannot run {self._command()}: {ending}{self._last_words()}")

    def _command(self) -> str:
        return one_line(" ".join(show(arg) for arg in self.argv), limit=200)

    def _last_words(self) -> str:
        lines = (self.stderr.strip() or self.stdout.strip()).decode("utf-8", "replace").splitlines()
        return f": {one_line(lines[-1])}" if lines else ""


class ProcessTimeoutError(ProcessError):
    """A child program was ended because it took longer than allowed."""


class ContainerError(ToilcacheError):
    """A container could not be started, looked after or removed."""


class ContainerImageError(ContainerError):
    """An image is not there, cannot be fetched, or is none that this engine can use."""


class ContainerFailedError(ContainerError):
    """A program in a container has run and failed."""

    def __init__(self, argv: Iterable[str], image: object, why: str, code: int | None, stderr: bytes) -> None:
        """Take what was run, where, why that is a failure, its status (None: nobody knows) and errors."""
        command = one_line(" ".join(show(word) for word in argv), limit=200)
        lines = stderr.decode("utf-8", "replace").strip().splitlines()
        words = f": {one_line(lines[-1])}" if lines else ""
        super().__init__(f"cannot run {command} in {show(image)}: {why}{words}")
        self.code = code
        self.stderr = stderr


class EngineUnavailableError(ContainerError):
    """No container engine is here, or it does not answer; it may answer later."""


class WorkflowStopped(SystemExit):
    """The workflow was asked to stop, by a signal or by the kill flag; it can be restarted.

    Unhandled, it ends the script with 128 plus the signal's number, as shells expect.
    """

    def __init__(self, why: str, exit_code: int = 1) -> None:
        """Take the reason and the exit status of the process."""
        super().__init__(exit_code)
        self.why = why
