"""``toilcache bench``: runs rows, repeats them, prints a table or JSON.

Knows repetition and presentation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from statistics import median
from typing import Any

from toilcache import __version__
from toilcache.bench.filesystem import fresh_directory
from toilcache.bench.rows import ROWS
from toilcache.errors import ConfigError
from toilcache.node.machine import machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the sub-command its options."""
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"what to measure: {', '.join(ROWS)} (default: all)"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each row (default: 3)")
    parser.add_argument(
        "--dir", metavar="DIR", help="where to work; a fresh file system is made there if that is possible"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")


def bench(options: argparse.Namespace) -> int:
    """Measure and print; returns the exit status."""
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        raise ConfigError(f"cannot measure {unknown[0]!r}: there is no such row; choose {', '.join(ROWS)}")
    names = options.rows or list(ROWS)
    figures: dict[str, list[float]] = {name: [] for name in names}
    with fresh_directory(options.dir) as (directory, kind):
        for number in range(options.repeat):
            for name in names:
                if sys.stderr.isatty():
                    print(f"\rrun {number + 1} of {options.repeat}: {name:<16}", end="", file=sys.stderr)
                figures[name].append(ROWS[name][0](directory))
        if sys.stderr.isatty():
            print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    report = {"machine": _describe_machine(), "directory": kind, "rows": _summaries(figures)}
    print(json.dumps(report) if options.json else _table(report))
    return 0


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


def _summaries(figures: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "unit": ROWS[name][1],
            "min": min(runs),
            "median": median(runs),
            "max": max(runs),
            "runs": runs,
        }
        for name, runs in figures.items()
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
    return "\n".join(lines)
