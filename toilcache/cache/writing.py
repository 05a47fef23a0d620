"""A file that a job wrote comes into the cache, and from there, later, into the job store.

Knows the states uploadable and uploading. Must not know the job store, nor when uploads happen.
"""

from __future__ import annotations

import os
import stat
from collections import namedtuple
from contextlib import contextmanager

from toilcache.cache import payloads, rows, space
from toilcache.cache.schema import CACHED, DELETING, IMMUTABLE, MUTABLE, UPLOADABLE, UPLOADING
from toilcache.errors import ChangedFileError
from toilcache.io import link_or_copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from typing import NamedTuple

    from toilcache.cache.node_cache import NodeCache
    from toilcache.cache.rows import Holder, Payload

    class Upload(NamedTuple):
        """A file to be uploaded: its id, its payload, and where the job wrote it."""

        file_id: str
        payload: Payload
        source: str
else:
    Upload = namedtuple("Upload", "file_id payload source")


def take_in(cache: NodeCache, holder: Holder, file_id: str, source: str, executable: bool) -> Upload | None:
    """Take a file in that a job wrote in its temporary directory; None if there is no room for it."""
    owner = cache.owner
    path = cache.new_payload(owner)
    try:
        payload, takes_space = payloads.take_in(source, path, executable, cache.reflinks)
        if _announced(cache, owner, holder, file_id, payload, source, takes_space):
            return Upload(file_id, payload, source)
    except BaseException:
        payloads.remove(path)  # also on KeyboardInterrupt: no row speaks of it
        raise
    payloads.remove(path)
    return None


def _announced(
    cache: NodeCache,
    owner: str,
    holder: Holder,
    file_id: str,
    payload: Payload,
    source: str,
    takes_space: bool,
) -> bool:
    """Add the row and the reference of the job to its own file, if there is room."""
    state = MUTABLE if takes_space else IMMUTABLE
    while True:
        with cache.transaction() as con:
            now = cache.measure(con)
            lacking = space.shortage_for_file(con, now, holder, payload.size, not takes_space)
            if lacking <= 0:
                rows.add_written(con, file_id, payload, owner)
                rows.add_ref(con, holder, file_id, source, state, payload.size, source=True)
                return True
            victims = cache.choose(con, lacking, now)
        if not victims:
            return False
        cache.remove(victims)


def begin_uploads(cache: NodeCache, uploads: Iterable[Upload]) -> None:
    """Note that uploads begin."""
    _change(cache, uploads, UPLOADABLE, UPLOADING)


def end_uploads(cache: NodeCache, done: Iterable[Upload], failed: Iterable[Upload]) -> None:
    """Note that files are in the job store, and that others are to be tried again."""
    _change(cache, done, UPLOADING, CACHED)
    _change(cache, failed, UPLOADING, UPLOADABLE)


def _change(cache: NodeCache, uploads: Iterable[Upload], before: str, after: str) -> None:
    uploads = list(uploads)
    if uploads:
        owner = cache.owner
        with cache.transaction() as con:
            for upload in uploads:
                rows.change_state(con, upload.file_id, owner, before, after)


def abandon(cache: NodeCache, uploads: Iterable[Upload]) -> None:
    """Remove files whose job has failed before they were uploaded: nobody can know their ids."""
    owner, doomed = cache.owner, []
    with cache.transaction() as con:
        for upload in uploads:
            row = rows.find(con, upload.file_id)
            if row is not None and row.state == UPLOADABLE and rows.begin_deleting(con, row, owner):
                rows.unlink_holders(con, row.id)
                doomed.append(row)
    cache.remove(doomed)


@contextmanager
def as_written(upload: Upload) -> Generator[str, None, None]:
    """Yield the path to upload from; ChangedFileError unless that is what the job handed over, until the end.

    A job may change since whether its own file is executable. That is no change of what it wrote, but the
    payload may share the inode: then a copy is uploaded.
    """
    payload = upload.payload
    mode = _check_unchanged(upload).st_mode
    if bool(mode & stat.S_IXUSR) == payload.executable:
        yield payload.path
    else:
        copy = payloads.new_path(os.path.dirname(payload.path))
        try:
            link_or_copy(payload.path, copy, mode=0o555 if payload.executable else 0o444)
            yield copy
        finally:
            payloads.remove(copy)
    _check_unchanged(upload)


def _check_unchanged(upload: Upload) -> os.stat_result:
    try:
        status = os.stat(upload.payload.path, follow_symlinks=False)
    except FileNotFoundError:
        status = None
    if status is None or not payloads.is_as(upload.payload, status):
        what = "was removed from the cache" if status is None else "was changed"
        raise ChangedFileError(
            f"cannot upload {upload.source!r}: it {what} after writeGlobalFile(); "
            "leave a file alone once it is written, or write a copy of it"
        )
    return status


def drop_deleted(cache: NodeCache, file_ids: Iterable[str]) -> None:
    """Remove files from the cache that the job store is to delete, but for those that jobs still hold."""
    owner, doomed = cache.owner, []
    with cache.transaction() as con:
        for file_id in file_ids:
            row = rows.find(con, file_id)
            if row is None or row.state == DELETING or row.owner not in (None, owner):
                continue
            if not rows.is_pinned(con, file_id) and rows.begin_deleting(con, row, owner):
                doomed.append(row)
    if doomed:
        cache.remove(doomed)
