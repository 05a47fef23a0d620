"""The bytes of one record: a header that proves them whole, then the pickled state of a job.

Pure: knows bytes and the path to name in an error. Must not know what a state holds, nor open files.

Layout, big endian: magic (4), format version (2), reserved (2), token (16), length of the state (8), CRC-32
of everything else (4), state.
"""

from __future__ import annotations

import os
import pickle
import struct
import zlib

from toilcache.errors import CorruptRecordError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAGIC = b"tcJR"
FORMAT = 1
TOKEN_BYTES = 16
_FRONT = struct.Struct(">4sHH16sQ")
_CHECK = struct.Struct(">I")
HEADER_BYTES = _FRONT.size + _CHECK.size


def new_token() -> bytes:
    """Return 16 random bytes, from the kernel, so that forked processes never draw the same."""
    return os.urandom(TOKEN_BYTES)


def encode(state: bytes, token: bytes) -> bytes:
    """Give the record of a state under a token of 16 bytes."""
    front = _FRONT.pack(MAGIC, FORMAT, 0, token, len(state))
    return front + _CHECK.pack(zlib.crc32(state, zlib.crc32(front))) + state


def token_of(head: bytes) -> bytes | None:
    """Give the token from the first `HEADER_BYTES` bytes of a record; None if they are no header."""
    if len(head) < HEADER_BYTES:
        return None
    magic, version, _, token, _ = _FRONT.unpack_from(head)
    return token if magic == MAGIC and version == FORMAT else None


def decode(data: bytes, path: str) -> tuple[bytes, memoryview]:
    """Give (token, state) of a record.

    CorruptRecordError naming `path` unless it is whole and of our format.
    """
    if len(data) < HEADER_BYTES:
        raise CorruptRecordError(path, f"{len(data)} bytes are too short for a record")
    magic, version, _, token, length = _FRONT.unpack_from(data)
    if magic != MAGIC:
        raise CorruptRecordError(path, "it does not begin as a record does")
    if version != FORMAT:
        raise CorruptRecordError(path, f"its format is {version}, this program reads {FORMAT}")
    state = memoryview(data)[HEADER_BYTES:]
    if len(state) != length:
        raise CorruptRecordError(path, f"it holds {len(state)} bytes of state, not {length}")
    (expected,) = _CHECK.unpack_from(data, _FRONT.size)
    if zlib.crc32(state, zlib.crc32(data[: _FRONT.size])) != expected:
        raise CorruptRecordError(path, "its checksum is wrong")
    return token, state


def unpickle(state: bytes | memoryview, path: str) -> Any:
    """Rebuild what was pickled at `path`; CorruptRecordError where that cannot be done."""
    try:
        return pickle.loads(state)
    except Exception as error:
        # Damaged bytes, or a class that this program lacks: unpickling may raise anything.
        raise CorruptRecordError(path, f"it cannot be unpickled ({one_line(str(error))})") from error


def is_torn(data: bytes) -> bool:
    """Say whether damaged bytes look like a write that a power cut ended, and not like later damage.

    File systems leave such a file empty, short, or with its last blocks full of zeros.
    """
    if len(data) < HEADER_BYTES or not any(data[:HEADER_BYTES]):
        return True
    magic, _, _, _, length = _FRONT.unpack_from(data)
    if magic != MAGIC:
        return False
    # A pickle ends with a full stop, so a state whose last byte is zero was never written to its end.
    return len(data) - HEADER_BYTES < length or data[-1] == 0
