"""The job store in a directory that all nodes see.

Knows how the directory is made, recognised, reserved and removed. What is in it is the business of the parts
that it inherits.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from contextlib import contextmanager, suppress
from errno import ENOLCK, ENOSYS, EOPNOTSUPP, EPERM

from toilcache import vfs
from toilcache.errors import (
    JobStoreExistsException,
    JobStoreUnavailableError,
    JobStoreVersionError,
    NoSuchJobStoreException,
    ToilcacheError,
    show,
)
from toilcache.io import create_exclusive, link_or_copy, look_at, random_name, write_durable
from toilcache.job_store import layout, urls
from toilcache.job_store.backed import BackedJobStore
from toilcache.job_store.directory import DirectoryBackend
from toilcache.removal import robust_rmtree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from toilcache.config import Config

FORMAT = "1"
_FIRST_LINE = "toilcache job store "
_MAKING = ".being-made"
_RESERVE_BYTES = 64 * 1024
_CLOUD = re.compile(r"(?:aws|google|azure|gs|s3):")


class FileJobStore(BackedJobStore):
    """A job store in a directory of a local or shared file system that has hard links."""

    def __init__(self, path: str, sync_files: bool = True) -> None:
        """Name the directory, as a path or as `file:` URL; nothing is looked at yet.

        With `sync_files` each uploaded file survives a power cut at once, else only after the next `sync`.
        """
        local = None if _CLOUD.match(path) else urls.local_path(path)
        if local is None:
            raise ToilcacheError(f"cannot use {show(path)} as a job store: give the path of a directory")
        self.path = local
        super().__init__("file:" + urls.quoted(local), DirectoryBackend(local, layout.TRASH, sync_files))
        self._reserved = False

    def initialize(self, config: Config) -> None:
        """Make the directory and keep the configuration in it (specification line 701).

        JobStoreExistsException if it is a store whose root job was set, or one that is being made. An empty
        directory, and a store whose root was never set, are taken over; LeaderAliveError if somebody else
        leads such a store. JobStoreUnavailableError if the directory holds something else, cannot be written,
        or lies on a file system without hard links.
        """
        try:
            with self._making():
                self._probe_links()
                for name in layout.DIRECTORIES:
                    _make_directory(self._at(name))
                super().initialize(config)
                self.write_kill_flag(False)
                self.keep_reserve()
                write_durable(self._at(layout.VERSION), f"{_FIRST_LINE}{FORMAT}\n".encode())
        except OSError as error:
            raise self._unavailable(error) from error

    def make_stage(self, config: Config) -> None:
        """Make a place for jobs and no more, without a sync: for one process, and soon removed."""
        self._config = config
        _make_directory(self.path)
        _make_directory(self._at(layout.JOBS))

    def check_absent(self) -> None:
        """Raise unless the directory is missing, empty, half made, or a store whose root was never set."""
        names = self._entries() or set()
        if layout.VERSION in names:
            self._check_version()
            if self._backend.has(f"{layout.SHARED}/{self.rootJobStoreIDFileName}"):
                raise JobStoreExistsException(self.locator)
        elif names and _MAKING not in names:
            raise self._not_a_store()

    def reserve(self) -> int:
        """Claim the run of the leader that is to make a store here, by the one means that all nodes agree on.

        What `initialize` makes, it makes around that claim.
        """
        try:
            self._occupy()
            seen = self.check_unled()
            if os.path.lexists(self._at(layout.VERSION)):
                run = self.claim_run(after=seen)
            else:
                run = self._claim_unmade(seen)
        except OSError as error:
            raise self._unavailable(error) from error
        self._reserved = True
        return run

    def _claim_unmade(self, seen: int) -> int:
        """Claim a run where there is no store yet; the directory goes again if that fails."""
        try:
            os.close(self._open_mark())
            _make_directory(self._at(layout.LEADER))
            self._probe_links()
            return self.claim_run(after=seen)
        except BaseException:
            # A directory of leaders that is not empty is somebody else's, and so is the mark then. It also
            # stays where a probe could not be removed: whoever begins anew knows by it what that is.
            with suppress(OSError):
                with suppress(FileNotFoundError):
                    vfs.rmdir(self._at(layout.LEADER))
                if self._entries() == {_MAKING}:
                    self._unlink_name(_MAKING)
                    vfs.rmdir(self.path)
            raise

    def resume(self) -> None:
        """Open the store and load its configuration (specification line 714).

        NoSuchJobStoreException if there is none, JobStoreVersionError if another version of this program
        wrote it, JobStoreUnavailableError if the directory is something else, unreadable, or not safe to
        trust.
        """
        try:
            if self._entries() is None:
                raise NoSuchJobStoreException(self.locator)
            self._check_owner()
            self._check_version()
        except OSError as error:
            raise self._unavailable(error) from error
        super().resume()

    def gives_freely(self, directory: str) -> bool:
        """Try a reflink into the directory, and a link through which this process could never write."""
        trial = os.path.join(directory, f".free-{random_name()}")
        try:
            if link_or_copy(self._at(layout.VERSION), trial) == "reflink":
                return True
            vfs.unlink(trial)
            if os.geteuid() in (0, os.stat(self._at(layout.VERSION)).st_uid):
                return False
            vfs.link(self._at(layout.VERSION), trial)
        except OSError:
            return False
        finally:
            with suppress(FileNotFoundError):
                vfs.unlink(trial)
        return True

    def destroy(self) -> None:
        """Remove the directory (specification line 808); a directory that is no job store is left alone.

        The root goes first, so that what is left after an error is no workflow any more; the runs of leaders,
        and what marks it as a job store, go last, so that this may be repeated.
        """
        names = self._entries()
        if names is None:
            return
        if names and not names & {layout.VERSION, _MAKING}:
            raise self._not_a_store()
        last = {layout.LEADER: 1, layout.VERSION: 2, _MAKING: 3}
        try:
            self._backend.delete(f"{layout.SHARED}/{self.rootJobStoreIDFileName}")
            for name in sorted(names, key=lambda name: (last.get(name, 0), name)):
                robust_rmtree(self._at(name))
            # A mount point cannot be removed from within; an empty one is no job store any more.
            with suppress(OSError):
                vfs.rmdir(self.path)
        except OSError as error:
            raise self._unavailable(error) from error
        self._config = None

    def keep_reserve(self) -> None:
        """Allocate a little space, 64 KiB, that `release_reserve` can give back when the disk is full."""
        try:
            descriptor = vfs.open(self._at(layout.RESERVE), os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                vfs.posix_fallocate(descriptor, 0, _RESERVE_BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._unavailable(error) from error

    def release_reserve(self) -> None:
        """Give the reserved space back, so that a leader on a full disk can say why it stops.

        Absent is fine.
        """
        self._unlink_name(layout.RESERVE)

    def _unlink_name(self, name: str) -> None:
        """Remove a file; absent is fine, which NFS may say of what it has just removed."""
        with suppress(FileNotFoundError):
            vfs.unlink(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _entries(self) -> set[str] | None:
        """The names in the directory, None if there is no directory; `.nfs*` is nobody's."""
        try:
            names = self._listed()
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise self._not_a_store() from None
        except OSError as error:
            raise self._unavailable(error) from error
        return {name for name in names if not name.startswith(".nfs")}

    def _listed(self) -> list[str]:
        try:
            return os.listdir(self.path)
        except FileNotFoundError:
            look_at(os.path.dirname(self.path))
            return os.listdir(self.path)

    def _not_a_store(self) -> JobStoreUnavailableError:
        return JobStoreUnavailableError(
            f"cannot use {show(self.path)} as a job store: something else is there; choose another path"
        )

    @contextmanager
    def _making(self) -> Generator[None, None, None]:
        """Hold an empty directory of our own during the block; it is emptied again if the block fails."""
        self._occupy()
        if not self._reserved:
            self.check_unled()
        mark, failed = self._open_mark(), False
        try:
            self._lock(mark)
            self.check_absent()
            self._empty({layout.LEADER} if self._reserved else set())
            try:
                yield
            except BaseException:
                # Also on KeyboardInterrupt: half a store would be in the way of the next attempt.
                failed = True
                self._empty()
                self._unlink_name(_MAKING)
                raise
            self._unlink_name(_MAKING)
        finally:
            os.close(mark)  # NFS keeps a name in the directory for a file that is open
            if failed:
                with suppress(OSError):
                    vfs.rmdir(self.path)

    def _occupy(self) -> None:
        """Make the directory if there is none, and make sure that it is ours and holds no workflow."""
        try:
            with suppress(FileExistsError):
                vfs.mkdir(self.path, 0o700)
        except (FileNotFoundError, NotADirectoryError):
            raise JobStoreUnavailableError(
                f"cannot create job store {show(self.path)}: its parent is no directory; make that first"
            ) from None
        self.check_absent()
        with suppress(PermissionError):
            # An empty directory that a person made may let others write; this one is ours now.
            vfs.chmod(self.path, 0o700)
        self._check_owner()

    def _open_mark(self) -> int:
        return vfs.open(self._at(_MAKING), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def _lock(self, mark: int) -> None:
        """Be the only one who makes a store here.

        JobStoreExistsException if another does, or has just done so.
        """
        try:
            vfs.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(self._at(_MAKING), "rb") as there:
                same = os.path.samestat(os.fstat(mark), os.fstat(there.fileno()))
        except (BlockingIOError, FileNotFoundError):
            same = False
        except OSError as error:
            # On a file system without locks the leader's own lock has to do.
            if error.errno not in (ENOLCK, ENOSYS, EOPNOTSUPP):
                raise
            same = True
        if not same:
            raise JobStoreExistsException(self.locator)

    def _empty(self, kept: Collection[str] = ()) -> None:
        """Remove all but the mark and `kept`; the version first: what is left is a half made store."""
        for name in sorted(self._entries() or (), key=lambda name: (name != layout.VERSION, name)):
            if name != _MAKING and name not in kept:
                robust_rmtree(self._at(name))

    def _check_version(self) -> None:
        try:
            with open(self._at(layout.VERSION), encoding="ascii", errors="replace") as stream:
                line = stream.readline(200)
        except (FileNotFoundError, NotADirectoryError):
            if (self._entries() or {_MAKING}) & {_MAKING}:
                raise NoSuchJobStoreException(self.locator) from None
            raise self._not_a_store() from None
        if not line.startswith(_FIRST_LINE):
            raise self._not_a_store()
        version = line[len(_FIRST_LINE) :].strip()
        if version != FORMAT:
            raise JobStoreVersionError(self.locator, version, FORMAT)

    def _check_owner(self) -> None:
        """Refuse a directory in which others can plant records: loading one runs what it says."""
        status = os.stat(self.path)
        strangers = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if strangers or (status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0):
            raise JobStoreUnavailableError(
                f"cannot trust job store {show(self.path)}: other users can write there; "
                "choose a directory of your own, not writable for others"
            )

    def _probe_links(self) -> None:
        """Raise JobStoreUnavailableError on a file system without hard links, which decide who wins."""
        first, second = f".probe-{random_name()}", f".probe-{random_name()}"
        create_exclusive(self._at(first))
        try:
            # NFS says that the name is taken also of a link that it has just made, if its answer was lost.
            with suppress(FileExistsError):
                vfs.link(self._at(first), self._at(second))
            self._unlink_name(second)
        except OSError as error:
            if error.errno not in (EPERM, ENOSYS, EOPNOTSUPP):
                raise
            raise JobStoreUnavailableError(
                f"cannot use {show(self.path)} as a job store: its file system has no hard links "
                f"({error.strerror}); choose a directory on another"
            ) from error
        finally:
            self._unlink_name(first)


def _make_directory(path: str) -> None:
    with suppress(FileExistsError):
        vfs.mkdir(path, 0o700)
