"""`python -m benchmarks [NAME...] [--save]`: measure, and print one table with the machine's own limits beside.

Names: ingest, posts, match, memory, latency, fanout, events, paths, polls, store; all of them without any.
`--save` also writes `benchmarks/results/latest.json`.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks import events, ingest, match_cost, push, store_speed
from benchmarks.generator import Generator, generator
from benchmarks.report import Goal, Row, machine, save, show

WIDTH = 130
"""Columns of the table in a file or a log."""

GROUPS = (1, 500)
"""Drafts of one append that the store is measured with."""


def match(_generator: Generator) -> list[Row]:
    """One match with 100,000 subscriptions, beside one with 1,000; 10 match in both."""
    chance = random.Random(2)
    (_, warm_few, new_few), (_, warm_many, new_many) = (match_cost.measure(size, chance) for size in match_cost.SIZES)
    goals = (Goal(2.0, False, of_ratio=True),)
    return [
        Row(
            f"match cost, 100,000 subscriptions, {what}", "µs", many / 1000, goals, few / 1000, "1,000 subscriptions",
            many / few,
        )
        for what, few, many in (("known topics", warm_few, warm_many), ("new topics", new_few, new_many))
    ]  # fmt: skip


def store(_generator: Generator) -> list[Row]:
    """`EventLog.append` by itself, without a server around it."""
    rows = []
    for group in GROUPS:
        total = store_speed.GROUPS[group]
        pairs = [
            (store_speed.shared_rate("FULL", group, total), store_speed.raw_rate("FULL", group, total))
            for _ in range(store_speed.ROUNDS)
        ]
        ours, limits = zip(*pairs, strict=True)
        name = f"raw SQLite, FULL, {group} rows a commit"
        rows.append(Row.paired(f"append, 32 callers of {group}", "events/s", ours, limits, name))
    return rows


BENCHMARKS: dict[str, Callable[[Generator], list[Row]]] = {
    "ingest": ingest.ingest,
    "posts": ingest.posts,
    "match": match,
    "memory": push.memory,
    "latency": push.latency,
    "fanout": push.fanout,
    "events": events.events,
    "paths": events.paths,
    "polls": events.polls,
    "store": store,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Clarion on this machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/latest.json")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHMARKS]:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(BENCHMARKS)}")
    described = machine()
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    rows: list[Row] = []
    with generator() as load:
        if not load.native:
            console.print("No C compiler, or no epoll: the load comes from Python, which slows what it measures.")
        for name in arguments.names or BENCHMARKS:
            began = time.perf_counter()
            with console.status(name):
                rows += BENCHMARKS[name](load)
            console.print(f"[dim]{name}: {time.perf_counter() - began:.0f} s[/dim]")
    described["load after"] = f"{os.getloadavg()[0]:.2f}"
    show(rows, described, console)
    if arguments.save:
        console.print(f"saved to {save(rows, described, Path(__file__).with_name('results'))}")


if __name__ == "__main__":
    main()
