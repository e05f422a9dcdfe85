"""The short way to a transport and the long one give the same, frame for frame and in the audit.

Twins are two streams that differ in nothing but whether the dispatcher may write to their transport by itself. Whatever
is emitted, stalled, released, granted or withdrawn, they get the same events, and the audit says the same of both.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import event as label
from hypothesis import given, settings
from hypothesis import strategies as st

from clarion.hub import express
from clarion.hub.hub import HubLimits
from clarion.hub.shared import Phase
from clarion.model import Latest, Principal, Subscription
from clarion.sources.emit import Emission
from clarion.testing.hubs import HubRig, OpenStream, opened_hub, settle, until
from clarion.testing.sinks import FakeSink

CAPACITY = 6
PEOPLE = ("ann", "bob")
WISHES: tuple[tuple[tuple[str, ...], dict[str, Any], str | None], ...] = (
    (("deal.*",), {}, None),
    (("deal.*",), {}, "sales"),
    (("deal.won",), {"amount_gte": 50}, None),
    (("*",), {}, "sales"),
)
"""Topics, filter and purpose of subscriptions; some share their patterns and filter, not their purpose."""

events = st.fixed_dictionaries(
    {
        "topic": st.sampled_from(("deal.won", "deal.lost", "ticket.opened")),
        "amount": st.sampled_from((10, 90)),
        "subjects": st.lists(st.sampled_from(PEOPLE), max_size=2),
        "audience": st.sampled_from((None, None, None, None, ["alice"], ["eve"])),
    }
)
actions = st.lists(
    st.one_of(
        *[st.tuples(st.just("emit"), st.lists(events, min_size=1, max_size=2 * CAPACITY))] * 4,
        st.tuples(st.just("pause"), st.none()),
        st.tuples(st.just("resume"), st.one_of(st.none(), st.integers(1, 3))),
        st.tuples(st.just("consent"), st.tuples(st.sampled_from(PEOPLE), st.sampled_from(("granted", "withdrawn")))),
        st.tuples(st.just("more"), st.sampled_from(range(len(WISHES)))),
        st.tuples(st.just("less"), st.none()),
    ),
    min_size=4,
    max_size=25,
)


@dataclass
class Twin:
    """One client and its stream."""

    client: str
    stream: OpenStream
    subscriptions: list[Subscription]

    def seen(self) -> list[tuple[int, int]]:
        """Which event came by which of its subscriptions, in order."""
        places = {one.id: number for number, one in enumerate(self.subscriptions)}
        return [(frame.seq, places[frame.subscription]) for frame in self.stream.events]


async def subscribe(rig: HubRig, twin: Twin, wish: int) -> None:
    topics, filter, purpose = WISHES[wish]
    made = await rig.subscribe(*topics, filter=filter, purpose=purpose, client=twin.client)
    if made.id not in [one.id for one in twin.subscriptions]:  # the same wish again is the same subscription
        twin.subscriptions.append(made)


async def act(rig: HubRig, twins: list[Twin], name: str, argument: Any) -> None:
    if name == "emit":
        emissions = [
            Emission(one["topic"], {"amount": one["amount"]}, subjects=one["subjects"], audience=one["audience"])
            for one in argument
        ]
        await rig.emitter.emit_many(Principal("acme", "publisher"), emissions)
        await rig.dispatched()
    elif name == "consent":
        person, state = argument
        await rig.consent(person, state)
        await rig.consent(person, state, purpose="sales")
    for twin in twins:
        if name == "pause":
            twin.stream.sink.pause()
        elif name == "resume":
            twin.stream.sink.resume(argument)
        elif name == "more" and len(twin.subscriptions) < 4:
            await subscribe(rig, twin, argument)
        elif name == "less" and len(twin.subscriptions) > 1:
            await rig.unsubscribe(twin.subscriptions[-1])
    await settle()


@given(actions, st.integers(0, len(WISHES) - 1))
@settings(max_examples=150, deadline=None)
def test_twins_get_the_same(steps: list[tuple[str, Any]], wish: int) -> None:
    async def main() -> None:
        async with opened_hub(limits=HubLimits(ring_capacity=CAPACITY)) as rig, AsyncExitStack() as stack:
            twins = []
            for direct in (True, False):
                client = f"direct-{direct}"
                stream = await stack.enter_async_context(
                    rig.stream(Latest(), client=client, sink=FakeSink(direct=direct))
                )
                twins.append(Twin(client, stream, []))
                await subscribe(rig, twins[-1], wish)
            for name, argument in steps:
                await act(rig, twins, name, argument)
            for twin in twins:
                twin.stream.sink.resume()
            await rig.dispatched()
            await until(lambda: all(twin.stream.connection.phase is Phase.LIVE for twin in twins))
            await settle()
            one, other = twins
            assert one.seen() == other.seen()
            lags = [[frame.params["dropped_count"] for frame in twin.stream.of("subscription.lag")] for twin in twins]
            assert lags[0] == lags[1]
            counted = []
            for twin in twins:
                ids = [each.id for each in twin.subscriptions]
                counters = await rig.backend.audit.counters("acme", ids)
                counted.append(
                    [(counters[each].delivered, counters[each].dropped, counters[each].refused) for each in ids]
                )
            assert counted[0] == counted[1]
            assert sum(delivered for delivered, _, _ in counted[0]) == len(one.seen())
            writes = [len(twin.stream.sink.writes) for twin in twins]
            label(f"events: {min(len(one.seen()) // 10, 3)}0+, writes alike: {writes[0] == writes[1]}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(express, "WRITE_CHUNK", 2_000)
        asyncio.run(main())
