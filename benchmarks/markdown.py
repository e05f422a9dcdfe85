"""The results as a page: `results/latest.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.contenders import CONTENDERS
from benchmarks.fanout import BURSTS, PROCESSOR, SINGLES, TAIL
from benchmarks.report import Goal, Row, collected, median, number, spread

__all__ = ["write"]

FILE = "latest.md"

COLUMNS = {
    "one at a time, frames/s": SINGLES,
    "bursts, frames/s": BURSTS,
    "emit to last frame, p99, ms": TAIL,
    "processor time of a frame, µs": PROCESSOR,
}


def write(rows: Sequence[Row], described: dict[str, str], plots: Sequence[Path], directory: Path) -> Path:
    file = directory / FILE
    file.write_text("\n".join(_lines(rows, described, plots)) + "\n")
    return file


def _lines(rows: Sequence[Row], described: dict[str, str], plots: Sequence[Path]) -> Iterator[str]:
    yield "# Results of `make bench`"
    yield ""
    yield "Written by the run itself; [what is measured, and how to read it](../../docs/benchmarks.md)."
    yield ""
    yield ", ".join(f"{name} {value}" for name, value in described.items()) + "."
    yield from _contenders(rows)
    for plot in plots:
        yield ""
        yield f"![{plot.stem}]({plot.name})"
    yield ""
    yield "## Every row"
    yield ""
    yield "Medians; in brackets the least and the most of the rounds. A ratio is the median over pairs of rounds."
    yield ""
    yield "| what | goal | measured | beside | | ratio |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        goals = ", ".join(_goal(goal, row) for goal in row.goals)
        measured = f"{number(row.measured)} {row.unit}".strip() + _brackets(row.rounds)
        limit = "" if row.limit is None else number(row.limit) + _brackets(row.limit_rounds)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}" + _brackets(row.ratios if row.limit_rounds else ())
        note = f" ({row.note})" if row.note else ""
        yield f"| {row.name}{note} | {goals} | {measured} | {row.limit_name} | {limit} | {ratio} |"


def _contenders(rows: Sequence[Row]) -> Iterator[str]:
    """One line for each that sends frames to 1,000 streams."""
    found = {heading: collected(rows, what) for heading, what in COLUMNS.items()}
    if not any(found.values()):
        return
    yield ""
    yield "## 1,000 streams"
    yield ""
    yield "| | " + " | ".join(found) + " |"
    yield "|---|" + "---|" * len(found)
    for one in CONTENDERS:
        cells = [of.get(one.name, ()) for of in found.values()]
        said = (number(median(rounds)) + _brackets(rounds) if rounds else "not measured" for rounds in cells)
        yield f"| {one.name} | " + " | ".join(said) + " |"


def _brackets(rounds: Sequence[float]) -> str:
    return f" ({spread(rounds)})" if len(rounds) > 1 else ""


def _goal(goal: Goal, row: Row) -> str:
    if goal.of_ratio and row.ratio is None:
        return f"{goal.text()}, not measured"
    return f"{goal.text()} {'met' if goal.met(row) else '**missed**'}" + (" (floor)" if goal.floor else "")
