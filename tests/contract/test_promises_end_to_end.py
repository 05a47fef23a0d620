"""Return values reach the jobs and the script that wait for them, through real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract import promise_workflow
from tests.runs import Place

BOTTOM = ["left", "top"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, promise_workflow.__file__)


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("diamond", [BOTTOM, "o"]),
        ("wide_diamond", sum(range(50))),
        (
            "parts",
            [
                {
                    "whole": {"name": "abc", "parts": ["a", "b", "c"], "size": (3, None)},
                    "in": [{"deep": (["a", "b"],)}],
                },
                3,
                ("key", "abc"),
            ],
        ),
        ("large", [promise_workflow.LARGE, b"xx"]),
        ("requirements", 10_000_000),
        ("encapsulated", [BOTTOM]),
    ],
)
def test_values_arrive(place: Place, kind: str, result: Any) -> None:
    place.run("--kind", kind).check_result(result)
    place.check_clean()


@pytest.mark.parametrize(
    "options", [["1000", "--logLevel", "INFO"], ["100", "--disableChaining"]], ids=" ".join
)
def test_a_chain_of_jobs_that_return_what_their_child_returns(place: Place, options: list[str]) -> None:
    place.run("--kind", "chain", "--count", *options).check_result("the end")
    place.check_clean()


def test_the_result_of_a_chain_is_there_again_after_the_end(place: Place) -> None:
    place.run("--kind", "chain", "--count", "100", "--clean", "never").check_result("the end")
    place.restart().check_result("the end")
    place.check_clean()


def test_a_value_nested_in_values_of_many_jobs(place: Place) -> None:
    place.run("--kind", "deep", "--count", "200").check_result(200)
    place.check_clean()


def test_a_chain_of_follow_ons(place: Place) -> None:
    place.run("--kind", "follow_ons", "--count", "100").check_result(5050)


def test_many_children(place: Place) -> None:
    place.run("--kind", "many_children", "--count", "300").check_result([2 * n for n in range(300)])
    place.check_clean()


def test_a_part_that_the_value_does_not_have(place: Place) -> None:
    place.run("--kind", "missing_part").check_refused("cannot take 'color' from what job", "a dict")
    place.check_clean()
