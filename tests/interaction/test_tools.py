"""The four tools through the official SDK's client, over both eras and both stores."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from clarion.filters import ALIASES, OPERATORS
from interaction.push import EVENT, OPEN, push_stream
from interaction.requirements import requirement
from interaction.serving import call, connect, operator, refused, serving

CATEGORIES = ["crm", "marketing", "service", "ai", "workflow", "integration", "mcp", "consent", "platform", "custom"]

SUBSCRIBE_KEYS = {
    "subscription_id",
    "client_id",
    "topic_patterns",
    "filter",
    "events_delivered",
    "push_endpoint",
    "push_endpoint_hint",
}


@requirement("row-1", "tools-both-eras", "tools-on-mcp")
async def test_subscribing_twice_gives_the_same_subscription_and_one_row(tmp_path: Path, store: str, mode: str) -> None:
    wanted = {"topic": ["deal.*", "file.*"], "client_id": "c1", "filter": {"amount_gte": 100, "account_id": "a"}}
    again = {"topic": ["file.*", "deal.*"], "client_id": "c1", "filter": {"account_id": "a", "amount_gte": 100}}
    async with serving(tmp_path, store) as running:
        key = await running.key("subscriber", subject="ada")
        rotated = await running.key("subscriber", subject="ada")
        async with connect(running, key, mode) as session:
            first = await call(session, "subscribe", **wanted)
        async with connect(running, rotated, mode) as session:
            second = await call(session, "subscribe", **again)
            listed = await call(session, "list_subscriptions", client_id="c1")
    assert set(first) == SUBSCRIBE_KEYS
    assert first == {
        "subscription_id": first["subscription_id"],
        "client_id": "c1",
        "topic_patterns": ["deal.*", "file.*"],
        "filter": {"amount_gte": 100, "account_id": "a"},
        "events_delivered": 0,
        "push_endpoint": "/mcp/push/sse",
        "push_endpoint_hint": first["push_endpoint_hint"],
    }
    assert "/mcp/push/sse?client_id=c1" in first["push_endpoint_hint"]
    assert second["subscription_id"] == first["subscription_id"]
    assert [row["subscription_id"] for row in listed["subscriptions"]] == [first["subscription_id"]]


@requirement("subscribe-identity")
async def test_another_client_filter_or_topic_is_another_subscription_and_a_new_label_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as running, connect(running, operator()) as session:
        base: dict[str, Any] = {"topic": ["deal.*"], "client_id": "c1", "filter": {"a": 1}}
        first = await call(session, "subscribe", **base, client_label="Laptop", consent_purpose="analytics")
        others = [
            await call(session, "subscribe", **{**base, "client_id": "c2"}),
            await call(session, "subscribe", **{**base, "filter": {"a": 2}}),
            await call(session, "subscribe", **{**base, "topic": ["deal.won"]}),
        ]
        same = await call(session, "subscribe", **base, client_label="Desktop", consent_purpose="marketing")
        listed = await call(session, "list_subscriptions", client_id="c1")
    assert len({first["subscription_id"], *(other["subscription_id"] for other in others)}) == 4
    assert same["subscription_id"] == first["subscription_id"]
    (row,) = [row for row in listed["subscriptions"] if row["subscription_id"] == first["subscription_id"]]
    assert (row["client_label"], row["consent_purpose"]) == ("Desktop", "marketing")


@requirement("row-2")
async def test_unsubscribing_ends_pushes_and_subscribing_again_continues_the_count(
    tmp_path: Path, store: str, mode: str
) -> None:
    async with serving(tmp_path, store) as running, connect(running, operator(), mode) as session:
        one = (await call(session, "subscribe", topic=["deal.*"], client_id="c1"))["subscription_id"]
        await call(session, "subscribe", topic=["custom.end"], client_id="c1")
        async with push_stream(running, operator(), "c1") as stream:
            await stream.expect(OPEN)
            await running.emit("deal.won", {})
            await running.emit("deal.lost", {})
            await stream.expect(EVENT)
            await stream.expect(EVENT)
            ended = await call(session, "unsubscribe", subscription_id=one)
            await running.emit("deal.won", {})
            await running.emit("custom.end", {})
            (only,) = await stream.until("custom.end")
            assert only.params["topic"] == "custom.end"
        active = await call(session, "list_subscriptions", client_id="c1")
        every = await call(session, "list_subscriptions", client_id="c1", include_deleted=True)
        back = await call(session, "subscribe", topic=["deal.*"], client_id="c1")
        repeated = await call(session, "unsubscribe", subscription_id=one)
    assert ended == {"subscription_id": one, "status": "deleted", "events_delivered": 2}
    assert repeated == ended
    assert one not in [row["subscription_id"] for row in active["subscriptions"]]
    assert [row["status"] for row in every["subscriptions"] if row["subscription_id"] == one] == ["deleted"]
    assert (back["subscription_id"], back["events_delivered"]) == (one, 2)


@requirement("row-3", "catalog-built-in")
async def test_each_category_lists_only_its_own_topics_with_filter_examples(tmp_path: Path, mode: str) -> None:
    async with serving(tmp_path) as running, connect(running, operator(), mode) as session:
        every = await call(session, "list_topics")
        assert every["categories"] == CATEGORIES
        assert set(every["filter_suffixes"]) == set(OPERATORS)
        for category in CATEGORIES:
            listed = (await call(session, "list_topics", category=category))["topics"]
            assert listed
            assert {row["category"] for row in listed} == {category}
            assert all(row["filter_examples"] and row["description"] for row in listed)
            assert listed == [row for row in every["topics"] if row["category"] == category]
        message = await refused(session, "list_topics", category="sales")
    assert all(category in message for category in CATEGORIES)


# key, operand, a payload that fits, a payload that does not
CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"account_id": "a"}, {"account_id": "a"}, {"account_id": "b"}),
    ({"deal_id": "d"}, {"deal_id": "d"}, {}),
    ({"stage_to": "won"}, {"new_stage": "won"}, {"stage_to": "won"}),
    ({"stage_from": "new"}, {"old_stage": "new"}, {"new_stage": "new"}),
    ({"health_band_to": "red"}, {"new_band": "red"}, {"health_band_to": "red"}),
    ({"owner": "ada"}, {"owner_id": "ada"}, {"owner": "bob"}),
    ({"actor": "ada"}, {"actor_id": "ada"}, {"actor_id": "bob"}),
    ({"actor_id": "ada"}, {"actor_id": "ada"}, {"actor": "ada"}),
    ({"status": "open"}, {"status": "open"}, {"status": "closed"}),
    ({"kind": ["x", "y"]}, {"kind": "y"}, {"kind": "z"}),
    ({"amount_gte": 100}, {"amount": 100}, {"amount": 99.5}),
    ({"amount_lte": 100}, {"amount": 100}, {"amount": 101}),
    ({"amount_gt": 100}, {"amount": 100.5}, {"amount": 100}),
    ({"amount_lt": 100}, {"amount": -1}, {"amount": "1"}),
    ({"stage_not": "lost"}, {}, {"stage": "lost"}),
    ({"kind_in": ["x", 1]}, {"kind": 1}, {"kind": "1"}),
    ({"kind_nin": ["x", "y"]}, {"other": "x"}, {"kind": "x"}),
    ({"name_prefix": "Acme"}, {"name": "Acme Corp"}, {"name": "The Acme"}),
    ({"name_contains": "corp"}, {"name": "Acme corp."}, {"name": "Acme CORP"}),
    ({"won_exists": True}, {"won": None}, {}),
    ({"won_exists": False}, {}, {"won": 1}),
    ({"opt_in": True}, {"opt_in": True}, {"opt": True}),
    ({"pull.base.ref": "main"}, {"pull": {"base": {"ref": "main"}}}, {"pull": {"base": "main"}}),
    ({"a": 1, "b_gte": 2}, {"a": 1, "b": 2}, {"a": 1, "b": 1}),
]


@requirement("row-4")
async def test_every_operator_and_alias_pushes_what_fits_and_nothing_else(tmp_path: Path, store: str) -> None:
    async with serving(tmp_path, store) as running, connect(running, operator()) as session:
        numbers: dict[str, int] = {}
        for number, (wanted, _, _) in enumerate(CASES):
            made = await call(session, "subscribe", topic=[f"custom.case{number}"], client_id="c", filter=wanted)
            numbers[made["subscription_id"]] = number
        await call(session, "subscribe", topic=["custom.end"], client_id="c")
        async with push_stream(running, operator(), "c") as stream, running.http(operator()) as client:
            await stream.expect(OPEN)
            events = []
            for number, (_, fits, does_not) in enumerate(CASES):
                events.append({"topic": f"custom.case{number}", "payload": {**fits, "verdict": "fits"}})
                events.append({"topic": f"custom.case{number}", "payload": {**does_not, "verdict": "does not"}})
            answer = await client.post("/v1/events", json=[*events, {"topic": "custom.end", "payload": {}}])
            assert answer.status_code == 200
            frames = (await stream.until("custom.end"))[:-1]
    pushed = [(numbers[frame.params["subscription_id"]], frame.params["payload"]["verdict"]) for frame in frames]
    assert pushed == [(number, "fits") for number in range(len(CASES))]


def test_the_cases_name_every_operator_and_every_alias() -> None:
    keys = [key for wanted, _, _ in CASES for key in wanted]
    assert all(any(key.endswith(suffix) for key in keys) for suffix in OPERATORS)
    assert set(ALIASES) <= set(keys)


@requirement("tools-described")
async def test_tools_are_described_for_a_model(tmp_path: Path, mode: str) -> None:
    async with serving(tmp_path) as running, connect(running, operator(), mode) as session:
        assert session.instructions
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
    assert set(tools) == {"subscribe", "unsubscribe", "list_subscriptions", "list_topics"}
    for tool in tools.values():
        assert tool.title
        assert tool.description
        assert len(tool.description) > 40
        assert tool.input_schema["additionalProperties"] is False
        assert all(argument.get("description") for argument in tool.input_schema["properties"].values())
        assert tool.output_schema is not None
        assert tool.annotations is not None
        hints = tool.annotations.model_dump(by_alias=True)
        for hint in ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"):
            assert isinstance(hints[hint], bool), (tool.name, hint)
    hints_of = {name: tool.annotations.model_dump(by_alias=True) for name, tool in tools.items()}  # type: ignore[union-attr]
    assert [name for name in tools if hints_of[name]["readOnlyHint"]] == ["list_subscriptions", "list_topics"]
    assert [name for name in tools if hints_of[name]["destructiveHint"]] == ["unsubscribe"]
    arguments = {name: set(tool.input_schema["properties"]) for name, tool in tools.items()}
    assert arguments == {
        "subscribe": {"topic", "client_id", "filter", "client_label", "consent_purpose"},
        "unsubscribe": {"subscription_id"},
        "list_subscriptions": {"client_id", "include_deleted"},
        "list_topics": {"category"},
    }
    assert tools["subscribe"].input_schema["required"] == ["topic", "client_id"]


@requirement("tools-schemas")
async def test_results_fit_their_output_schemas(tmp_path: Path, mode: str) -> None:
    async with serving(tmp_path) as running, connect(running, operator(), mode) as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        made = await call(session, "subscribe", topic=["deal.*"], client_id="c", filter={"a_in": [1, None]})
        results = [
            ("subscribe", made),
            ("list_topics", await call(session, "list_topics")),
            ("list_subscriptions", await call(session, "list_subscriptions", client_id="c")),
            ("unsubscribe", await call(session, "unsubscribe", subscription_id=made["subscription_id"])),
            ("list_subscriptions", await call(session, "list_subscriptions", client_id="c", include_deleted=True)),
        ]
    for name, result in results:
        schema = tools[name].output_schema
        assert schema is not None
        jsonschema_rs.Draft202012Validator(schema).validate(result)
        properties = schema["properties"]
        assert set(result) == set(properties) == set(schema["required"])


@requirement("bad-tool-argument")
@pytest.mark.parametrize(
    ("tool", "arguments", "named"),
    [
        ("subscribe", {"topic": ["deal.*"], "client_id": "c", "topics": ["deal.*"]}, "topics"),
        ("subscribe", {"topic": ["deal.*"], "client_id": "c", "tenant": "other"}, "tenant"),
        ("subscribe", {"client_id": "c"}, "topic"),
        ("subscribe", {"topic": "deal.*", "client_id": "c"}, "topic"),
        ("subscribe", {"topic": [], "client_id": "c"}, "topic"),
        ("subscribe", {"topic": ["deal..won"], "client_id": "c"}, "deal..won"),
        ("subscribe", {"topic": ["deal.[a"], "client_id": "c"}, "deal.[a"),
        ("subscribe", {"topic": ["deal.*"], "client_id": "c", "filter": {"amount_gte": "much"}}, "filter.amount_gte"),
        ("subscribe", {"topic": ["deal.*"], "client_id": "c", "filter": [1]}, "filter"),
        ("subscribe", {"topic": ["deal.*"], "client_id": "c\n"}, "client_id"),
        ("unsubscribe", {"subscription": "x"}, "subscription"),
        ("list_subscriptions", {"client_id": "c", "deleted": True}, "deleted"),
        ("list_topics", {"categories": "crm"}, "categories"),
    ],
)
async def test_a_bad_argument_is_a_tool_error_that_names_it(
    tmp_path: Path, tool: str, arguments: dict[str, Any], named: str
) -> None:
    async with serving(tmp_path) as running, connect(running, operator()) as session:
        message = await refused(session, tool, **arguments)
        rows = (await call(session, "list_subscriptions", client_id="c"))["subscriptions"]
    assert named in message
    assert "Traceback" not in message
    assert rows == []


@requirement("bad-tool-argument")
async def test_an_unknown_argument_is_explained_without_the_machinery_behind_it(tmp_path: Path, mode: str) -> None:
    async with serving(tmp_path) as running, connect(running, operator(), mode) as session:
        message = await refused(session, "subscribe", topic=["deal.*"], client_id="c", topics=["deal.*"])
    assert "topics" in message
    assert "pydantic" not in message
    assert "topic, client_id, filter, client_label, consent_purpose" in message


@requirement("limit-subscriptions")
async def test_a_tenant_cannot_have_more_subscriptions_than_its_limit(tmp_path: Path, store: str) -> None:
    async with serving(tmp_path, store, max_subscriptions=2) as running:
        other = await running.key("subscriber", tenant="globex")
        async with connect(running, operator()) as session:
            one = await call(session, "subscribe", topic=["a.*"], client_id="c")
            await call(session, "subscribe", topic=["b.*"], client_id="c")
            assert "2" in await refused(session, "subscribe", topic=["c.*"], client_id="c")
            await call(session, "subscribe", topic=["a.*"], client_id="c")  # one that is there already
            await call(session, "unsubscribe", subscription_id=one["subscription_id"])
            await call(session, "subscribe", topic=["c.*"], client_id="c")
        async with connect(running, other) as session:
            await call(session, "subscribe", topic=["a.*"], client_id="c")


@requirement("keys-rotation")
async def test_subscriptions_belong_to_the_principal_and_survive_the_rotation_of_its_key(tmp_path: Path) -> None:
    async with serving(tmp_path, "sqlite") as running, running.http(operator()) as admin:
        old = await running.key("subscriber", subject="ada")
        async with connect(running, old) as session:
            made = await call(session, "subscribe", topic=["deal.*"], client_id="c")
        new = await running.key("subscriber", subject="ada")
        assert (await admin.delete(f"/v1/keys/{old.split('_')[1]}")).status_code == 200
        async with connect(running, new) as session:
            rows = (await call(session, "list_subscriptions", client_id="c"))["subscriptions"]
    assert [row["subscription_id"] for row in rows] == [made["subscription_id"]]


@requirement("restart")
async def test_subscriptions_and_counters_survive_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path, "sqlite") as running, connect(running, operator()) as session:
        made = await call(session, "subscribe", topic=["deal.*"], client_id="c")
        async with push_stream(running, operator(), "c") as stream:
            await stream.expect(OPEN)
            await running.emit("deal.won", {})
            last = await stream.expect(EVENT)
    async with serving(tmp_path, "sqlite") as running, connect(running, operator()) as session:
        await running.emit("deal.lost", {})
        async with push_stream(running, operator(), "c", last_event_id=last.id) as stream:
            assert (await stream.expect(OPEN)).params["truncated"] is False
            assert (await stream.expect(EVENT)).params["topic"] == "deal.lost"
        (row,) = (await call(session, "list_subscriptions", client_id="c"))["subscriptions"]
    assert row["subscription_id"] == made["subscription_id"]
    assert row["events_delivered"] == 2


@requirement("tools-concurrent")
async def test_the_same_subscribe_from_many_callers_at_once_makes_one_row(tmp_path: Path, store: str) -> None:
    async with serving(tmp_path, store) as running, connect(running, operator()) as session:
        calls = (call(session, "subscribe", topic=["deal.*"], client_id="c") for _ in range(20))
        made = await asyncio.gather(*calls)
        rows = (await call(session, "list_subscriptions", client_id="c"))["subscriptions"]
    assert {one["subscription_id"] for one in made} == {row["subscription_id"] for row in rows}
    assert len(rows) == 1
