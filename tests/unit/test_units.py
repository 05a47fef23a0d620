"""Sizes, cores and durations as people write them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilcache.errors import UnitError
from toilcache.units import format_duration, format_size, parse_cores, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("2G", 2 * 2**30),
        ("2Gi", 2 * 2**30),
        ("2 GiB", 2 * 2**30),
        ("2gib", 2 * 2**30),
        ("2 GB", 2 * 10**9),
        ("1.5 MB", 1_500_000),
        ("1.1 GB", 1_100_000_000),
        (" 3 k ", 3072),
        (".5K", 512),
        ("7.", 7),
        ("1e3", 1000),
        ("2E-1 KiB", 205),
        ("12 bytes", 12),
        ("1 byte", 1),
        ("5B", 5),
        ("0.3KiB", 308),
        ("8 EiB", 8 * 2**60),
        (17, 17),
        (2**70 + 1, 2**70 + 1),
        (1.2, 2),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert parse_size(text) == size
    assert type(parse_size(text)) is int


HOSTILE: list[Any] = [
    "",
    " ",
    "-1",
    "1,5",
    "G",
    "nan",
    "inf",
    "1 2",
    "1\n2",
    "\u0663",
    "0x10",
    "1_000",
    "1e999",
]
NOT_NUMBERS: list[Any] = [-1, True, None, math.nan, math.inf, [], object]


@pytest.mark.parametrize("value", ["2 Gigs", "2 GX", "1 Kbit", *HOSTILE, *NOT_NUMBERS])
def test_bad_sizes_are_named_in_one_line(value: Any) -> None:
    with pytest.raises(UnitError) as caught:
        parse_size(value)
    assert repr(value) in str(caught.value)
    assert "2 GiB" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "cores"), [("0.5", 0.5), (" 2 ", 2.0), (3, 3.0), (0.25, 0.25), ("1e1", 10.0)]
)
def test_cores(value: Any, cores: float) -> None:
    assert parse_cores(value) == cores
    assert type(parse_cores(value)) is float


@pytest.mark.parametrize("value", ["two", "1 core", *HOSTILE, *NOT_NUMBERS])
def test_bad_cores_are_named(value: Any) -> None:
    with pytest.raises(UnitError) as caught:
        parse_cores(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5 min", 90),
        ("15 min", 900),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("2 days", 172_800),
        ("1w", 604_800),
        ("250ms", 0.25),
        (3, 3),
        (0.5, 0.5),
    ],
)
def test_durations(value: Any, seconds: float) -> None:
    assert parse_duration(value) == seconds
    assert type(parse_duration(value)) is float


@pytest.mark.parametrize("value", ["h", "1h 30", "3 fortnights", "1:30", *HOSTILE, *NOT_NUMBERS])
def test_bad_durations_are_named(value: Any) -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1 MiB"),
        (2 * 2**30, "2 GiB"),
        (-1536, "-1.5 KiB"),
        (5000 * 2**60, "5000 EiB"),
    ],
)
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.04, "40ms"),
        (2.5, "2.5s"),
        (59.96, "1m"),
        (61, "1m 1s"),
        (3600, "1h"),
        (11_045, "3h 4m"),
        (450_000, "5d 5h"),
        (-90, "-1m 30s"),
    ],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(
    st.integers(min_value=0, max_value=1023), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
)
def test_whole_sizes_are_read_as_they_are_written(count: int, unit: str) -> None:
    size = parse_size(f"{count} {unit}")
    assert parse_size(format_size(size)) == size


@given(st.decimals(min_value=0, max_value=10**6, places=3), st.sampled_from(["KB", "MB", "GB"]))
def test_decimal_sizes_are_exact(number: Any, unit: str) -> None:
    exact = number * 1000 ** ("KMG".index(unit[0]) + 1)
    assert parse_size(f"{number} {unit}") == math.ceil(exact)


@given(st.integers(min_value=0, max_value=10**7))
def test_durations_lose_less_than_the_smaller_unit(seconds: int) -> None:
    assert seconds * 23 / 24 < parse_duration(format_duration(seconds)) + 1
    assert parse_duration(format_duration(seconds)) <= seconds


@given(st.text(max_size=12))
def test_any_text_is_a_value_or_a_unit_error(text: str) -> None:
    for parse in (parse_size, parse_cores, parse_duration):
        try:
            assert parse(text) >= 0
        except UnitError as error:
            assert "\n" not in str(error)  # noqa: PT017
