"""What every Subscriptions must do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from clarion.errors import LimitExceeded
from clarion.model import Subscription
from clarion.testing.contracts.examples import Opening, at_most, subscription

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
            row, activated = await backend.subscriptions.put(wanted, limits=at_most(10))
            assert activated
            assert _fields(row) == _fields(wanted)
            found = await backend.subscriptions.get("acme", "alice", "s1")
            assert found is not None
            assert _fields(found) == _fields(wanted)

    async def test_the_same_identity_is_the_same_row_whatever_the_order(self) -> None:
        async with self.open() as backend:
            put = backend.subscriptions.put
            first, _ = await put(subscription("s1", topics=("b.x", "a.x"), filter={"p": 1, "q": 2}), limits=at_most(1))
            again = subscription("s2", topics=("a.x", "b.x", "a.x"), filter={"q": 2, "p": 1}, updated_at=20)
            row, activated = await put(again, limits=at_most(1))
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
            await backend.subscriptions.put(subscription("s1"), limits=at_most(10))
            row, activated = await backend.subscriptions.put(subscription("s2", **change), limits=at_most(10))
            assert (row.id, activated) == ("s2", True)

    async def test_label_and_purpose_update_in_place(self) -> None:
        async with self.open() as backend:
            await backend.subscriptions.put(subscription("s1", label="old"), limits=at_most(1))
            wanted = subscription("s2", label="new", purpose="marketing", created_at=30, updated_at=30)
            row, activated = await backend.subscriptions.put(wanted, limits=at_most(1))
            assert not activated
            assert (row.id, row.label, row.purpose) == ("s1", "new", "marketing")
            assert (row.created_at, row.updated_at) == (10, 30)
            found = await backend.subscriptions.get("acme", "alice", "s1")
            assert found is not None
            assert _fields(found) == _fields(row)

    async def test_deleting_keeps_the_row_and_its_first_moment(self) -> None:
        async with self.open() as backend:
            await backend.subscriptions.put(subscription("s1"), limits=at_most(1))
            gone = await backend.subscriptions.delete("acme", "alice", "s1", 40, limits=at_most(9))
            assert gone is not None
            assert (gone.deleted_at, gone.active) == (40, False)
            again = await backend.subscriptions.delete("acme", "alice", "s1", 50, limits=at_most(9))
            assert again is not None
            assert again.deleted_at == 40
            found = await backend.subscriptions.get("acme", "alice", "s1")
            assert found is not None
            assert found.deleted_at == 40

    async def test_subscribing_again_reactivates_the_same_row(self) -> None:
        async with self.open() as backend:
            await backend.subscriptions.put(subscription("s1", topics=("b.x", "a.x")), limits=at_most(1))
            await backend.subscriptions.delete("acme", "alice", "s1", 40, limits=at_most(9))
            again = subscription("s2", topics=("a.x", "b.x"), label="L", created_at=60, updated_at=60)
            row, activated = await backend.subscriptions.put(again, limits=at_most(1))
            assert activated
            assert (row.id, row.deleted_at, row.label, row.topics) == ("s1", None, "L", ("b.x", "a.x"))
            assert (row.created_at, row.updated_at) == (10, 60)
            assert await backend.subscriptions.count("acme") == (1, 0)

    async def test_an_id_that_is_unknown_or_foreign_is_none(self) -> None:
        async with self.open() as backend:
            await backend.subscriptions.put(subscription("s1"), limits=at_most(1))
            for tenant, subject, name in (("acme", "alice", "nope"), ("acme", "bob", "s1"), ("globex", "alice", "s1")):
                assert await backend.subscriptions.get(tenant, subject, name) is None
                assert await backend.subscriptions.delete(tenant, subject, name, 9, limits=at_most(9)) is None
            kept = await backend.subscriptions.get("acme", "alice", "s1")
            assert kept is not None
            assert kept.active

    async def test_the_limit_counts_active_ones_of_the_tenant(self) -> None:
        async with self.open() as backend:
            put = backend.subscriptions.put
            await put(subscription("s1"), limits=at_most(2))
            await put(subscription("s2", client_id="phone"), limits=at_most(2))
            with pytest.raises(LimitExceeded):
                await put(subscription("s3", client_id="third"), limits=at_most(2))
            assert await backend.subscriptions.count("acme") == (2, 0)
            assert await backend.subscriptions.get("acme", "alice", "s3") is None
            row, activated = await put(subscription("s4"), limits=at_most(2))
            assert (row.id, activated) == ("s1", False)
            await put(subscription("s5", tenant="globex"), limits=at_most(1))
            await backend.subscriptions.delete("acme", "alice", "s2", 40, limits=at_most(9))
            await put(subscription("s6", client_id="third"), limits=at_most(2))
            with pytest.raises(LimitExceeded):
                await put(subscription("s7", client_id="phone"), limits=at_most(2))
            assert await backend.subscriptions.count("acme") == (2, 1)

    async def test_the_limit_holds_for_concurrent_calls(self) -> None:
        async with self.open() as backend:
            calls = [
                backend.subscriptions.put(subscription(f"s{n}", client_id=f"c{n}"), limits=at_most(3))
                for n in range(10)
            ]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert sum(isinstance(one, LimitExceeded) for one in answers) == 7
            assert await backend.subscriptions.count("acme") == (3, 0)

    async def test_a_client_has_a_limit_of_its_own(self) -> None:
        async with self.open() as backend:
            limits = at_most(9, per_client=2)
            put = backend.subscriptions.put
            await put(subscription("s1", topics=("a",)), limits=limits)
            await put(subscription("s2", topics=("b",)), limits=limits)
            with pytest.raises(LimitExceeded, match="unsubscribe") as refusal:
                await put(subscription("s3", topics=("c",)), limits=limits)
            assert refusal.value.details == {"limit": "subscriptions_per_client", "max": 2}
            assert await put(subscription("s4", topics=("a",), label="L"), limits=limits)  # no new one
            for name, change in (("x1", {"client_id": "phone"}), ("x2", {"subject": "bob"}), ("x3", {"tenant": "o"})):
                await put(subscription(name, **change), limits=limits)
            await backend.subscriptions.delete("acme", "alice", "s1", 40, limits=limits)
            await put(subscription("s5", topics=("c",)), limits=limits)
            with pytest.raises(LimitExceeded):
                await put(subscription("s6", topics=("a",)), limits=limits)  # the deleted one, activated again

    async def test_of_a_clients_deleted_ones_the_newest_are_kept(self) -> None:
        async with self.open() as backend:
            limits = at_most(9, deleted_per_client=2)
            put, delete = backend.subscriptions.put, backend.subscriptions.delete
            await put(subscription("x", client_id="phone"), limits=limits)
            await delete("acme", "alice", "x", 1, limits=limits)
            await put(subscription("s0"), limits=limits)
            for number in range(1, 5):
                await put(subscription(f"s{number}", topics=(f"t{number}",)), limits=limits)
            for number in (3, 1, 4, 2):
                gone = await delete("acme", "alice", f"s{number}", 40 + number, limits=limits)
                assert gone is not None
                assert (gone.id, gone.deleted_at) == (f"s{number}", 40 + number)
            every = await backend.subscriptions.of_client("acme", "alice", "laptop", include_deleted=True)
            assert {row.id for row in every} == {"s0", "s3", "s4"}
            assert await delete("acme", "alice", "s1", 50, limits=limits) is None
            assert await backend.subscriptions.count("acme") == (1, 3)
            row, activated = await put(subscription("s5", topics=("t1",)), limits=limits)
            assert (row.id, activated) == ("s5", True)

    async def test_a_tenant_keeps_as_many_deleted_ones_as_it_may_have_active_ones(self) -> None:
        async with self.open() as backend:
            for number in range(6):
                name = f"s{number}"
                await backend.subscriptions.put(subscription(name, client_id=name), limits=at_most(3))
                await backend.subscriptions.delete("acme", "alice", name, 40 + number, limits=at_most(3))
            assert await backend.subscriptions.count("acme") == (0, 3)
            kept = await backend.subscriptions.of_tenant("acme", include_deleted=True, limit=9)
            assert [row.id for row in kept] == ["s3", "s4", "s5"]

    async def test_a_client_lists_its_own_oldest_first(self) -> None:
        async with self.open() as backend:
            for number, name in enumerate(("s3", "s1", "s2")):
                await backend.subscriptions.put(
                    subscription(name, topics=(f"t.{name}",), created_at=number, updated_at=number), limits=at_most(9)
                )
            await backend.subscriptions.put(subscription("x1", client_id="phone"), limits=at_most(9))
            await backend.subscriptions.put(subscription("x2", subject="bob"), limits=at_most(9))
            await backend.subscriptions.put(subscription("x3", tenant="globex"), limits=at_most(9))
            await backend.subscriptions.delete("acme", "alice", "s1", 40, limits=at_most(9))
            of_client = backend.subscriptions.of_client
            assert [row.id for row in await of_client("acme", "alice", "laptop")] == ["s3", "s2"]
            every = await of_client("acme", "alice", "laptop", include_deleted=True)
            assert [row.id for row in every] == ["s3", "s1", "s2"]
            assert await of_client("acme", "carol", "laptop") == []

    async def test_a_tenant_pages_through_its_own_by_id(self) -> None:
        async with self.open() as backend:
            for name in ("s4", "s2", "s1", "s3"):
                await backend.subscriptions.put(subscription(name, subject=name), limits=at_most(9))
            await backend.subscriptions.put(subscription("s0", tenant="globex"), limits=at_most(9))
            await backend.subscriptions.delete("acme", "s2", "s2", 40, limits=at_most(9))
            page = backend.subscriptions.of_tenant
            assert [row.id for row in await page("acme", limit=2)] == ["s1", "s3"]
            assert [row.id for row in await page("acme", limit=2, after_id="s3")] == ["s4"]
            every = await page("acme", include_deleted=True, limit=2, after_id="s1")
            assert [row.id for row in every] == ["s2", "s3"]
            assert await backend.subscriptions.count("acme") == (3, 1)
            assert await backend.subscriptions.count("nobody") == (0, 0)

    async def test_a_deleted_wish_is_stored_active(self) -> None:
        async with self.open() as backend:
            row, activated = await backend.subscriptions.put(
                replace(subscription("s1"), deleted_at=3), limits=at_most(1)
            )
            assert (row.active, activated) == (True, True)


def _fields(row: Subscription) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Subscription.__slots__}
