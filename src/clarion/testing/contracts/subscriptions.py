"""What every Subscriptions must do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from clarion.errors import LimitExceeded
from clarion.model import Subscription
from clarion.testing.contracts.examples import Opening, subscription

__all__ = ["SubscriptionsContract"]


class SubscriptionsContract:
    """Identity, soft deletion, limits, tenants."""

    def open(self) -> Opening:
        raise NotImplementedError

    async def test_a_new_subscription_is_stored_as_wanted(self) -> None:
        wanted = subscription(
            "s1", topics=("deal.won", "git.*"), filter={"amount_gte": 5, "in": ["a"]}, label="L", purpose="marketing"
        )
        async with self.open() as backend:
            row, activated = await backend.subscriptions.put(wanted, limit=10)
            assert activated
            assert _fields(row) == _fields(wanted)
            found = await backend.subscriptions.get("acme", "alice", "s1")
            assert found is not None
            assert _fields(found) == _fields(wanted)

    async def test_the_same_identity_is_the_same_row_whatever_the_order(self) -> None:
        async with self.open() as backend:
            put = backend.subscriptions.put
            first, _ = await put(subscription("s1", topics=("b.x", "a.x"), filter={"p": 1, "q": 2}), limit=1)
            again = subscription("s2", topics=("a.x", "b.x", "a.x"), filter={"q": 2, "p": 1}, updated_at=20)
            row, activated = await put(again, limit=1)
            assert not activated
            assert _fields(row) == _fields(first)
            assert row.topics == ("b.x", "a.x")
            assert await backend.subscriptions.get("acme", "alice", "s2") is None

    @pytest.mark.parametrize(
        "change",
        [
            {"tenant": "globex"},
            {"subject": "bob"},
            {"client_id": "phone"},
            {"topics": ("deal.won",)},
            {"filter": {"amount_gte": 1}},
        ],
    )
    async def test_another_identity_is_another_row(self, change: dict[str, Any]) -> None:
        async with self.open() as backend:
            await backend.subscriptions.put(subscription("s1"), limit=10)
            row, activated = await backend.subscriptions.put(subscription("s2", **change), limit=10)
            assert (row.id, activated) == ("s2", True)

    async def test_label_and_purpose_update_in_place(self) -> None:
        async with self.open() as backend:
            await backend.subscriptions.put(subscription("s1", label="old"), limit=1)
            wanted = subscription("s2", label="new", purpose="marketing", created_at=30, updated_at=30)
            row, activated = await backend.subscriptions.put(wanted, limit=1)
            assert not activated
            assert (row.id, row.label, row.purpose) == ("s1", "new", "marketing")
            assert (row.created_at, row.updated_at) == (10, 30)
            found = await backend.subscriptions.get("acme", "alice", "s1")
            assert found is not None
            assert _fields(found) == _fields(row)

    async def test_deleting_keeps_the_row_and_its_first_moment(self) -> None:
        async with self.open() as backend:
            await backend.subscriptions.put(subscription("s1"), limit=1)
            gone = await backend.subscriptions.delete("acme", "alice", "s1", 40)
            assert gone is not None
            assert (gone.deleted_at, gone.active) == (40, False)
            again = await backend.subscriptions.delete("acme", "alice", "s1", 50)
            assert again is not None
            assert again.deleted_at == 40
            found = await backend.subscriptions.get("acme", "alice", "s1")
            assert found is not None
            assert found.deleted_at == 40

    async def test_subscribing_again_reactivates_the_same_row(self) -> None:
        async with self.open() as backend:
            await backend.subscriptions.put(subscription("s1", topics=("b.x", "a.x")), limit=1)
            await backend.subscriptions.delete("acme", "alice", "s1", 40)
            again = subscription("s2", topics=("a.x", "b.x"), label="L", created_at=60, updated_at=60)
            row, activated = await backend.subscriptions.put(again, limit=1)
            assert activated
            assert (row.id, row.deleted_at, row.label, row.topics) == ("s1", None, "L", ("b.x", "a.x"))
            assert (row.created_at, row.updated_at) == (10, 60)
            assert await backend.subscriptions.count("acme") == (1, 0)

    async def test_an_id_that_is_unknown_or_foreign_is_none(self) -> None:
        async with self.open() as backend:
            await backend.subscriptions.put(subscription("s1"), limit=1)
            for tenant, subject, name in (("acme", "alice", "nope"), ("acme", "bob", "s1"), ("globex", "alice", "s1")):
                assert await backend.subscriptions.get(tenant, subject, name) is None
                assert await backend.subscriptions.delete(tenant, subject, name, 9) is None
            kept = await backend.subscriptions.get("acme", "alice", "s1")
            assert kept is not None
            assert kept.active

    async def test_the_limit_counts_active_ones_of_the_tenant(self) -> None:
        async with self.open() as backend:
            put = backend.subscriptions.put
            await put(subscription("s1"), limit=2)
            await put(subscription("s2", client_id="phone"), limit=2)
            with pytest.raises(LimitExceeded):
                await put(subscription("s3", client_id="third"), limit=2)
            assert await backend.subscriptions.count("acme") == (2, 0)
            assert await backend.subscriptions.get("acme", "alice", "s3") is None
            row, activated = await put(subscription("s4"), limit=2)
            assert (row.id, activated) == ("s1", False)
            await put(subscription("s5", tenant="globex"), limit=1)
            await backend.subscriptions.delete("acme", "alice", "s2", 40)
            await put(subscription("s6", client_id="third"), limit=2)
            with pytest.raises(LimitExceeded):
                await put(subscription("s7", client_id="phone"), limit=2)
            assert await backend.subscriptions.count("acme") == (2, 1)

    async def test_the_limit_holds_for_concurrent_calls(self) -> None:
        async with self.open() as backend:
            calls = [backend.subscriptions.put(subscription(f"s{n}", client_id=f"c{n}"), limit=3) for n in range(10)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert sum(isinstance(one, LimitExceeded) for one in answers) == 7
            assert await backend.subscriptions.count("acme") == (3, 0)

    async def test_a_client_lists_its_own_oldest_first(self) -> None:
        async with self.open() as backend:
            for number, name in enumerate(("s3", "s1", "s2")):
                await backend.subscriptions.put(
                    subscription(name, topics=(f"t.{name}",), created_at=number, updated_at=number), limit=9
                )
            await backend.subscriptions.put(subscription("x1", client_id="phone"), limit=9)
            await backend.subscriptions.put(subscription("x2", subject="bob"), limit=9)
            await backend.subscriptions.put(subscription("x3", tenant="globex"), limit=9)
            await backend.subscriptions.delete("acme", "alice", "s1", 40)
            of_client = backend.subscriptions.of_client
            assert [row.id for row in await of_client("acme", "alice", "laptop")] == ["s3", "s2"]
            every = await of_client("acme", "alice", "laptop", include_deleted=True)
            assert [row.id for row in every] == ["s3", "s1", "s2"]
            assert await of_client("acme", "carol", "laptop") == []

    async def test_a_tenant_pages_through_its_own_by_id(self) -> None:
        async with self.open() as backend:
            for name in ("s4", "s2", "s1", "s3"):
                await backend.subscriptions.put(subscription(name, subject=name), limit=9)
            await backend.subscriptions.put(subscription("s0", tenant="globex"), limit=9)
            await backend.subscriptions.delete("acme", "s2", "s2", 40)
            page = backend.subscriptions.of_tenant
            assert [row.id for row in await page("acme", limit=2)] == ["s1", "s3"]
            assert [row.id for row in await page("acme", limit=2, after_id="s3")] == ["s4"]
            every = await page("acme", include_deleted=True, limit=2, after_id="s1")
            assert [row.id for row in every] == ["s2", "s3"]
            assert await backend.subscriptions.count("acme") == (3, 1)
            assert await backend.subscriptions.count("nobody") == (0, 0)

    async def test_a_deleted_wish_is_stored_active(self) -> None:
        async with self.open() as backend:
            row, activated = await backend.subscriptions.put(replace(subscription("s1"), deleted_at=3), limit=1)
            assert (row.active, activated) == (True, True)


def _fields(row: Subscription) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Subscription.__slots__}
