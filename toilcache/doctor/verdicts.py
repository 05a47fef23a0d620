"""What the answers of probes mean: a finding each, with what to change where something is wrong.

Knows what the engine needs of a node. Must not ask anything itself: answers in, findings out.
"""

from __future__ import annotations

from typing import NamedTuple

from toilcache.containers.model import Image
from toilcache.doctor.probes import Answer
from toilcache.errors import CoordinationDirError, show
from toilcache.node.mounts import is_network_type
from toilcache.units import format_duration, format_size

OK, NOTE, CHANGE = "ok", "note", "change"

CLOCK_SECONDS = 10.0
"""By how much clocks may differ: who is silent for a minute may be taken for dead."""

TOPICS = {
    "job store": "whether one can be made where you say",
    "directories": "whether a workflow's work and coordination directories can be made",
    "engine": "whether a container engine answers, and which",
    "image": "whether the image is there or can be fetched",
    "container": "whether a worker comes up in it",
    "same paths": "whether it sees the same places at the same paths",
    "users": "whether both are the same user",
    "locks": "whether kernel locks hold between the two",
    "SQLite": "whether a database with a write-ahead log holds between the two",
    "file system": "on what each place lies, inside and outside",
    "space": "whether each place takes what jobs write",
    "clock": "whether the clocks agree",
}


class Finding(NamedTuple):
    """One thing that was looked at: what was found, and what to change, "" where nothing has to be."""

    topic: str
    verdict: str
    found: str
    change: str = ""


def fine(topic: str, found: str) -> Finding:
    """Nothing has to be changed."""
    return Finding(topic, OK, found)


def of_error(topic: str, error: Exception) -> Finding:
    """An error of the engine's says both: ``cannot ...: value; what to do``."""
    found, _, change = str(error).rpartition("; ")
    if not found:
        found, change = change, "have it work by hand, or name another one"
    return Finding(topic, CHANGE, found, change)


def no_engine(error: Exception, *, wanted: bool) -> Finding:
    """Nobody has chosen an engine, and of those that we know none answers."""
    if wanted:
        return Finding("engine", CHANGE, str(error), "install or start one of them")
    advice = "install or start one if jobs are to run in containers"
    return Finding("engine", NOTE, "none answers here", advice)


def image(found: Image) -> Finding:
    """The engine has the image."""
    return fine("image", f"{show(found.reference)} is {found.digest}")


def no_container(*, wanted: bool) -> Finding:
    """Two processes of this machine are looked at instead."""
    found = "none can be started" if wanted else "none was asked for"
    advice = "give --container IMAGE to look from inside a container as well"
    if wanted:
        advice = "change what is said of engine and image, and look again"
    return Finding("container", NOTE, f"{found}; the other half is a process beside", advice)


def container(inside: Answer) -> Finding:
    """A worker came up."""
    return fine("container", f"a worker comes up in it, with Python {inside['python']}")


def same_paths(fault: str) -> Finding:
    """What the process inside said of the places, by the tokens of its launcher."""
    if fault:
        return of_error("same paths", CoordinationDirError(fault))
    return fine("same paths", "job store, work and coordination directories are the same inside and outside")


def users(outside: Answer, inside: Answer, made: Answer, read: Answer) -> list[Finding]:
    """``made`` is what we see of a file that was made inside, ``read`` what inside is seen of one of ours."""
    found = f"user {outside['uid']} here, {inside['uid']} in the other process"
    advice = "have the engine run containers as you, without mapping users"
    if inside["uid"] != outside["uid"] or made.get("uid") != outside["uid"]:
        seen = made.get("error") or f"what it writes belongs to user {made['uid']}"
        return [Finding("users", CHANGE, f"{found}; {seen}", advice)]
    if "error" in read:
        return [Finding("users", CHANGE, f"{found}; cannot read your files: {read['error']}", advice)]
    findings = [fine("users", f"{found}; each reads the other's files")]
    missing = sorted({*outside["groups"]} - {*inside["groups"], inside["gid"]})
    if missing:
        numbers = ", ".join(map(str, missing))
        advice = "give yourself, and not only your groups, access to inputs"
        findings.append(Finding("users", NOTE, f"the other process is not in your groups {numbers}", advice))
    return findings


def locks(place: str, free: dict[str, Answer]) -> Finding:
    """``free``: by what was tried, whether the lock was free; while the other holds it, it must not be."""
    for tried, answer in free.items():
        if "error" in answer:
            return _no_locks(place, f"{tried}: {answer['error']}")
        if answer["free"] != tried.startswith("after"):
            return _no_locks(place, f"{tried} it is {'free' if answer['free'] else 'taken'}")
    return fine("locks", f"hold between the two in {show(place)}")


def _no_locks(place: str, why: str) -> Finding:
    return Finding(
        "locks",
        CHANGE,
        f"kernel locks do not hold in {show(place)}: {why}",
        "set --coordinationDir to a directory on a local disk, mounted into containers by the same kernel",
    )


def sqlite(place: str, answers: list[Answer], expected: int) -> Finding:
    """The answers of both, in the order in which they were asked; at the end both saw ``expected`` rows."""
    errors = [answer["error"] for answer in answers if "error" in answer]
    modes = {answer["mode"] for answer in answers if "mode" in answer} - {"wal"}
    last = [answer for answer in answers if "rows" in answer][-2:]
    why = ""
    if errors:
        why = errors[0]
    elif modes:
        why = f"it only gives journal mode {modes.pop()}"
    elif not all(answer["sound"] for answer in last):
        why = "the database is damaged after both have written"
    elif any(answer["rows"] != expected for answer in last):
        why = f"of {expected} rows one sees {min(answer['rows'] for answer in last)}"
    if not why:
        return fine("SQLite", f"{expected} rows written by both at once in {show(place)}")
    if "sqlite3" in why:
        advice = "take an image whose Python has sqlite3, or do without the cache: --caching false"
    else:
        advice = (
            "set --coordinationDir to a directory on a local disk, or do without the cache: --caching false"
        )
    return Finding("SQLite", CHANGE, f"no write-ahead log between the two in {show(place)}: {why}", advice)


def file_system(what: str, place: str, outside: Answer, inside: Answer, *, local: bool) -> Finding:
    """``local``: kernel locks have to hold there."""
    topic, begin = "file system", f"{what} {show(place)}"
    for side, answer in (("", outside), (" inside", inside)):
        if "error" in answer:
            advice = f"make it a directory that you can use{side}, or name another one"
            return Finding(topic, CHANGE, f"{begin} cannot be seen{side}: {answer['error']}", advice)
    kinds = sorted({outside["type"], inside["type"]})
    found = f"{begin} is on {' outside, inside on '.join(dict.fromkeys((outside['type'], inside['type'])))}"
    if local and any(map(is_network_type, kinds)):
        return Finding(
            topic, CHANGE, f"{found}, a network file system", "name one on a local disk of the node"
        )
    return fine(topic, found)


def space(what: str, place: str, seen: Answer, filled: Answer, needed: int) -> Finding:
    """``filled``: what came of writing a file there."""
    begin = f"{what} {show(place)}"
    advice = f"make room for {format_size(needed)} there, or name another place"
    why = filled.get("error") or seen.get("error")
    if why:
        return Finding("space", CHANGE, f"{begin} takes no file: {why}", advice)
    found = f"{begin} has {format_size(seen['free'])} free"
    if seen["free"] < needed:
        return Finding("space", CHANGE, f"{found} of the {format_size(needed)} needed", advice)
    return fine("space", found)


def clock(whose: str, skew: float) -> Finding:
    """``skew`` in seconds."""
    if skew > CLOCK_SECONDS:
        found = f"that of {whose} differs by {format_duration(skew)} from ours"
        return Finding("clock", CHANGE, found, "have both set by NTP")
    return fine("clock", f"that of {whose} agrees with ours")
