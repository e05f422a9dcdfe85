"""`python -m benchmarks [NAME...] [--save | --check]`: measure, and print one table with peers and limits beside.

Without names, all of them; `--help` lists them. `--save` writes `benchmarks/results/`: `latest.json`, `latest.md` and
pictures. `--check` is a short run that is compared with `latest.json`.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console

from benchmarks import (
    check,
    dispatch_cost,
    emission,
    events,
    fanout,
    idle,
    ingest,
    markdown,
    match_cost,
    nchan,
    plots,
    push,
    scale,
    store_speed,
)
from benchmarks.generator import Generator, generator
from benchmarks.report import LATEST, Goal, Row, machine, save, saved, show
from benchmarks.serving import file_limit

RESULTS = Path(__file__).with_name("results")

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
    "dispatch": dispatch_cost.dispatch,
    "fanout": fanout.fanout,
    "latency": push.latency,
    "scale": scale.scale,
    "memory": idle.memory,
    "idle": idle.idle,
    "emission": emission.emission,
    "paths": events.paths,
    "polls": events.polls,
    "store": store,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Clarion on this machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--save", action="store_true", help="also write the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where they are (default: benchmarks/results)")
    parser.add_argument("--check", action="store_true", help="a short run, whose ratios are set beside the saved ones")
    parser.add_argument("--pin", action="store_true", help="servers on one processor, the generator on another")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHMARKS]:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(BENCHMARKS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers are stopped
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    committed: list[Row] = []
    if arguments.check:
        try:
            _, committed = saved(arguments.results)
        except FileNotFoundError:
            parser.error(f"there is no {arguments.results / LATEST} to compare with; --save writes it")
    described = machine() | nchan.versions()
    core = pin() if arguments.pin else None
    described["placed"] = "as the system likes" if core is None else f"the generator on core {core}, servers on another"
    names = arguments.names or (check.CHECKED if arguments.check else BENCHMARKS)
    rows = run(names, console, short=arguments.check, core=core)
    described["load after"] = f"{os.getloadavg()[0]:.2f}"
    if arguments.check:
        check.compare(committed, rows, console)
        return
    show(rows, described, console)
    if arguments.save:
        where: Path = arguments.results
        files = [save(rows, described, where), *(pictures := plots.draw(rows, where))]
        for file in (*files, markdown.write(rows, described, pictures, where)):
            console.print(f"saved {file}")


def pin() -> int:
    """Hold this process, and so the servers that it starts, to one core; answers another one for the generator."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise SystemExit("there is one core: nothing to pin")
    os.sched_setaffinity(0, {first})
    return others[0]


def run(names: Iterable[str], console: Console, *, short: bool, core: int | None) -> list[Row]:
    rows: list[Row] = []
    file_limit()
    with generator(short=short, core=core) as load:
        if not load.native:
            console.print("No C compiler, or no epoll: the load comes from Python, which slows what it measures.")
        for name in names:
            began = time.perf_counter()
            with console.status(name):
                rows += BENCHMARKS[name](load)
            console.print(f"[dim]{name}: {time.perf_counter() - began:.0f} s[/dim]")
    return rows


if __name__ == "__main__":
    main()
