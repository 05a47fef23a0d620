"""What figures stand on, so that they can be compared later: the machine, Python, the peers' versions, how
this engine is installed, and its commit.

Knows /proc, the records that installers leave, and how to ask git. Must not know what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from typing import Any

from toilcache import __version__
from toilcache.errors import ConfigError, ProcessError
from toilcache.node.machine import machine
from toilcache.process import run

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The directory that this package was imported from."""

EDITABLE, REGULAR, NONE = "editable", "regular", "none"

_ASK = """
import importlib.metadata, json, platform, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps([platform.python_version(), {name: version(name) for name in sys.argv[1:]}]))
"""


def describe_machine() -> dict[str, Any]:
    """Return the processor, the cores and bytes of memory that may be used, and the kernel."""
    here = machine()
    return {
        "cpu": cpu_model(),
        "cores": here.cores,
        "memory": here.memory,
        "kernel": platform.release(),
    }


def cpu_model(path: str = "/proc/cpuinfo") -> str:
    """Return the processor's name; its architecture where the kernel does not tell a name (proc(5))."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == "model name" and value.strip():
                    return value.strip()
    except OSError:
        pass
    return platform.machine()


def describe_engine() -> dict[str, Any]:
    """Return the versions of Python and of this engine, how it is installed, and its commit if that is known.

    The installation is "none" where modules come from a directory that no installer knows of, as they do if
    Python is started in a checkout.
    """
    installation, recorded = _installation()
    return {
        "python": platform.python_version(),
        "toilcache": __version__,
        "installation": installation,
        "commit": commit_of(SOURCE) or recorded,
    }


def _installation() -> tuple[str, str | None]:
    """How this engine is installed, and the commit that the installer got it from, if it says so.

    The record of where from is https://packaging.python.org/en/latest/specifications/direct-url/.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution("toilcache")
    except PackageNotFoundError:
        return NONE, None
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return EDITABLE, None
    if os.path.realpath(str(found.locate_file(""))) != os.path.realpath(SOURCE):
        return NONE, None
    return REGULAR, origin.get("vcs_info", {}).get("commit_id")


def commit_of(directory: str) -> str | None:
    """Return the commit of a checkout, "-dirty" behind it if its files differ from that; None if it is none.

    A directory within a checkout is none, such as that of an environment's packages.
    """
    if not os.path.lexists(os.path.join(directory, ".git")):
        return None
    command = ["git", "--no-optional-locks", "-C", directory]
    try:
        done = run([*command, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
    except ProcessError:  # no git here, or a checkout that it does not trust
        return None
    return done.stdout.decode().strip() or None


def how_to_install() -> str:
    """Return the command that installs this source regularly into the environment of this Python."""
    return shlex.join([sys.executable, "-m", "pip", "install", SOURCE])


def describe_peers(python: str, names: list[str]) -> dict[str, Any]:
    """Return the version of each peer in the environment of a Python, and that of the Python itself.

    :raises ConfigError: a peer is not installed there.
    """
    if not names:
        return {}
    version, versions = json.loads(run([python, "-c", _ASK, *names]).stdout)
    for name in names:
        if versions[name] is None:
            raise ConfigError(
                f"cannot compare with {name}: {python} does not have it; name one that does by --peers-python"
            )
    return {name: {"version": versions[name], "python": version} for name in names}
