"""``toilcache bench``: runs rows, repeats them, prints a report as a table or JSON.

Knows repetition, and how a report is made of figures.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

from toilcache.bench.containers import container_rows
from toilcache.bench.filesystem import fresh_directory
from toilcache.bench.peers import PEERS, peers_in, rows_of
from toilcache.bench.row import Budget, PeerRow, Row
from toilcache.bench.rows import ROWS
from toilcache.bench.surroundings import describe_engine, describe_machine, describe_peers
from toilcache.bench.table import table
from toilcache.errors import ConfigError


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
    ours = {name: rows[name] for name in names}
    peers = rows_of(options.peers, names)
    measures: dict[str, Callable[[str], float]] = {name: row.measure for name, row in ours.items()}
    for name, peer in peers.items():
        measures[name] = partial(peer.measure, options.peers_python)
    versions = describe_peers(options.peers_python, peers_in(options.peers))
    begin = os.getloadavg()[0]
    with _ended_in_order(), fresh_directory(options.dir) as (directory, kind):
        figures = _repeat(measures, options.repeat, directory)
    report = {
        **describe_engine(),
        "machine": describe_machine(),
        "peers": versions,
        "load": {"begin": begin, "end": os.getloadavg()[0]},
        "directory": kind,
        **_results(ours, peers, figures),
    }
    print(json.dumps(report) if options.json else table(report))
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


def _results(
    ours: dict[str, Row], peers: dict[str, PeerRow], figures: dict[str, list[float]]
) -> dict[str, Any]:
    """Rows by name, the ratios to peers' rows, and what became of the budgets of both."""
    medians = {name: median(figures[name]) for name in ours}
    ratios = {name: _ratio(figures[row.beside], figures[name]) for name, row in peers.items()}
    budgets = {
        **{name: _verdict(row.budget, medians[name]) for name, row in ours.items() if row.budget},
        **{name: _verdict(row.ratio, ratios[name]) for name, row in peers.items() if row.ratio},
    }
    units = {name: row.unit for name, row in ours.items()} | {name: row.unit for name, row in peers.items()}
    rows = {name: _summary(units[name], runs) for name, runs in figures.items()}
    return {"rows": rows, "ratios": ratios, "budgets": budgets}


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios of runs that stood beside each other."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


def _verdict(budget: Budget, figure: float) -> dict[str, Any]:
    return {"budget": str(budget), "met": budget.is_met(figure)}


def _summary(unit: str, runs: list[float]) -> dict[str, Any]:
    return {"unit": unit, "min": min(runs), "median": median(runs), "max": max(runs), "runs": runs}
