"""What the leader writes down for those who ask why a job does not run.

Knows two places: the journal, which says which jobs follow which, under what names, and a small record of
what the adapter knows of attempts that wait, which is replaced. Must not know who reads them. Both are a
courtesy: what a full store does not take of them is lost and harms nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice

from toilcache.batch.model import BatchAdapter
from toilcache.errors import JobStoreUnavailableError
from toilcache.job.description import JobDescription
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.leader.graph import Graph, Node, State
from toilcache.leader.journal import Counts, Journal


class Plans:
    """The notes of one run, besides its decisions."""

    def __init__(
        self, journal: Journal, graph: Graph, adapter: BatchAdapter, store: AbstractJobStore, run: int
    ) -> None:
        self._journal = journal
        self._graph = graph
        self._adapter = adapter
        self._store = store
        self._run = run
        self._standing = b""

    def begin(self, root: JobDescription, resume: bool) -> None:
        """Note the beginning of the run."""
        name = str(root.displayName)
        self._journal.note("begin", str(root.jobStoreID), run=self._run, resume=resume, name=name)

    def begun(self) -> None:
        """Say what follows what in the graph that a run begins with."""
        self._note(self._graph.nodes.values())

    def committed(self, node: Node, known: int) -> None:
        """Note a commit with the jobs that follow it; before it, so many were `known`."""
        after = self._after(node) if any(node.desc.allSuccessors()) else []
        if after:
            self._journal.note("commit", node.id, version=node.desc.version, next=after)
            new = len(self._graph.nodes) - known
            self._note(islice(reversed(self._graph.nodes.values()), new))
        else:
            self._journal.note("commit", node.id, version=node.desc.version)

    def _note(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            after = self._after(node)
            if after and node.state == State.WAITING:
                self._journal.note("plan", node.id, next=after, ran=True)
            elif after:
                self._journal.note("plan", node.id, next=after)

    def _after(self, node: Node) -> list[dict[str, str]]:
        """Return the names of the successors by id, phase by phase; one that is done and gone is left out."""
        phases: dict[int, dict[str, str]] = {}
        for phase, job_id in node.desc.successors_by_phase():
            successor = self._graph.nodes.get(job_id)
            if successor is not None:
                phases.setdefault(phase, {})[job_id] = str(successor.desc.displayName)
        return [phases[phase] for phase in sorted(phases, reverse=True)]

    def progress(self, counts: Counts) -> None:
        """Note how far the workflow is, and write down what the adapter knows, if that has changed."""
        self._journal.note("progress", jobs=counts.as_dict())
        standing = json.dumps(self._adapter.standing(), separators=(",", ":")).encode()
        if standing != self._standing:
            with suppress(JobStoreUnavailableError):
                self._store.note_standing(self._run, standing)
                self._standing = standing
