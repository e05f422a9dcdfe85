"""What every backend that outlives its process must do beside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from clarion.model import ConsentState, Counters, Position
from clarion.stores.protocols import Appended, Retention
from clarion.testing.contracts.examples import (
    Opening,
    consent,
    delivery,
    draft,
    drafts,
    key,
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
                await backend.subscriptions.put(subscription("s1"), limit=1)
                await backend.subscriptions.delete("acme", "alice", "s1", 40)
                await backend.keys.add(key("k1"))
                line = await backend.consents.append(consent("p1", ConsentState.WITHDRAWN))
                await backend.topics.put("acme", topic("a"), limit=1)
            async with reopen() as backend:
                row, activated = await backend.subscriptions.put(subscription("s2"), limit=1)
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
