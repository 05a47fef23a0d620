"""Workers: the host that forks a process per job chain, and what that process does.

A worker and a leader never import each other: they meet in the job store, and in the messages of
``toilcache.batch.protocol``.
"""

from __future__ import annotations

from toilcache.worker.chain import run_chain
from toilcache.worker.context import WorkerContext
from toilcache.worker.host import Host

__all__ = ["Host", "WorkerContext", "run_chain"]
