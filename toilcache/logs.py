"""Where the engine's own messages go: standard error, and a file if asked for. Knows the logging package
only.
"""

from __future__ import annotations

import logging
import sys

from toilcache.config import Config

_FORMAT = "[%(asctime)s] %(levelname)s: %(message)s"
_OURS = "_toilcache_handler"


def set_up_logging(config: Config) -> None:
    """Send messages of the configured level and above to standard error and to ``--logFile``.

    Only the engine's logger is touched: what a script does with logging stays as it is. Called again, it
    replaces what an earlier call set up."""
    logger = logging.getLogger("toilcache")
    for handler in [handler for handler in logger.handlers if hasattr(handler, _OURS)]:
        logger.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if config.logFile:
        handlers.append(logging.FileHandler(config.logFile))
    for handler in handlers:
        setattr(handler, _OURS, True)
        handler.setFormatter(logging.Formatter(_FORMAT, "%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(config.logLevel)
    logger.propagate = False
