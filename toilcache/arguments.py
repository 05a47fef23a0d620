"""The options of the engine on a command line.

Knows argparse. Must not be imported by a worker, nor know what an option means: the table in options.py does.
"""

from __future__ import annotations

import argparse
import sys

from toilcache.errors import ConfigError, one_line
from toilcache.option import Option
from toilcache.options import GROUPS, JOB_STORE, OPTIONS, SHORTCUTS, near_misses, option_defaults
from toilcache.sources import values_beneath_command_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

# The options that the command line itself has set; a file named later must not change them.
_GIVEN = "_toilcache_given"


def add_options(parser: argparse.ArgumentParser, jobstore_as_flag: bool = False) -> None:
    """Give a parser all options of the engine; the job store as a positional argument or as --jobStore.

    The parsed namespace holds final values: environment and file are its defaults, so what a script assigns
    to it afterwards counts. Errors of the parser become one line. ConfigError for an optparse parser.
    """
    if not isinstance(parser, argparse.ArgumentParser):
        raise ConfigError(f"cannot add options to a {type(parser).__name__}; use an argparse.ArgumentParser")
    if type(parser).error is argparse.ArgumentParser.error:
        parser.error = _OneLineError(parser)  # type: ignore[method-assign]
    try:
        beneath = values_beneath_command_line()
    except ConfigError as error:
        parser.error(str(error))
    _add_job_store(parser, jobstore_as_flag, beneath)
    defaults = {**option_defaults(), **beneath}
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            _add_option(group, option, defaults[option.dest])
            _add_shortcuts(group, option)
    parser.add_argument(
        "--config",
        metavar="FILE",
        action=_ReadFile,
        help="TOML file with options, for example retryCount = 3; the command line and TOILCACHE_* variables "
        "win over it (default: $TOILCACHE_CONFIG, else ~/.config/toilcache/config.toml if it exists)",
    )


def add_named_options(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Give a parser these options of the engine alone; :func:`named_values` has their values."""
    for name in names:
        _add_option(parser, OPTIONS[name], OPTIONS[name].default)


def named_values(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of these options, which environment and usual file may have set as well.

    :raises ConfigError: one of those has a value that cannot be used.
    """
    beneath, given = values_beneath_command_line(), given_on_command_line(options)
    return {
        name: beneath[name] if name in beneath and name not in given else getattr(options, name)
        for name in names
    }


def default_options(job_store: str) -> argparse.Namespace:
    """Return the options as parsing a command line with nothing but the job store would."""
    values = {**option_defaults(), **values_beneath_command_line(), "jobStore": job_store, "config": None}
    return argparse.Namespace(**values)


def given_on_command_line(options: argparse.Namespace) -> frozenset[str]:
    """Return the names of the options that the command line itself has set."""
    return getattr(options, _GIVEN, frozenset())


class _Set(argparse.Action):
    """Read and store a value, and note that it was given."""

    def __init__(self, *args: Any, option: Option, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.option = option

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        try:
            value = self.option.read(values) if self.nargs != 0 else self.const
        except ConfigError as error:
            raise argparse.ArgumentError(None, str(error)) from None
        setattr(namespace, self.dest, value)
        setattr(namespace, _GIVEN, given_on_command_line(namespace) | {self.dest})


class _ReadFile(argparse.Action):
    """Put a file's values beneath those of the environment and of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        try:
            found = values_beneath_command_line(str(values))
        except ConfigError as error:
            raise argparse.ArgumentError(None, str(error)) from None
        # The default file, which this one replaces, has set its values already.
        defaults = option_defaults()
        replaced = {dest: defaults[dest] for dest in values_beneath_command_line()}
        for dest, value in {**replaced, **found}.items():
            if dest not in given_on_command_line(namespace) and dest != JOB_STORE.dest:
                setattr(namespace, dest, value)
        setattr(namespace, self.dest, values)


class _OneLineError:
    """End the program with one line instead of the usage of forty options."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser

    def __call__(self, message: str) -> Any:
        _, unknown, rest = message.partition("unrecognized arguments: ")
        flag = rest.split()[0].partition("=")[0] if unknown else ""
        advice = f"; {near_misses(flag, _all_flags())}" if flag.startswith("-") else ""
        print(f"{self._parser.prog}: error: {one_line(message)}{advice}", file=sys.stderr)
        sys.exit(2)


def _all_flags() -> list[str]:
    by_option = [flag for option in OPTIONS.values() for flag in (*option.flags, *option.opposites)]
    return [*by_option, *(flag for flags in SHORTCUTS for flag in flags), "--config"]


def _add_job_store(parser: argparse.ArgumentParser, as_flag: bool, beneath: dict[str, Any]) -> None:
    common: dict[str, Any] = {
        "action": _Set,
        "option": JOB_STORE,
        "metavar": JOB_STORE.metavar,
        "help": JOB_STORE.help,
    }
    if as_flag:
        default = beneath.get(JOB_STORE.dest)
        parser.add_argument(*JOB_STORE.flags, dest=JOB_STORE.dest, default=default, **common)
    else:
        parser.add_argument(JOB_STORE.dest, **common)


def _add_option(group: argparse._ActionsContainer, option: Option, default: Any) -> None:
    """Add the option's flags; a switch gets flags to turn it off too, and help at those that change it."""
    common: dict[str, Any] = {"dest": option.dest, "action": _Set, "option": option, "default": default}
    text = option.full_help.replace("%", "%%")
    if not option.is_switch:
        group.add_argument(*option.flags, metavar=option.metavar, help=text, **common)
        return
    off = argparse.SUPPRESS if option.default is False else text
    on = text if option.default is False else argparse.SUPPRESS
    group.add_argument(*option.flags, nargs=0, const=True, help=on, **common)
    group.add_argument(*option.opposites, nargs=0, const=False, help=off, **common)


def _add_shortcuts(group: argparse._ArgumentGroup, option: Option) -> None:
    for flags, (target, value) in SHORTCUTS.items():
        if target is option:
            meaning = f"the same as {option.flags[0]} {str(value).lower() if value is False else value}"
            group.add_argument(
                *flags,
                dest=option.dest,
                action=_Set,
                option=option,
                nargs=0,
                const=value,
                default=argparse.SUPPRESS,
                help=meaning,
            )
