"""What every backend that outlives its process must do beside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from clarion.model import ConsentState, Counters, Event, Position
from clarion.stores.protocols import Appended, Retention
from clarion.testing.contracts.examples import (
    FULL,
    Opening,
    at_most,
    consent,
    delivery,
    draft,
    drafts,
    fields_of,
    key,
    sized,
    subscription,
    topic,
)

__all__ = ["DurableContract", "Reopen"]

Reopen: TypeAlias = Callable[[], Opening]
"""Open the backend at one place; what an earlier opening left there is found again."""


class DurableContract:
    """Closing and opening again at the same place."""

    def lasting(self) -> AbstractContextManager[Reopen]:
        """A place for one backend, removed on leaving."""
        raise NotImplementedError

    async def test_the_log_goes_on_after_reopening(self) -> None:
        with self.lasting() as reopen:
            async with reopen() as backend:
                await backend.log.append([*drafts(3), draft("x", tenant="globex")])
                before, end = await backend.log.bounds("acme"), await backend.log.end()
            async with reopen() as backend:
                assert await backend.log.bounds("acme") == before
                assert await backend.log.end() == end
                assert [one.event.event_id for one in await backend.log.tail(0, limit=9)] == ["e1", "e2", "e3", "x"]
                answers = await backend.log.append([draft("e2", payload={"n": 2}), draft("e4")])
                assert answers == [Appended(before.epoch, 2, True), Appended(before.epoch, 4, False)]
                assert [event.seq for event in (await backend.log.read("acme", 0, limit=9)).events] == [1, 2, 3, 4]
                assert [one.event.seq for one in await backend.log.tail(end, limit=9)] == [4]
                assert [one.event.seq for one in await backend.log.tail(end - 2, limit=2)] == [3, 1]

    async def test_every_field_lasts_as_it_was_given(self) -> None:
        with self.lasting() as reopen:
            async with reopen() as backend:
                await backend.log.append([FULL, draft("bare"), draft("nobody", audience=())])
            async with reopen() as backend:
                page = await backend.log.read("acme", 0, limit=9)
                for events in (page.events, [one.event for one in await backend.log.tail(0, limit=9)]):
                    assert fields_of(events[0]) == fields_of(Event.of(FULL, 1))
                    assert fields_of(events[1]) == fields_of(Event.of(draft("bare"), 2))
                    assert (events[1].audience, events[2].audience) == (None, ())

    async def test_a_long_log_is_read_and_tailed_whole(self) -> None:
        with self.lasting() as reopen:
            async with reopen() as backend:
                for first in range(1, 10_001, 500):
                    await backend.log.append(drafts(500, first=first, tenant="acme" if first % 1000 == 1 else "globex"))
                offset = 0
                seen: list[str] = []
                while some := await backend.log.tail(offset, limit=700):
                    offset = some[-1].offset
                    seen.extend(one.event.event_id for one in some)
                assert seen == [f"e{number}" for number in range(1, 10_001)]
                seqs: list[int] = []
                while len(seqs) < 5000:
                    page = await backend.log.read("acme", seqs[-1] if seqs else 0, limit=700)
                    assert page.bounds.head == 5000
                    assert page.events
                    seqs.extend(event.seq for event in page.events)
                assert seqs == list(range(1, 5001))

    async def test_the_bytes_of_what_was_written_before_bound_a_read_and_a_tail(self) -> None:
        with self.lasting() as reopen:
            async with reopen() as backend:
                some = (500, 300, 300, 5000, 100, 100)
                sizes = [*some, *[100] * 600]
                await backend.log.append([draft(f"e{n}", payload_json=sized(size)) for n, size in enumerate(sizes)])
            async with reopen() as backend:
                wanted = {800: [1, 2], 799: [1], 1100: [1, 2, 3], 1: [1], 6300: [*range(1, 7)], 10**9: [*range(1, 607)]}
                for most, seqs in wanted.items():
                    page = await backend.log.read("acme", 0, limit=999, max_bytes=most)
                    assert [event.seq for event in page.events] == seqs
                    assert page.bounds.head == 606
                    tail = await backend.log.tail(0, limit=999, max_bytes=most)
                    assert [one.event.seq for one in tail] == seqs
                page = await backend.log.read("acme", 3, upto=4, limit=2, max_bytes=1)
                assert [event.seq for event in page.events] == [4]

    async def test_positions_never_restart_after_everything_was_trimmed(self) -> None:
        with self.lasting() as reopen:
            async with reopen() as backend:
                await backend.log.append(drafts(3))
                end = await backend.log.end()
                assert await backend.log.trim(Retention(max_bytes=0)) == 3
            async with reopen() as backend:
                bounds = await backend.log.bounds("acme")
                assert (bounds.floor, bounds.head) == (3, 3)
                assert await backend.log.end() == end
                assert await backend.log.append([draft("e1")]) == [Appended(bounds.epoch, 4, False)]
                assert [one.offset for one in await backend.log.tail(0, limit=9)] == [end + 1]

    async def test_a_renewed_epoch_lasts(self) -> None:
        with self.lasting() as reopen:
            async with reopen() as backend:
                await backend.log.append(drafts(3))
                epoch = await backend.log.renew_epoch()
            async with reopen() as backend:
                bounds = await backend.log.bounds("acme")
                assert (bounds.epoch, bounds.start, bounds.head) == (epoch, 3, 3)
                assert str(Position(bounds.epoch, bounds.head)) == f"{epoch}-3"

    async def test_subscriptions_keys_consents_and_topics_last(self) -> None:
        with self.lasting() as reopen:
            async with reopen() as backend:
                await backend.subscriptions.put(subscription("s1"), limits=at_most(1))
                await backend.subscriptions.delete("acme", "alice", "s1", 40, limits=at_most(9))
                await backend.keys.add(key("k1"))
                line = await backend.consents.append(consent("p1", ConsentState.WITHDRAWN))
                await backend.topics.put("acme", topic("a"), limit=1)
            async with reopen() as backend:
                row, activated = await backend.subscriptions.put(subscription("s2"), limits=at_most(1))
                assert (row.id, activated) == ("s1", True)
                assert await backend.keys.find("k1") == key("k1")
                assert await backend.consents.history("acme", "p1", limit=9) == [line]
                assert (await backend.consents.append(consent("p1", ConsentState.GRANTED))).seq == line.seq + 1
                assert await backend.topics.of_tenant("acme") == [topic("a")]

    async def test_a_clean_close_writes_all_of_the_audit(self) -> None:
        with self.lasting() as reopen:
            async with reopen() as backend:
                for seq in range(1, 501):
                    backend.audit.record([delivery(seq, "s1", "s2")])
            async with reopen() as backend:
                assert await backend.audit.totals("acme") == Counters(1000, 0, 0, 500)
                assert len(await backend.audit.rows("acme", limit=9999)) == 1000
                backend.audit.record([delivery(501, "s1")])
                assert (await backend.audit.counters("acme", ["s1"]))["s1"].delivered == 501
