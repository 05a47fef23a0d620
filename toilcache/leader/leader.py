"""The leader: issues ready jobs, takes note of commits, retries what failed, until nothing is left.

Knows the graph, the store, the adapter's verbs and the rules of retrying. Must not know Slurm, Docker or
processes. One event loop: it blocks in ``adapter.updates`` until something happened or a timer is due. Three
rules carry everything: a job is done only when its record is in the store (I1), whatever destroys an earlier
state waits for a sync (I3), and what a full store refuses changes nothing and is tried again."""

from __future__ import annotations

import logging
import signal
from collections import deque
from collections.abc import Sequence
from functools import partial
from types import FrameType

from toilcache.batch.model import BatchAdapter, Ended, JobRequest, Record, Update
from toilcache.config import Config
from toilcache.errors import (
    FailedJobsException,
    InsufficientSystemResources,
    JobException,
    NoSuchFileException,
    NoSuchJobException,
    WorkflowStopped,
)
from toilcache.job.description import JobDescription
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.leader.attempts import Attempts
from toilcache.leader.consequences import Consequences
from toilcache.leader.durability import SyncGate
from toilcache.leader.graph import Changes, Graph, Node, State, slim
from toilcache.leader.journal import Counts, Journal
from toilcache.leader.patience import LONGEST_PAUSE, Patience
from toilcache.leader.plans import Plans
from toilcache.leader.report import Reporter
from toilcache.leader.signals import Signals
from toilcache.leader.timers import Timers

logger = logging.getLogger(__name__)

KILL_FLAG_SECONDS = 2.0
PROGRESS_SECONDS = 2.0
HEARTBEAT_SECONDS = 15.0
DURATION_LOOK_SECONDS = 1.0


class Leader:
    """One run of the leader over a job store.

    :param run: the number of this run, from ``store.claim_run()``; a newer one fences it.
    """

    def __init__(
        self, store: AbstractJobStore, config: Config, adapter: BatchAdapter, run: int, reporter: Reporter
    ) -> None:
        self._store = store
        self._config = config
        self._adapter = adapter
        self._run = run
        self._reporter = reporter
        self._journal = Journal(store.append_journal(run))
        self._graph = Graph(self._load)
        self._plans = Plans(self._journal, self._graph, adapter, store, run)
        self._attempts = Attempts(store)
        self._gate = SyncGate(store.sync, adapter.wake, store.renew_record, store.is_in_doubt())
        self._consequences = Consequences(store, self._graph, self._gate)
        self._timers = Timers()
        self._patience = Patience(self._timers)
        self._ready: deque[Node] = deque()
        self._failed: list[Node] = []
        self._backing_off = 0
        self._stop: WorkflowStopped | None = None
        self._resuming = False
        self._overdue: dict[str, str] = {}
        self._saved_logs: dict[Ended, str | None] = {}
        self.counts = Counts()

    def run(self, root: JobDescription, *, resume: bool, adopted: Sequence[tuple[str, int]] = ()) -> None:
        """Run the workflow to its end.

        :param resume: an earlier run may have issued jobs: go on with those in ``adopted``, fence the rest.
        :param adopted: the attempts of an earlier run that the adapter still sees running.
        :raises FailedJobsException: some jobs had no tries left; the others were run as far as possible.
        :raises LeaderFencedError: a newer leader has taken the store over; nothing more was touched.
        :raises WorkflowStopped: by a signal or the kill flag; the store can be restarted.
        :raises JobStoreUnavailableError: the store is gone. While it is full we wait.
        """
        self._plans.begin(root, resume)
        self._resuming = resume
        for seconds, look in (
            (KILL_FLAG_SECONDS, self._look_at_kill_flag),
            (HEARTBEAT_SECONDS, self._beat),
            (DURATION_LOOK_SECONDS, self._look_at_durations),
        ):
            self._timers.every(seconds, partial(self._patience.attempt, look, look))
        self._timers.every(PROGRESS_SECONDS, lambda: self._plans.progress(self.counts))
        with Signals(self._ask_to_stop):
            try:
                self._begin(root, adopted)
                self._loop()
                self._finish()
            except (NoSuchJobException, NoSuchFileException):
                self._check_run()  # the store may be gone, or a newer run may have finished jobs that we know
                raise
            finally:
                self._journal.note("end", jobs=self.counts.as_dict())
                self._journal.close(self._store.release_reserve)
                self._gate.close()
        if self._failed:
            raise FailedJobsException(self._store.locator, [node.desc for node in self._failed])

    # Beginning and end

    def _begin(self, root: JobDescription, adopted: Sequence[tuple[str, int]]) -> None:
        self._gate.rests_on(str(root.jobStoreID), root.version)
        changes = self._graph.start(root)
        self.counts.known = len(self._graph.nodes)
        if self._resuming:
            for node in self._graph.nodes.values():
                node.inherited = True
                self._consequences.of_earlier_run(node)
        self._plans.begun()
        self._take(changes)
        for node in self._attempts.adopt(adopted, self._graph.nodes):
            if node.state == State.READY:
                node.state = State.ISSUED
                self.counts.running += 1
                self._ready.remove(node)
                self._journal.note("issue", node.id, version=node.desc.version, adopted=True)
        nodes = self._graph.nodes
        heads = [(nodes[job_id].desc, version) for job_id, version in adopted if job_id in nodes]
        self._adapter.adopted([JobRequest.of(desc)._replace(version=version) for desc, version in heads])
        self._resuming = False

    def _settle(self) -> None:
        """Do what had to wait for a sync; when nothing runs any more, nothing waits for others to join in."""
        self._consequences.let_go(self._gate.poll(now=self._is_idle()))
        if self._consequences.safe:
            self._check_run()
            for changes in self._consequences.carry_out():
                self._take(changes)

    def _is_idle(self) -> bool:
        return not self._attempts and not self._ready and not self._backing_off

    def _loop(self) -> None:
        """Only after the last sync may anybody be told that the workflow is done, and so it ends then."""
        attempt = self._patience.attempt
        while True:
            self._timers.run_due()
            self._patience.hold("sync", self._gate.trouble)
            attempt("settle", self._settle)
            if not self._patience.is_needed:
                attempt("issue", self._issue)
            attempt("journal", self._journal.flush)
            self._reporter.progress(self.counts)
            if self._stop is not None:
                logger.error("%s; continue with --restart", self._stop.why)
                raise self._stop
            if self._is_idle() and self._gate.empty and not self._patience.is_needed:
                return
            for update in self._adapter.updates(self._next_moment()):
                attempt(update, partial(self._hear, update))

    def _next_moment(self) -> float | None:
        sync = None if self._patience.is_needed else self._gate.due_in()
        if sync is not None and self._is_idle():
            return 0.0
        moments = [moment for moment in (self._timers.due_in(), sync) if moment is not None]
        return min(moments) if moments else None

    def _finish(self) -> None:
        """Look whether all is done.

        :raises JobException: nothing failed and yet the root is not done: never report that as a success.
        """
        if not self._failed and self._graph.require_root().state != State.DONE:
            waiting = [node for node in self._graph.nodes.values() if node.state != State.DONE]
            raise JobException(
                f"cannot finish the workflow: nothing runs, but {len(waiting)} jobs wait, "
                f"{waiting[0].desc} first; continue with --restart, and please report this"
            )
        self._reporter.progress(self.counts)

    def _hear(self, update: Update) -> None:
        if isinstance(update, Record):
            node = self._graph.nodes.get(update.job_id)
            if node is not None and update.version > node.desc.version:
                self._read_record(node, update.version)
        else:
            self._chain_ended(update)

    # Issuing

    def _issue(self) -> None:
        """Hand all ready jobs to the adapter at once."""
        if not self._ready:
            return
        self._check_run()
        requests = []
        while self._ready and not self._patience.is_needed:
            node = self._ready.popleft()
            if node.inherited:
                self._patience.attempt(node.id, partial(self._fence, node))
                continue
            request = self._prepare(node)
            if request is not None:
                requests.append(request)
        self._adapter.submit(requests)

    def _prepare(self, node: Node) -> JobRequest | None:
        """Make the request for an attempt; None if the job cannot be issued after all."""
        request = JobRequest.of(node.desc)
        try:
            self._adapter.check(request)
        except InsufficientSystemResources as error:
            node.desc.failure = str(error)
            self._reporter.failure(self._store, node.desc, 0)
            self._give_up(node, str(error))
            return None
        node.state = State.ISSUED
        self.counts.running += 1
        self._attempts.issue(node)
        self._journal.note("issue", node.id, version=node.desc.version, name=request.name)
        return request

    def _fence(self, node: Node) -> None:
        """Take a slot of our own, so that whatever an earlier run has issued is refused; then the job may be
        issued, unless that run has won the race.
        """
        newest = self._attempts.take_slot(node, JobDescription.clearRemainingTryCount)
        if newest is None:
            node.inherited = False
            self._ready.append(node)
        else:
            self._take_record(node, newest)
            node.inherited = False

    # What workers have done

    def _read_record(self, node: Node, version: int) -> None:
        try:
            desc = self._store.load_version(node.id, version)
        except NoSuchJobException:
            return  # a hint that proves false; the end of the attempt will tell
        self._take_record(node, desc)

    def _take_record(self, node: Node, desc: JobDescription) -> None:
        """Act on the newest record of a job: its commit, or its failure."""
        if desc.has_body():
            self._attempt_failed(node, desc)
            return
        was_issued = node.state == State.ISSUED
        promised = list(node.desc.promised)
        known = len(self._graph.nodes)
        changes = self._graph.committed(node, desc)  # reads new jobs; if that fails, nothing has changed
        self.counts.known += len(self._graph.nodes) - known
        self.counts.running -= was_issued
        self.counts.ran += 1
        self._reporter.messages(desc)
        self._reporter.success_log(self._store, desc)
        self._plans.committed(node, known)
        slim(desc)
        self._gate.rests_on(node.id, desc.version)
        self._consequences.of_commit(node, promised)
        self._follow_chain(node, desc)
        self._take(changes)

    def _follow_chain(self, node: Node, desc: JobDescription) -> None:
        """The worker goes on with a successor by itself: that is an issue which the commit made for us."""
        successor = self._graph.nodes.get(desc.chained_to or "")
        if successor is None:
            return
        if self._attempts.chain(node, successor):
            successor.state = State.ISSUED
            self.counts.running += 1
            self._journal.note("issue", successor.id, version=successor.desc.version, after=node.id)
        else:
            successor.inherited = True  # a worker that we do not know of may be at it

    def _take(self, changes: Changes) -> None:
        self._ready += [node for node in changes.ready if node.state == State.READY]
        for node in changes.done:
            self.counts.done += 1
            self._journal.note("done", node.id)
        for node in changes.unneeded:
            self._consequences.of_end(node)

    def _chain_ended(self, update: Ended) -> None:
        """No process works on this attempt any more: what has no record now has failed."""
        if not self._attempts.is_known(update.job_id, update.version):
            return
        while True:
            node = self._attempts.current(update.job_id)
            if node is None or node.state != State.ISSUED:
                break
            record = self._attempts.newest(node) or self._give_up_attempt(node, update)
            if record is None:
                break
            self._take_record(node, record)
            if self._attempts.current(update.job_id) is node:
                break
        self._attempts.ended(update.job_id)
        if node is not None and node.state == State.READY:
            self._schedule_retry(node)

    def _give_up_attempt(self, node: Node, update: Ended) -> JobDescription | None:
        """Take the next slot ourselves: from now on the lost attempt is refused, should it still live.

        Returns the record of the attempt if that was there first after all.
        """
        if update not in self._saved_logs:  # a full store may have taken the log and not the record
            self._saved_logs[update] = self._reporter.save_log(self._store, node.id, update.log_tail)
        why = self._overdue.get(node.id, update.detail)
        newest = self._attempts.give_up(node, update.reason, why, self._saved_logs[update])
        del self._saved_logs[update]
        if newest is None:
            self._overdue.pop(node.id, None)
            self._attempt_failed(node, node.desc)
        return newest

    def _attempt_failed(self, node: Node, desc: JobDescription) -> None:
        self.counts.running -= node.state == State.ISSUED
        node.desc = desc
        slim(desc)
        left = desc.remainingTryCount
        why = desc.failure or "failed"
        self._journal.note("fail", node.id, version=desc.version, why=why, left=left)
        self._reporter.failure(self._store, desc, left)
        if left <= 0:
            self._give_up(node, why)
            return
        node.state = State.READY
        self.counts.retried += 1
        if not self._attempts.is_running(node):
            self._schedule_retry(node)

    def _schedule_retry(self, node: Node) -> None:
        """Issue a failed job again after a pause, and not while a process of its last attempt is there."""
        self._backing_off += 1
        pause = self._attempts.pause(node, self._config.retryBackoff)
        self._journal.note("retry", node.id, seconds=round(pause, 3))
        self._timers.after(pause, lambda: self._retry(node))

    def _retry(self, node: Node) -> None:
        self._backing_off -= 1
        self._ready.append(node)

    def _give_up(self, node: Node, why: str) -> None:
        node.state = State.FAILED
        self._failed.append(node)
        self.counts.failed += 1
        self._journal.note("give-up", node.id, why=why)

    # Watching over

    def _load(self, job_id: str) -> JobDescription | None:
        """Read a job that a record names.

        In a run of our own it is newly born, and is taken as it was born: a worker that chained into it may
        be ahead of us, and its records are taken one by one. When resuming, it is whatever it has become, and
        a missing one is done: an earlier run deletes a job only then.
        """
        if not self._resuming:
            desc = self._store.load_version(job_id, 1)
        else:
            try:
                desc = self._store.load_job(job_id)
            except NoSuchJobException:
                return None
        self._gate.rests_on(job_id, desc.version)
        slim(desc)
        return desc

    def _check_run(self) -> None:
        self._store.check_run(self._run)

    def _look_at_kill_flag(self) -> None:
        if self._store.read_kill_flag():
            self._stop = WorkflowStopped("stopped by the kill flag")

    def _beat(self) -> None:
        self._store.beat(self._run)

    def _look_at_durations(self) -> None:
        """End what runs too long, but not a worker that only waits for room to commit."""
        limit = float(self._config.maxJobDuration or 0)
        if not limit or not self._patience.is_calm(LONGEST_PAUSE):
            return
        late = self._attempts.overdue(self._adapter.running(), limit)
        if late:
            self._beat()  # fails in a full store, and for a leader that was fenced
            for node in late.values():
                self._overdue[node.id] = f"was killed: it ran longer than --maxJobDuration {limit:g} s"
            self._adapter.cancel(late)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop = WorkflowStopped(f"stopped by {signal.Signals(number).name}", 128 + number)
        self._adapter.wake()
