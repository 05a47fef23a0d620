"""A job gets a file out of the cache, which fetches it first if need be.

Knows references, their states, and trying again when a payload or a download goes away. Must not know where
files come from: it is handed a function that fetches.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from toilcache.cache import downloads, payloads, rows
from toilcache.cache.schema import CACHED, COPYING, DELETING, DOWNLOADING, IMMUTABLE, MUTABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import BinaryIO, NamedTuple

    from toilcache.cache.node_cache import NodeCache
    from toilcache.cache.rows import FileRow, Holder, Payload

    class Wish(NamedTuple):
        """What a job asks for: a file, and how it wants it at which path.

        `mode` is that of a copy, None where the job will not change the file, so that it may be a link; `add`
        says whether the cache is to fetch the file if it does not have it.
        """

        file_id: str
        path: str
        mode: int
        link: bool
        symlink: bool
        executable: bool
        add: bool

    class Source(NamedTuple):
        """Where a file comes from: its size and executability, fetching it to a path, looking whether it is
        all.
        """

        describe: Callable[[], tuple[int, bool]]
        fetch: Callable[[str], None]
        verify: Callable[[Payload], None]
else:
    from collections import namedtuple

    Wish = namedtuple("Wish", "file_id path mode link symlink executable add")
    Source = namedtuple("Source", "describe fetch verify")

_TRIES = 3


def read(cache: NodeCache, holder: Holder, wish: Wish, source: Source) -> bool:
    """Put a file where a job wants it; False, and nothing is there, if it has to go around the cache.

    It has to where there is no room, where somebody's download makes no progress, and where the file was lost
    again and again meanwhile.
    """
    for _ in range(_TRIES):
        row, ref = _reference(cache, holder, wish)
        while row is not None and row.state == DOWNLOADING:
            if not downloads.wait_for(cache, row):
                return False
            row, ref = _reference(cache, holder, wish)
        download = None
        if row is None:
            if not wish.add:
                return False
            download = downloads.Download(cache, wish.file_id)
            begun = _announced(download, holder, wish, source)
            if begun is None:
                return False
            if not begun:
                continue
        try:
            if download is not None:
                row, ref = downloads.fetch_with(download, source.fetch, source.verify), download.ref
            assert row is not None
            _hand_out(cache, row, ref, wish)
            return True
        except payloads.PayloadChanged as changed:
            cache.drop_changed(changed)
    return False


def _announced(download: downloads.Download, holder: Holder, wish: Wish, source: Source) -> bool | None:
    begun: bool | None = False
    try:
        size, executable = source.describe()
        begun = download.announce(holder, size, executable, wish.path, IMMUTABLE if wish.link else COPYING)
        return begun
    finally:
        if not begun:
            download.release()


def _reference(cache: NodeCache, holder: Holder, wish: Wish) -> tuple[FileRow | None, int]:
    """Find a file and, if it can be read, hold it for the job. Without a row, or in state deleting: None."""
    with cache.transaction() as con:
        row = rows.find(con, wish.file_id)
        if row is None or row.state == DELETING:
            return None, 0
        if row.state == DOWNLOADING:
            return row, 0
        rows.touch(con, row.id)
        return row, rows.add_ref(
            con, holder, row.id, wish.path, IMMUTABLE if wish.link else COPYING, row.size
        )


def _hand_out(cache: NodeCache, row: FileRow, ref: int, wish: Wish) -> None:
    """Make the link or the copy that a reference speaks of; without one the reference goes."""
    made = False
    try:
        if wish.link:
            if payloads.hand_out_link(row, wish.path, wish.executable, wish.symlink, cache.reflinks):
                return
            with cache.transaction() as con:
                rows.change_ref(con, ref, COPYING)
        mode = wish.mode | (wish.mode & 0o444) >> 2 if row.executable or wish.executable else wish.mode
        payloads.hand_out_copy(row, wish.path, mode)
        made = True
        with cache.transaction() as con:
            rows.change_ref(con, ref, MUTABLE)
    except BaseException:
        if made:
            payloads.remove(wish.path)  # it will be read again, perhaps around the cache
        with cache.transaction() as con:
            rows.drop_ref(con, ref)
        raise


@contextmanager
def stream(cache: NodeCache, file_id: str) -> Generator[BinaryIO | None, None, None]:
    """Yield a stream over a file's payload, None if the cache does not have it; a payload that changed is
    dropped.

    The open file outlives an eviction, so that no reference is needed.
    """
    row = rows.find(cache.generation.database.con, file_id)
    opened = None
    if row is not None and row.state not in (DELETING, DOWNLOADING):
        try:
            opened = _opened(row)
        except payloads.PayloadChanged as changed:
            cache.drop_changed(changed)
    if opened is None:
        yield None
        return
    with opened:
        with cache.transaction() as con:
            rows.touch(con, file_id)
        yield opened


def _opened(row: FileRow) -> BinaryIO:
    payloads.make_readable(row)
    try:
        opened = open(row.path, "rb")  # noqa: SIM115  the caller closes it
    except FileNotFoundError:
        raise payloads.PayloadChanged(row, gone=True) from None
    if not payloads.is_as(row, os.fstat(opened.fileno())):
        opened.close()
        raise payloads.PayloadChanged(row, gone=False)
    return opened


def forget_local(cache: NodeCache, holder: Holder, file_id: str, paths: list[str]) -> None:
    """Drop a job's references to a file at these paths, after a last look at the payload behind its links."""
    row = rows.find(cache.generation.database.con, file_id)
    if row is not None and row.state == CACHED:
        try:
            payloads.check(row)
        except payloads.PayloadChanged as changed:
            cache.drop_changed(changed)
    with cache.transaction() as con:
        for ref, path, _ in rows.refs_of(con, holder, file_id):
            if path in paths:
                rows.drop_ref(con, ref)


def is_cached(cache: NodeCache, file_id: str) -> bool:
    """Tell whether the cache has a file's content (line 1191)."""
    row = rows.find(cache.generation.database.con, file_id)
    return row is not None and row.state not in (DELETING, DOWNLOADING)
