"""`clarion serve` on the Events wire: the tenant's catalog as event types, under the side channel's rules."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from clarion.app import EVENT_TYPES_PER_PAGE
from clarion.catalog import BUILT_IN
from clarion.model import MICROSECONDS, isoformat
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import until
from interaction.events_more import serve_peer
from interaction.events_raw import HttpPeer, Message, names_of
from interaction.events_requirements import requirement
from interaction.events_targets import both_dialects, both_modes, both_stores
from interaction.push import EVENT, OPEN, push_stream
from interaction.serving import TENANT, Running, call, connect, operator, serving, summary_where

LISTEN = "subscriptions/listen"
WANTS_CHANGES = {"notifications": {"eventsListChanged": True}}
OUTBOUND = "/v1/admin/mcp/outbound"


@asynccontextmanager
async def served(
    data: Path, store: str = "memory", *, declared: bool = True, **settings: Any
) -> AsyncIterator[tuple[Running, HttpPeer]]:
    """A server, and the operator's client of its Events."""
    async with serving(data, store, **settings) as running, running.http() as http:
        yield running, serve_peer(http, operator(), declared=declared)


def other(peer: HttpPeer, bearer: str) -> HttpPeer:
    return serve_peer(peer.http, bearer, declared=peer.declared)


async def listed(peer: HttpPeer) -> list[Message]:
    """All event types, page by page."""
    page = await peer.call("events/list")
    found: list[Message] = page["events"]
    while "nextCursor" in page:
        page = await peer.call("events/list", cursor=page["nextCursor"])
        found += page["events"]
    return found


async def declare(running: Running, topic: str, tenant: str = TENANT, **wanted: Any) -> None:
    async with running.http(operator(tenant)) as http:
        answer = await http.put(f"/v1/topics/{topic}", json={"description": "A topic of ours.", **wanted})
    assert answer.is_success, answer.text


def of_orders(kind: str) -> dict[str, Any]:
    """The payload of a topic of ours."""
    return {"type": "object", "properties": {"total": {"type": kind}}}


async def drained(peer: HttpPeer, name: str, cursor: str, **params: Any) -> list[Message]:
    """All events after `cursor`."""
    found: list[Message] = []
    while True:
        answer = await peer.poll(name, cursor, **params)
        found += answer["events"]
        cursor = answer["cursor"]
        if not answer["hasMore"]:
            return found


# -- the catalog -----------------------------------------------------------------------------------------------------


@requirement("ours.serve.catalog", "sep.list.pages")
async def test_topics_are_listed_in_pages_as_the_http_api_has_them(tmp_path: Path) -> None:
    async with served(tmp_path) as (running, peer):
        await declare(running, "orders.placed", payload_schema=of_orders("number"))
        first = await peer.call("events/list")
        assert len(first["events"]) == EVENT_TYPES_PER_PAGE
        types = {each["name"]: each for each in await listed(peer)}
        async with running.http(operator()) as http:
            topics = {each["topic"]: each for each in (await http.get("/v1/topics")).json()["topics"]}
        assert types.keys() == topics.keys() == {*(each.pattern for each in BUILT_IN), "orders.placed"}
        for name, described in types.items():
            assert described["description"] == topics[name]["description"]
            assert described["delivery"] == ["poll", "push"]
            assert described["payloadSchema"] == {"type": "object", **topics[name]["payload_schema"]}
            assert described["inputSchema"]["type"] == "object"
            assert described["_meta"]["clarion/category"] == topics[name]["category"]
        assert types["orders.placed"]["inputSchema"]["properties"]["total_gte"] == {"type": "number"}


@requirement("ours.serve.catalog")
async def test_a_family_is_one_type_with_the_concrete_topic_in_meta(tmp_path: Path) -> None:
    async with served(tmp_path) as (running, peer), peer.stream("github.*") as frames:
        await frames.expect("active")
        cursor = (await peer.poll("github.*"))["cursor"]
        narrowed = {"arguments": {"topic_prefix": "github.pull"}}
        narrow = (await peer.poll("github.*", **narrowed))["cursor"]
        assert "github.issues.opened" not in names_of({"events": await listed(peer)})
        for topic in ("github.issues.opened", "custom.thing", "github.pull_request.opened", "githubber.no"):
            await running.emit(topic, {"of": topic})
        wanted = ["github.issues.opened", "github.pull_request.opened"]
        streamed = [await frames.expect("event") for _ in wanted]
        polled = await drained(peer, "github.*", cursor)
        for found in (streamed, polled):
            assert [event["name"] for event in found] == ["github.*"] * 2
            assert [event["_meta"]["clarion/topic"] for event in found] == wanted
        assert [e["_meta"]["clarion/topic"] for e in await drained(peer, "github.*", narrow, **narrowed)] == wanted[1:]
        await running.emit("deal.won", {})
        plain = (await peer.poll("deal.won"))["cursor"]
        await running.emit("deal.won", {})
        (event,) = await drained(peer, "deal.won", plain)
        assert "_meta" not in event


@both_dialects
@requirement("ours.serve.catalog", "sep.error.not-found", "sep.error.unsupported")
async def test_what_is_in_no_declaration_is_not_found_whoever_has_it(tmp_path: Path, declared: bool) -> None:
    async with served(tmp_path, declared=declared) as (running, peer):
        await declare(running, "secret.thing", "globex")
        for name in ("secret.thing", "no.such", "github.issues.opened", "*", "deal.*", "", "github"):
            for method in ("events/poll", "events/stream"):
                refusal = await peer.refused(method, name=name)
                if name:
                    assert (refusal.code, refusal.data) == (peer.codes["NotFound"], {"kind": "event"}), name
                else:
                    assert (refusal.code, refusal.data["field"]) == (-32602, "name")
        globex = other(peer, operator("globex"))
        assert await globex.poll("secret.thing")
        for method in ("events/subscribe", "events/unsubscribe"):
            assert (await peer.refused(method, name="deal.won")).code == -32601


@both_stores
@requirement("ours.serve.catalog", "sep.changed.sent", "ours.lib.tenants")
async def test_a_declared_topic_is_told_and_listed_in_its_own_tenant_alone(tmp_path: Path, store: str) -> None:
    async with served(tmp_path, store) as (running, acme):
        globex = other(acme, operator("globex"))
        async with acme.open(LISTEN, WANTS_CHANGES) as ours, globex.open(LISTEN, WANTS_CHANGES) as theirs:
            for frames in (ours, theirs):
                honoured = (await frames.next())["params"]["notifications"]
                assert honoured["eventsListChanged"] is True
            await declare(running, "orders.placed")
            assert (await ours.next())["method"] == "notifications/events/list_changed"
            assert "orders.placed" in names_of({"events": await listed(acme)})
            assert "orders.placed" not in names_of({"events": await listed(globex)})
            await declare(running, "orders.globex", "globex")
            assert (await theirs.next())["method"] == "notifications/events/list_changed"
            await declare(running, "orders.placed", description="Newer.")
            assert (await ours.next())["method"] == "notifications/events/list_changed"
            assert [each["description"] for each in await listed(acme) if each["name"] == "orders.placed"] == ["Newer."]
            await declare(running, "orders.globex", "globex", description="Newer.")
            assert (await theirs.next())["method"] == "notifications/events/list_changed"  # and nothing between


# -- arguments -------------------------------------------------------------------------------------------------------

FILTERS: list[tuple[str, dict[str, Any]]] = [
    ("deal.won", {}),
    ("deal.won", {"account_id": "a1"}),
    ("deal.won", {"account_id": ["a1", "a2"]}),
    ("deal.won", {"account_id_not": "a1"}),
    ("deal.won", {"amount_gte": 50, "amount_lt": 90}),
    ("deal.won", {"account_id_prefix": "a", "owner_exists": True}),
    ("deal.won", {"owner_exists": False}),
    ("deal.won", {"stage_to": "Closed Won"}),
    ("deal.won", {"not_declared": 1}),
    ("custom.*", {}),
    ("custom.*", {"topic": "custom.a"}),
    ("custom.*", {"topic_prefix": "custom.b", "n_nin": [1, 2]}),
]
END = "ticket.end"


def some_event(chance: random.Random) -> tuple[str, dict[str, Any]]:
    if chance.random() < 0.3:
        return chance.choice(["custom.a", "custom.b", "custom.b.c"]), {"n": chance.randrange(4)}
    payload: dict[str, Any] = {"account_id": chance.choice(["a1", "a2", "b3"]), "amount": chance.randrange(100)}
    if chance.random() < 0.5:
        payload["owner"] = "ada"
    if chance.random() < 0.3:
        payload["new_stage"] = chance.choice(["Closed Won", "Proposal"])
    if chance.random() < 0.2:
        payload["not_declared"] = chance.randrange(2)
    return "deal.won", payload


@both_stores
@requirement("ours.serve.arguments")
async def test_arguments_give_what_the_same_filter_gives_on_the_side_channel(tmp_path: Path, store: str) -> None:
    chance, clock = random.Random(3), FakeClock()
    emitted = [some_event(chance) for _ in range(60)]
    async with served(tmp_path, store, clock=clock) as (running, peer), AsyncExitStack() as stack:
        async with connect(running, operator()) as session:
            for number, (topic, filter) in enumerate(FILTERS):
                wanted = (
                    {"client_id": f"client-{number}", "filter": filter} if filter else {"client_id": f"client-{number}"}
                )
                await call(session, "subscribe", topic=[topic], **wanted)
                await call(session, "subscribe", topic=[END], client_id=f"client-{number}")
        sides, streams, cursors = [], [], []
        for number, (topic, filter) in enumerate(FILTERS):
            side = await stack.enter_async_context(push_stream(running, operator(), f"client-{number}"))
            await side.expect(OPEN)
            sides.append(side)
            streams.append(await stack.enter_async_context(peer.stream(topic, arguments=filter)))
            await streams[-1].expect("active")
            cursors.append((await peer.poll(topic, arguments=filter))["cursor"])
        for number, (topic, payload) in enumerate(emitted):
            await running.emit(topic, {**payload, "number": number})
        await running.emit(END, {})
        for (topic, filter), side, frames, cursor in zip(FILTERS, sides, streams, cursors, strict=True):
            frames_of_side = [frame for frame in (await side.until(END))[:-1] if frame.event == EVENT]
            wanted = [frame.params["payload"]["number"] for frame in frames_of_side]
            assert wanted or filter, "a filter that nothing passes shows nothing"
            assert [event["number"] for event in await frames.data(len(wanted))] == wanted, (topic, filter)
            polled = await drained(peer, topic, cursor, arguments=filter, maxEvents=7)
            assert [event["data"]["number"] for event in polled] == wanted, (topic, filter)
        await clock.advance(30)
        for frames in streams:
            assert len(await frames.until("heartbeat")) == 1, "nothing else came"


@both_modes
@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"amount_gte": "many"}, "arguments.amount_gte"),
        ({"amount_exists": "yes"}, "arguments.amount_exists"),
        ({"account_id": {"nested": 1}}, "arguments.account_id"),
        ({"undeclared_gte": "many"}, "arguments.undeclared_gte"),
        ({"consent_purpose": 7}, "arguments.consent_purpose"),
        ({"consent_purpose": " "}, "arguments.consent_purpose"),
        ({f"field_{number}": number for number in range(33)}, "arguments"),
        ({"account_id_in": list(range(257))}, "arguments.account_id_in"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@requirement("ours.serve.arguments", "sep.error.invalid")
async def test_arguments_that_break_schema_or_grammar_are_invalid_params_naming_the_path(
    mode: str, arguments: Mapping[str, Any], field: str, tmp_path: Path
) -> None:
    async with served(tmp_path) as (_, peer):
        refusal = await peer.refused(f"events/{mode}", name="deal.won", arguments=arguments)
        assert (refusal.code, refusal.data["field"]) == (-32602, field)


@requirement("ours.serve.arguments")
async def test_arguments_follow_a_schema_that_was_declared_anew(tmp_path: Path) -> None:
    async with served(tmp_path) as (running, peer):
        for kind, good, bad in (("number", 1, "1"), ("string", "1", 1)):
            await declare(running, "orders.placed", payload_schema=of_orders(kind))
            assert await peer.poll("orders.placed", arguments={"total": good})
            assert (await peer.refused("events/poll", name="orders.placed", arguments={"total": bad})).code == -32602


# -- rules -----------------------------------------------------------------------------------------------------------


async def consent(running: Running, state: str, **fields: Any) -> None:
    async with running.http(operator()) as http:
        answer = await http.post("/v1/consent", json={"subject": "eve", "state": state, **fields})
    assert answer.status_code == 201, answer.text


@both_modes
@both_stores
@requirement("ours.serve.rules")
async def test_consent_holds_with_and_without_a_purpose(tmp_path: Path, store: str, mode: str) -> None:
    purpose = {"consent_purpose": "marketing"}
    name = "contact.updated"
    async with (
        served(tmp_path, store) as (running, peer),
        peer.stream(name) as general,
        peer.stream(name, arguments=purpose) as particular,
    ):
        for frames in (general, particular):
            await frames.expect("active")
        start = (await peer.poll(name))["cursor"]
        story = [
            (lambda: consent(running, "granted"), True, False),
            (lambda: consent(running, "granted", purpose="marketing"), True, True),
            (lambda: consent(running, "withdrawn", purpose="marketing"), True, False),
            (lambda: consent(running, "withdrawn"), False, False),
            (lambda: consent(running, "granted", purpose="marketing"), False, True),
        ]
        for step, (happens, *seen) in enumerate(story):
            await happens()
            cursors = [(await peer.poll(name, arguments=arguments))["cursor"] for arguments in ({}, purpose)]
            await running.emit(name, {"step": step}, subjects=["eve"])
            await running.emit(name, {"step": "nobody's"})
            for which, (arguments, frames) in enumerate((({}, general), (purpose, particular))):
                wanted = [step] * seen[which] + ["nobody's"]
                if mode == "poll":
                    found = [event["data"] for event in await drained(peer, name, cursors[which], arguments=arguments)]
                else:
                    found = await frames.data(len(wanted))
                assert [data["step"] for data in found] == wanted, (step, arguments)
        await consent(running, "withdrawn")
        late = [event["data"]["step"] for event in await drained(peer, name, start)]
        assert late == ["nobody's"] * len(story), "what was withdrawn since is not replayed"


@both_modes
@requirement("ours.serve.rules")
async def test_tenant_audience_and_expiry_hold(tmp_path: Path, mode: str) -> None:
    clock = FakeClock()
    async with served(tmp_path, clock=clock) as (running, _), running.http() as http:
        ada, bob = [serve_peer(http, await running.key("subscriber", subject=who)) for who in ("ada", "bob")]
        eve = serve_peer(http, await running.key("subscriber", tenant="globex", subject="ada"))
        name = "deal.won"
        cursors = [(await peer.poll(name))["cursor"] for peer in (ada, bob, eve)]
        await running.emit(name, {"for": "ada"}, audience=["ada"])
        await running.emit(name, {"for": "nobody"}, expires_at=isoformat(clock.now() + MICROSECONDS))
        await running.emit(name, {"for": "all"})
        await running.emit(name, {"for": "globex"}, bearer=operator("globex"))
        clock.jump(2)
        for peer, cursor, wanted in zip((ada, bob, eve), cursors, (["ada", "all"], ["all"], ["globex"]), strict=True):
            if mode == "poll":
                found = [event["data"] for event in await drained(peer, name, cursor)]
            else:
                async with peer.stream(name, cursor=cursor) as frames:
                    assert (await frames.expect("active"))["truncated"] is False
                    found = await frames.data(len(wanted))
            assert [data["for"] for data in found] == wanted
        stolen = await eve.poll(name, cursors[0])
        assert (stolen["events"], stolen["truncated"]) == ([], True)


@requirement("ours.serve.rules")
async def test_every_delivery_has_one_row_and_counts_once(tmp_path: Path) -> None:
    count = 12
    async with served(tmp_path, "sqlite") as (running, peer):
        cursor = (await peer.poll("deal.won"))["cursor"]
        async with peer.stream("deal.lost") as frames:
            await frames.expect("active")
            for number in range(count):
                for topic in ("deal.won", "deal.lost"):
                    await running.emit(topic, {"n": number}, event_id=f"{topic}-{number}")
            assert len(await frames.data(count)) == count
        assert len(await drained(peer, "deal.won", cursor, maxEvents=5)) == count
        summary = await summary_where(running, lambda found: found["events_delivered"] >= 2 * count)
        assert summary["events_delivered"] == 2 * count
        assert summary["estimated_cost_cents"] == pytest.approx(2 * count * 0.01)
        assert summary["subscriptions_active"] == 0, "nothing is kept of a subscription of this wire"
        async with running.http(operator()) as http:
            rows = (await http.get(f"{OUTBOUND}/deliveries", params={"limit": "200"})).json()["deliveries"]
        assert len(rows) == 2 * count
        assert {row["wire"] for row in rows} == {"mcp_events"}
        assert {row["outcome"] for row in rows} == {"delivered"}
        assert len({row["subscription_id"] for row in rows}) == 2
    audit = sqlite3.connect(tmp_path / "audit.db")
    try:
        stored = [event for (event,) in audit.execute("SELECT event_id FROM mcp_push_deliveries")]
    finally:
        audit.close()
    wanted = [f"{topic}-{number}" for topic in ("deal.won", "deal.lost") for number in range(count)]
    assert sorted(stored) == sorted(wanted)


@both_dialects
@requirement("ours.serve.rules", "sep.error.exhausted")
async def test_limits_of_open_streams_hold_and_free_with_a_stream(tmp_path: Path, declared: bool) -> None:
    limits = {"max_connections": 3, "max_connections_per_principal": 2}
    async with served(tmp_path, declared=declared, **limits) as (running, _), running.http() as http:
        ada, bob = [
            serve_peer(http, await running.key("subscriber", subject=who), declared=declared) for who in ("ada", "bob")
        ]
        async with ada.stream("deal.won") as one, ada.stream("deal.lost") as two, bob.stream("deal.won") as three:
            for frames in (one, two, three):
                await frames.expect("active")
            for peer, most in ((ada, 3), (bob, 3)):
                refusal = await peer.refused("events/stream", name="deal.won")
                assert (refusal.code, refusal.data["max"]) == (peer.codes["ResourceExhausted"], most)
            assert await bob.poll("deal.won")
        await until(lambda: not list(running.app.hub.connections(TENANT)))
        async with ada.stream("deal.won") as one, ada.stream("deal.won") as two:
            await one.expect("active")
            await two.expect("active")
            refusal = await ada.refused("events/stream", name="deal.won")
            assert (refusal.code, refusal.data["max"]) == (ada.codes["ResourceExhausted"], 2)


@requirement("ours.serve.rules")
async def test_only_a_subscribers_key_speaks_events(tmp_path: Path) -> None:
    async with served(tmp_path) as (running, peer):
        for bearer, status in ((await running.key("publisher"), 403), ("ck_nobody", 401), (None, 401)):
            anyone = serve_peer(peer.http, bearer or "")
            if bearer is None:
                anyone.headers = {}
            request = anyone.request(anyone.message("events/list", {}, 1))
            response = await peer.http.send(request)
            assert response.status_code == status
        assert await listed(other(peer, await running.key("subscriber")))


@requirement("ours.serve.rules", "ours.bad.cursor")
async def test_a_cursor_of_the_side_channel_is_no_cursor_of_this_wire(tmp_path: Path) -> None:
    async with served(tmp_path) as (running, peer):
        seq = await running.emit("deal.won", {})
        answer = await peer.poll("deal.won", str(seq - 1))
        assert (answer["events"], answer["truncated"]) == ([], True)


@requirement("ours.serve.rules", "ours.stream.stop")
async def test_a_stop_ends_streams_and_listeners_with_their_result(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, served(tmp_path) as (running, peer):
        frames = await stack.enter_async_context(peer.stream("deal.won"))
        listener = await stack.enter_async_context(peer.open(LISTEN, WANTS_CHANGES))
        await frames.expect("active")
        await listener.next()
        running.app.close()
        for each in (frames, listener):
            (last,) = await each.rest()
            assert (last["id"], last["result"]["resultType"]) == (each.id, "complete")


@requirement("ours.fixture")
async def test_the_server_has_none_of_the_fixtures_controls(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, peer):
        tools = {tool["name"] for tool in (await peer.call("tools/list"))["tools"]}
        assert tools
        assert not {name for name in tools if "conformance" in name}
        types = names_of({"events": await listed(peer)})
        assert not [name for name in types if "conformance" in name]
