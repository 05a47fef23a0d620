"""The journal: what is written is read again, and a torn tail harms nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilcache.leader.account import Status
from toilcache.leader.journal import Counts, Journal, replay


class Kept(io.BytesIO):
    """A file whose content outlives its closing."""

    content = b""

    def close(self) -> None:
        self.content = self.getvalue()
        super().close()


def written(*events: tuple[str, str | None, dict[str, Any]]) -> bytes:
    stream = Kept()
    journal = Journal(stream)
    for event, job, fields in events:
        journal.note(event, job, **fields)
    journal.close()
    return stream.content


COUNTS = {"known": 3, "ran": 2, "done": 1, "running": 1, "failed": 0, "retried": 4}
RUN = [
    ("begin", "root", {"run": 2, "resume": False}),
    ("issue", "a", {"version": 1, "name": 'a "job"\nof two lines'}),
    ("issue", "b", {"version": 1, "name": "b"}),
    ("issue", "c", {"version": 1, "after": "a"}),
    ("commit", "a", {"version": 2}),
    ("fail", "b", {"version": 2, "why": "raised", "left": 0}),
    ("give-up", "b", {"why": "raised"}),
    ("progress", None, {"jobs": COUNTS}),
]


def status(content: bytes) -> Status:
    return Status(content)


def test_replay_gives_what_was_noted() -> None:
    lines = written(*RUN).splitlines(keepends=True)
    assert len(lines) == len(RUN)
    events = list(replay(lines))
    assert [(event["e"], event.get("job")) for event in events] == [(e, job) for e, job, _ in RUN]
    assert events[1]["name"] == 'a "job"\nof two lines'
    assert all(event["t"] > 1.6e9 for event in events)


def test_nothing_is_written_before_a_flush(tmp_path: Path) -> None:
    path = tmp_path / "it's a\n'journal'"
    with path.open("ab") as stream:
        journal = Journal(stream)
        journal.note("begin", run=1)
        assert path.read_bytes() == b""
        journal.flush()
        assert json.loads(path.read_bytes())["e"] == "begin"
        journal.flush()
        assert path.read_bytes().count(b"\n") == 1


def test_status_of_a_workflow_under_way() -> None:
    found = status(written(*RUN))
    assert (found.run, found.ended, found.counts) == (2, False, COUNTS)
    assert set(found.running) == {"c"}
    assert found.failed == {"b": "raised"}
    assert json.loads(json.dumps(found.as_dict()))["jobs"] == COUNTS


def test_status_of_an_ended_workflow_and_of_the_run_after_it() -> None:
    ended = written(*RUN, ("end", None, {"jobs": COUNTS}))
    assert status(ended).ended
    again = status(ended + written(("begin", "root", {"run": 3, "resume": True})))
    assert (again.run, again.ended, again.running, again.failed) == (3, False, {}, {})
    assert again.counts == COUNTS


def test_status_without_any_journal() -> None:
    assert status(b"").as_dict() == {
        "run": 0,
        "ended": True,
        "jobs": Counts().as_dict(),
        "running": {},
        "failed": {},
    }


@given(st.integers(0, len(written(*RUN))))
def test_a_torn_tail_costs_the_torn_event_alone(cut: int) -> None:
    content = written(*RUN)[:cut]
    whole = content.count(b"\n")
    assert len(list(replay(io.BytesIO(content)))) in (whole, whole + 1)  # only the line end may be torn off
    status(content)


@pytest.mark.parametrize(
    "rubbish", [b"\0\0\0\0\n", b"[1]\n", b"17\n", b'{"t": 1}\n', b"\xff\xfe\n", b"null\n"]
)
def test_rubbish_between_events_is_passed_over(rubbish: bytes) -> None:
    """A torn line of an earlier run stands in the middle once the journal goes on."""
    content = written(*RUN)
    assert status(rubbish + content + rubbish).as_dict()["jobs"] == COUNTS


def test_a_torn_journal_of_an_earlier_run_spoils_no_line_of_the_next() -> None:
    begun = written(("begin", "root", {"run": 3, "resume": True}))
    for cut in range(len(written(*RUN))):
        found = Status(written(*RUN)[:cut], begun)
        assert (found.run, found.running) == (3, {})


def test_a_full_disk_delays_events_and_loses_none(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with open("/dev/full", "wb", buffering=0) as full, path.open("ab", buffering=0) as room:
        journal = Journal(full)
        for event in ("begin", "end"):
            journal.note(event)
            with pytest.raises(OSError, match="No space left"):
                journal.flush()
        journal._stream = room
        journal.flush()
    assert [event["e"] for event in replay(path.read_bytes().splitlines())] == ["begin", "end"]


def test_closing_on_a_full_disk_hides_no_other_error() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        journal = Journal(full)
        journal.note("end")
        journal.close()
    assert full.closed


def test_the_last_words_are_written_in_room_that_is_made_for_them(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with open("/dev/full", "wb", buffering=0) as full, path.open("ab", buffering=0) as room:
        journal = Journal(full)
        journal.note("end")
        journal.close(lambda: setattr(journal, "_stream", room))
    assert [event["e"] for event in replay(path.read_bytes().splitlines())] == ["end"]
