"""Lines in the log of the worker that runs a job.

Knows the standard logger, where somebody uses it, and standard error. Must not import logging: a worker that
nobody asked for a logger pays nothing for one.
"""

from __future__ import annotations

import sys

LOGGER_NAME = "toilcache.file_store"
_LEVELS = ((50, "CRITICAL"), (40, "ERROR"), (30, "WARNING"), (20, "INFO"))


def worker_log(level: int, text: str) -> None:
    """Write a line to the program's loggers if it has any, else to standard error, which is the job's log."""
    logging = sys.modules.get("logging")
    if logging is not None and logging.getLogger(LOGGER_NAME).hasHandlers():
        logging.getLogger(LOGGER_NAME).log(level, "%s", text)
        return
    name = next((name for least, name in _LEVELS if level >= least), "DEBUG")
    if sys.stderr is not None:
        sys.stderr.write(f"{name}: {text}\n")
