"""The verbs of a job store that are about its leaders and nodes.

Contracts stand here, at the verbs. Must not know how or where anything is kept, nor what a leader does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from toilcache.job_store.work import Work


class LeaderVerbs(ABC):
    """Runs of the leader: numbered, claimed by one process each, and the newest alone may go on."""

    @abstractmethod
    def check_absent(self) -> None:
        """Raise JobStoreExistsException, or another reason why `initialize` cannot make a store here."""

    @abstractmethod
    def reserve(self) -> int:
        """Claim the first run of a store that `initialize` of this instance is to make; return its number.

        Nothing of a store without a root is touched before. JobStoreExistsException if there is a workflow,
        LeaderAliveError if another process is about to make one.
        """

    @abstractmethod
    def check_unled(self) -> int:
        """Return the number of the newest run, 0 before the first; LeaderAliveError if its leader lives.

        On this boot of this node its process tells, elsewhere its last sign of life. One that has said that
        it ended does not live.
        """

    @abstractmethod
    def claim_run(self, after: int | None = None) -> int:
        """Take the next number for a run of the leader; runs of smaller numbers must stop.

        LeaderAliveError if that is not the one that comes next to `after`: another leader was faster.
        """

    @abstractmethod
    def current_run(self) -> int:
        """Return the number of the newest run, 0 before the first."""

    @abstractmethod
    def check_run(self, run: int) -> None:
        """Raise LeaderFencedError if a newer run than this has begun.

        JobStoreUnavailableError if the store is gone or cannot be read.
        """

    @abstractmethod
    def beat(self, run: int) -> None:
        """Show that the leader of this run is alive; LeaderFencedError if a newer run has begun.

        JobStoreUnavailableError if the storage takes no writes, where life is shown all the same if it can.
        """

    @abstractmethod
    def is_in_doubt(self) -> bool:
        """Say whether a sync has failed since the last `clean`, which writes all records again then."""

    @abstractmethod
    def last_beat(self) -> float | None:
        """Return when the newest run last showed life, which its claim is too, by the storage's clock.

        None if there is no run.
        """

    @abstractmethod
    def note_standing(self, run: int, standing: bytes) -> None:
        """Replace what a run says of attempts that wait; JobStoreUnavailableError if that is refused."""

    @abstractmethod
    def standing(self, run: int) -> bytes:
        """Return what `note_standing` wrote last; nothing if it wrote nothing."""

    @abstractmethod
    def append_journal(self, run: int) -> BinaryIO:
        """Open the journal of a run so that each write lands whole at its end."""

    @abstractmethod
    def journals(self) -> list[Callable[[], BinaryIO]]:
        """Return a function for each journal, oldest first, that opens it for reading."""

    @abstractmethod
    def mark_ended(self, run: int | None = None) -> None:
        """Record that a run, by default the newest, has ended; a later run begins without the mark.

        A run is marked only while it is the newest; one that was claimed through this instance, only while it
        is still in the store.
        """

    @abstractmethod
    def is_ended(self) -> bool:
        """Say whether the newest run has ended."""

    @abstractmethod
    def close_run(self, run: int, *, clean: bool) -> None:
        """Record that no worker of a run may begin any more; `clean`: it leaves its node clean instead."""

    @abstractmethod
    def closing(self, run: int) -> str:
        """Return "" if workers of a run may begin, "clean" or "keep" for what they do with their node if not.

        They may not once a newer run has begun, either: "clean", which spares what the newer run uses.
        """

    @abstractmethod
    def register_node(self, node_id: str, info: dict[str, Any]) -> None:
        """Record that a node takes part, with what a clean-up of it needs to know."""

    @abstractmethod
    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return all recorded nodes with their information."""

    @abstractmethod
    def work(self, run: int) -> Work:
        """Return the work of a run of the leader, for hosts that cannot be reached by a socket."""
