"""The results as pictures: frames a second of all contenders, and how long the last frame takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, NCHAN, OURS, RAW_NAME
from benchmarks.fanout import BURSTS, SINGLES, TAIL
from benchmarks.report import Row, collected, median, number

__all__ = ["draw"]

OURS_COLOUR, PEER_COLOUR, GOAL_COLOUR = "#2f6fb0", "#b8bec6", "#c0392b"
DPI = 150
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
"""What keeps a number readable where a line crosses it."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of bars, and a goal: a multiple of what a peer has."""

    what: str
    title: str
    peer: str
    multiple: float
    goal: str
    log: bool = False


FRAMES = (
    Panel(SINGLES, "One event at a time to 1,000 streams\nframes a second, more is better", NCHAN, 1, "goal: nchan"),
    Panel(
        BURSTS,
        "Bursts of 200 events to 1,000 streams (the SDK's: of 10)\nframes a second (logarithmic), more is better",
        NCHAN,
        3,
        "goal: 3 × nchan",
        log=True,
    ),
)
LATENCY = (
    Panel(
        TAIL,
        "From emit to the last of 1,000 frames, p99\nmilliseconds (logarithmic), less is better",
        RAW_NAME,
        2,
        "goal: 2 × raw",
        log=True,
    ),
)


def draw(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Write the pictures that the rows are enough for; none without matplotlib, which only `make bench` installs."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    pictures = (("frames", FRAMES, (11, 4.2)), ("latency", LATENCY, (7, 4.2)))
    return [
        _picture(directory / f"{name}.png", panels, size, rows)
        for name, panels, size in pictures
        if all(collected(rows, panel.what) for panel in panels)
    ]


def _picture(file: Path, panels: Sequence[Panel], size: tuple[float, float], rows: Sequence[Row]) -> Path:
    from matplotlib import pyplot

    figure, every = pyplot.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axes, panel in zip(every[0], panels, strict=True):
        _bars(axes, panel, collected(rows, panel.what))
    figure.tight_layout(w_pad=2)
    figure.savefig(file, dpi=DPI, metadata={"Software": None})
    pyplot.close(figure)
    return file


def _bars(axes: Any, panel: Panel, found: dict[str, tuple[float, ...]]) -> None:
    names = [one.name for one in CONTENDERS if one.name in found]
    medians = [median(found[name]) for name in names]
    places = range(len(names))
    colours = [OURS_COLOUR if name in OURS else PEER_COLOUR for name in names]
    axes.barh(places, medians, color=colours, height=0.66, zorder=2)
    for place, name, middle in zip(places, names, medians, strict=True):
        rounds = found[name]
        axes.plot([min(rounds), max(rounds)], [place, place], color="#222222", linewidth=1.2, zorder=3)
        axes.annotate(
            number(middle), (max(max(rounds), middle), place), xytext=(5, 0), textcoords="offset points", va="center",
            fontsize=8.5, bbox=BEHIND, zorder=4,
        )  # fmt: skip
    if panel.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(lambda _value, _place: "")
        axes.set_xlim(min(medians) / 2.5, max(max(found[name]) for name in names) * 4)
    else:
        axes.set_xlim(0, max(max(found[name]) for name in names) * 1.2)
    axes.xaxis.set_major_formatter(lambda value, _place: f"{value:,.0f}")
    axes.tick_params(axis="x", labelsize=8.5)
    if panel.peer in found:
        goal = panel.multiple * median(found[panel.peer])
        axes.axvline(goal, color=GOAL_COLOUR, linestyle="--", linewidth=1.2, zorder=1)
        axes.annotate(
            panel.goal, (goal, len(names) - 0.45), xytext=(4, 0), textcoords="offset points", color=GOAL_COLOUR,
            fontsize=8.5, va="center",
        )  # fmt: skip
    axes.set_yticks(list(places), [f"Clarion, {name}" if name in OURS else name for name in names])
    axes.set_ylim(len(names) - 0.1, -0.6)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.grid(axis="x", color="#e6e8eb", zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
