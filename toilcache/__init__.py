"""toilcache, a workflow engine for clusters: Python functions as jobs, one file cache for all jobs of a node.

Knows where each public name is at home and imports it when it is first asked for, so that `import toilcache`
costs a worker nothing. Must not import any part of the engine by itself.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from toilcache.config import Config as Config
    from toilcache.containers.tool import run_container as run_container
    from toilcache.errors import CacheError as CacheError
    from toilcache.errors import CacheUnbalancedError as CacheUnbalancedError
    from toilcache.errors import ConcurrentFileModificationException as ConcurrentFileModificationException
    from toilcache.errors import FailedJobsException as FailedJobsException
    from toilcache.errors import IllegalDeletionCacheError as IllegalDeletionCacheError
    from toilcache.errors import InvalidSourceCacheError as InvalidSourceCacheError
    from toilcache.errors import JobException as JobException
    from toilcache.errors import JobGraphDeadlockException as JobGraphDeadlockException
    from toilcache.errors import JobPromiseConstraintError as JobPromiseConstraintError
    from toilcache.errors import JobStoreExistsException as JobStoreExistsException
    from toilcache.errors import NoSuchFileException as NoSuchFileException
    from toilcache.errors import NoSuchJobException as NoSuchJobException
    from toilcache.errors import NoSuchJobStoreException as NoSuchJobStoreException
    from toilcache.errors import ToilcacheError as ToilcacheError
    from toilcache.file_store.abstract import AbstractFileStore as AbstractFileStore
    from toilcache.file_store.caching import SQLITE_TIMEOUT_SECS as SQLITE_TIMEOUT_SECS
    from toilcache.file_store.caching import CachingFileStore as CachingFileStore
    from toilcache.file_store.caching import logger as logger
    from toilcache.file_store.plain import NonCachingFileStore as NonCachingFileStore
    from toilcache.io import WriteWatchingStream as WriteWatchingStream
    from toilcache.io import atomic_copy as atomic_copy
    from toilcache.io import atomic_copyobj as atomic_copyobj
    from toilcache.io import getFileSystemSize as getFileSystemSize
    from toilcache.io import make_public_dir as make_public_dir
    from toilcache.io import mkdtemp as mkdtemp
    from toilcache.io import robust_rmtree as robust_rmtree
    from toilcache.job import AcceleratorRequirement as AcceleratorRequirement
    from toilcache.job import BatchJobExitReason as BatchJobExitReason
    from toilcache.job import EncapsulatedJob as EncapsulatedJob
    from toilcache.job import FunctionWrappingJob as FunctionWrappingJob
    from toilcache.job import Job as Job
    from toilcache.job import JobDescription as JobDescription
    from toilcache.job import JobFunctionWrappingJob as JobFunctionWrappingJob
    from toilcache.job import ModuleDescriptor as ModuleDescriptor
    from toilcache.job import Names as Names
    from toilcache.job import Promise as Promise
    from toilcache.job import PromisedRequirement as PromisedRequirement
    from toilcache.job import Requirer as Requirer
    from toilcache.job import ServiceHostJob as ServiceHostJob
    from toilcache.job import TemporaryID as TemporaryID
    from toilcache.job_store.abstract import AbstractJobStore as AbstractJobStore
    from toilcache.job_store.file_id import FileID as FileID
    from toilcache.job_store.file_job_store import FileJobStore as FileJobStore
    from toilcache.node.identity import get_process_name as get_process_name
    from toilcache.node.identity import process_name_exists as process_name_exists
    from toilcache.retry import ErrorCondition as ErrorCondition
    from toilcache.retry import deprecated as deprecated
    from toilcache.workflow import Toil as Toil

# The same again for the interpreter. The module `retry` stands where its function would: say
# `from toilcache.retry import retry`.
_HOMES = {
    "config": "Config",
    "containers.tool": "run_container",
    "errors": "CacheError CacheUnbalancedError ConcurrentFileModificationException FailedJobsException"
    " IllegalDeletionCacheError InvalidSourceCacheError JobException JobGraphDeadlockException"
    " JobPromiseConstraintError JobStoreExistsException NoSuchFileException NoSuchJobException"
    " NoSuchJobStoreException ToilcacheError",
    "file_store.abstract": "AbstractFileStore",
    "file_store.caching": "CachingFileStore SQLITE_TIMEOUT_SECS logger",
    "file_store.plain": "NonCachingFileStore",
    "io": "WriteWatchingStream atomic_copy atomic_copyobj getFileSystemSize make_public_dir mkdtemp"
    " robust_rmtree",
    "job": "AcceleratorRequirement BatchJobExitReason EncapsulatedJob FunctionWrappingJob Job"
    " JobDescription JobFunctionWrappingJob ModuleDescriptor Names Promise PromisedRequirement"
    " Requirer ServiceHostJob TemporaryID",
    "job_store.abstract": "AbstractJobStore",
    "job_store.file_id": "FileID",
    "job_store.file_job_store": "FileJobStore",
    "node.identity": "get_process_name process_name_exists",
    "retry": "ErrorCondition deprecated",
    "workflow": "Toil",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


if not TYPE_CHECKING:  # a type checker that saw this would let every misspelt name pass

    def __getattr__(name):
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module 'toilcache' has no attribute {name!r}")
        from toilcache.late import late

        value = globals()[name] = late(f"toilcache.{home}:{name}")
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
