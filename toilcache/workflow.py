"""``Toil``: a workflow from the script's point of view. The composition root: chooses store, adapter and
reporter.

Knows how the parts are put together, and what is said to the person. Must not know how any of them works.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from toilcache.config import Config, config_from_options
from toilcache.errors import ToilcacheError
from toilcache.file_store.abstract import AbstractFileStore
from toilcache.job.description import JobDescription
from toilcache.job.job import Job
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.job_store.file_id import FileID
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.leader.leader import Leader, Stopped
from toilcache.leader.report import Reporter
from toilcache.leadership import take_lead
from toilcache.logs import set_up_logging
from toilcache.node.coordination import NodeDirs, node_dirs
from toilcache.retry import deprecated
from toilcache.systems import make_adapter

logger = logging.getLogger(__name__)


class Toil:
    """Context manager around a workflow.

    ``with Toil(options) as toil:`` opens a new job store, or with ``--restart`` the one that is there.
    Inside, :meth:`import_file` brings inputs, :meth:`start` or :meth:`restart` runs the workflow and returns
    the root job's value, :meth:`export_file` takes results out. On leaving, the job store is removed or kept
    as ``--clean`` says."""

    def __init__(self, options: Namespace) -> None:
        self.options = options
        self.config: Config = config_from_options(options)
        self._store: AbstractJobStore | None = None
        self._stack = ExitStack()
        self._finished = False
        self._failed = False
        install_one_line_errors()

    def __enter__(self) -> Toil:
        """Open the job store.

        :raises JobStoreExistsException: without ``--restart``, there is a workflow in it.
        :raises NoSuchJobStoreException: with ``--restart``, there is none.
        :raises LeaderAliveError: another leader works on it.
        """
        set_up_logging(self.config)
        store = FileJobStore(str(self.config.jobStore))
        try:
            if self.config.restart:
                self._resume(store)
            else:
                store.initialize(self.config)
            self._dirs = self._node_dirs()
            self._run = self._stack.enter_context(
                take_lead(store, self._dirs, force=self.config.forceRestart)
            )
        except BaseException:
            self._stack.close()
            raise
        self._store = store
        return self

    def _resume(self, store: AbstractJobStore) -> None:
        """Connect to the store; options given now go before those that the store remembers."""
        store.resume()
        self.config.workflowID = store.config.workflowID
        self.config.workflowAttemptNumber = store.config.workflowAttemptNumber + 1
        self.config.jobStore = store.config.jobStore
        vars(store.config).update(vars(self.config))
        store.write_config()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the job store and what is left on this node, as far as ``--clean`` and ``--cleanWorkDir``
        say.
        """
        failed = kind is not None or not self._finished
        try:
            if self._store is not None and _wants_cleaning(self.config.clean, failed=failed):
                self._store.destroy()
        finally:
            self._stack.close()
        if isinstance(error, Stopped):
            logger.error("%s; continue with --restart", error)
            sys.exit(error.exit_code)

    @property
    def job_store(self) -> AbstractJobStore:
        """The open job store.

        :raises ToilcacheError: outside of the ``with`` block.
        """
        if self._store is None:
            raise ToilcacheError(
                "cannot use the workflow outside of its with block: write 'with Toil(options) as toil:'"
            )
        return self._store

    def start(self, rootJob: Job) -> Any:
        """Run a new workflow from this root job; returns the root's value.

        :raises FailedJobsException: some jobs failed for good; continue with :meth:`restart` when the cause
        is mended."""
        store = self.job_store
        if self.config.restart:
            raise ToilcacheError(
                "cannot start a workflow with --restart: call restart(), or leave the option out"
            )
        rootJob.assignConfig(self.config)
        root = rootJob.saveAsRootJob(store)
        return self._lead(root)

    def restart(self) -> Any:
        """Continue the workflow in the job store; returns the root's value, also when it had finished before.

        :raises JobException: the store holds no workflow yet: start one.
        """
        store = self.job_store
        if not self.config.restart:
            raise ToilcacheError(
                "cannot restart a workflow without --restart: give that option, or call start()"
            )
        store.write_kill_flag(False)
        return self._lead(None)

    def _lead(self, new_root: JobDescription | None) -> Any:
        """Lead a new workflow, or without a root the one in the store."""
        store = self.job_store
        reporter = Reporter(self.config)
        with ExitStack() as stack:
            stack.callback(reporter.close)
            adapter = make_adapter(self.config, store, self._dirs, self._clean_node)
            stack.callback(adapter.shutdown)
            adopted = [] if new_root is not None else adapter.adopt()
            root = new_root or self._mended_root(workers_live=bool(adopted))
            store.sync()
            leader = Leader(store, self.config, adapter, self._run, reporter)
            leader.run(root, resume=new_root is None, adopted=adopted)
        value = store.get_root_job_return_value()
        self._finished = True
        return value

    def _mended_root(self, *, workers_live: bool) -> JobDescription:
        """Return the root of the workflow in the store, put in order unless workers are still writing to it."""
        store = self.job_store
        return store.load_root_job() if workers_live else store.clean()

    def _node_dirs(self) -> NodeDirs:
        return node_dirs(str(self.config.workflowID), self.config.workDir, self.config.coordinationDir)

    def _clean_node(self) -> None:
        """Let go of this node's directories and remove them, if ``--cleanWorkDir`` says so."""
        self._stack.close()
        if _wants_cleaning(self.config.cleanWorkDir, failed=sys.exc_info()[0] is not None):
            AbstractFileStore.shutdownFileStore(
                str(self.config.workflowID), self.config.workDir, self.config.coordinationDir
            )

    def import_file(
        self,
        src_uri: str,
        shared_file_name: str | None = None,
        symlink: bool = True,
        check_existence: bool = True,
    ) -> FileID | None:
        """Bring the file at a URL into the job store; returns its id, None for a shared file.

        :param symlink: link to a local file instead of copying it; it must then stay unchanged until the end.
        :param check_existence: False: return None for a missing file instead of raising.
        :raises FileNotFoundError: there is no such file.
        """
        try:
            return self.job_store.import_file(src_uri, shared_file_name, symlink=symlink)
        except FileNotFoundError:
            if check_existence:
                raise
            return None

    def export_file(self, file_id: FileID, dst_uri: str) -> None:
        """Write a file of the job store to a URL."""
        self.job_store.export_file(file_id, dst_uri)

    @deprecated(new_function_name="import_file")
    def importFile(
        self, srcUrl: str, sharedFileName: str | None = None, symlink: bool = True
    ) -> FileID | None:
        """Old spelling of :meth:`import_file`."""
        return self.import_file(srcUrl, sharedFileName, symlink)

    @deprecated(new_function_name="export_file")
    def exportFile(self, jobStoreFileID: FileID, dstUrl: str) -> None:
        """Old spelling of :meth:`export_file`."""
        self.export_file(jobStoreFileID, dstUrl)


def _wants_cleaning(policy: str, *, failed: bool) -> bool:
    return policy == "always" or policy == ("onError" if failed else "onSuccess")


def install_one_line_errors() -> None:
    """Have errors that a person can mend end a script with one line instead of a traceback."""
    if getattr(sys.excepthook, "is_toilcache", False):
        return
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, ToilcacheError):
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    hook.is_toilcache = True  # type: ignore[attr-defined]
    sys.excepthook = hook
