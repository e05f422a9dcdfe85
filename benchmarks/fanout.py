"""Events out: all contenders in turns, in one run, and Clarion's ways beside each peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import (
    CONTENDERS,
    LIBRARY,
    LISTEN,
    NCHAN,
    OURS,
    RAW_NAME,
    SDK,
    STREAMS,
    Contender,
)
from benchmarks.generator import Generator
from benchmarks.report import Goal, Row, median
from benchmarks.serving import PeerMissing, Server

__all__ = ["BURSTS", "PROCESSOR", "SINGLES", "TAIL", "fanout"]

SINGLE_TURNS = 5
BURST_TURNS = 4
BURST = 200

SINGLES = f"one event at a time to {STREAMS:,} streams"
BURSTS = f"bursts of {BURST} events to {STREAMS:,} streams"
TAIL = f"emit to last of {STREAMS:,} frames, p99"

PROCESSOR = "server's processor time of a frame, one event at a time"

GOALS = {
    (SINGLES, NCHAN): (Goal(1.0, True, of_ratio=True), Goal(0.75, True, of_ratio=True, floor=True)),
    (BURSTS, NCHAN): (Goal(3.0, True, of_ratio=True),),
    (TAIL, RAW_NAME): (Goal(2.0, False, of_ratio=True),),
}
BESIDE = {one: (NCHAN, RAW_NAME) if one != LIBRARY else (NCHAN, RAW_NAME, SDK, LISTEN) for one in OURS}
"""The library is what an author would put in the place of the SDK's own ways."""

Run = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Taken:
    """The runs of every contender, in turns, and why others are missing."""

    runs: dict[str, list[Run]]
    missing: dict[str, str]

    def rows(
        self,
        what: str,
        unit: str,
        of: Callable[[Run], float],
        note: Callable[[str, str], str] | None = None,
        beside: Mapping[str, Sequence[str]] = BESIDE,
    ) -> Iterator[Row]:
        """Each of Clarion's ways beside peers, by what `of` says of a run."""
        values = {name: [of(run) for run in runs] for name, runs in self.runs.items()}
        for ours in OURS:
            for peer in beside[ours]:
                goals = GOALS.get((what, peer), ())
                if peer in self.missing:
                    yield Row.alone(what, unit, values[ours], goals, peer, note=self.missing[peer], who=ours)
                else:
                    said = note(ours, peer) if note else ""
                    yield Row.paired(what, unit, values[ours], values[peer], peer, goals=goals, note=said, who=ours)

    def burst_sizes(self, ours: str, peer: str) -> str:
        events = {one.name: one.bursts[1] for one in CONTENDERS}[peer]
        return self.sizes(ours, peer) + ("" if events == BURST else f", whose bursts are of {events}")

    def sizes(self, ours: str, peer: str) -> str:
        mine, other = (median([run["bytes"] / run["frames"] for run in self.runs[name]]) for name in (ours, peer))
        return f"{mine:.0f} bytes a frame, {other:.0f} of the other's"


def fanout(generator: Generator) -> list[Row]:
    """One event at a time, and bursts, to 1,000 streams; the next when every stream has read what came before."""
    singles, bursts = generator.rounds(SINGLE_TURNS), generator.rounds(BURST_TURNS)
    with ExitStack() as stack:
        running, missing = _started(stack)
        single = _in_turns(running, missing, singles, lambda one, server: one.one_at_a_time(generator, server))
        burst = _in_turns(running, missing, bursts, lambda one, server: one.in_bursts(generator, server))
    beside_sdk = dict.fromkeys(OURS, (SDK,))
    return [
        *single.rows(SINGLES, "frames/s", _rate, single.sizes),
        *burst.rows(BURSTS, "frames/s", _rate, burst.burst_sizes),
        *single.rows(TAIL, "ms", lambda run: float(run["round_us"]["p99"]) / 1000),
        *single.rows(PROCESSOR, "µs", _processor),
        *burst.rows(f"server's processor time of a frame, bursts of {BURST}", "µs", _processor),
        *single.rows(f"opening {STREAMS:,} streams", "s", lambda run: float(run["open_s"]), beside=beside_sdk),
    ]


def _started(stack: ExitStack) -> tuple[list[tuple[Contender, Server]], dict[str, str]]:
    running, missing = [], {}
    for one in CONTENDERS:
        try:
            running.append((one, stack.enter_context(one.start())))
        except PeerMissing as reason:
            missing[one.name] = str(reason)
    return running, missing


def _in_turns(
    running: list[tuple[Contender, Server]],
    missing: dict[str, str],
    turns: int,
    once: Callable[[Contender, Server], Run],
) -> Taken:
    found: dict[str, list[Run]] = {one.name: [] for one, _ in running}
    for _ in range(turns):
        for one, server in running:
            found[one.name].append(once(one, server))
    return Taken(found, missing)


def _rate(run: Run) -> float:
    return float(run["frames"] / run["seconds"])


def _processor(run: Run) -> float:
    return float(run["server_s"] / run["frames"] * 1e6)
