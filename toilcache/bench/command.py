"""``toilcache bench``: runs rows, repeats them, prints a table or JSON.

Knows repetition and presentation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

from toilcache import __version__
from toilcache.bench.containers import container_rows
from toilcache.bench.filesystem import fresh_directory
from toilcache.bench.peers import PEERS, rows_of
from toilcache.bench.rows import ROWS
from toilcache.errors import ConfigError
from toilcache.node.machine import machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the sub-command its options."""
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"what to measure: {', '.join(ROWS)} (default: all)"
    )
    parser.add_argument(
        "--container",
        metavar="IMAGE",
        help=f"also measure what containers of this image cost: {', '.join(container_rows(None, ''))}",
    )
    parser.add_argument("--containerEngine", default="auto", metavar="NAME", help="what runs them")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each row (default: 3)")
    parser.add_argument(
        "--dir", metavar="DIR", help="where to work; a fresh file system is made there if that is possible"
    )
    parser.add_argument(
        "--peers",
        default="",
        metavar="LIST",
        help=f"measure these beside us, in the same run: {','.join(PEERS)} (default: none)",
    )
    parser.add_argument(
        "--peers-python",
        default=sys.executable,
        metavar="PYTHON",
        help="the Python of an environment in which the peers are installed",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")


def bench(options: argparse.Namespace) -> int:
    """Measure and print; returns the exit status."""
    boxed = container_rows(options.container, options.containerEngine)
    rows = {**ROWS, **boxed}
    unknown = [name for name in options.rows if name not in rows]
    if unknown:
        raise ConfigError(f"cannot measure {unknown[0]!r}: there is no such row; choose {', '.join(rows)}")
    names = options.rows or list(rows if options.container is not None else ROWS)
    peers = rows_of(options.peers, names)
    measures: dict[str, Callable[[str], float]] = {name: rows[name][0] for name in names}
    for name, row in peers.items():
        measures[name] = partial(row.measure, options.peers_python)
    with _ended_in_order(), fresh_directory(options.dir) as (directory, kind):
        figures = _repeat(measures, options.repeat, directory)
    units = {
        **{name: row[1] for name, row in rows.items()},
        **{name: row.unit for name, row in peers.items()},
    }
    report = {
        "machine": _describe_machine(),
        "directory": kind,
        "rows": {name: _summary(units[name], runs) for name, runs in figures.items()},
        "ratios": {name: _ratio(figures[row.beside], figures[name]) for name, row in peers.items()},
    }
    print(json.dumps(report) if options.json else _table(report))
    return 0


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Have SIGTERM unwind the block, so that what is mounted and made goes, as it does with Ctrl-C."""

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _repeat(
    measures: dict[str, Callable[[str], float]], times: int, directory: str
) -> dict[str, list[float]]:
    """Take every measure in turn, again and again, so that what wanders on the machine meets all of them."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(times):
        for name, measure in measures.items():
            if sys.stderr.isatty():
                print(f"\rrun {number + 1} of {times}: {name:<16}", end="", file=sys.stderr)
            figures[name].append(measure(directory))
    if sys.stderr.isatty():
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return figures


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios of runs that stood beside each other."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


def _summary(unit: str, runs: list[float]) -> dict[str, Any]:
    return {"unit": unit, "min": min(runs), "median": median(runs), "max": max(runs), "runs": runs}


def _describe_machine() -> dict[str, Any]:
    here = machine()
    return {
        "toilcache": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": here.cores,
        "memory": here.memory,
        "load": os.getloadavg()[0],
    }


def _table(report: dict[str, Any]) -> str:
    here = report["machine"]
    lines = [
        f"toilcache {here['toilcache']}, Python {here['python']}, Linux {here['kernel']}, "
        f"{here['cores']:g} cores, load {here['load']:.1f} at the end; on {report['directory']}",
        f"{'row':<16}{'median':>10}{'min':>10}{'max':>10}  unit",
    ]
    for name, row in report["rows"].items():
        lines.append(f"{name:<16}{row['median']:>10.4g}{row['min']:>10.4g}{row['max']:>10.4g}  {row['unit']}")
    lines += [f"ours / {name}: {ratio:.3g}" for name, ratio in report["ratios"].items()]
    return "\n".join(lines)
