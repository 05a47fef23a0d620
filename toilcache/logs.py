"""Where the engine's own messages go: standard error, and a file if asked for. Knows the logging package
only.
"""

from __future__ import annotations

import logging
import sys

from toilcache.config import Config
from toilcache.errors import ConfigError, show

_FORMAT = "[%(asctime)s] %(levelname)s: %(message)s"
_OURS = "_toilcache_handler"
_NOTHING = logging.CRITICAL + 1


def set_up_logging(config: Config) -> None:
    """Send messages of the configured level and above to standard error and to ``--logFile``.

    Only the engine's logger is touched: what a script does with logging stays as it is. Called again, it
    replaces what an earlier call set up. ConfigError for a file that cannot be written."""
    logger = logging.getLogger("toilcache")
    for handler in [handler for handler in logger.handlers if hasattr(handler, _OURS)]:
        logger.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if config.logFile:
        handlers.append(_file_handler(config.logFile))
    for handler in handlers:
        setattr(handler, _OURS, True)
        handler.setFormatter(logging.Formatter(_FORMAT, "%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(_NOTHING if config.logLevel == "OFF" else config.logLevel)
    logger.propagate = False


def _file_handler(path: str) -> logging.Handler:
    try:
        return logging.FileHandler(path)
    except OSError as error:
        raise ConfigError(
            f"cannot write to log file {show(path)}: {error.strerror}; name another with --logFile"
        ) from error
