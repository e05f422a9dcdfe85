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

__all__ = ["LATEST", "Goal", "Row", "collected", "machine", "median", "number", "save", "saved", "show", "spread"]

LATEST = "latest.json"
"""The results that are committed."""

median = statistics.median


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound in the row's unit (or on its ratio to the other). `floor`: below it the design is wrong."""

    bound: float
    at_least: bool
    of_ratio: bool = False
    floor: bool = False

    def met(self, row: Row) -> bool:
        value = row.ratio if self.of_ratio else row.measured
        return value is not None and (value >= self.bound if self.at_least else value <= self.bound)

    def text(self) -> str:
        bound = f"{self.bound:g}" if self.of_ratio else f"{self.bound:,g}"
        return f"{'≥' if self.at_least else '≤'} {bound}{' of it' if self.of_ratio else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: the median of its rounds, and that of a peer, or of the machine's own limit, between them.

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
    who: str = ""
    """Which of several was measured, where `what` is measured of several."""
    rounds: tuple[float, ...] = ()
    limit_rounds: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.what}: {self.who}" if self.who else self.what

    @property
    def key(self) -> tuple[str, str, str]:
        """What the same row of another run is found by."""
        return self.what, self.who, self.limit_name

    @property
    def more_is_better(self) -> bool:
        return self.unit.endswith("/s")

    @property
    def ratios(self) -> tuple[float, ...]:
        """Of each pair of rounds."""
        return tuple(one / limit for one, limit in zip(self.rounds, self.limit_rounds, strict=True))

    @classmethod
    def alone(
        cls,
        what: str,
        unit: str,
        rounds: Sequence[float],
        goals: tuple[Goal, ...] = (),
        limit_name: str = "",
        *,
        note: str = "",
        who: str = "",
    ) -> Row:
        """A row of rounds beside nothing, or beside a peer that is missing."""
        return cls(what, unit, median(rounds), goals, None, limit_name, None, note, who, tuple(rounds))

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
        who: str = "",
    ) -> Row:
        """A row of rounds that alternated with rounds of the limit."""
        ratio = median(one / limit for one, limit in zip(measured, limits, strict=True))
        rounds = (tuple(measured), tuple(limits))
        return cls(what, unit, median(measured), goals, median(limits), limit_name, ratio, note, who, *rounds)


def collected(rows: Sequence[Row], what: str) -> dict[str, tuple[float, ...]]:
    """The rounds of all that were measured by `what`, Clarion's ways first."""
    mine = {row.who: row.rounds for row in rows if row.what == what}
    return mine | {row.limit_name: row.limit_rounds for row in rows if row.what == what and row.limit_rounds}


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "uvicorn": metadata.version("uvicorn"),
        "uvloop": metadata.version("uvloop"),
        "mcp": metadata.version("mcp"),
        "commit": commit.stdout.strip() or "none",
    }


def show(rows: Sequence[Row], described: dict[str, str], console: Console) -> None:
    table = Table(caption=", ".join(f"{name} {value}" for name, value in described.items()), caption_justify="left")
    table.add_column("what")
    for heading in ("goal", "measured", "beside", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        goals = "\n".join(_goal_text(goal, row) for goal in row.goals)
        limit = "" if row.limit is None else f"{number(row.limit)}\n"
        beside = limit + (f"[dim]{row.limit_name}[/dim]" if row.limit_name else "")
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}\n[dim]{spread(row.ratios)}[/dim]"
        what = row.name + (f"\n[dim]{row.note}[/dim]" if row.note else "")
        table.add_row(what, goals, f"{number(row.measured)} {row.unit}", beside, ratio)
    console.print(table)


def spread(values: Sequence[float]) -> str:
    """The least and the most of the rounds; nothing where there was one."""
    return f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else ""


def _goal_text(goal: Goal, row: Row) -> str:
    if goal.of_ratio and row.ratio is None:
        return f"[yellow]{goal.text()}, not measured[/yellow]"
    met = goal.met(row)
    colour = "green" if met else "red"
    return f"[{colour}]{goal.text()} {'✓' if met else '✗'}[/{colour}]" + (" [dim](floor)[/dim]" if goal.floor else "")


def save(rows: Sequence[Row], described: dict[str, str], directory: Path) -> Path:
    """Write `latest.json`: every row with the rounds that it is the median of, so that the noise is seen."""
    directory.mkdir(exist_ok=True)
    file = directory / LATEST
    written = {"machine": described, "rows": [{**asdict(row), "spread": _spreads(row)} for row in rows]}
    file.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    return file


def _spreads(row: Row) -> dict[str, list[float]]:
    found = {"measured": row.rounds, "limit": row.limit_rounds, "ratio": row.ratios if row.limit_rounds else ()}
    return {name: [min(values), max(values)] for name, values in found.items() if values}


def saved(directory: Path) -> tuple[dict[str, str], list[Row]]:
    """What `save` wrote. Raises FileNotFoundError where there is nothing."""
    found = json.loads((directory / LATEST).read_text())
    rows = []
    for one in found["rows"]:
        one.pop("spread", None)
        goals = tuple(Goal(**goal) for goal in one.pop("goals"))
        rounds, limits = tuple(one.pop("rounds")), tuple(one.pop("limit_rounds"))
        rows.append(Row(**one, goals=goals, rounds=rounds, limit_rounds=limits))
    return found["machine"], rows
