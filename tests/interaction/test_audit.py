"""What operators see: a row per delivery, counters, the cost, and nobody else's."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from interaction.push import EVENT, OPEN, push_stream
from interaction.requirements import requirement
from interaction.serving import Running, call, connect, operator, serving

OUTBOUND = "/v1/admin/mcp/outbound"
READS = [f"{OUTBOUND}/summary", f"{OUTBOUND}/subscriptions", f"{OUTBOUND}/deliveries"]


async def _deliver(running: Running, count: int) -> list[str]:
    """Push `count` events to each of two subscriptions."""
    async with connect(running, operator()) as session:
        made = [await call(session, "subscribe", topic=[topic], client_id="c") for topic in ("deal.*", "*.won")]
    async with push_stream(running, operator(), "c") as stream:
        await stream.expect(OPEN)
        for number in range(count):
            await running.emit("deal.won", {"n": number}, event_id=f"e{number}")
            for _ in made:
                await stream.expect(EVENT)
    return [one["subscription_id"] for one in made]


@requirement("row-11", "audit-rows", "audit-clean-stop")
async def test_every_push_has_one_row_counts_once_and_costs_a_hundredth_of_a_cent(tmp_path: Path) -> None:
    count = 25
    async with serving(tmp_path, "sqlite") as running:
        ids = await _deliver(running, count)
        async with running.http(operator()) as client:
            summary = (await client.get(READS[0])).json()
            rows = (await client.get(READS[1])).json()["subscriptions"]
            every = (await client.get(READS[2], params={"limit": "200"})).json()["deliveries"]
            one = (await client.get(READS[2], params={"subscription_id": ids[0]})).json()["deliveries"]
        async with connect(running, operator()) as session:
            listed = (await call(session, "list_subscriptions", client_id="c"))["subscriptions"]
            again = await call(session, "subscribe", topic=["deal.*"], client_id="c")
    assert {row["subscription_id"]: row["events_delivered"] for row in rows} == dict.fromkeys(ids, count)
    assert [row["estimated_cost_cents"] for row in rows] == [pytest.approx(count * 0.01)] * 2
    assert {row["events_delivered"] for row in listed} == {count}
    assert again["events_delivered"] == count
    assert summary["events_delivered"] == 2 * count
    assert summary["estimated_cost_cents"] == pytest.approx(2 * count * 0.01)
    assert summary["cost_per_delivery_cents"] == 0.01
    assert sorted((row["event_id"], row["subscription_id"]) for row in every) == sorted(
        (seq, subscription_id) for seq in range(1, count + 1) for subscription_id in ids
    )
    assert [row["event_id"] for row in one] == list(range(count, 0, -1))  # newest first
    assert {row["outcome"] for row in every} == {"delivered"}
    assert {row["wire"] for row in every} == {"pact"}
    audit = sqlite3.connect(tmp_path / "audit.db")
    try:
        stored = audit.execute("SELECT subscription_id, event_id FROM mcp_push_deliveries").fetchall()
    finally:
        audit.close()
    assert sorted(stored) == sorted((one, f"e{number}") for one in ids for number in range(count))


@requirement("admin-subscriptions")
async def test_the_list_of_subscriptions_goes_on_where_a_page_ends(tmp_path: Path, store: str) -> None:
    async with serving(tmp_path, store) as running, running.http(operator()) as client:
        async with connect(running, operator()) as session:
            made = [
                (await call(session, "subscribe", topic=[f"a.{n}"], client_id="c"))["subscription_id"] for n in range(5)
            ]
            await call(session, "unsubscribe", subscription_id=made[0])
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = (await client.get(READS[1], params={"limit": "2", **after})).json()
            found += [row["subscription_id"] for row in page["subscriptions"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        active = (await client.get(READS[1], params={"include_deleted": "false"})).json()["subscriptions"]
        summary = (await client.get(READS[0])).json()
    assert found == sorted(made)
    assert {row["subscription_id"] for row in active} == set(made[1:])
    assert (summary["subscriptions_active"], summary["subscriptions_deleted"]) == (4, 1)


@requirement("row-12", "admin-read-only")
@pytest.mark.parametrize("path", READS)
async def test_admin_reads_need_role_and_module_and_refuse_writes(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as running:
        keys = {
            "nobody": (None, 401),
            "publisher": (await running.key("publisher"), 403),
            "subscriber": (await running.key("subscriber"), 403),
            "admin without the module": (await running.key("admin"), 403),
            "admin with the module": (await running.key("admin", modules=("admin",)), 200),
        }
        for bearer, status in keys.values():
            async with running.http(bearer) as client:
                assert (await client.get(path)).status_code == status
        async with running.http(operator()) as client:
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                answer = await client.request(method, path, json={})
                assert answer.status_code == 405
                assert answer.json()["error"]["code"] == "method_not_allowed"


@requirement("row-12", "tenant-isolation")
async def test_an_administrator_sees_its_own_tenant_only(tmp_path: Path, store: str) -> None:
    async with serving(tmp_path, store) as running:
        (theirs, _) = await _deliver(running, 2)
        async with running.http(operator("globex")) as client:
            summary = (await client.get(READS[0])).json()
            assert summary["events_delivered"] == summary["subscriptions_active"] == summary["connected_streams"] == 0
            assert (await client.get(READS[1])).json() == {"subscriptions": [], "next": None}
            assert (await client.get(READS[2])).json() == {"deliveries": []}
            assert (await client.get(READS[2], params={"subscription_id": theirs})).json() == {"deliveries": []}


@requirement("admin-limit")
@pytest.mark.parametrize("limit", ["0", "-1", "201", "many", ""])
async def test_a_page_size_out_of_range_is_refused(tmp_path: Path, limit: str) -> None:
    async with serving(tmp_path) as running, running.http(operator()) as client:
        answer = await client.get(READS[1], params={"limit": limit})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "limit"
