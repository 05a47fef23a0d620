"""What an option of the engine is: its name, how its value is read and shown, what is said of it.

Must not know any option; the tables are in :mod:`toilcache.options` and beside it.
"""

from __future__ import annotations

import re

from toilcache.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Option:
    """One option: its name in Config, how its value is read and shown, its default and its help."""

    def __init__(
        self,
        dest: str,
        parse: Callable[[Any], Any],
        default: Any,
        metavar: str,
        help: str,
        *,
        aliases: tuple[str, ...] = (),
        show: Callable[[Any], str] = str,
    ) -> None:
        """Take all parts; an empty `metavar` makes it a switch, whose command-line flag takes no value.

        The help of a switch that is on by default says what turning it off does.
        """
        self.dest = dest
        self.parse = parse
        self.default = default
        self.metavar = metavar
        self.help = help
        self.flags = (*spellings(dest), *aliases)
        self.show = show

    @property
    def is_switch(self) -> bool:
        """Whether the flag stands alone on a command line."""
        return not self.metavar

    @property
    def opposites(self) -> tuple[str, ...]:
        """The flags that turn a switch off."""
        return spellings(f"no{self.dest[0].upper()}{self.dest[1:]}") if self.is_switch else ()

    @property
    def environment_name(self) -> str:
        """The environment variable that sets this option: retryCount is TOILCACHE_RETRY_COUNT."""
        return "TOILCACHE_" + _words(self.dest, "_").upper()

    @property
    def full_help(self) -> str:
        """The help with the default, unless that is nothing or this is a switch."""
        if self.default in (None, []) or self.is_switch:
            return self.help
        return f"{self.help} (default: {self.show(self.default)})"

    def read(self, value: Any) -> Any:
        """Return the value as Config holds it; ConfigError names the option where it cannot be read."""
        try:
            return self.parse(value)
        except ConfigError as error:
            raise ConfigError(f"{error} (option {self.dest})") from None


def _words(dest: str, joint: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", rf"{joint}\1", dest).lower()


def spellings(dest: str) -> tuple[str, ...]:
    """Both spellings of a flag, the one that Toil's users type first."""
    return tuple(dict.fromkeys((f"--{dest}", f"--{_words(dest, '-')}")))
