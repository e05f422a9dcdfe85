"""The window holds a contiguous run, whatever is appended, evicted and trimmed."""

from hypothesis import given
from hypothesis import strategies as st

from clarion.model import Event
from clarion.stores.protocols import Stored
from clarion.stores.window import Window
from clarion.testing.contracts.examples import draft

steps = st.lists(
    st.one_of(
        st.lists(st.sampled_from(["acme", "globex"]), min_size=1, max_size=6),
        st.integers(0, 30),
    ),
    max_size=12,
)


@given(steps, st.none() | st.integers(1, 8), st.none() | st.integers(1, 9000))
def test_a_window_answers_what_the_whole_log_would_or_nothing(
    wanted: list[list[str] | int], max_events: int | None, max_bytes: int | None
) -> None:
    window = Window(max_events=max_events, max_bytes=max_bytes)
    every: list[Stored] = []
    heads = {"acme": 0, "globex": 0}
    for step in wanted:
        if isinstance(step, int):
            window.evict(min(step, len(every)))
        else:
            new = []
            for tenant in step:
                heads[tenant] += 1
                event = Event.of(draft("x", tenant=tenant), heads[tenant])
                new.append(Stored(len(every) + len(new) + 1, event))
            every.extend(new)
            window.extend(new)
        assert window.end == len(every)
        assert list(window.stored) == every[window.first - 1 :]
        assert window.size == sum(Window.weigh(one.event) for one in window.stored)
        assert max_events is None or len(window.stored) <= max_events
        assert max_bytes is None or window.size <= max_bytes
        for after in range(len(every) + 2):
            whole = every[after : after + 3]
            assert window.tail(after, 3) == (whole if after >= window.first - 1 else None)
        for tenant, head in heads.items():
            run = [one.event for one in every if one.event.tenant == tenant]
            held = [one.event for one in window.stored if one.event.tenant == tenant]
            for after in range(head):
                found = window.read(tenant, after, head, 2)
                covered = bool(held) and held[0].seq <= after + 1
                assert found == (run[after : after + 2] if covered else None)


def test_a_hole_forgets_what_was_before_it() -> None:
    window = Window()
    window.extend([Stored(1, Event.of(draft("a"), 1))])
    window.extend([Stored(3, Event.of(draft("c"), 3))])
    assert (window.first, window.end) == (3, 3)
    assert window.tail(1, 9) is None
    assert window.read("acme", 1, 3, 9) is None


def test_a_read_up_to_what_is_not_held_yet_is_no_answer() -> None:
    window = Window()
    window.extend([Stored(1, Event.of(draft("a"), 1))])
    assert window.read("acme", 0, 2, 9) is None
    assert [event.seq for event in window.read("acme", 0, 2, 1) or []] == [1]
