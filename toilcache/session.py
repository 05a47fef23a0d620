"""An open workflow: its job store, this node's directories, the lead over it. The parts meet here.

Knows every part's constructor. ``toilcache.workflow`` is the face of it that scripts import; this module is
imported when a workflow is opened, so that a worker which imports the script does not load a leader.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import ExitStack, suppress
from typing import Any

from toilcache.config import Config, wants_cleaning
from toilcache.errors import (
    CoordinationDirError,
    JobStoreUnavailableError,
    LeaderFencedError,
    ToilcacheError,
    WorkflowStopped,
)
from toilcache.file_store.abstract import AbstractFileStore
from toilcache.job.description import JobDescription
from toilcache.job.job import Job
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.job_store.liveness import note_of
from toilcache.late import late
from toilcache.leader.leader import Leader
from toilcache.leader.report import Reporter
from toilcache.leader.signals import Signals, StopOnce
from toilcache.leadership import take_lead
from toilcache.logs import set_up_logging
from toilcache.node.coordination import NodeHold, leader_lock, node_dirs
from toilcache.node.leftovers import call_left_behind
from toilcache.node.remains import others_are_here
from toilcache.systems import make_adapter

logger = logging.getLogger(__name__)


class Session:
    """A job store that is open, and led by this process.

    :raises JobStoreExistsException: without ``--restart``, there is a workflow in it.
    :raises NoSuchJobStoreException: with ``--restart``, there is none.
    :raises LeaderAliveError: another leader works on it.
    """

    def __init__(self, config: Config, given: Collection[str]) -> None:
        """Open it.

        :param given: the options that are to replace those of an earlier run.
        """
        self.config = config
        self.store: AbstractJobStore = FileJobStore(str(config.jobStore))
        self._finished = False
        self._node_failed = True
        self._fenced = False
        self._stop = StopOnce()
        with ExitStack() as stack:
            stack.callback(self._report_stop)
            stack.enter_context(Signals(self._stop))
            if config.restart:
                self.store.resume()
                config.continue_from(self.store.config, given)
            else:
                self.store.check_absent()
            set_up_logging(config)
            self._open(stack)
            self._stack = stack.pop_all()

    def _open(self, stack: ExitStack) -> None:
        """Take the lead and this node's directories; nothing of another leader is touched before."""
        config, store = self.config, self.store
        lock = leader_lock(store.locator, config.workDir, config.coordinationDir)
        self._run = stack.enter_context(
            take_lead(store, lock, new=not config.restart, force=config.forceRestart)
        )
        if config.restart:
            vars(store.config).update(vars(config))
            store.write_config()
            store.keep_reserve()
        else:
            store.initialize(config)
        store.write_leader_pid()
        store.write_leader_node_id()
        self._dirs = node_dirs(str(config.workflowID), config.workDir, config.coordinationDir, create=False)
        self._hold = self._hold_node()
        stack.callback(self._sweep)
        stack.callback(self._clean_node)

    def _hold_node(self) -> NodeHold:
        try:
            with ExitStack() as on_failure:
                hold = on_failure.enter_context(self._dirs.hold(self._run, note_of(self.store.locator)))
                self._dirs.keep(False)  # an earlier run may have been asked to
                on_failure.pop_all()
            return hold
        except OSError as error:
            raise CoordinationDirError(
                f"cannot use {error.filename or self._dirs.coordination!r}: {error.strerror}; "
                "make it usable, or choose another place with --coordinationDir and --workDir"
            ) from error

    def start(self, root_job: Job) -> Any:
        """Run a new workflow; see :meth:`toilcache.workflow.Toil.start`."""
        if self.config.restart:
            raise ToilcacheError(
                "cannot start a workflow with --restart: call restart(), or leave the option out"
            )
        self.store.check_run(self._run)
        root_job.assignConfig(self.config)
        return self._lead(root_job.saveAsRootJob(self.store))

    def restart(self) -> Any:
        """Continue the workflow; see :meth:`toilcache.workflow.Toil.restart`."""
        if not self.config.restart:
            raise ToilcacheError(
                "cannot restart a workflow without --restart: give that option, or call start()"
            )
        self.store.write_kill_flag(False)
        return self._lead(None)

    def _lead(self, new_root: JobDescription | None) -> Any:
        """Lead a new workflow, or without a root the one in the store."""
        store = self.store
        reporter = Reporter(self.config)
        with ExitStack() as stack:
            stack.callback(self._stop.listen)
            stack.callback(reporter.close)
            adapter = make_adapter(
                self.config, store, self._dirs, self._run, self._clean_node, self._wants_clean_nodes
            )
            stack.callback(lambda: adapter.shutdown(fenced=self._fenced))
            stack.callback(self._close_run)
            adopted = [] if new_root is not None else adapter.adopt()
            root = new_root or self._mended_root(workers_live=bool(adopted))
            store.sync()
            leader = Leader(store, self.config, adapter, self._run, reporter)
            try:
                leader.run(root, resume=new_root is None, adopted=adopted)
                self._node_failed = False
            except LeaderFencedError:
                self._fenced = True
                raise
            except WorkflowStopped:
                self._stop.stopped = True
                raise
            finally:
                self._stop.ignoring = True  # from here on, what runs is ended anyway
        value = store.get_root_job_return_value()
        self._finished = True
        return value

    def _mended_root(self, *, workers_live: bool) -> JobDescription:
        """Return the root of the workflow in the store, put in order unless workers still write to it."""
        return self.store.load_root_job() if workers_live else self.store.clean()

    def _close_run(self) -> None:
        """Write the mark by which a worker that comes from now on leaves its node clean and ends."""
        if not self._fenced:
            with suppress(JobStoreUnavailableError):  # a full store: then clean-ups have to do
                self.store.close_run(self._run, clean=self._wants_clean_nodes())

    def _sweep(self) -> None:
        """Remove what dead workflows have left on this node, if others have left anything."""
        if not self._fenced:
            with suppress(OSError, ToilcacheError):  # it is not ours; the next one tries again
                if others_are_here(self._dirs):
                    late("toilcache.worker.sweep:sweep_besides")(self._dirs)

    def _clean_node(self) -> None:
        """Let go of this node's directories; remove them if they are ours and ``--cleanWorkDir`` says so.

        The lead stays with us: results may still be exported, and the job store is ours to remove.
        """
        self._hold.close()
        try:
            if self._wants_clean_nodes():
                AbstractFileStore.shutdownFileStore(
                    str(self.config.workflowID), self.config.workDir, self.config.coordinationDir, self._run
                )
            elif not self._fenced:
                self._dirs.keep()
                call_left_behind(self._dirs.deferred)  # what is kept is files, not promises
        except OSError as error:  # the result is there; what stays behind must not hide it
            logger.warning(
                "cannot remove what the workflow has left on this node: %s; remove %s and %s by hand",
                *(error, self._dirs.coordination, self._dirs.work),
            )

    def _wants_clean_nodes(self) -> bool:
        return not self._fenced and wants_cleaning(self.config.cleanWorkDir, failed=self._node_failed)

    def close(self, *, failed: bool) -> None:
        """Remove the job store, as far as ``--clean`` says, clean the node, and give up the lead at last."""
        self._stop.ignoring = True
        with self._stack:
            if wants_cleaning(self.config.clean, failed=failed or not self._finished):
                self.store.check_run(self._run)
                self.store.destroy()

    def _report_stop(self) -> None:
        if self._stop.why:
            logger.error("%s before the workflow had ended", self._stop.why)
