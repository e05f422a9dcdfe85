"""The ring: bounded by number and by bytes, oldest out first, and every byte given back."""

from clarion.hub.ring import EVENT_OVERHEAD, RING_CAPACITY, Entry, Parcel, Ring, RingBudget
from clarion.model import Event
from clarion.testing.contracts.examples import draft, subscription


def parcel(seq: int = 1, size: int = 10) -> Parcel:
    return Parcel(Event.of(draft(f"e{seq}", payload_json=b"x" * size), seq))


def never(dropped: Entry) -> None:
    raise AssertionError(f"{dropped} was dropped")


def entry(one: Parcel) -> Entry:
    return Entry(one, [subscription("s1")])


def test_a_ring_holds_a_hundred_events_unless_told_otherwise() -> None:
    assert Ring(RingBudget(), on_drop=never).capacity == RING_CAPACITY == 100


def test_the_event_beyond_the_capacity_pushes_the_oldest_out() -> None:
    dropped: list[Entry] = []
    ring = Ring(RingBudget(), on_drop=dropped.append)
    entries = [entry(parcel(number)) for number in range(117)]
    for one in entries:
        ring.push(one)
    assert dropped == entries[:17]
    assert list(ring) == entries[17:]
    assert len(ring) == 100


def test_an_event_counts_once_however_many_rings_hold_it() -> None:
    budget = RingBudget()
    shared = parcel(size=500)
    rings = [Ring(budget, on_drop=never) for _ in range(5)]
    for ring in rings:
        ring.push(entry(shared))
    assert budget.used == 500 + EVENT_OVERHEAD
    for ring in rings[:-1]:
        ring.clear()
    assert budget.used == 500 + EVENT_OVERHEAD
    rings[-1].pop()
    assert budget.used == 0


def test_the_ring_that_holds_the_most_drops_its_oldest_and_nobody_elses() -> None:
    budget = RingBudget(limit=4 * (10 + EVENT_OVERHEAD))
    dropped: list[Entry] = []
    other, mine = Ring(budget, on_drop=never), Ring(budget, on_drop=dropped.append)
    for number in range(2):
        other.push(entry(parcel(number)))
    entries = [entry(parcel(number)) for number in range(5)]
    for one in entries:
        mine.push(one)
    assert dropped == entries[:3]
    assert list(mine) == entries[3:]
    assert len(other) == 2
    assert budget.used <= budget.limit


def test_an_event_larger_than_what_is_left_of_the_budget_is_dropped_itself() -> None:
    budget = RingBudget(limit=2_000)
    dropped: list[Entry] = []
    Ring(budget, on_drop=never).push(entry(parcel(1)))
    ring = Ring(budget, on_drop=dropped.append)
    large = entry(parcel(2, size=1_500))
    ring.push(large)
    assert dropped == [large]
    assert len(ring) == 0
    assert budget.used == 10 + EVENT_OVERHEAD


def test_dropping_a_shared_event_frees_nothing_until_the_last_ring_lets_go() -> None:
    budget = RingBudget(limit=2 * (10 + EVENT_OVERHEAD))
    dropped: list[Entry] = []
    first, second = (Ring(budget, capacity=1, on_drop=dropped.append) for _ in range(2))
    one, two = parcel(1), parcel(2)
    for ring in (first, second):
        ring.push(entry(one))
    first.push(entry(two))
    assert budget.used == 2 * (10 + EVENT_OVERHEAD)
    second.push(entry(two))
    assert budget.used == 10 + EVENT_OVERHEAD


def test_discarding_takes_out_exactly_those_entries_and_gives_their_bytes_back() -> None:
    budget = RingBudget()
    ring = Ring(budget, on_drop=never)
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
