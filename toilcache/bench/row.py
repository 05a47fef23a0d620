"""What a row is: how it is measured, the unit of its figure, and the budget that the figure is to keep.

Knows no row by name and measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Budget(NamedTuple):
    """What a figure is to be at most, in the unit of its row, or at least; a ratio's is ours / theirs."""

    limit: float
    least: bool = False

    def is_met(self, figure: float) -> bool:
        """Say whether a figure keeps it; the limit itself does."""
        return figure >= self.limit if self.least else figure <= self.limit

    def __str__(self) -> str:
        """As it stands in the table."""
        return f"{'>=' if self.least else '<='} {self.limit:g}"


class Row(NamedTuple):
    """A row of ours; ``measure`` takes a directory to work in."""

    measure: Callable[[str], float]
    unit: str
    budget: Budget | None = None


class PeerRow(NamedTuple):
    """A peer's row: which of ours it stands beside, how it is measured (with which Python, in which
    directory), its unit, and the budget of the ratio of our figure to the peer's.
    """

    beside: str
    measure: Callable[[str, str], float]
    unit: str
    ratio: Budget | None = None
