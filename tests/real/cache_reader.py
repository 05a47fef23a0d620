"""Jobs in a container that read one file through the node's cache. Run in containers by the tests.

Each job is a process. What they do is told in files of a directory, and they hold what they have read until
the file `go` stands there. With `stall` the one that downloads stops in the middle for good.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

STALL_AFTER = 100 << 20


def main(kit: str, needs: str, where: str, mode: str, file_id: str, *job_ids: str) -> int:
    sys.path.insert(0, kit)
    sys.path.append(needs)
    children = []
    for job_id in job_ids:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                read(Path(where), mode, file_id, job_id)
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        children.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)


def read(where: Path, mode: str, file_id: str, job_id: str) -> None:
    from toilcache.cache.node_cache import opened_cache
    from toilcache.file_store.caching import CachingFileStore
    from toilcache.job.job import Job
    from toilcache.job_store.file_job_store import FileJobStore
    from toilcache.node.coordination import NodeDirs

    told = where / "told"
    if mode == "stall":
        stop_in_the_middle(told)
    store = FileJobStore(str(where / "store"), sync_files=False)
    store.resume()
    dirs = NodeDirs(str(store.config.workflowID), str(where / "work"), str(where / "coordination"))
    fs = CachingFileStore(store, store.load_job(job_id), dirs.jobs, bool)
    with fs.open(Job()):
        tell(told / f"asks {job_id}", "")
        path = fs.readGlobalFile(file_id)
        found = os.stat(path)
        tell(told / f"read {job_id}", f"{found.st_ino} {found.st_size}")
        while not (told / "go").exists():
            time.sleep(0.02)
    cache = opened_cache(dirs)
    if cache is not None:
        cache.close()


def tell(path: Path, text: str) -> None:
    """Have a file stand there whole."""
    part = path.with_name(f".{path.name}")
    part.write_text(text)
    part.rename(path)


def stop_in_the_middle(told: Path) -> None:
    """From now on, copying stops when so much has been copied."""
    from toilcache import vfs

    sendfile, copied = vfs.sendfile, 0

    def copy(target: int, source: int, offset: Any, count: int) -> int:
        nonlocal copied
        sent = sendfile(target, source, offset, min(count, 1 << 20))
        copied += sent
        if copied >= STALL_AFTER:
            tell(told / "halfway", str(copied))
            while True:
                signal.pause()
        return sent

    vfs.sendfile = copy


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
