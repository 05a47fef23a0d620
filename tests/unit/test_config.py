"""Options: their table, where values come from, and what is said about bad ones."""

from __future__ import annotations

import argparse
import optparse
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toilcache.config import Config, add_options, config_from_options, default_options, option_defaults
from toilcache.errors import ConfigError
from toilcache.options import GROUPS, OPTIONS, SHORTCUTS
from toilcache.readers import KNOWN_BATCH_SYSTEMS
from toilcache.sources import read_config_file, values_beneath_command_line

VALUED = [option for option in OPTIONS.values() if not option.is_switch]
SWITCHES = [option for option in OPTIONS.values() if option.is_switch]

# For each option a text that is not its default, and the value it means.
SAMPLES: dict[str, tuple[str, Any]] = {
    "jobStore": ("file:/a b", "file:/a b"),
    "clean": ("never", "never"),
    "cleanWorkDir": ("ONERROR", "onError"),
    "workDir": ("/a b/../c", "/c"),
    "coordinationDir": ("/run/x", "/run/x"),
    "batchSystem": ("local", "single_machine"),
    "maxLocalJobs": ("3", 3),
    "slurmAccount": (" physics", "physics"),
    "slurmPartition": ("long,short", "long,short"),
    "slurmQos": ("high", "high"),
    "slurmConstraint": ("a&b", "a&b"),
    "slurmReservation": ("monday", "monday"),
    "slurmClusters": ("east", "east"),
    "slurmTime": ("2h", 7200.0),
    "slurmMemory": ("Per-CPU", "per-cpu"),
    "slurmArgs": ("--nice=10 '--comment=a b'", ["--nice=10", "--comment=a b"]),
    "workerIdleTime": ("2 min", 120.0),
    "workerMaxJobs": ("10", 10),
    "workerLifetime": ("1h", 3600.0),
    "maxWorkers": ("50", 50),
    "maxCores": ("2.5", 2.5),
    "maxMemory": ("3 GiB", 3 * 2**30),
    "maxDisk": ("1 TB", 10**12),
    "caching": ("false", False),
    "symlinkImports": ("no", False),
    "container": ("docker://python:3.12", "docker://python:3.12"),
    "containerEngine": ("Apptainer", "apptainer"),
    "imageCache": ("/the images", "/the images"),
    "defaultMemory": ("512M", 512 * 2**20),
    "defaultCores": ("0.5", 0.5),
    "defaultDisk": ("7", 7),
    "defaultAccelerators": ("1, nvidia:2", ["1", "nvidia:2"]),
    "retryCount": ("0", 0),
    "retryBackoff": ("2 min", 120.0),
    "maxJobDuration": ("1h", 3600.0),
    "logLevel": ("warn", "WARNING"),
    "logFile": ("/log file", "/log file"),
    "writeLogs": ("/logs", "/logs"),
}


def parse(*arguments: str, jobstore_as_flag: bool = False, **settings: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="wf", **settings)
    add_options(parser, jobstore_as_flag)
    return parser.parse_args(arguments)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Parse what must be refused, and return the one line that is said."""
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    out, said = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert said.startswith("wf: error: ")
    assert said.count("\n") == 1
    return said


def test_config_declares_exactly_the_options() -> None:
    own = {"workflowID", "workflowAttemptNumber"}
    assert set(Config.__annotations__) == set(OPTIONS) | own
    assert vars(Config()) == {**option_defaults(), "workflowID": None, "workflowAttemptNumber": 0}


def test_the_defaults_that_users_know() -> None:
    config = Config()
    assert (config.retryCount, config.defaultMemory, config.defaultCores) == (1, 2 * 2**30, 1)
    assert (config.defaultDisk, config.clean, config.cleanWorkDir) == (2 * 2**30, "onSuccess", "always")
    assert (config.caching, config.batchSystem, config.logLevel) == (None, "single_machine", "INFO")
    assert (config.retryBackoff, config.preload, config.restart) == (1.0, True, False)


def test_defaults_are_not_shared() -> None:
    Config().defaultAccelerators.append("gpu")
    assert Config().defaultAccelerators == []


def test_config_takes_values_by_name_and_compares() -> None:
    assert Config(retryCount=3).retryCount == 3
    assert Config(retryCount=3) == Config(retryCount=3) != Config()
    with pytest.raises(ConfigError, match=r"'retries'.*no such option"):
        Config(retries=3)
    with pytest.raises(ConfigError, match="retryCount"):
        Config(retrycount=3)


def test_config_survives_pickling_and_gains_new_options() -> None:
    config = Config(jobStore="/a", maxMemory=5)
    assert pickle.loads(pickle.dumps(config)) == config
    state = {name: value for name, value in vars(config).items() if name != "retryCount"}
    old = Config.__new__(Config)
    old.__setstate__(state)
    assert old == config


def test_unpickling_a_config_imports_nothing_heavy() -> None:
    code = "import pickle, sys; pickle.loads(eval(sys.argv[1])); print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, repr(pickle.dumps(Config(jobStore="x")))],
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {
        "argparse",
        "tomllib",
        "tomli",
        "logging",
        "json",
        "difflib",
        "typing_extensions",
        "toilcache.sources",
    }
    assert not heavy & set(done.stdout.split())


def test_every_option_teaches() -> None:
    for option in OPTIONS.values():
        assert len(option.help) > 15, option.dest
        assert option.dest in option.flags[0]
        assert not any(letter.isupper() for letter in option.flags[1:2]), "a kebab-case spelling"


def test_every_valued_option_has_a_sample() -> None:
    assert set(SAMPLES) == {option.dest for option in VALUED}


@pytest.mark.parametrize("option", VALUED, ids=lambda option: option.dest)
def test_each_spelling_sets_the_value(option: Any) -> None:
    text, value = SAMPLES[option.dest]
    assert value != option.default or option.dest == "batchSystem"
    for flag in option.flags:
        assert vars(parse(flag, text, jobstore_as_flag=True))[option.dest] == value
        assert vars(parse(f"{flag}={text}", jobstore_as_flag=True))[option.dest] == value
    assert option.read(value) == value, "reading a finished value changes nothing"


@pytest.mark.parametrize("option", SWITCHES, ids=lambda option: option.dest)
def test_each_switch_goes_on_and_off_and_takes_no_value(option: Any) -> None:
    for flag in option.flags:
        assert vars(parse(flag, "./store"))[option.dest] is True
    for flag in option.opposites:
        assert vars(parse(flag, "./store"))[option.dest] is False


@pytest.mark.parametrize("flags", SHORTCUTS, ids=lambda flags: flags[0])
def test_shortcuts(flags: tuple[str, ...]) -> None:
    option, value = SHORTCUTS[flags]
    for flag in flags:
        assert vars(parse(flag, "./store"))[option.dest] == value


def test_the_familiar_spellings() -> None:
    options = parse(
        "--logDebug", "--disableCaching", "--noPreload", "--no-preload", "s", "--defaultPreemptable"
    )
    assert (options.logLevel, options.caching, options.preload) == ("DEBUG", False, False)
    assert options.defaultPreemptible is True
    assert parse("--job-store", "a", jobstore_as_flag=True).jobStore == "a"
    assert parse("--jobstore", "a", jobstore_as_flag=True).jobStore == "a"
    assert parse(jobstore_as_flag=True).jobStore is None
    assert parse("--", "-store").jobStore == "-store"


def test_the_last_of_several_wins() -> None:
    assert parse("s", "--logDebug", "--logLevel", "error").logLevel == "ERROR"
    assert parse("s", "--restart", "--no-restart").restart is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["s", "--defaultMemory", "2 Gigs"], ["'2 Gigs'", "2 GiB", "defaultMemory"]),
        (["s", "--default-cores", "many"], ["'many'", "defaultCores"]),
        (["s", "--maxJobDuration", "soon"], ["'soon'", "1h30m"]),
        (["s", "--retryCount", "-1"], ["retryCount"]),
        (["s", "--retryCount=-1"], ["'-1'", "0 or more"]),
        (["s", "--maxLocalJobs", "0"], ["'0'", "1 or more"]),
        (["s", "--batchSystem", "lsf"], ["'lsf'", "local", *KNOWN_BATCH_SYSTEMS]),
        (["s", "--clean", "sometimes"], ["'sometimes'", "always, onError, never, onSuccess"]),
        (["s", "--logLevel", "LOUD"], ["'LOUD'", "DEBUG, INFO"]),
        (["s", "--caching", "perhaps"], ["'perhaps'", "true or false"]),
        (["s", "--workDir", ""], ["''", "path"]),
        (["s", "--workDir", "a\0b"], ["path"]),
        (["", "--logInfo"], ["''", "job store"]),
        (["s", "--restart=yes"], ["--restart"]),
        (["s", "--retryConut", "3"], ["--retryConut", "did you mean --retry"]),
        (["s", "--frobnicate"], ["--frobnicate"]),
        (["s", "t\nu"], ["t u"]),
        ([], ["JOBSTORE"]),
        (["s", "--config", "/no/such file"], ["'/no/such file'", "No such file"]),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, *arguments)
    assert all(word in said for word in words), said


def test_a_parser_that_raises_or_has_its_own_words_keeps_them() -> None:
    class Own(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise RuntimeError(message)

    parser = Own()
    add_options(parser)
    with pytest.raises(RuntimeError, match="2 Gigs"):
        parser.parse_args(["s", "--defaultDisk", "2 Gigs"])
    with pytest.raises(argparse.ArgumentError, match="2 Gigs"):
        parse("s", "--defaultDisk", "2 Gigs", exit_on_error=False)


def test_an_optparse_parser_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"OptionParser; use an argparse\.ArgumentParser"):
        add_options(optparse.OptionParser())  # type: ignore[arg-type]


def test_help_shows_groups_defaults_and_switches_that_matter(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"{title}:" in text for title in GROUPS)
    assert "(default: 2 GiB)" in text
    assert "--noPreload, --no-preload" in text
    assert "--no-restart" not in text


def test_a_script_s_own_options_stay() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mine", type=int, default=1)
    add_options(parser)
    parser.set_defaults(retryCount=9)
    options = parser.parse_args(["--mine", "4", "s"])
    assert (options.mine, options.retryCount) == (4, 9)
    assert config_from_options(options).retryCount == 9


# Sources


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return str(path)


def test_command_line_before_environment_before_file_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path / "a 'file'\n.toml", "retryCount = 5\ndefault-cores = 2\nlog_level = 'error'\npreload=false"
    )
    arguments = ["s", "--config", file]
    assert (parse(*arguments).retryCount, parse(*arguments).defaultCores) == (5, 2.0)
    assert (parse(*arguments).logLevel, parse(*arguments).preload) == ("ERROR", False)
    monkeypatch.setenv("TOILCACHE_RETRY_COUNT", "6")
    assert parse(*arguments).retryCount == 6
    assert parse("s").retryCount == 6
    for order in ([*arguments, "--retryCount", "7"], ["--retry-count=7", *arguments]):
        assert config_from_options(parse(*order)).retryCount == 7
    monkeypatch.setenv("TOILCACHE_RETRY_COUNT", "")
    assert parse("s").retryCount == 1


def test_the_file_may_be_named_by_a_variable_or_stand_at_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(os.environ["HOME"])
    write(tmp_path / "xdg" / "toilcache" / "config.toml", "retryCount = 2\nclean = 'never'")
    write(tmp_path / "named.toml", "retryCount = 3")
    assert values_beneath_command_line(environment={}) == {}
    default = home / ".config" / "toilcache" / "config.toml"
    write(default, "retryCount = 4")
    try:
        assert parse("s").retryCount == 4
    finally:
        default.unlink()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert (parse("s").retryCount, parse("s").clean) == (2, "never")
    named = str(tmp_path / "named.toml")
    explicit = parse("s", "--config", named)
    assert (explicit.retryCount, explicit.clean) == (3, "onSuccess"), "one file replaces the other"
    monkeypatch.setenv("TOILCACHE_CONFIG", named)
    assert (parse("s").retryCount, parse("s").clean) == (3, "onSuccess")


@pytest.mark.parametrize("option", list(OPTIONS.values()), ids=lambda option: option.dest)
def test_every_option_has_its_variable(option: Any) -> None:
    text, value = SAMPLES.get(option.dest, (str(not option.default), not option.default))
    found = values_beneath_command_line(environment={option.environment_name: text, "HOME": "/nowhere"})
    assert found == {option.dest: value}


def test_the_names_of_variables() -> None:
    assert OPTIONS["coordinationDir"].environment_name == "TOILCACHE_COORDINATION_DIR"
    assert OPTIONS["writeLogsFromAllJobs"].environment_name == "TOILCACHE_WRITE_LOGS_FROM_ALL_JOBS"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("retryCuont = 3", ["retryCuont", "did you mean retryCount"]),
        ("zzzzzz = 3", ["zzzzzz", "no option"]),
        ("[retry]\ncount = 3", ["retry", "no option"]),
        ("retryCount = 3\nretry-count = 4", ["retryCount twice"]),
        ("retryCount = 'x'", ["'x'", "retryCount"]),
        ("retryCount = true", ["True", "retryCount"]),
        ("workDir = 3", ["3", "path"]),
        ("defaultMemory = '2 Gigs'", ["'2 Gigs'"]),
        ("restart = 'maybe'", ["'maybe'"]),
        ("retryCount = ", ["TOML"]),
        ("\u00fc", ["TOML"]),
    ],
)
def test_a_bad_file_is_named_in_one_line(
    content: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a b.toml", content)
    said = refusal(capsys, "s", "--config", path)
    assert all(word in said for word in [*words, path]), said


def test_a_file_that_is_not_text_or_not_readable_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("binary", "missing", "."):
        with pytest.raises(ConfigError, match="cannot read"):
            read_config_file(str(tmp_path / name))


def test_native_values_of_a_file(tmp_path: Path) -> None:
    text = "maxMemory = 1024\ndefaultCores = 0.5\nrestart = true\ndefaultAccelerators = ['gpu', '2']"
    values = read_config_file(write(tmp_path / "f.toml", text))
    assert values == {
        "maxMemory": 1024,
        "defaultCores": 0.5,
        "restart": True,
        "defaultAccelerators": ["gpu", "2"],
    }


def test_a_bad_variable_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOILCACHE_RETRY_COUNT", "x")
    assert "TOILCACHE_RETRY_COUNT" in refusal(capsys, "s")


# From options to a configuration


def test_what_a_script_assigns_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOILCACHE_RETRY_COUNT", "6")
    monkeypatch.setenv("TOILCACHE_WORK_DIR", "/from/environment")
    options = default_options("./store")
    assert (options.retryCount, options.jobStore, options.workDir) == (6, "./store", "/from/environment")
    options.retryCount = 1
    options.workDir = None
    options.defaultMemory = "3 GiB"
    options.logLevel = "debug"
    config = config_from_options(options)
    assert (config.retryCount, config.workDir, config.defaultMemory) == (1, None, 3 * 2**30)
    assert config.logLevel == "DEBUG"


def test_what_options_lack_comes_from_beneath(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOILCACHE_MAX_CORES", "3")
    file = write(tmp_path / "f.toml", "retryBackoff = '2s'")
    config = config_from_options(argparse.Namespace(jobStore="s", retryCount=None, other=1, config=file))
    assert (config.jobStore, config.maxCores, config.retryBackoff) == ("s", 3.0, 2.0)
    assert config.retryCount == 1
    assert not hasattr(config, "other")


def test_default_options_are_what_a_bare_command_line_gives() -> None:
    assert config_from_options(default_options("s")) == config_from_options(parse("s"))
    assert config_from_options(default_options("-s")).jobStore == "-s"


def test_an_assigned_bad_value_is_named() -> None:
    options = default_options("s")
    options.defaultDisk = "2 Gigs"
    with pytest.raises(ConfigError, match=r"'2 Gigs'.*defaultDisk"):
        config_from_options(options)


def test_options_that_need_each_other() -> None:
    assert config_from_options(parse("s", "--forceRestart")).restart is True
    with pytest.raises(ConfigError, match="--writeLogs DIR"):
        config_from_options(parse("s", "--writeLogsFromAllJobs"))
    config_from_options(parse("s", "--writeLogsFromAllJobs", "--writeLogs", "d"))


def test_the_docker_batch_system_needs_an_image_and_its_own_engine() -> None:
    docker = ("s", "--batchSystem", "docker")
    with pytest.raises(ConfigError, match="there is no image for jobs that ask for none; add --container"):
        config_from_options(parse(*docker))
    boxed = (*docker, "--container", "python:3.12")
    assert config_from_options(parse(*boxed)).containerEngine == "docker"
    for engine in ("none", "singularity", "podman"):
        with pytest.raises(ConfigError, match=f"with container engine {engine}"):
            config_from_options(parse(*boxed, "--containerEngine", engine))


def test_paths_are_absolute_and_know_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    options = parse("store", "--workDir", "a/../- b", "--writeLogs", "~/logs")
    assert (options.workDir, options.writeLogs) == (str(tmp_path / "- b"), "/home/me/logs")
    assert options.jobStore == "store", "a locator may be more than a path"
