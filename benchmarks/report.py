"""What a benchmark answers, and how all of it is shown and saved."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

__all__ = ["Goal", "Row", "machine", "median", "save", "show"]

median = statistics.median


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound in the row's unit (or on its ratio to the limit). `later`: a goal of a later issue, not yet a promise."""

    bound: float
    at_least: bool
    of_ratio: bool = False
    later: bool = False

    def met(self, row: Row) -> bool:
        value = row.ratio if self.of_ratio else row.measured
        return value is not None and (value >= self.bound if self.at_least else value <= self.bound)

    def text(self) -> str:
        bound = f"{self.bound:g}" if self.of_ratio else f"{self.bound:,g}"
        return f"{'≥' if self.at_least else '≤'} {bound}{' of it' if self.of_ratio else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: the median of its rounds, and of the machine's own limit in rounds between them.

    `ratio` is the median over the pairs of rounds, which a machine that is busy for a while disturbs least.
    """

    what: str
    unit: str
    measured: float
    goals: tuple[Goal, ...] = ()
    limit: float | None = None
    limit_name: str = ""
    ratio: float | None = None
    note: str = ""

    @classmethod
    def paired(
        cls,
        what: str,
        unit: str,
        measured: Sequence[float],
        limits: Sequence[float],
        limit_name: str,
        *,
        goals: tuple[Goal, ...] = (),
        note: str = "",
    ) -> Row:
        """A row of rounds that alternated with rounds of the limit."""
        ratio = median(one / limit for one, limit in zip(measured, limits, strict=True))
        return cls(what, unit, median(measured), goals, median(limits), limit_name, ratio, note)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "uvicorn": metadata.version("uvicorn"),
        "uvloop": metadata.version("uvloop"),
        "commit": commit.stdout.strip() or "none",
    }


def show(rows: Sequence[Row], described: dict[str, str], console: Console) -> None:
    table = Table(caption=", ".join(f"{name} {value}" for name, value in described.items()), caption_justify="left")
    table.add_column("what")
    for heading in ("goal", "measured", "machine's own limit", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        goals = "\n".join(_goal_text(goal, row) for goal in row.goals)
        limit = "" if row.limit is None else f"{number(row.limit)}\n[dim]{row.limit_name}[/dim]"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        what = row.what + (f"\n[dim]{row.note}[/dim]" if row.note else "")
        table.add_row(what, goals, f"{number(row.measured)} {row.unit}", limit, ratio)
    console.print(table)


def _goal_text(goal: Goal, row: Row) -> str:
    colour = "green" if goal.met(row) else "yellow" if goal.later else "red"
    sign = "✓" if goal.met(row) else "✗"
    return f"[{colour}]{goal.text()} {sign}[/{colour}]" + (" [dim](later)[/dim]" if goal.later else "")


def save(rows: Sequence[Row], described: dict[str, str], directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    file = directory / "latest.json"
    written = {"machine": described, "rows": [asdict(row) for row in rows]}
    file.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    return file
