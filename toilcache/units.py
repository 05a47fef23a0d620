"""Sizes, cores and durations as people write them, and back.

Knows text and numbers only. Sizes are whole bytes, durations are seconds. A bare letter and the forms with
"i" count in 1024 (2G, 2Gi and 2 GiB are 2147483648 bytes, as Toil's users are used to); the forms with only
"B" count in 1000, as the standard has it (2 GB is 2000000000 bytes). Upper and lower case mean the same.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from toilcache.errors import UnitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsFloat, TypeAlias

    Number: TypeAlias = SupportsFloat | str

_SIZE_EXAMPLES = "write for example 2 GiB, 1.5 GB, 500M or a number of bytes"
_CORES_EXAMPLES = "write for example 1, 0.5 or 16"
_DURATION_EXAMPLES = "write for example 90, 90s, 15 min, 1h30m or 2 days"

_NUMBER = r"(\d+\.?\d*|\.\d+)(?:e([+-]?\d{1,2}))?"
_SIZE = re.compile(_NUMBER + r"\s*(?:([kmgtpe])(i?b?)|b|bytes?)?", re.IGNORECASE | re.ASCII)
_CORES = re.compile(_NUMBER, re.IGNORECASE | re.ASCII)
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)

_PREFIXES = "kmgtpe"
_SECONDS = {
    1.0: ("", "s", "sec", "secs", "second", "seconds"),
    0.001: ("ms", "millisecond", "milliseconds"),
    60.0: ("m", "min", "mins", "minute", "minutes"),
    3600.0: ("h", "hr", "hrs", "hour", "hours"),
    86400.0: ("d", "day", "days"),
    604800.0: ("w", "week", "weeks"),
}
_DURATION_UNITS = {word: seconds for seconds, words in _SECONDS.items() for word in words}


def parse_size(value: Number) -> int:
    """Return bytes, rounded up, from a number or a text such as "2 GiB"; UnitError names a bad value."""
    if not isinstance(value, str):
        return math.ceil(_checked_number(value, "size", _SIZE_EXAMPLES))
    return _size_of(value)


@lru_cache(maxsize=64)
def _size_of(value: str) -> int:
    """Read a text; many jobs ask for the same."""
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise _unreadable(value, "size", _SIZE_EXAMPLES)
    number, exponent, prefix, rest = match.groups()
    whole, _, fraction = number.partition(".")
    # Whole numbers throughout: floats would make 1.1 GB a byte too long.
    amount: int = int(whole + fraction) * _factor(prefix, rest)
    shift = int(exponent or 0) - len(fraction)
    return amount * int(10**shift) if shift >= 0 else -(-amount // int(10**-shift))


def parse_cores(value: Number) -> float:
    """Return a number of cores, fractions allowed, from a number or a text; UnitError names a bad value."""
    if isinstance(value, str):
        if _CORES.fullmatch(value.strip()) is None:
            raise _unreadable(value, "number of cores", _CORES_EXAMPLES)
        return float(value)
    return float(_checked_number(value, "number of cores", _CORES_EXAMPLES))


def parse_duration(value: Number) -> float:
    """Return seconds from a number or a text such as "1h30m" or "2 days"; UnitError names a bad value."""
    if not isinstance(value, str):
        return float(_checked_number(value, "duration", _DURATION_EXAMPLES))
    text = value.strip()
    total, position = 0.0, 0
    while match := _DURATION_PART.match(text, position):
        number, unit = match.groups()
        if unit.lower() not in _DURATION_UNITS or (not unit and match.span() != (0, len(text))):
            break
        total += float(number) * _DURATION_UNITS[unit.lower()]
        position = match.end()
    if not text or position != len(text):
        raise _unreadable(value, "duration", _DURATION_EXAMPLES)
    return total


def format_size(n: float) -> str:
    """Write a number of bytes for a person: "512 B", "1.5 GiB"."""
    size, unit = abs(float(n)), "B"
    for prefix in _PREFIXES.upper():
        if round(size, 1) < 1024:
            break
        size, unit = size / 1024, f"{prefix}iB"
    return f"{'-' if n < 0 else ''}{_short(size)} {unit}"


def format_duration(seconds: float) -> str:
    """Write a number of seconds for a person: "2.5s", "1m 30s", "3h 4m", "2d 5h"."""
    if 0 < abs(seconds) < 0.95:
        return f"{seconds * 1000:.0f}ms"
    if round(abs(seconds), 1) < 60:
        return f"{_short(seconds)}s"
    sign, rest = ("-" if seconds < 0 else ""), round(abs(seconds))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        parts.append((count, unit))
    first = next(i for i, (count, _) in enumerate(parts) if count)
    return sign + " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count)


def _checked_number(value: SupportsFloat, what: str, examples: str) -> float:
    """Return the number itself (an int stays exact) if it is finite and not negative."""
    try:
        number = value if isinstance(value, int) else float(value)
    except (TypeError, ValueError):
        raise _unreadable(value, what, examples) from None
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise _unreadable(value, what, examples)
    return number


def _factor(prefix: str | None, rest: str | None) -> int:
    if prefix is None:
        return 1
    base = 1000 if (rest or "").lower() == "b" else 1024
    return int(base ** (_PREFIXES.index(prefix.lower()) + 1))


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _unreadable(value: object, what: str, examples: str) -> UnitError:
    return UnitError(f"cannot read {value!r} as a {what}; {examples}")
