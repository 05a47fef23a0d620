"""Errors carry one line for a person and travel between processes."""

from __future__ import annotations

import pickle
from errno import ENOENT

import pytest

from toilcache import errors
from toilcache.errors import ToilcacheError, one_line, show

EXAMPLES = [
    errors.ConfigError("cannot use it"),
    errors.CacheError("cannot tell how much space there is"),
    errors.CacheUnavailableError("cannot use the cache just now"),
    errors.CacheDamagedError("cannot read the cache's database"),
    errors.ChangedFileError("cannot upload 'x': it was changed"),
    errors.IllegalDeletionCacheError("a path\nof two lines"),
    errors.InvalidSourceCacheError("cannot take in what is no file"),
    errors.UnitError("cannot read '2 Gigs'"),
    errors.JobException("cannot add a job twice"),
    errors.JobGraphDeadlockException("cannot order the jobs"),
    errors.JobPromiseConstraintError("'f' job-1", "'g' job-2"),
    errors.JobPromiseConstraintError("f"),
    errors.FailedJobsException("/a store", ["'f' job-1", "g\nh", 3, 4], exit_code=7),
    errors.InsufficientSystemResources("f", "memory", "4 TiB", "8 GiB"),
    errors.NoSuchJobException("../\n" + "x" * 300),
    errors.NoSuchFileException("id\nwith newline", "a name", "detail\nof two lines"),
    errors.MissingInputError("/no such\nfile"),
    errors.UnreadableInputError("/dir", "it is a directory"),
    errors.ConcurrentFileModificationException("job-1"),
    errors.JobStoreExistsException("/a 'store'"),
    errors.NoSuchJobStoreException("-store"),
    errors.JobStoreVersionError("/s", 1, 2),
    errors.JobStoreUnavailableError("cannot write: full"),
    errors.CorruptRecordError("/s/jobs/\udcff", "checksum"),
    errors.LeaderFencedError("cannot go on"),
    errors.LeaderAliveError("cannot restart"),
    errors.CoordinationDirError("cannot use /nfs"),
    errors.ProcessError(["sbatch", "--x\ny"], 1, b"out", b"first\nlast\xff words\n"),
    errors.ProcessTimeoutError(["sleep"], -9, why="it took too long"),
    errors.ContainerError("cannot start it"),
    errors.ContainerImageError("cannot fetch it"),
    errors.EngineUnavailableError("cannot reach docker"),
    errors.ContainerFailedError(
        ["sh", "-c", "a\nb"], "an image", "exit code 3", 3, b"first\nlast\xff words\n"
    ),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_is_one_line_and_survives_pickling(error: ToilcacheError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert str(error).startswith("cannot ")
    assert str(error).isprintable(), "control characters reach the terminal"


def test_every_class_has_an_example() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    classes = {kind for kind in kinds if issubclass(kind, ToilcacheError)} - {ToilcacheError}
    assert {type(error) for error in EXAMPLES} | {errors.CacheUnbalancedError} == classes


def test_who_holds_the_space_is_a_table_below_the_words_of_the_specification() -> None:
    error = errors.CacheUnbalancedError("job, requested (bytes), used (bytes)\nf, 2, 1")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    first, *rest = str(error).splitlines()
    assert first == errors.CacheUnbalancedError.message
    assert rest == ["job, requested (bytes), used (bytes)", "f, 2, 1"]


def test_failed_jobs_are_counted_and_named() -> None:
    error = errors.FailedJobsException("/store", ["a", "b", "c", "d", "e"], 3)
    assert (error.jobStoreLocator, error.numberOfFailedJobs, error.exit_code) == ("/store", 5, 3)
    assert "5 jobs failed (a, b, c and 2 more)" in str(error)
    assert "1 job failed (a)" in str(errors.FailedJobsException("/store", ["a"]))
    assert errors.FailedJobsException("/store", ["a"]).exit_code == 1


def test_a_bad_unit_is_a_value_error_and_a_configuration_error() -> None:
    assert issubclass(errors.UnitError, ValueError)
    assert issubclass(errors.UnitError, errors.ConfigError)


def test_a_process_error_keeps_everything_and_shows_the_last_words() -> None:
    error = errors.ProcessError(["a b", "c"], 4, b"out", b"one\ntwo\n")
    assert (error.argv, error.returncode, error.stdout, error.stderr) == (
        ["a b", "c"],
        4,
        b"out",
        b"one\ntwo\n",
    )
    assert str(error) == "cannot run 'a b' c: exit code 4: two"
    assert str(errors.ProcessError(["x"], 1, b"only out\n")).endswith(": only out")
    assert "killed by signal 11" in str(errors.ProcessError(["x"], -11))
    assert len(str(errors.ProcessError(["x" * 10_000], 1, b"", b"y" * 10_000))) < 700


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/plain/path", "/plain/path"),
        ("a b", "'a b'"),
        ("", "''"),
        ("a\nb", r"'a\nb'"),
        ("it's", '"it\'s"'),
        (3, "3"),
    ],
)
def test_show_quotes_only_what_needs_it(value: object, shown: str) -> None:
    assert show(value) == shown


def test_one_line_folds_and_cuts() -> None:
    assert one_line("a\n\tb  c") == "a b c"
    assert one_line("x" * 50, limit=10) == "xxxxxxx..."


def test_a_missing_input_is_a_file_not_found_error() -> None:
    error = errors.MissingInputError("/nowhere")
    assert isinstance(error, FileNotFoundError)
    assert error.errno == ENOENT
    assert pickle.loads(pickle.dumps(error)).errno == ENOENT
