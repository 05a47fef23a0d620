"""A stream that tells others how many bytes went through it.

Knows the file object that it wraps. Must not know who listens.
"""

from __future__ import annotations

import codecs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import IO, Any


class WriteWatchingStream:
    """A writable stream that calls its listeners with the number of bytes of each write."""

    def __init__(self, backingStream: IO[Any]) -> None:
        """Wrap an open binary or text stream; everything but writing is the wrapped stream's own."""
        self.backingStream = backingStream
        self.bytes_written = 0
        self._listeners: list[Callable[[int], Any]] = []
        self._encoder: codecs.IncrementalEncoder | None = None
        encoding = getattr(backingStream, "encoding", None)
        if encoding is not None:
            # One encoder for the whole stream, as the stream has: a byte order mark is written only once.
            errors = getattr(backingStream, "errors", None) or "strict"
            self._encoder = codecs.getincrementalencoder(encoding)(errors)

    def onWrite(self, listener: Callable[[int], Any]) -> None:
        """Have `listener` called after each write with the number of bytes written by it."""
        self._listeners.append(listener)

    def write(self, data: Any) -> int:
        """Write to the wrapped stream and return its answer: bytes, or characters of a text stream."""
        written = self.backingStream.write(data)
        count = written if self._encoder is None else len(self._encoder.encode(data))
        self.bytes_written += count
        for listener in self._listeners:
            listener(count)
        return written

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write each of several pieces."""
        for line in lines:
            self.write(line)

    def __enter__(self) -> WriteWatchingStream:
        """Return the stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the wrapped stream."""
        self.backingStream.close()

    def __getattr__(self, name: str) -> Any:
        """Give everything else from the wrapped stream."""
        if name == "backingStream":  # not yet there while being unpickled or copied
            raise AttributeError(name)
        return getattr(self.backingStream, name)
