"""The id of a file in the job store, with what a reader would otherwise have to ask the store for.

Knows strings and local paths. Must not know how a job store names its files.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class FileID(str):
    """A file's id that carries its size in bytes and whether it is executable (specification line 51).

    It compares and hashes as the bare string, which every call takes in its place.
    """

    size: int
    executable: bool

    def __new__(cls, fileStoreID: str, size: int, executable: bool = False) -> FileID:
        """Make the string."""
        return super().__new__(cls, fileStoreID)

    def __init__(self, fileStoreID: str, size: int, executable: bool = False) -> None:
        """Keep the size in bytes and whether the file is executable."""
        super().__init__()
        self.size = size
        self.executable = executable

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep both attributes in a pickle or copy."""
        return type(self), (str(self), self.size, self.executable)

    def pack(self) -> str:
        """Give one string that holds all three parts; `unpack` reads it (specification line 56)."""
        return f"{self.size}:{int(self.executable)}:{self}"

    @classmethod
    def unpack(cls, packedFileStoreID: str) -> FileID:
        """Read what `pack` wrote; ValueError for any other text."""
        size, executable, file_id = ([*packedFileStoreID.split(":", 2), "", ""])[:3]
        if not (size.isdecimal() and executable in ("0", "1") and file_id):
            raise ValueError(
                f"cannot unpack {packedFileStoreID!r} as a file id; give what FileID.pack() returned"
            )
        return cls(file_id, int(size), executable == "1")

    @classmethod
    def forPath(cls, fileStoreID: str, filePath: str) -> FileID:
        """Take size and executability from a local file; OSError if there is none."""
        status = os.stat(filePath)
        return cls(fileStoreID, status.st_size, bool(status.st_mode & 0o100))
