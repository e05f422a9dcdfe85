"""What every Audit must do."""

from __future__ import annotations

import asyncio

from clarion.model import Counters, Outcome
from clarion.stores.protocols import DeliveryRow
from clarion.testing.contracts.examples import Opening, delivery

__all__ = ["AuditContract"]


class AuditContract:
    """Rows, counters and totals that agree with one another."""

    def open(self) -> Opening:
        raise NotImplementedError

    async def test_n_deliveries_are_n_rows_and_counters_of_n(self) -> None:
        async with self.open() as backend:
            for seq in range(1, 31):
                backend.audit.record([delivery(seq, "s1", "s2")])
            await backend.audit.flush()
            rows = await backend.audit.rows("acme", limit=1000)
            assert len(rows) == 60
            counters = await backend.audit.counters("acme", ["s1", "s2", "s3"])
            assert counters == {"s1": Counters(30, 0, 0, 30), "s2": Counters(30, 0, 0, 30), "s3": Counters()}
            assert await backend.audit.totals("acme") == Counters(60, 0, 0, 30)

    async def test_counters_hold_what_was_just_recorded(self) -> None:
        async with self.open() as backend:
            for seq in range(1, 60):
                backend.audit.record([delivery(seq, "s1")])
                if seq % 7 == 0:
                    await asyncio.sleep(0)
                assert (await backend.audit.counters("acme", ["s1"]))["s1"].delivered == seq
                assert (await backend.audit.totals("acme")).delivered == seq

    async def test_drops_and_refusals_have_rows_and_counters_of_their_own(self) -> None:
        async with self.open() as backend:
            backend.audit.record(
                [
                    delivery(1, "s1", at=5),
                    delivery(2, "s1", "s2", outcome=Outcome.DROPPED, at=6),
                    delivery(3, "s2", outcome=Outcome.REFUSED, at=7),
                ]
            )
            await backend.audit.flush()
            counters = await backend.audit.counters("acme", {"s1", "s2"})
            assert counters == {"s1": Counters(1, 1, 0, 5), "s2": Counters(0, 1, 1, None)}
            assert await backend.audit.totals("acme") == Counters(1, 2, 1, 5)
            outcomes = [(row.seq, row.outcome) for row in await backend.audit.rows("acme", limit=9)]
            assert outcomes == [(3, "refused"), (2, "dropped"), (2, "dropped"), (1, "delivered")]

    async def test_the_last_delivery_is_the_latest_whatever_the_order(self) -> None:
        async with self.open() as backend:
            backend.audit.record([delivery(1, "s1", at=9), delivery(2, "s1", at=4)])
            await backend.audit.flush()
            backend.audit.record([delivery(3, "s1", at=6)])
            await backend.audit.flush()
            assert (await backend.audit.counters("acme", ["s1"]))["s1"].last_delivered_at == 9

    async def test_rows_are_newest_first_and_whole(self) -> None:
        async with self.open() as backend:
            backend.audit.record([delivery(seq, "s1", "s2") for seq in range(1, 6)])
            await backend.audit.flush()
            rows = await backend.audit.rows("acme", limit=3)
            assert [row.at for row in rows] == [5, 5, 4]
            mine = await backend.audit.rows("acme", subscription_id="s2", limit=2)
            assert mine == [
                DeliveryRow(5, "e5", "deal.won", "sse", "delivered", 5, "s2"),
                DeliveryRow(4, "e4", "deal.won", "sse", "delivered", 4, "s2"),
            ]

    async def test_no_tenant_sees_another(self) -> None:
        async with self.open() as backend:
            backend.audit.record([delivery(1, "s1"), delivery(2, "s1", tenant="globex")])
            await backend.audit.flush()
            assert [row.seq for row in await backend.audit.rows("acme", limit=9)] == [1]
            assert (await backend.audit.counters("acme", ["s1"]))["s1"].delivered == 1
            assert (await backend.audit.totals("globex")).delivered == 1
            assert await backend.audit.totals("nobody") == Counters()

    async def test_trim_takes_old_rows_and_leaves_counters(self) -> None:
        async with self.open() as backend:
            backend.audit.record([delivery(seq, "s1", "s2") for seq in range(1, 2201)])
            await backend.audit.flush()
            assert await backend.audit.trim(2200) == 2199
            assert [row.seq for row in await backend.audit.rows("acme", limit=9)] == [2200, 2200]
            assert await backend.audit.totals("acme") == Counters(4400, 0, 0, 2200)
            assert await backend.audit.trim(2200) == 0

    async def test_there_is_room_when_nothing_is_stuck(self) -> None:
        async with self.open() as backend:
            for seq in range(1, 3001):
                await backend.audit.room()
                backend.audit.record([delivery(seq, "s1")])
            await asyncio.wait_for(backend.audit.flush(), 10)
            assert (await backend.audit.totals("acme")).delivered == 3000

    async def test_an_empty_record_and_a_flush_of_nothing_end_at_once(self) -> None:
        async with self.open() as backend:
            backend.audit.record([])
            await asyncio.wait_for(backend.audit.flush(), 5)
            assert await backend.audit.rows("acme", limit=9) == []
