"""The rows of peers, measured in the same run as ours: which script, which sizes, and how a figure is made of
it.

Knows how to run a peer's script with the Python of an environment that has the peer. Must not import a peer.
"""

from __future__ import annotations

import json
import os
import time
from functools import partial
from statistics import median
from typing import Any

from toilcache.bench.row import Budget, PeerRow
from toilcache.bench.rows import CACHE_TIMES, CROWD, SHARED_SIZES, quantile
from toilcache.errors import ConfigError
from toilcache.io import atomic_copy
from toilcache.process import run

TOIL_FAN, TOIL_CHAIN, PARSL_FAN = (10, 50), (10, 110), (500, 2500)


def _script(python: str, name: str, directory: str, *arguments: str) -> tuple[dict[str, Any], float]:
    """Run a peer's script; returns what it printed and the seconds of the whole process.

    It runs as a copy in ``directory``: Toil loads no script from within a package.
    """
    path = os.path.join(directory, name)
    atomic_copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), path)
    # Peers start their workers by name, so their environment's programs have to be found.
    environment = {**os.environ, "PATH": os.path.dirname(python) + os.pathsep + os.environ.get("PATH", "")}
    began = time.perf_counter()
    done = run([python, path, *arguments], env=environment)
    wall = time.perf_counter() - began
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures, wall


def _toil(python: str, kind: str, size: int, directory: str) -> tuple[dict[str, Any], float]:
    store = os.path.join(directory, f"toil-{kind}-{size}-{os.urandom(4).hex()}")
    return _script(python, "peer_toil.py", directory, kind, str(size), store, directory)


def _toil_fan(python: str, directory: str) -> float:
    few, many = (_toil(python, "fan", size, directory)[0]["seconds"] for size in TOIL_FAN)
    return float((TOIL_FAN[1] - TOIL_FAN[0]) / (many - few))


def _toil_chain(python: str, directory: str) -> float:
    few, many = (_toil(python, "chain", size, directory)[0]["seconds"] for size in TOIL_CHAIN)
    return float(1000 * (many - few) / (TOIL_CHAIN[1] - TOIL_CHAIN[0]))


def _toil_empty(python: str, directory: str) -> float:
    return _toil(python, "empty", 0, directory)[1]


def _toil_hit(python: str, directory: str) -> float:
    return float(median(_toil(python, "hits", CACHE_TIMES, directory)[0]["milliseconds"]))


def _toil_write(python: str, directory: str) -> float:
    return float(median(_toil(python, "writes", CACHE_TIMES, directory)[0]["milliseconds"]))


def _diskcache(python: str, directory: str, pause: float, part: float) -> float:
    figures, _ = _script(python, "peer_diskcache.py", directory, str(CROWD), directory, str(pause))
    return quantile(figures["milliseconds"], part)


def _parsl_fan(python: str, directory: str, sizes: tuple[int, int] = PARSL_FAN) -> float:
    few, many = (
        _script(python, "peer_parsl.py", directory, str(size), directory)[0]["seconds"] for size in sizes
    )
    return float((sizes[1] - sizes[0]) / (many - few))


PEERS: dict[str, dict[str, PeerRow]] = {
    "toil": {
        "toil fan-out": PeerRow("fan-out", _toil_fan, "jobs/s", Budget(60, least=True)),
        "toil chain": PeerRow("chain", _toil_chain, "ms/job"),
        "toil empty": PeerRow("empty", _toil_empty, "s"),
        "toil hit": PeerRow("cache-hit", _toil_hit, "ms", Budget(1 / 5)),
        "toil write": PeerRow("cache-write", _toil_write, "ms", Budget(1 / 5)),
    },
    "parsl": {
        "parsl fan-out": PeerRow("fan-out", _parsl_fan, "jobs/s", Budget(0.6, least=True)),
        "parsl shared": PeerRow(
            "fan-out-shared", partial(_parsl_fan, sizes=SHARED_SIZES), "jobs/s", Budget(3, least=True)
        ),
    },
    "diskcache": {
        "diskcache p99": PeerRow("crowd-p99", partial(_diskcache, pause=0.02, part=0.99), "ms"),
        "diskcache flat": PeerRow("flat-out-p99", partial(_diskcache, pause=0.0, part=0.99), "ms"),
    },
}


def peers_in(text: str) -> list[str]:
    """Return the names of peers in a comma-separated list.

    :raises ConfigError: a peer is not known.
    """
    names = list(filter(None, text.split(",")))
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"cannot compare with {name!r}: choose of {', '.join(PEERS)}")
    return names


def rows_of(peers: str, names: list[str]) -> dict[str, PeerRow]:
    """Return the rows of the peers in a comma-separated list that stand beside the rows of these names.

    :raises ConfigError: a peer is not known.
    """
    return {name: row for peer in peers_in(peers) for name, row in PEERS[peer].items() if row.beside in names}
