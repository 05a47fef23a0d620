"""The camelCase names of the job store's verbs, for programs written when those were the only ones.

Knows which new name each old one stands for, nothing else. Each call warns.
"""

from __future__ import annotations

from toilcache.retry import deprecated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class DeprecatedNames:
    """Old names; each does what the function does that it calls."""

    @deprecated("write_config")
    def writeConfig(self: Any) -> None:
        """Call `write_config`."""
        self.write_config()

    @deprecated("set_root_job")
    def setRootJob(self: Any, rootJobStoreID: str) -> None:
        """Call `set_root_job`."""
        self.set_root_job(rootJobStoreID)

    @deprecated("load_root_job")
    def loadRootJob(self: Any) -> Any:
        """Call `load_root_job`."""
        return self.load_root_job()

    @deprecated("create_root_job")
    def createRootJob(self: Any, desc: Any) -> Any:
        """Call `create_root_job`."""
        return self.create_root_job(desc)

    @deprecated("get_root_job_return_value")
    def getRootJobReturnValue(self: Any) -> Any:
        """Call `get_root_job_return_value`."""
        return self.get_root_job_return_value()

    @deprecated("import_file")
    def importFile(
        self: Any,
        srcUrl: str,
        sharedFileName: str | None = None,
        hardlink: bool = False,
        symlink: bool = True,
    ) -> Any:
        """Call `import_file`."""
        return self.import_file(srcUrl, sharedFileName, hardlink, symlink)

    @deprecated("export_file")
    def exportFile(self: Any, jobStoreFileID: str, dstUrl: str) -> None:
        """Call `export_file`."""
        self.export_file(jobStoreFileID, dstUrl)

    @deprecated("get_env")
    def getEnv(self: Any) -> Any:
        """Call `get_env`."""
        return self.get_env()

    @deprecated("assign_job_id")
    def assignID(self: Any, jobDescription: Any) -> None:
        """Call `assign_job_id`."""
        self.assign_job_id(jobDescription)

    @deprecated("create_job")
    def create(self: Any, jobDescription: Any) -> Any:
        """Call `create_job`."""
        return self.create_job(jobDescription)

    @deprecated("job_exists")
    def exists(self: Any, jobStoreID: str) -> Any:
        """Call `job_exists`."""
        return self.job_exists(jobStoreID)

    @deprecated("load_job")
    def load(self: Any, jobStoreID: str) -> Any:
        """Call `load_job`."""
        return self.load_job(jobStoreID)

    @deprecated("update_job")
    def update(self: Any, jobDescription: Any) -> None:
        """Call `update_job`."""
        self.update_job(jobDescription)

    @deprecated("delete_job")
    def delete(self: Any, jobStoreID: str) -> None:
        """Call `delete_job`."""
        self.delete_job(jobStoreID)

    @deprecated("get_public_url")
    def getPublicUrl(self: Any, fileName: str) -> Any:
        """Call `get_public_url`."""
        return self.get_public_url(fileName)

    @deprecated("get_shared_public_url")
    def getSharedPublicUrl(self: Any, sharedFileName: str) -> Any:
        """Call `get_shared_public_url`."""
        return self.get_shared_public_url(sharedFileName)

    @deprecated("write_file")
    def writeFile(self: Any, localFilePath: str, jobStoreID: str | None = None, cleanup: bool = False) -> Any:
        """Call `write_file`."""
        return self.write_file(localFilePath, jobStoreID, cleanup)

    @deprecated("write_file_stream")
    def writeFileStream(
        self: Any,
        jobStoreID: str | None = None,
        cleanup: bool = False,
        basename: str | None = None,
        encoding: str | None = None,
        errors: str | None = None,
    ) -> Any:
        """Call `write_file_stream`."""
        return self.write_file_stream(jobStoreID, cleanup, basename, encoding, errors)

    @deprecated("get_empty_file_store_id")
    def getEmptyFileStoreID(
        self: Any, jobStoreID: str | None = None, cleanup: bool = False, basename: str | None = None
    ) -> Any:
        """Call `get_empty_file_store_id`."""
        return self.get_empty_file_store_id(jobStoreID, cleanup, basename)

    @deprecated("read_file")
    def readFile(self: Any, jobStoreFileID: str, localFilePath: str, symlink: bool = False) -> None:
        """Call `read_file`."""
        self.read_file(jobStoreFileID, localFilePath, symlink)

    @deprecated("read_file_stream")
    def readFileStream(
        self: Any, jobStoreFileID: str, encoding: str | None = None, errors: str | None = None
    ) -> Any:
        """Call `read_file_stream`."""
        return self.read_file_stream(jobStoreFileID, encoding, errors)

    @deprecated("delete_file")
    def deleteFile(self: Any, jobStoreFileID: str) -> None:
        """Call `delete_file`."""
        self.delete_file(jobStoreFileID)

    @deprecated("file_exists")
    def fileExists(self: Any, jobStoreFileID: str) -> Any:
        """Call `file_exists`."""
        return self.file_exists(jobStoreFileID)

    @deprecated("get_file_size")
    def getFileSize(self: Any, jobStoreFileID: str) -> Any:
        """Call `get_file_size`."""
        return self.get_file_size(jobStoreFileID)

    @deprecated("update_file")
    def updateFile(self: Any, jobStoreFileID: str, localFilePath: str) -> None:
        """Call `update_file`."""
        self.update_file(jobStoreFileID, localFilePath)

    @deprecated("update_file_stream")
    def updateFileStream(
        self: Any, jobStoreFileID: str, encoding: str | None = None, errors: str | None = None
    ) -> Any:
        """Call `update_file_stream`."""
        return self.update_file_stream(jobStoreFileID, encoding, errors)

    @deprecated("write_shared_file_stream")
    def writeSharedFileStream(
        self: Any,
        sharedFileName: str,
        isProtected: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
    ) -> Any:
        """Call `write_shared_file_stream`."""
        return self.write_shared_file_stream(sharedFileName, isProtected, encoding, errors)

    @deprecated("read_shared_file_stream")
    def readSharedFileStream(
        self: Any, sharedFileName: str, encoding: str | None = None, errors: str | None = None
    ) -> Any:
        """Call `read_shared_file_stream`."""
        return self.read_shared_file_stream(sharedFileName, encoding, errors)

    @deprecated("write_logs")
    def writeStatsAndLogging(self: Any, statsAndLoggingString: str) -> None:
        """Call `write_logs`."""
        self.write_logs(statsAndLoggingString)

    @deprecated("read_logs")
    def readStatsAndLogging(self: Any, callback: Any, readAll: bool = False) -> Any:
        """Call `read_logs`."""
        return self.read_logs(callback, readAll)
