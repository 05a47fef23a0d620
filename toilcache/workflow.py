"""``Toil``: a workflow from the script's point of view.

Knows what a script calls, and how errors are shown to a person. The work is done by ``toilcache.session``,
imported when a workflow is opened: a worker imports the user's script, and with it this module, before each
fork, so this module stays light.
"""

from __future__ import annotations

import sys

from toilcache.errors import MissingInputError, ToilcacheError, UnreadableInputError
from toilcache.job.module import refuse_in_workers
from toilcache.retry import deprecated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from types import TracebackType
    from typing import Any

    from toilcache.config import Config
    from toilcache.job.job import Job
    from toilcache.job_store.abstract import AbstractJobStore
    from toilcache.job_store.file_id import FileID
    from toilcache.session import Session


class Toil:
    """Context manager around a workflow.

    ``with Toil(options) as toil:`` opens a new job store, or with ``--restart`` the one that is there.
    Inside, :meth:`import_file` brings inputs, :meth:`start` or :meth:`restart` runs the workflow and returns
    the root job's value, :meth:`export_file` takes results out. On leaving, the job store is removed or kept
    as ``--clean`` says.
    """

    def __init__(self, options: Namespace) -> None:
        """Read the options.

        :raises ConfigError: one of them cannot be used.
        """
        from toilcache.config import config_from_options, given_options

        install_one_line_errors()
        self.options = options
        self.config: Config = config_from_options(options)
        self._given = given_options(options)
        # Scripts choose between start and restart by it, and other options imply it.
        options.restart = self.config.restart
        self._session: Session | None = None

    def __enter__(self) -> Toil:
        """Open the job store.

        :raises JobStoreExistsException: without ``--restart``, there is a workflow in it.
        :raises NoSuchJobStoreException: with ``--restart``, there is none.
        :raises LeaderAliveError: another leader works on it, or is about to start.
        :raises WorkflowStopped: by a signal; from here to the end of the block they are requests to stop.
        """
        from toilcache.session import Session

        refuse_in_workers()
        self._session = Session(self.config, self._given)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give up the lead; remove the job store and what is left on this node, as the options say."""
        session, self._session = self._session, None
        if session is not None:
            session.close(failed=kind is not None)

    @property
    def _open(self) -> Session:
        if self._session is None:
            raise ToilcacheError(
                "cannot use the workflow outside of its with block: write 'with Toil(options) as toil:'"
            )
        return self._session

    @property
    def job_store(self) -> AbstractJobStore:
        """The open job store.

        :raises ToilcacheError: outside of the ``with`` block.
        """
        return self._open.store

    def start(self, rootJob: Job) -> Any:
        """Run a new workflow from this root job; returns the root's value.

        :raises FailedJobsException: some jobs failed for good; mend the cause and :meth:`restart`.
        :raises WorkflowStopped: by a signal or ``toilcache kill``; :meth:`restart` continues.
        """
        return self._open.start(rootJob)

    def restart(self) -> Any:
        """Continue the workflow in the job store; returns the root's value, also when it had finished before.

        :raises JobException: the store holds no workflow yet: start one.
        """
        return self._open.restart()

    def import_file(
        self,
        src_uri: str,
        shared_file_name: str | None = None,
        symlink: bool = True,
        check_existence: bool = True,
    ) -> FileID | None:
        """Bring the file at a URL into the job store; returns its id, None for a shared file.

        :param symlink: link to a local file instead of copying it, unless ``--symlinkImports false``; it must
            then stay unchanged until the end.
        :param check_existence: False: return None for a missing file instead of raising.
        :raises MissingInputError: a FileNotFoundError: there is no such file.
        :raises UnreadableInputError: an OSError: it cannot be read, or is a directory.
        """
        try:
            return self.job_store.import_file(
                src_uri, shared_file_name, symlink=symlink and self.config.symlinkImports
            )
        except FileNotFoundError as error:
            if check_existence:
                raise MissingInputError(src_uri) from error
            return None
        except OSError as error:
            raise UnreadableInputError(src_uri, error.strerror or str(error)) from error

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


def install_one_line_errors() -> None:
    """Have errors that a person can mend end a script with one line instead of a traceback."""
    previous = sys.excepthook
    if getattr(previous, "is_toilcache", False):
        return

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, ToilcacheError):
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    hook.is_toilcache = True  # type: ignore[attr-defined]
    sys.excepthook = hook
