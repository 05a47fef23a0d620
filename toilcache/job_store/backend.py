"""The few verbs that a job store needs from whatever keeps its bytes: a directory, or objects in a bucket.

Keys are what `layout` makes. A backend must not know what a key means; the job store's rules are written
once, above these verbs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import BinaryIO


class Backend(ABC):
    """Bytes under keys. Any verb may raise OSError.

    FileNotFoundError means that the key or its scope is absent.
    """

    @abstractmethod
    def where(self, key: str) -> str:
        """Name the place of a key for a message to a person."""

    @abstractmethod
    def make_scope(self, scope: str) -> None:
        """Make room for keys below `scope`, which is new; what lies above it is made too."""

    @abstractmethod
    def drop_scope(self, scope: str) -> None:
        """Remove a scope and all keys below it; absent is fine.

        It disappears in one step: from then on no key below it can be made, even by a verb that began before.
        """

    @abstractmethod
    def sweep(self) -> None:
        """Remove what `drop_scope` could not remove at once."""

    @abstractmethod
    def drop_empty(self, scope: str) -> None:
        """Remove a scope if there are no keys below it."""

    @abstractmethod
    def has(self, key: str) -> bool:
        """Say whether there is such a key or scope."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes, fresh: bool = False) -> bool:
        """Make a key with its whole content; False if it is there already.

        With `fresh` nobody can know the key yet, so that it may be filled in place. The scope must exist. An
        OSError leaves open whether the key was made; there is never a key with a part of the content, save
        for a `fresh` one after a power cut.
        """

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Make or replace a key; a reader gets the old or the new content."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Return the newest content, whatever this machine has cached."""

    @abstractmethod
    def head(self, key: str, count: int) -> bytes:
        """Return the first `count` bytes of the newest content."""

    @abstractmethod
    def tail(self, key: str, offset: int) -> bytes:
        """Return the newest content from an offset on."""

    @abstractmethod
    def names(self, scope: str) -> list[str]:
        """Return the names right below a scope, the newest included, in any order."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a key; absent is fine."""

    @abstractmethod
    def move(self, key: str, new_key: str) -> None:
        """Give the content of one key to another and remove the first."""

    @abstractmethod
    def modified(self, key: str) -> float:
        """Return when the key was last written, in seconds since 1970 by the clock of the storage."""

    @abstractmethod
    def touch(self, key: str) -> None:
        """Have a key count as written now, which takes no room; FileNotFoundError if it is absent."""

    @abstractmethod
    def renew(self, key: str, data: bytes) -> None:
        """Write the content of a key, which is `data`, once more, so that the next `sync` speaks for it."""

    @abstractmethod
    def status(self, key: str) -> tuple[int, bool]:
        """Return (size in bytes, executable) of a file."""

    @abstractmethod
    def writer(
        self, key: str, base: str, executable: bool = False, replace: bool = False
    ) -> AbstractContextManager[BinaryIO]:
        """Yield a stream whose content is the key's once the block ends; an error leaves all as it was.

        What is missing between `base` and the key is made; `base` itself is not. With `replace` the key must
        be there when the block ends.
        """

    @abstractmethod
    def reader(self, key: str) -> BinaryIO:
        """Open a key for reading."""

    @abstractmethod
    def upload(self, local_path: str, key: str, base: str, replace: bool = False) -> tuple[int, bool]:
        """Take a local file in as `writer` would; return its (size, executable)."""

    @abstractmethod
    def download(self, key: str, local_path: str, executable: bool, symlink: bool) -> None:
        """Put the content at a local path in one step, as a file that cannot be used to change the key.

        With `symlink` a link to the storage will do where its reader cannot write through it.
        """

    @abstractmethod
    def append(self, key: str) -> BinaryIO:
        """Open a key, made if absent, so that each write lands whole at its end."""

    @abstractmethod
    def url(self, key: str) -> str:
        """Return a URL by which others on this storage can read the key."""

    @abstractmethod
    def sync(self) -> None:
        """Make everything written so far survive a power cut.

        An error may be told once: what was written before it, and not again, has to be taken for lost, even
        if the next call succeeds.
        """
