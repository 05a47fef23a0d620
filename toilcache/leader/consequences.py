"""What follows from a commit and cannot be undone: files and jobs go, promises are let go.

Knows the store's deleting verbs and the order of things. Must not decide when they are safe: that is for the
gate of :mod:`toilcache.leader.durability`, in which they wait for a sync.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from toilcache.job_store.abstract import AbstractJobStore
from toilcache.leader.durability import SyncGate
from toilcache.leader.graph import Changes, Graph, Node

Consequence = Callable[[], Changes | None]


class Consequences:
    """Queues consequences in a gate, and carries out those that the gate has let through."""

    def __init__(self, store: AbstractJobStore, graph: Graph, gate: SyncGate) -> None:
        self._store = store
        self._graph = graph
        self._gate = gate
        self.safe: deque[Consequence] = deque()
        """What the gate has let through and is not done yet."""

    def of_commit(self, node: Node, promised: list[str]) -> None:
        """Queue what follows from a job's commit; ``promised`` are the promises that its arguments held."""
        self._gate.add(lambda: self._graph.released(promised))
        self._queue_deletions(node)
        if node.desc.version > 2:
            self._queue_losers(node)

    def of_earlier_run(self, node: Node) -> None:
        """Queue again what an earlier run may not have got to."""
        if not node.desc.has_body():
            self._queue_deletions(node)
            self._queue_losers(node)

    def of_end(self, node: Node) -> None:
        """Queue the removal of a job that nobody needs any more."""
        self._gate.add(lambda: self._forget(node))

    def let_go(self, consequences: Iterable[Consequence]) -> None:
        """Take over what the gate has let through."""
        self.safe.extend(consequences)

    def carry_out(self) -> Iterator[Changes]:
        """Do what has become safe, in the order in which it was decided; yields what that brings about.

        One that raises is the first to be done the next time.
        """
        while self.safe:
            changes = self.safe[0]()
            self.safe.popleft()
            if changes is not None:
                yield changes

    def _queue_deletions(self, node: Node) -> None:
        """The files that the job asked to be deleted, of which nothing but the list is kept."""
        doomed = list(node.desc.filesToDelete)
        if doomed:
            self._gate.add(lambda: self._delete(doomed))

    def _queue_losers(self, node: Node) -> None:
        """The files that attempts which did not win have written."""
        job_id, winner = node.id, node.desc.attempt
        self._gate.add(lambda: self._store.discard_attempts(job_id, winner))

    def _delete(self, file_ids: list[str]) -> None:
        for file_id in file_ids:
            self._store.delete_file(file_id)

    def _forget(self, node: Node) -> Changes | None:
        if node is self._graph.root or node.id not in self._graph.nodes:
            return None
        self._store.delete_job(node.id)
        return self._graph.forget(node)
