"""A report of the benchmark as a table for people.

Knows the report's shape. Must not know how anything in it was measured.
"""

from __future__ import annotations

from typing import Any

from toilcache.bench.rows import SLOWER_IF_EDITABLE
from toilcache.bench.surroundings import EDITABLE, NONE, REGULAR, how_to_install
from toilcache.units import format_size

_INSTALLED = {
    EDITABLE: "an editable installation",
    REGULAR: "a regular installation",
    NONE: "not installed",
}


def table(report: dict[str, Any]) -> str:
    """Return the lines of a report: what it stands on, its rows, then the ratios to peers."""
    lines = [*_surroundings(report), f"{'row':<16}{'median':>10}{'min':>10}{'max':>10}  {'unit':<12}budget"]
    budgets = report["budgets"]
    for name, row in report["rows"].items():
        # What a peer's row has is the budget of the ratio.
        verdict = "" if name in report["ratios"] else _verdict(budgets.get(name))
        figures = "".join(f"{row[key]:>10.4g}" for key in ("median", "min", "max"))
        lines.append(f"{name:<16}{figures}  {row['unit']:<12}{verdict}".rstrip())
    for name, ratio in report["ratios"].items():
        verdict = _verdict(budgets.get(name))
        lines.append(f"ours / {name}: {ratio:.3g}" + (f"  {verdict}" if verdict else ""))
    return "\n".join(lines)


def _surroundings(report: dict[str, Any]) -> list[str]:
    here, load = report["machine"], report["load"]
    commit = f", commit {report['commit']}" if report["commit"] else ""
    lines = [
        f"toilcache {report['toilcache']} ({_INSTALLED[report['installation']]}{commit}), "
        f"Python {report['python']}",
        f"{here['cpu']}, {here['cores']:g} cores, {format_size(here['memory'])}, Linux {here['kernel']}",
        f"load {load['begin']:.1f} at the begin, {load['end']:.1f} at the end; on {report['directory']}",
    ]
    for name, peer in report["peers"].items():
        lines.append(f"beside {name} {peer['version']}, Python {peer['python']}")
    slower = [name for name in SLOWER_IF_EDITABLE if name in report["rows"]]
    if slower and report["installation"] == EDITABLE:
        lines.append(
            f"{', '.join(slower)}: of an editable installation, which starts slower; "
            f"a regular one is made by {how_to_install()}"
        )
    return lines


def _verdict(budget: dict[str, Any] | None) -> str:
    return "" if budget is None else f"{budget['budget']}: {'met' if budget['met'] else 'MISSED'}"
