"""The one module that knows where things stand in a job store.

Pure: turns ids and names into keys, paths relative to the store with `/` between their parts, and refuses
every id that the store did not give out itself. Must not touch a disk.

    version                         the format of the store
    shared/NAME                     files known by name; shared-linked/NAME: link records of such
    jobs/AB/JOB/VERSION             records of a job, one per version
    jobs/AB/JOB/ATTEMPT.d/FILE      files that go with the job
    kept/AB/JOB/ATTEMPT/FILE        files that an attempt of the job wrote and that outlive it; ATTEMPT is an
                                    empty file where an attempt was given up, so that it can write no more
    free/AB/FILE, linked/AB/FILE    files of no job; link records of imported originals
    logs/new, logs/read             log messages
    leader/RUN, RUN.beat, .closed, .ended: runs of the leader; journal/RUN.jsonl: their journals
    leader/RUN.standing             what the adapter of a run last knew of attempts that wait
    leader/doubt                    a sync has failed: records may not be on the disk
    nodes/NODE                      nodes that took part
    work/RUN/...                    work that hosts on other nodes take (see job_store.work)
    trash/                          what is being removed
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class FilePlace(NamedTuple):
        """Where a file stands.

        `base` is the directory that must be there already, `link` where a link record stands instead of
        content, `emptied` the directories that go with their last file.
        """

        key: str
        base: str
        job_id: str | None
        link: str | None
        emptied: tuple[str, ...]
else:
    from collections import namedtuple

    FilePlace = namedtuple("FilePlace", "key base job_id link emptied")

VERSION = "version"
RESERVE = "reserve"
JOBS, KEPT, FREE, LINKED, TRASH = "jobs", "kept", "free", "linked", "trash"
SHARED, SHARED_LINKED = "shared", "shared-linked"
LOGS_NEW, LOGS_READ = "logs/new", "logs/read"
DOUBT = "leader/doubt"
LEADER, JOURNAL, NODES, WORK = "leader", "journal", "nodes", "work"
DIRECTORIES = (
    *(JOBS, KEPT, FREE, LINKED, TRASH, SHARED, SHARED_LINKED),
    *("logs", LOGS_NEW, LOGS_READ, LEADER, JOURNAL, NODES, WORK),
)

NAME_BYTES = 100
_SUFFIX_BYTES = 24
_BODY_PREFIX = "body:"
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+=@,~")
_PLAIN = re.compile(r"[A-Za-z0-9._+=@,~-]*")
_HEX_DIGITS = "0123456789abcdef"
_FILE_ID = re.compile(
    r"(?:(own|kept)/([0-9a-f]{16})/(0|[1-9][0-9]{0,8})|(free|linked))"
    r"/([0-9a-f]{16}-[A-Za-z0-9._\-+=@,~%]{0,100})"
)
_SHARED_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


def new_id() -> str:
    """Draw an id for a job: 16 hexadecimal digits."""
    return os.urandom(8).hex()


def is_job_id(job_id: object) -> bool:
    """Say whether a job store can have given out this id."""
    return isinstance(job_id, str) and len(job_id) == 16 and not job_id.strip(_HEX_DIGITS)


def job_scope(job_id: str) -> str:
    """The directory of a job, of a valid id."""
    return f"jobs/{job_id[:2]}/{job_id}"


def slot(job_id: str, version: int) -> str:
    """The record of one version of a job."""
    return f"jobs/{job_id[:2]}/{job_id}/{version}"


def slot_numbers(names: list[str]) -> list[int]:
    """The versions among the names in a job's directory, newest first."""
    return sorted((int(name) for name in names if name.isdecimal() and name.isascii()), reverse=True)


def own_files(job_id: str, attempt: int | str) -> str:
    """The directory of the files that one attempt wrote to go with its job."""
    return f"jobs/{job_id[:2]}/{job_id}/{attempt}.d"


def kept_files(job_id: str, attempt: int | str | None = None) -> str:
    """The directory of the files that a job, or one attempt of it, wrote to outlive it."""
    directory = f"kept/{job_id[:2]}/{job_id}"
    return directory if attempt is None else f"{directory}/{attempt}"


def attempt_numbers(own: list[str], kept: list[str]) -> set[int]:
    """The attempts that wrote files, by the names in the job's directory and in that of its kept files."""
    names = [name[:-2] for name in own if name.endswith(".d")] + kept
    return {int(name) for name in names if name.isdecimal() and name.isascii()}


def new_file_id(
    job_id: str | None, attempt: int, cleanup: bool, name: str | None, linked: bool = False
) -> str:
    """Draw an id for a file; its own name stays part of it, quoted and cut."""
    leaf = f"{os.urandom(8).hex()}-{quote_name(name or '')}"
    if job_id is None:
        return f"{LINKED if linked else FREE}/{leaf}"
    return f"{'own' if cleanup else 'kept'}/{job_id}/{attempt}/{leaf}"


def file_place(file_id: str) -> FilePlace | None:
    """Find a file by its id; None for an id that no job store gives out."""
    match = _FILE_ID.fullmatch(file_id)
    if match is None:
        return None
    kind, job_id, attempt, free, leaf = match.groups()
    if kind == "own":
        return FilePlace(f"{own_files(job_id, attempt)}/{leaf}", job_scope(job_id), job_id, None, ())
    if kind == "kept":
        directory = kept_files(job_id, attempt)
        return FilePlace(f"{directory}/{leaf}", KEPT, job_id, None, (directory, kept_files(job_id)))
    link = f"{LINKED}/{leaf[:2]}/{leaf}" if free == LINKED else None
    return FilePlace(f"{FREE}/{leaf[:2]}/{leaf}", FREE, None, link, ())


def body_job(file_id: str) -> str | None:
    """The job whose inline body a file id names; None for the id of a file."""
    return file_id[len(_BODY_PREFIX) :] if file_id.startswith(_BODY_PREFIX) else None


def quote_name(name: str, limit: int = NAME_BYTES) -> str:
    """Quote a file's name with % so that it is one harmless part of a path, cut to `limit` bytes.

    What follows the last dot is kept when the rest is cut; a quoted byte is never cut apart.
    """
    if len(name) <= limit and _PLAIN.fullmatch(name) is not None:
        return name
    quoted = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in os.fsencode(name))
    if len(quoted) <= limit:
        return quoted
    dot = quoted.rfind(".")
    suffix = quoted[dot:] if dot >= 0 and len(quoted) - dot <= _SUFFIX_BYTES else ""
    stem = quoted[: limit - len(suffix)]
    broken = stem.rfind("%", len(stem) - 2)
    return (stem if broken < 0 else stem[:broken]) + suffix


def shared_place(name: str) -> FilePlace | None:
    """Find a shared file by its name; None for a name that no shared file may have."""
    if _SHARED_NAME.fullmatch(name) is None:
        return None
    return FilePlace(f"{SHARED}/{name}", SHARED, None, f"{SHARED_LINKED}/{name}", ())


def log(stamp: int) -> str:
    """The name of a log message: sorts by time in nanoseconds, and is never the same twice."""
    return f"{stamp:020d}-{os.urandom(4).hex()}"


def run(number: int, part: str = "") -> str:
    """The slot of a run of the leader, or its `.beat`, `.closed`, `.ended` or `.standing`."""
    return f"{LEADER}/{number}{part}"


def journal(number: int) -> str:
    """The journal of a run of the leader."""
    return f"{JOURNAL}/{number}.jsonl"


def node(node_id: str) -> str:
    """What is recorded about a node."""
    return f"{NODES}/n-{quote_name(node_id, 200)}"


def work(number: int, part: str = "") -> str:
    """A part of the work of a run of the leader."""
    return f"{WORK}/{number}/{part}" if part else f"{WORK}/{number}"
