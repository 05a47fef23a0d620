"""Option values from environment variables and from a TOML file.

Knows the names of both and their order: the environment wins over the file. Must not know the command line,
which wins over both.
"""

from __future__ import annotations

import os
import sys

from toilcache.errors import ConfigError, one_line, show
from toilcache.options import OPTIONS, find_option, near_misses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CONFIG_VARIABLE = "TOILCACHE_CONFIG"


def values_beneath_command_line(
    config_file: str | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what environment and file set, by the options' names in Config.

    The file is the one given, else $TOILCACHE_CONFIG, else config.toml in the person's configuration
    directory if it exists. ConfigError names variable or file where a value cannot be read.
    """
    variables = os.environ if environment is None else environment
    return {**_file_values(config_file, variables), **environment_values(variables)}


def environment_values(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what TOILCACHE_* variables set; empty ones set nothing."""
    values = {}
    for dest, option in OPTIONS.items():
        text = environment.get(option.environment_name, "")
        if text:
            values[dest] = _read(dest, text, f"environment variable {option.environment_name}")
    return values


def read_config_file(path: str) -> dict[str, Any]:
    """Return what a TOML file sets; ConfigError names the file and a bad, unknown or double key."""
    values: dict[str, Any] = {}
    for key, value in _load_toml(path).items():
        option = find_option(key)
        if option is None:
            advice = near_misses(key, OPTIONS)
            raise ConfigError(f"cannot use {show(path)}: it sets {show(key)}, which is no option; {advice}")
        if option.dest in values:
            raise ConfigError(f"cannot use {show(path)}: it sets {option.dest} twice; remove one of them")
        values[option.dest] = _read(option.dest, value, f"file {show(path)}")
    return values


def _read(dest: str, value: Any, origin: str) -> Any:
    try:
        return OPTIONS[dest].read(value)
    except ConfigError as error:
        raise ConfigError(f"{error} (from {origin})") from None


def _file_values(config_file: str | None, environment: Mapping[str, str]) -> dict[str, Any]:
    path = config_file or environment.get(CONFIG_VARIABLE)
    if path:
        return read_config_file(os.path.expanduser(path))
    default = _default_file(environment)
    return read_config_file(default) if os.path.exists(default) else {}


def _default_file(environment: Mapping[str, str]) -> str:
    home = environment.get("HOME") or os.path.expanduser("~")
    directory = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return os.path.join(directory, "toilcache", "config.toml")


def _load_toml(path: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with open(path, "rb") as stream:
            values: dict[str, Any] = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(
            f"cannot read {show(path)}: {error.strerror}; check the path of the options file"
        ) from None
    except ValueError as error:  # of TOML or of UTF-8
        raise ConfigError(f"cannot read {show(path)} as TOML: {one_line(str(error))}") from None
    return values
