"""Reading the values of options from what people write, units of measure aside.

Knows text, numbers and the fixed sets of words. Each function takes a text or the finished value and returns
the finished value; ConfigError says in one line what is wrong and what to write instead.
"""

from __future__ import annotations

import os
import re

from toilcache.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

KNOWN_BATCH_SYSTEMS = ("single_machine", "docker", "slurm")
BATCH_SYSTEM_ALIASES = {"local": "single_machine", "singleMachine": "single_machine"}

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "OFF")
CLEAN_CHOICES = ("always", "onError", "never", "onSuccess")

_TRUE = ("true", "yes", "on", "1", "y", "t")
_FALSE = ("false", "no", "off", "0", "n", "f")


def parse_bool(value: object) -> bool:
    """Read yes or no from a bool or a word."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _TRUE + _FALSE:
        raise ConfigError(f"cannot read {value!r} as yes or no; write true or false")
    return word in _TRUE


def parse_count(value: Any, least: int = 0) -> int:
    """Read a whole number that is not below `least`."""
    text = str(value).strip()
    if isinstance(value, bool) or re.fullmatch(r"[0-9]{1,15}", text) is None or int(text) < least:
        raise ConfigError(f"cannot read {value!r} as a count; write a whole number, {least} or more")
    return int(text)


def parse_positive_count(value: Any) -> int:
    """Read a whole number, 1 or more."""
    return parse_count(value, least=1)


def parse_path(value: Any) -> str:
    """Read a path: made absolute, with a leading ~ replaced."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in os.fspath(value):
        raise ConfigError(f"cannot use {value!r} as a path; give the path of a file or directory")
    return os.path.abspath(os.path.expanduser(os.fspath(value)))


def parse_locator(value: Any) -> str:
    """Read where a job store is; what the text means is the job store's business."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not text.strip():
        raise ConfigError(f"cannot use {value!r} as a job store; give a directory, for example ./my-store")
    return text


def parse_names(value: Any) -> list[str]:
    """Read a list from a comma-separated text, or take a list as it is."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [*value] if isinstance(value, list | tuple) else [value]


def parse_word(value: Any) -> str:
    """Read a name or another text without blanks around it; it must not be empty."""
    text = str(value).strip()
    if not text or text.startswith("-"):
        raise ConfigError(f"cannot use {value!r} here; write a name")
    return text


def parse_words(value: Any) -> list[str]:
    """Read a list of words as a shell would split them, or take a list as it is."""
    if not isinstance(value, str):
        return [*value] if isinstance(value, list | tuple) else [value]
    import shlex

    try:
        return shlex.split(value)
    except ValueError as error:
        raise ConfigError(f"cannot split {value!r} into words: {error}; close every quote") from None


def _choice(what: str, choices: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        for choice in choices:
            if str(value).strip().lower() == choice.lower():
                return choice
        raise ConfigError(f"cannot use {value!r} as {what}; choose one of {', '.join(choices)}")

    return parse


def parse_log_level(value: Any) -> str:
    """Read the name of a log level, in any case, WARN included."""
    word = "WARNING" if str(value).strip().upper() == "WARN" else value
    return _choice("a log level", LOG_LEVELS)(word)


def parse_batch_system(value: Any) -> str:
    """Read the name of a batch system; the error names those that there are."""
    name = str(value).strip()
    name = BATCH_SYSTEM_ALIASES.get(name, name)
    if name not in KNOWN_BATCH_SYSTEMS:
        known = ", ".join((*KNOWN_BATCH_SYSTEMS, "local"))
        raise ConfigError(f"cannot use {value!r} as a batch system; choose one of {known}")
    return name


def parse_image(value: Any) -> str:
    """Read what names an image; the engine that is to run it knows more."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not text.strip() or "\0" in text or text.startswith("-"):
        raise ConfigError(f"cannot use {value!r} as an image; give a name such as python:3.12, or FILE.sif")
    return os.path.abspath(os.path.expanduser(text)) if _is_image_file(text) else text


def _is_image_file(text: str) -> bool:
    return "://" not in text and (text.endswith(".sif") or text.startswith(("/", "./", "../", "~/")))


def parse_engine(value: Any) -> str:
    """Read the name of a container engine; sites may have added others than ours."""
    name = str(value).strip().lower()
    if re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name) is None:
        raise ConfigError(
            f"cannot use {value!r} as a container engine; choose auto, docker, singularity, podman or none"
        )
    return name


def parse_clean(value: Any) -> str:
    """Read when something is to be removed."""
    return _choice("a time to clean up", CLEAN_CHOICES)(value)


def parse_memory_style(value: Any) -> str:
    """Read how memory is asked for from Slurm."""
    return _choice("a way to ask for memory", ("total", "per-cpu", "none"))(value)
