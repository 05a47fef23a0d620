"""Text that a job passes on as a named log of its own.

Knows open streams. Must not know where the text goes.
"""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

MAX_BYTES = 16 * 2**20
_CHUNK = 2**16


def read_user_stream(stream: IO[Any]) -> str:
    """Return what a stream still holds as text; bytes are UTF-8, and what is not is replaced.

    Of more than 16 MiB only the end is kept, where errors stand, after a line that says how much is missing:
    the text travels in the job's record.
    """
    kept: deque[bytes] = deque()
    size = dropped = 0
    while chunk := stream.read(_CHUNK):
        data = chunk.encode("utf-8", "replace") if isinstance(chunk, str) else bytes(chunk)
        kept.append(data)
        size += len(data)
        while size - len(kept[0]) >= MAX_BYTES:
            dropped += len(kept[0])
            size -= len(kept.popleft())
    text = b"".join(kept).decode("utf-8", "replace")
    return f"[{dropped} bytes left out]\n{text}" if dropped else text
