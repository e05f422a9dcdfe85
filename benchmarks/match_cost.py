"""What matching one event costs with 1,000 and with 100,000 subscriptions, of which 10 match it in both.

Half of the subscriptions share one topic pattern and differ in an equality clause, 1 % begin with a wildcard, the
others have a topic or a prefix glob of their own. Warm: topics seen before. New: every topic is new, as with ids in
topics. Payloads are decoded beforehand: that cost is the event's, not the subscriptions'.

    python benchmarks/match_cost.py
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Sequence

from clarion.encoding import encode
from clarion.filters import compile_filter
from clarion.hub.index import TopicIndex
from clarion.model import Event
from clarion.topics import glob

SIZES = (1_000, 100_000)
HITS = 10
ROUNDS = 15
EVENTS = 2_000  # per round
SHARED = 5  # subscriptions that name the same account in the half that shares a pattern

Wish = tuple[list[str], dict[str, object]]


def subscriptions(size: int) -> list[Wish]:
    """`size` subscriptions, 10 of which match an event `deal.<x>.updated` of any account below `size // 10`."""
    half, wildcards = size // 2, size // 100
    wishes: list[Wish] = [(["deal.*"], {"account_id": f"acc_{i // SHARED}"}) for i in range(half)]
    wishes += [(["*.updated"], {}), (["*.updated"], {"amount_gte": 10_000}), (["*deal*"], {"stage_to": "won"})]
    wishes += [([f"*.kind_{i}"], {}) for i in range(wildcards - 3)]
    wishes += [(["deal.*.updated"], {"amount_gt": 5, "owner": "rep"}), (["deal.[a-z]*", "deal.*"], {"stage_to": "won"})]
    rest = size - len(wishes)
    wishes += [([f"team_{i}.run.*"], {}) for i in range(rest // 2)]
    wishes += [([f"team_{i}.done"], {"status": "failed"}) for i in range(rest - rest // 2)]
    return wishes


def events(size: int, count: int, topics: Sequence[str], chance: random.Random) -> list[Event]:
    """`count` events of random accounts, on `topics` in turn, with decoded payloads."""
    made = []
    for seq in range(count):
        payload = {
            "account_id": f"acc_{chance.randrange(size // 2 // SHARED)}",
            "amount": 150_000,
            "new_stage": "won",
            "owner_id": "rep",
            "name": "Acme",
            "nested": {"full_name": "a/b"},
        }
        topic = topics[seq % len(topics)]
        event = Event("t", seq, str(seq), "bench", topic, "crm", encode(payload), 0, 0)
        _ = event.payload
        made.append(event)
    return made


def nanoseconds(index: TopicIndex[int], batches: Sequence[Sequence[Event]]) -> float:
    """The median over `batches` of what one match costs."""
    costs = []
    for batch in batches:
        begun = time.perf_counter_ns()
        for event in batch:
            index.match(event)
        costs.append((time.perf_counter_ns() - begun) / len(batch))
    return statistics.median(costs)


def measure(size: int, chance: random.Random) -> tuple[float, float, float]:
    """Seconds to add all, nanoseconds a match warm, and with new topics."""
    begun = time.perf_counter()
    index: TopicIndex[int] = TopicIndex()
    for number, (patterns, filter) in enumerate(subscriptions(size)):
        index.add(number, [glob(pattern) for pattern in patterns], compile_filter(filter))
    adding = time.perf_counter() - begun
    assert len(index) == size
    warm = events(size, EVENTS, [f"deal.t{i}.updated" for i in range(50)], chance)
    for event in warm:
        found = index.match(event)
        assert len(found) == len(set(found)) == HITS, sorted(found)
    new = [events(size, EVENTS, [f"deal.n{r}_{i}.updated" for i in range(EVENTS)], chance) for r in range(ROUNDS)]
    gc.collect()
    gc.freeze()
    return adding, nanoseconds(index, [warm] * ROUNDS), nanoseconds(index, new)


def main() -> None:
    chance = random.Random(2)
    print(f"{'subscriptions':>13}  {'added in':>8}  {'warm':>13}  {'new topics':>13}   ({HITS} of them match)")
    rows = {size: measure(size, chance) for size in SIZES}
    for size, (adding, warm, new) in rows.items():
        print(f"{size:>13,}  {adding:>6.2f} s  {warm:>7,.0f} ns/ev  {new:>7,.0f} ns/ev")
    (_, warm_few, new_few), (_, warm_many, new_many) = (rows[size] for size in SIZES)
    print(f"{'ratio':>13}  {'':>8}  {warm_many / warm_few:>13.2f}  {new_many / new_few:>13.2f}   (at most 2)")


if __name__ == "__main__":
    main()
