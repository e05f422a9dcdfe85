"""The ring: bounded by number and by bytes, oldest out first, and every byte given back."""

from clarion.hub.ring import EVENT_OVERHEAD, RING_CAPACITY, Entry, Parcel, Ring, RingBudget
from clarion.model import Event
from clarion.testing.contracts.examples import draft, subscription


def parcel(seq: int = 1, size: int = 10) -> Parcel:
    return Parcel(Event.of(draft(f"e{seq}", payload_json=b"x" * size), seq))


def entry(one: Parcel) -> Entry:
    return Entry(one, [subscription("s1")])


def test_a_ring_holds_a_hundred_events_unless_told_otherwise() -> None:
    assert Ring(RingBudget()).capacity == RING_CAPACITY == 100


def test_the_event_beyond_the_capacity_pushes_the_oldest_out() -> None:
    ring = Ring(RingBudget())
    entries = [entry(parcel(number)) for number in range(117)]
    dropped = [gone for one in entries for gone in ring.push(one)]
    assert dropped == entries[:17]
    assert list(ring) == entries[17:]
    assert len(ring) == 100


def test_an_event_counts_once_however_many_rings_hold_it() -> None:
    budget = RingBudget()
    shared = parcel(size=500)
    rings = [Ring(budget) for _ in range(5)]
    for ring in rings:
        ring.push(entry(shared))
    assert budget.used == 500 + EVENT_OVERHEAD
    for ring in rings[:-1]:
        ring.clear()
    assert budget.used == 500 + EVENT_OVERHEAD
    rings[-1].pop()
    assert budget.used == 0


def test_a_ring_over_the_budget_drops_its_own_oldest_and_nobody_elses() -> None:
    budget = RingBudget(limit=4 * (10 + EVENT_OVERHEAD))
    other, mine = Ring(budget), Ring(budget)
    for number in range(2):
        other.push(entry(parcel(number)))
    entries = [entry(parcel(number)) for number in range(5)]
    dropped = [gone for one in entries for gone in mine.push(one)]
    assert dropped == entries[:3]
    assert list(mine) == entries[3:]
    assert len(other) == 2
    assert budget.used <= budget.limit


def test_an_event_larger_than_what_is_left_of_the_budget_is_dropped_itself() -> None:
    budget = RingBudget(limit=2_000)
    Ring(budget).push(entry(parcel(1)))
    ring = Ring(budget)
    large = entry(parcel(2, size=1_500))
    assert ring.push(large) == [large]
    assert len(ring) == 0
    assert budget.used == 10 + EVENT_OVERHEAD


def test_dropping_a_shared_event_frees_nothing_until_the_last_ring_lets_go() -> None:
    budget = RingBudget(limit=2 * (10 + EVENT_OVERHEAD))
    first, second = Ring(budget, capacity=1), Ring(budget, capacity=1)
    one, two = parcel(1), parcel(2)
    for ring in (first, second):
        ring.push(entry(one))
    first.push(entry(two))
    assert budget.used == 2 * (10 + EVENT_OVERHEAD)
    second.push(entry(two))
    assert budget.used == 10 + EVENT_OVERHEAD


def test_discarding_takes_out_exactly_those_entries_and_gives_their_bytes_back() -> None:
    budget = RingBudget()
    ring = Ring(budget)
    shared = parcel()
    twins = [entry(shared), entry(shared), entry(parcel(2))]  # equal, yet not the same
    for one in twins:
        ring.push(one)
    ring.discard([twins[1]])
    left = list(ring)
    assert left == [twins[0], twins[2]]
    assert left[0] is twins[0]
    ring.discard([])
    assert len(ring) == 2
    ring.clear()
    assert budget.used == 0
    assert len(ring) == 0
