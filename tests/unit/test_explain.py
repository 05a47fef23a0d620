"""Why a job is not running, told from a journal and what a batch system says of attempts."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import pytest

from toilcache.batch.model import JobRequest
from toilcache.batch.waits import Wait
from toilcache.explain.answer import MOST, Answer, Explainer
from toilcache.explain.overview import Overview
from toilcache.job.description import JobDescription
from toilcache.leader.account import Account
from toilcache.leader.journal import Journal

A, B, C, D, E = (letter * 16 for letter in "abcde")
ROOM = Wait(False, "waits for 2 cores", {"waits for": ["cores"]})
RUNS = Wait(True, "runs on n1", {"node": "n1"})
Noted = tuple[str, str | None, dict[str, Any]]
BEGIN: Noted = ("begin", A, {"run": 3, "resume": False, "name": "root"})


class Kept(io.BytesIO):
    content = b""

    def close(self) -> None:
        self.content = self.getvalue()
        super().close()


def account(*events: Noted) -> Account:
    stream = Kept()
    journal = Journal(stream)
    for event, job, fields in (BEGIN, *events):
        journal.note(event, job, **fields)
    journal.close()
    return Account(stream.content)


class Says:
    """A batch system that says the same of all attempts but those named."""

    def __init__(self, wait: Wait = ROOM, **others: Wait) -> None:
        self.wait = wait
        self.others = others
        self.asked: list[tuple[str, int]] = []

    def of(self, requests: Sequence[JobRequest]) -> list[Wait]:
        self.asked += [(one.job_id, one.version) for one in requests]
        return [self.others.get(one.job_id[:1], self.wait) for one in requests]

    def summary(self, attempts: Collection[tuple[str, int]]) -> list[tuple[int, Wait]]:
        return [(len(attempts), self.wait)]


def described(job_id: str) -> JobDescription:
    desc = JobDescription({"cores": 1, "memory": 1, "disk": 1, "preemptible": False, "accelerators": []}, "x")
    desc.jobStoreID, desc.version = job_id, 9
    return desc


def explainer(known: Account, waits: Says | None = None, live: bool = True) -> Explainer:
    return Explainer(known, waits or Says(), described, live=live, tries=3)


def explain(job_id: str, *events: Noted, waits: Says | None = None, live: bool = True) -> Answer:
    return explainer(account(*events), waits, live).explain(job_id)


def issue(job_id: str, name: str, version: int = 1) -> Noted:
    return "issue", job_id, {"version": version, "name": name}


def commit(job_id: str, *phases: dict[str, str]) -> Noted:
    return "commit", job_id, {"version": 2, **({"next": list(phases)} if phases else {})}


def plan(job_id: str, *phases: dict[str, str], **more: Any) -> Noted:
    return "plan", job_id, {"next": list(phases), **more}


def fail(job_id: str, why: str, left: int) -> Noted:
    return "fail", job_id, {"version": 2, "why": why, "left": left}


FAN: list[Noted] = [issue(A, "root"), commit(A, {B: "left", C: "right"}, {D: "last"}), plan(D, {E: "end"})]


# States


def test_an_attempt_that_waits_for_room() -> None:
    waits = Says()
    found = explain(A, issue(A, "root", version=4), waits=waits)
    assert (found.state, found.name) == ("issued", "root")
    assert found.words.startswith("waits for 2 cores, since 0")
    assert found.facts["waits for"] == ["cores"]
    assert waits.asked == [(A, 4)], "the attempt is the one that was issued, not the newest record"


def test_an_attempt_that_runs() -> None:
    found = explain(A, issue(A, "root"), waits=Says(RUNS))
    assert found.state == "running"
    assert found.words.startswith("runs on n1, since ")
    assert found.as_dict()["node"] == "n1"


def test_an_attempt_whose_leader_is_gone() -> None:
    found = explain(A, issue(A, "root"), waits=Says(RUNS), live=False)
    assert "--restart" in found.below[0]


def test_a_job_that_goes_on_in_a_process_of_another() -> None:
    events = [issue(A, "root"), commit(A, {B: "left"}), ("issue", B, {"version": 1, "after": A})]
    waits = Says()
    found = explain(B, *events, waits=waits)
    assert found.state == "running"
    assert found.words.startswith(f"runs in the process of 'root' {A}, which it follows, since")
    assert (waits.asked, found.name) == ([], "left")


def test_back_off_says_for_how_long_which_try_and_why() -> None:
    events = [issue(A, "root"), fail(A, "ValueError: no", 2), ("retry", A, {"seconds": 100.0})]
    found = explain(A, *events)
    assert found.state == "backing off"
    assert found.words.startswith("waits 1m 40s more, until ")
    assert found.words.endswith("before try 2 of 3")
    assert found.below == ["its last attempt failed: ValueError: no"]


def test_a_failed_attempt_whose_process_is_still_there() -> None:
    found = explain(A, issue(A, "root"), fail(A, "ValueError: no", 1))
    assert found.state == "failing"
    assert "until the process of that attempt has ended" in found.words


def test_a_job_without_tries_left() -> None:
    found = explain(A, issue(A, "root"), fail(A, "no", 0), ("give-up", A, {"why": "no"}))
    assert found.state == "failed"
    assert found.words.endswith("ago: no")
    assert "--restart" in found.below[0]


def test_a_job_that_is_done() -> None:
    found = explain(A, issue(A, "root"), commit(A), ("done", A, {}))
    assert found.state == "done"


def test_a_job_that_has_returned_waits_for_what_follows_it() -> None:
    found = explain(A, *FAN, issue(B, "left"), ("done", C, {}))
    assert found.state == "returned"
    assert found.facts["waits for jobs"] == [B], "the follow-on is not next"
    assert found.words == "has returned; 1 job that follows it must be done"
    assert found.below[0].startswith(f"'left' {B} waits for 2 cores")


# Predecessors


def test_a_child_whose_predecessor_has_not_returned() -> None:
    found = explain(B, plan(A, {B: "left"}), issue(A, "root"), waits=Says(RUNS))
    assert (found.state, found.name) == ("waiting", "left")
    assert found.words == "waits for 1 job"
    assert found.below[0].startswith(f"'root' {A} runs on n1")


def test_a_follow_on_waits_for_the_children_and_not_for_its_predecessor() -> None:
    found = explain(D, *FAN, issue(B, "left"), ("done", C, {}))
    assert found.facts["waits for jobs"] == [B]


def test_what_a_job_waits_for_in_the_end_is_named() -> None:
    events = [*FAN, issue(B, "left"), fail(B, "ValueError: no", 0), ("give-up", B, {"why": "ValueError: no"})]
    found = explain(E, *events)
    assert found.facts["waits for jobs"] == [D]
    assert found.below[0] == f"'last' {D} waits for 2 jobs"
    assert found.below[1].startswith(f"  in the end for 'left' {B} has failed for good")


def test_a_ready_job() -> None:
    found = explain(B, *FAN)
    assert (found.state, found.facts.get("waits for jobs", [])) == ("ready", [])


def test_a_job_with_two_predecessors_waits_for_the_one_that_has_not_returned() -> None:
    events = [
        issue(A, "root"),
        commit(A, {B: "left", C: "right"}),
        plan(B, {D: "both"}),
        plan(C, {D: "both"}),
    ]
    found = explain(D, *events, commit(B, {D: "both"}), issue(C, "right"))
    assert found.facts["waits for jobs"] == [C]


def test_what_ran_under_an_earlier_leader_has_returned() -> None:
    found = explain(C, plan(A, {B: "left"}, {C: "last"}, ran=True), issue(B, "left"))
    assert found.facts["waits for jobs"] == [B]
    assert explain(A, plan(A, {B: "left"}, {C: "last"}, ran=True), issue(B, "left")).state == "returned"


def test_of_many_jobs_some_are_named() -> None:
    many = {f"{number:016x}": "child" for number in range(50)}
    found = explain(A, issue(A, "root"), commit(A, many))
    assert len(found.facts["waits for jobs"]) == 50
    assert len(found.below) == MOST + 1
    assert found.below[-1] == f"and {50 - MOST} more"


def test_a_chain_of_hundreds_is_followed_to_its_beginning() -> None:
    ids = [f"{number:016x}" for number in range(900)]
    events = [plan(one, {after: "link"}) for one, after in pairwise(ids)]
    found = explain(ids[-1], issue(ids[0], "first"), *events)
    assert found.below[1].startswith(f"  in the end for 'first' {ids[0]} waits for 2 cores")


# Which job is meant


def test_a_job_is_found_by_id_beginning_and_name() -> None:
    known = account(*FAN)
    assert known.find(B) == [B]
    assert known.find("bbb") == [B]
    assert known.find("right") == [C]
    assert known.find("root") == [A]
    assert known.find("end") == [E]
    assert known.find("nothing") == []


def test_a_name_of_several_jobs_means_all_of_them() -> None:
    assert account(issue(A, "root"), commit(A, {B: "same", C: "same"})).find("same") == [B, C]


@pytest.mark.parametrize("name", ['a "quoted"\nname', '","bbbbbbbbbbbbbbbb":"', "\\", "ü"])
def test_names_may_be_anything(name: str) -> None:
    known = account(issue(A, "root"), commit(A, {C: name}))
    assert known.find(name) == [C]
    assert known.name(C) == name
    assert [one.job_id for one in known.predecessors(B)] == []


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_torn_journal_is_read_as_far_as_it_is_whole(cut: int) -> None:
    stream = Kept()
    journal = Journal(stream)
    for event, job, fields in (BEGIN, *FAN):
        journal.note(event, job, **fields)
    journal.close()
    whole = stream.content[:cut].count(b"\n")
    known = Account(stream.content[:cut])
    assert known.run == (3 if whole else 0)
    assert known.is_known(B) == (whole >= 3)


# All at once


def test_all_that_waits_is_counted() -> None:
    events = [*FAN, issue(B, "left"), fail(B, "no", 2), ("retry", B, {"seconds": 50.0}), issue(C, "right")]
    counts = {"known": 5, "ran": 1, "done": 0, "running": 1, "failed": 0, "retried": 1}
    known = account(*events, ("progress", None, {"jobs": counts}))
    found = Overview(known, Says(), live=True)
    assert str(found).splitlines() == [
        "run 3: 0 of 5 jobs done; its leader runs",
        "  1 job waits for 2 cores",
        "  1 job has failed and waits to be tried again, in 50s",
        "  2 jobs, each of which waits for jobs that come before it",
    ]
    values = json.loads(json.dumps(found.as_dict()))
    assert values["issued"] == [
        {"count": 1, "begun": False, "why": "waits for 2 cores", "waits for": ["cores"]}
    ]
    assert values["waiting for other jobs"] == 2


def test_what_failed_and_what_goes_on_without_the_leader() -> None:
    events = [*FAN, ("issue", B, {"version": 1, "after": A}), ("give-up", C, {"why": "ValueError: no"})]
    text = str(Overview(account(*events), Says(), live=False))
    assert "no leader runs it; go on with --restart" in text
    assert "1 job runs in the process of a job that it follows" in text
    assert f"failed for good: 'right' {C}: ValueError: no" in text


def test_a_workflow_without_a_journal() -> None:
    known = Account(b"")
    assert (known.run, known.root, known.counts, known.find(A)) == (0, "", {}, [])
