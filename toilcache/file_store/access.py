"""What a job read, kept for the case that it fails.

Knows file IDs and paths as text. Must not know stores.
"""

from __future__ import annotations

_SHOWN = 50


class AccessLog:
    """The reads of one job, in order."""

    def __init__(self) -> None:
        """Start with none."""
        self.entries: list[tuple[str, str | None]] = []

    def add(self, file_id: str, destination: str | None) -> None:
        """Remember one read, to a path or, with None, as a stream."""
        self.entries.append((str(file_id), destination))

    def describe(self) -> str:
        """Return the latest reads, one line each, with what cannot be printed escaped."""
        lines = [_line(*entry) for entry in self.entries[-_SHOWN:]]
        earlier = len(self.entries) - len(lines)
        if earlier:
            lines.insert(0, f"{earlier} earlier reads")
        return "\n".join(lines)


def _line(file_id: str, destination: str | None) -> str:
    where = "as a stream" if destination is None else f"to {destination!r}"
    return f"read file {file_id!r} {where}"
