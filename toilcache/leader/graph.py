"""The workflow as the leader sees it: which job waits for what.

Knows jobs as nodes with predecessors and phases, and whose return values are still wanted. Does no input or
output: a ``load`` function given by the leader turns ids into descriptions, and every method answers with
what has become ready, done or unneeded. Must not know adapters, retries or the store. Work per event does not
grow with the workflow, and nothing recurses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import IntEnum

from toilcache.errors import JobException
from toilcache.job.description import JobDescription

Loader = Callable[[str], JobDescription | None]


class State(IntEnum):
    """A job in the leader's eyes. A job moves down this list, except that a failed attempt leads back to
    READY.
    """

    NEW = 0  # some predecessor has not reached the phase that starts it
    READY = 1  # may be issued, or waits for its back-off
    ISSUED = 2  # an attempt of it is with the adapter
    WAITING = 3  # committed; successors outstanding
    DONE = 4  # committed, and all successors are done
    FAILED = 5  # no tries left


class Node:
    """One job: its description (without body), who waits for it, and what it still waits for.

    ``phases`` holds the ids of successors, the phase to run next at the end; ``outstanding`` counts the
    unfinished ones of the phase that is open; ``entered`` counts the predecessors that have let it go;
    ``refs`` are the jobs whose promises occur in its return value; ``inherited`` says that an earlier leader
    may have issued it."""

    __slots__ = ("desc", "entered", "inherited", "outstanding", "phases", "predecessors", "refs", "state")

    def __init__(self, desc: JobDescription) -> None:
        self.desc = desc
        self.state = State.NEW
        self.predecessors: list[Node] = []
        self.phases: list[list[str]] = []
        self.entered = 0
        self.outstanding = 0
        self.refs: tuple[str, ...] = ()
        self.inherited = False

    @property
    def id(self) -> str:
        """The job's id in the store."""
        return str(self.desc.jobStoreID)


class Changes:
    """What a step brought about: nodes that became ready, nodes that became done, nodes nobody needs any
    more.
    """

    __slots__ = ("done", "ready", "unneeded")

    def __init__(self) -> None:
        self.ready: list[Node] = []
        self.done: list[Node] = []
        self.unneeded: list[Node] = []


class Graph:
    """All known jobs of a workflow.

    A job is *needed* while it is not done, or while its return value has consumers: live jobs whose arguments
    hold a promise of it (``desc.promised``), kept values in which such a promise occurs
    (``desc.result_refs``), or the person who waits for the root's value."""

    def __init__(self, load: Loader) -> None:
        self._load = load
        self.nodes: dict[str, Node] = {}
        self.consumers: Counter[str] = Counter()
        self.root: Node | None = None

    def start(self, root: JobDescription) -> Changes:
        """Begin with the root, new or half done, and with all of its descendants that are written down
        already.
        """
        changes = Changes()
        node = self._add(root)
        self.root = node
        self.consumers[node.id] += 1
        self._discover(root)
        self._find_kept_values()
        self._admit(node, changes)
        return changes

    def committed(self, node: Node, desc: JobDescription) -> Changes:
        """Take note that a job's body has run: ``desc`` is what its worker committed."""
        changes = Changes()
        self._discover(desc)
        node.desc = desc
        node.refs = tuple(desc.result_refs)
        self.consumers.update(node.refs)
        self._wait(node)
        self._settle([node], changes)
        return changes

    def released(self, promised: Iterable[str]) -> Changes:
        """Take note that a job which had been given these promises is through with them."""
        changes = Changes()
        for job_id in promised:
            self.consumers[job_id] -= 1
            node = self.nodes.get(job_id)
            if node is not None:
                self._note_unneeded(node, changes)
        return changes

    def forget(self, node: Node) -> Changes:
        """Drop an unneeded job: the values that its own value referred to lose a consumer."""
        self.nodes.pop(node.id, None)
        self.consumers.pop(node.id, None)
        return self.released(node.refs)

    def require_root(self) -> Node:
        """Return the root's node.

        :raises JobException: the graph was never started.
        """
        if self.root is None:
            raise JobException("cannot look at a workflow that was not started")
        return self.root

    def _add(self, desc: JobDescription) -> Node:
        node = Node(desc)
        self.nodes[node.id] = node
        if desc.has_body():
            self.consumers.update(desc.promised)
        else:
            node.refs = tuple(desc.result_refs)
            self.consumers.update(node.refs)
        return node

    def _discover(self, desc: JobDescription) -> None:
        """Load every descendant that is written down: a later phase may hold promises of an earlier one.

        Nothing has changed if that raises.
        """
        found: dict[str, JobDescription] = {}
        frontier = [desc]
        while frontier:
            for job_id in frontier.pop().successorsAndServiceHosts():
                if job_id in self.nodes or job_id in found:
                    continue
                loaded = self._load(job_id)
                if loaded is not None:
                    found[job_id] = loaded
                    frontier.append(loaded)
        for loaded in found.values():
            self._add(loaded)

    def _find_kept_values(self) -> None:
        """Load the jobs that an earlier leader finished and kept for their values alone."""
        todo = [job_id for job_id in self.consumers if job_id not in self.nodes]
        while todo:
            job_id = todo.pop()
            desc = None if job_id in self.nodes else self._load(job_id)
            if desc is None or desc.has_body():
                continue
            node = self._add(desc)
            node.state = State.DONE
            todo.extend(node.refs)

    def _wait(self, node: Node) -> None:
        phases: dict[int, list[str]] = {}
        for phase, job_id in node.desc.successors_by_phase():
            phases.setdefault(phase, []).append(job_id)
        node.phases = [phases[phase] for phase in sorted(phases)]
        node.state = State.WAITING

    def _admit(self, node: Node, changes: Changes) -> None:
        """Start a node that nothing holds back any more: to be run, or to wait for its successors."""
        if node.desc.has_body():
            node.state = State.READY
            changes.ready.append(node)
        else:
            self._wait(node)
            self._settle([node], changes)

    def _settle(self, waiting: list[Node], changes: Changes) -> None:
        """Open the next phase of committed nodes; nodes without one are done, which may settle their
        predecessors.
        """
        stack = waiting
        while stack:
            node = stack.pop()
            if node.state != State.WAITING or node.outstanding:
                continue
            if node.phases:
                self._open_phase(node, changes, stack)
                continue
            node.state = State.DONE
            changes.done.append(node)
            self._note_unneeded(node, changes)
            for predecessor in node.predecessors:
                predecessor.outstanding -= 1
            stack.extend(node.predecessors)
            node.predecessors = []

    def _open_phase(self, node: Node, changes: Changes, stack: list[Node]) -> None:
        """Let the successors of the next phase go; one that an earlier leader saw finished has no node."""
        successors = [self.nodes[job_id] for job_id in node.phases.pop() if job_id in self.nodes]
        stack.append(node)
        for successor in successors:
            if successor.state == State.DONE:
                continue
            node.outstanding += 1
            successor.predecessors.append(node)
            successor.entered += 1
            if successor.state != State.NEW:
                continue
            if not successor.desc.has_body():
                # It ran under an earlier leader, so all its predecessors had let it go; some may be gone.
                self._wait(successor)
                stack.append(successor)
            elif successor.entered >= successor.desc.predecessorNumber:
                successor.state = State.READY
                changes.ready.append(successor)

    def _note_unneeded(self, node: Node, changes: Changes) -> None:
        if node.state == State.DONE and self.consumers[node.id] <= 0:
            changes.unneeded.append(node)


def slim(desc: JobDescription) -> None:
    """Drop from memory what only the worker needs: bodies and return values stay in the store."""
    if desc.inline_body is not None:
        desc.inline_body = b""
    desc.result = None
    desc.messages = []
    desc.user_streams = []
