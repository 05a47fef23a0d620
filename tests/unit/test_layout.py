"""The layout of a job store: ids lead to where they say, and nowhere else."""

from __future__ import annotations

import os
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.job_stores import NAMES, NEVER_GIVEN_OUT
from toilcache.job_store import layout

JOB = "0123456789abcdef"


@pytest.mark.parametrize("job_id", NEVER_GIVEN_OUT)
def test_ids_that_no_store_gives_out(job_id: str) -> None:
    assert not layout.is_job_id(job_id)
    assert layout.file_place(job_id) is None


@given(st.text())
def test_any_text_as_an_id_stays_inside(text: str) -> None:
    place = layout.file_place(text)
    assert place is None or posixpath.normpath(place.key) == place.key
    shared = layout.shared_place(text)
    assert shared is None or posixpath.normpath(shared.key) == shared.key == f"shared/{text}"
    assert posixpath.dirname(posixpath.normpath(layout.node(text.replace("\0", "")))) == "nodes"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400), st.integers(0, 10**8))
def test_a_new_id_leads_to_its_own_place(name: str, attempt: int) -> None:
    for job_id, cleanup, linked in (
        (JOB, True, False),
        (JOB, False, False),
        (None, False, False),
        (None, False, True),
    ):
        file_id = layout.new_file_id(job_id, attempt, cleanup, name, linked)
        place = layout.file_place(file_id)
        assert place is not None
        assert place.job_id == job_id
        assert place.key.startswith(place.base + "/")
        assert (place.link is not None) is linked
        assert all(len(part) <= 255 for part in place.key.split("/"))
        assert posixpath.normpath(place.key) == place.key


def test_where_files_stand() -> None:
    own = layout.file_place(f"own/{JOB}/3/{JOB}-x")
    assert own == (f"jobs/01/{JOB}/3.d/{JOB}-x", f"jobs/01/{JOB}", JOB, None, ())
    kept = layout.file_place(f"kept/{JOB}/0/{JOB}-")
    assert kept == (f"kept/01/{JOB}/0/{JOB}-", "kept", JOB, None, (f"kept/01/{JOB}/0", f"kept/01/{JOB}"))
    linked = layout.file_place(f"linked/{JOB}-x")
    assert linked == (f"free/01/{JOB}-x", "free", None, f"linked/01/{JOB}-x", ())


@pytest.mark.parametrize("name", NAMES)
def test_a_quoted_name_is_harmless_and_short(name: str) -> None:
    quoted = layout.quote_name(name)
    assert len(quoted) <= layout.NAME_BYTES
    assert quoted.isascii()
    assert quoted.isprintable()
    assert "/" not in quoted


def test_a_cut_name_keeps_its_suffix_and_no_broken_byte() -> None:
    assert layout.quote_name("x" * 300 + ".gz").endswith("xx.gz")
    assert layout.quote_name("." + "x" * 300) == "." + "x" * 99
    for length in range(10):
        quoted = layout.quote_name("x" * length + "é" * 60 + ".txt")
        assert quoted.endswith("%C3%A9.txt") or quoted.endswith("%C3.txt")
    assert layout.quote_name(os.fsdecode(b"\xff/")) == "%FF%2F"


@given(st.lists(st.one_of(st.integers(0, 10**9).map(str), st.text(max_size=5))))
def test_slots_are_plain_numbers_newest_first(names: list[str]) -> None:
    found = layout.slot_numbers(names)
    assert found == sorted(found, reverse=True)
    assert len(found) == sum(name.isascii() and name.isdigit() for name in names)


def test_attempts_are_found_by_what_they_wrote() -> None:
    assert layout.attempt_numbers(["1", "2.d", "x.d", ".d", "10.d", ".tmp-1"], ["0", "3", "x"]) == {
        2,
        10,
        0,
        3,
    }


def test_bodies_are_no_files() -> None:
    assert layout.body_job(f"body:{JOB}") == JOB
    assert layout.body_job("free/x") is None
    assert layout.file_place(f"body:{JOB}") is None


def test_messages_sort_by_time() -> None:
    assert sorted([layout.log(10**18), layout.log(9), layout.log(10**9)])[0].startswith("0" * 19 + "9-")
