"""Reading the log for polls: the same filter, gate and hooks as on a stream, bounded, and free at the head."""

import asyncio
from typing import Any

import pytest

from clarion.errors import Forbidden, HookFailed
from clarion.hub import reading
from clarion.hub.protocols import Viewer
from clarion.model import Event, Outcome, Principal, Subscription
from clarion.stores.protocols import Retention
from clarion.testing.hubs import HubRig, opened_hub, settle

VIEWER = Viewer(Principal("acme", "alice"), "laptop", "key")


def interest(*topics: str, purpose: str | None = None, **filter: Any) -> Subscription:
    return Subscription("sub", "acme", "alice", "laptop", topics or ("deal.*",), filter, None, purpose, 0, 0)


async def read(rig: HubRig, subscription: Subscription, after: int = 0, limit: int = 100, lens: Any = None) -> Any:
    return await rig.hub.reader.read(VIEWER, "poll", subscription, lens, after=after, limit=limit)


async def test_it_gives_what_matches_in_order_and_where_it_got_to() -> None:
    async with opened_hub() as rig:
        for topic in ("deal.won", "contact.created", "deal.lost", "contact.created"):
            await rig.emit(topic)
        extract = await read(rig, interest())
        assert [event.topic for event in extract.shown] == ["deal.won", "deal.lost"]
        assert (extract.position, extract.more) == (4, False)


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
async def test_portions_join_without_gap_or_duplicate_whatever_the_limit(limit: int) -> None:
    async with opened_hub() as rig:
        await rig.emit_some(10)
        found, position, more = [], 0, True
        while more:
            extract = await read(rig, interest(), position, limit)
            assert len(extract.shown) <= limit
            found += [event.seq for event in extract.shown]
            position, more = extract.position, extract.more
        assert found == list(range(1, 11))


async def test_a_filter_that_matches_little_is_answered_in_bounded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_SCANNED", 4)
    monkeypatch.setattr(reading, "PAGE", 2)
    async with opened_hub() as rig:
        await rig.emit_some(10)
        extract = await read(rig, interest(n=9))
        assert (extract.shown, extract.position, extract.more) == ([], 4, True)


async def test_what_retention_took_is_told() -> None:
    async with opened_hub() as rig:
        await rig.emit_some(5)
        await rig.clock.advance(5)
        await rig.emit_some(2)
        await rig.backend.log.trim(Retention(keep_after=rig.clock.now()))
        extract = await read(rig, interest())
        assert (extract.floor, [event.seq for event in extract.shown]) == (5, [6, 7])


async def test_the_gate_is_asked_and_its_answer_is_noted() -> None:
    async with opened_hub() as rig:
        await rig.consent("bob", "suppressed")
        await rig.emit(subjects=["bob"])
        await rig.emit(subjects=["eve"])
        await rig.emit(audience=["somebody else"])
        extract = await read(rig, interest())
        assert [event.seq for event in extract.shown] == [2]
        rows = await rig.hub.deliveries.rows("acme", subscription_id="sub", limit=10)
        assert sorted((row.seq, row.outcome) for row in rows) == [(1, Outcome.REFUSED), (2, Outcome.DELIVERED)]


async def test_consent_that_is_withdrawn_while_hooks_are_asked_keeps_the_event_back() -> None:
    class Withdrawing:
        async def view(self, event: Event) -> Event | None:
            await rig.consent("bob", "withdrawn")
            return event

    async with opened_hub() as rig:
        await rig.emit(subjects=["bob"])
        extract = await read(rig, interest(), lens=Withdrawing())
        assert list(extract.shown) == []
        assert (await rig.hub.deliveries.totals("acme")).delivered == 0


async def test_an_event_whose_hook_fails_is_kept_back_and_the_position_passes_it() -> None:
    class Failing:
        async def view(self, event: Event) -> Event | None:
            if event.seq == 2:
                raise HookFailed()
            return event

    async with opened_hub() as rig:
        await rig.emit_some(3)
        extract = await read(rig, interest(), lens=Failing())
        assert ([event.seq for event in extract.shown], extract.position) == ([1, 3], 3)
        assert (await rig.hub.deliveries.totals("acme")).dropped == 1


async def test_waiting_ends_with_what_matches_and_with_nothing_else() -> None:
    async with opened_hub() as rig:
        waiting = asyncio.create_task(rig.hub.reader.await_match(VIEWER, "poll", interest(n=7), after=0, seconds=30.0))
        await settle()
        await rig.emit("deal.won", {"n": 7}, tenant="other")
        await rig.emit("deal.won", {"n": 6})
        await rig.dispatched()
        assert not waiting.done()
        await rig.emit("deal.won", {"n": 7})
        await rig.dispatched()
        assert await waiting == (True, 0)


async def test_waiting_in_vain_tells_how_far_nothing_came() -> None:
    async with opened_hub() as rig:
        waiting = asyncio.create_task(rig.hub.reader.await_match(VIEWER, "poll", interest(n=7), after=0, seconds=30.0))
        await settle()
        await rig.emit("deal.won", {"n": 6})
        await rig.dispatched()
        await rig.clock.advance(30)
        assert await waiting == (False, 1)


async def test_what_was_dispatched_since_it_was_read_is_read_again_at_once() -> None:
    async with opened_hub() as rig:
        await rig.emit("deal.won", {"n": 7})
        await rig.dispatched()
        found = await rig.hub.reader.await_match(VIEWER, "poll", interest(n=7), after=0, seconds=30.0)
        assert found == (True, 0)


async def test_a_credential_that_is_revoked_ends_the_wait_and_nobody_elses() -> None:
    async with opened_hub() as rig:
        mine = asyncio.create_task(rig.hub.reader.await_match(VIEWER, "poll", interest(), after=0, seconds=30.0))
        other = Viewer(Principal("acme", "bob"), "laptop", "another key")
        theirs = asyncio.create_task(rig.hub.reader.await_match(other, "poll", interest(), after=0, seconds=30.0))
        await settle()
        rig.hub.end("key")
        with pytest.raises(Forbidden):
            await mine
        assert not theirs.done()
        rig.hub.close()
        assert await theirs == (True, 0)


async def test_nothing_is_opened_with_a_credential_that_was_revoked_while_its_request_came_in() -> None:
    async with opened_hub() as rig:
        rig.hub.end("key")
        with pytest.raises(Forbidden):
            async with rig.stream():
                pass
        with pytest.raises(Forbidden):
            rig.hub.check_credential("key")
        rig.hub.check_credential("another key")


async def test_a_moment_is_found_without_reading_what_lies_before_it() -> None:
    async with opened_hub() as rig:
        moments = []
        for _ in range(20):
            moments.append(rig.clock.now())
            await rig.emit()
            await rig.clock.advance(1)
        bounds = await rig.hub.bounds("acme")
        assert await rig.hub.reader.since("acme", moments[12], bounds, 0) == 12
        assert await rig.hub.reader.since("acme", moments[12], bounds, 15) == 15
        assert await rig.hub.reader.since("acme", 0, bounds, 0) == 0
        assert await rig.hub.reader.since("acme", rig.clock.now(), bounds, 0) == 20
