"""How jobs are named before and after a job store knows them.

Knows identifiers only; must not know jobs or stores.
"""

from __future__ import annotations

from collections import namedtuple
from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Names(NamedTuple):
        """The names of one job, as logs and reports show them."""

        job_name: str
        unit_name: str
        display_name: str
        stats_name: str
        job_store_id: str
else:
    Names = namedtuple("Names", "job_name unit_name display_name stats_name job_store_id")

_numbers = count(1)


class TemporaryID:
    """The placeholder that a job has for an id until a job store assigns a real one.

    It compares by identity of its number, which is unique in the process that made the job; it never reaches
    a store.
    """

    __slots__ = ("_number",)

    def __init__(self) -> None:
        """Take the next number."""
        self._number = next(_numbers)

    def __repr__(self) -> str:
        """Show that no store knows this job yet."""
        return f"TemporaryID({self._number})"

    def __hash__(self) -> int:
        """Hash by number."""
        return self._number

    def __eq__(self, other: object) -> bool:
        """Equal to a placeholder of the same number."""
        return isinstance(other, TemporaryID) and self._number == other._number
