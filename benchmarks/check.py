"""Ratios of a short run beside the committed ones: a report, and no gate."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.report import Row, spread

__all__ = ["CHECKED", "compare"]

CHECKED = ("fanout", "ingest", "match", "latency", "scale", "emission")
"""Benchmarks of a short run: those whose rows have a ratio, and that are done within minutes."""

SLACK = 0.05
"""What a ratio may lie outside of the other run's rounds before it is called a change: a few rounds are no bounds."""


def compare(committed: Sequence[Row], now: Sequence[Row], console: Console) -> None:
    """Print both ratios of every row that the two runs share, and what only one of them has."""
    before = {row.key: row for row in committed if row.ratio is not None}
    table = Table(title="Ratios to the peers: committed, and now", title_justify="left")
    table.add_column("what")
    for heading in ("beside", "committed", "now", "change", ""):
        table.add_column(heading, justify="right")
    missing = []
    for row in now:
        was = before.get(row.key)
        if row.ratio is None or was is None or was.ratio is None:
            missing.append(f"{row.name}, beside {row.limit_name or 'nothing'}")
            continue
        table.add_row(
            row.name, row.limit_name, f"{was.ratio:.2f}\n[dim]{spread(was.ratios)}[/dim]",
            f"{row.ratio:.2f}\n[dim]{spread(row.ratios)}[/dim]", f"{row.ratio / was.ratio - 1:+.0%}", verdict(was, row),
        )  # fmt: skip
    console.print(table)
    if missing:
        console.print("Not compared, for want of a ratio in one of the runs: " + "; ".join(missing))


def verdict(was: Row, row: Row) -> str:
    """ "better" or "worse" if no pair of rounds of one run has a ratio as in the other; else nothing."""
    earlier, later = was.ratios or (was.ratio or 0.0,), row.ratios or (row.ratio or 0.0,)
    more = min(later) > max(earlier) * (1 + SLACK)
    less = max(later) < min(earlier) * (1 - SLACK)
    if not more and not less:
        return ""
    return "better" if more is row.more_is_better else "worse"
