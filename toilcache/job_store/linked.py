"""Which files of this machine a store refers to without holding them: the originals of imports by link.

Knows link records. Must not know who wants to see these files: containers need them at their paths.
"""

from __future__ import annotations

from toilcache.job_store import layout, originals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from toilcache.job_store.backend import Backend


def linked_paths(backend: Backend) -> Iterator[str]:
    """Yield the absolute path of every original; reads a record for each, so ask once, not for each job."""
    scopes = [layout.SHARED_LINKED]
    scopes += [f"{layout.LINKED}/{name}" for name in backend.names(layout.LINKED)]
    for scope in scopes:
        for name in backend.names(scope):
            key = f"{scope}/{name}"
            try:
                record = backend.get(key)
            except FileNotFoundError:  # the file was deleted meanwhile
                continue
            yield originals.decode(record, backend.where(key)).path
