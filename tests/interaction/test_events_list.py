"""`events/list`, what is advertised, and event types that come, change and go (SEP-3415)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer

from clarion.errors import InvalidEvent
from clarion.events import Events
from clarion.testing.clock import FakeClock
from interaction.events_raw import EXTENSION, INITIALIZE, MODERN, Frames, HttpPeer, Peer, Refused, names_of
from interaction.events_requirements import requirement
from interaction.events_subject import ALARM, ARGUMENTS, PAYLOAD, REPORT, TICKET, declare, on_mcpserver
from interaction.events_targets import HttpTarget, Target, both_dialects, every_target, http_peer

LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
LIST_CHANGED = "notifications/events/list_changed"
WANTS_CHANGES = {"notifications": {"eventsListChanged": True}}


async def advertised(peer: Peer) -> dict[str, Any]:
    """The capabilities as the server introduces itself."""
    answer = peer.introduction if peer.era == INITIALIZE else await peer.call("server/discover")
    capabilities: dict[str, Any] = answer["capabilities"]
    return capabilities


# -- what is advertised ----------------------------------------------------------------------------------------------


@every_target
@requirement("sep.caps.discover", "ours.dialect.caps")
async def test_both_dialects_are_advertised_on_discover_and_on_initialize(target: Target) -> None:
    async with target.connect(declared=False) as peer:
        capabilities = await advertised(peer)
        assert capabilities["extensions"][EXTENSION] == capabilities["events"]


async def hears_of_changes(peer: HttpPeer, events: Events) -> bool:
    """Whether a listen stream that asks for list changes is granted them, and gets them."""
    async with peer.open(LISTEN, WANTS_CHANGES) as frames:
        opening = await frames.next()
        if opening.get("method") != ACKNOWLEDGED:
            return False
        if not opening["params"]["notifications"].get("eventsListChanged"):
            return False
        events.event("one.more")
        return (await frames.next())["method"] == LIST_CHANGED


@pytest.mark.parametrize(
    ("target", "json_response"),
    [
        pytest.param(HttpTarget("mcpserver"), False, id="mcpserver"),
        pytest.param(HttpTarget("fastmcp", fastmcp=True), False, id="fastmcp"),
        pytest.param(HttpTarget("initialize", INITIALIZE), False, id="initialize"),
        pytest.param(HttpTarget("json"), True, id="json"),
        pytest.param(HttpTarget("json-initialize", INITIALIZE), True, id="json-initialize"),
        pytest.param(HttpTarget("json-stateless", INITIALIZE, stateless=True), True, id="json-stateless"),
        pytest.param(HttpTarget("stateless", INITIALIZE, stateless=True), False, id="initialize-stateless"),
    ],
)
@requirement("sep.caps.list-changed")
async def test_list_changed_is_declared_where_listen_can_carry_it(target: HttpTarget, json_response: bool) -> None:
    events = declare()
    async with target.serve(events, json_response=json_response) as peer:
        declared = (await advertised(peer))["events"].get("listChanged", False)
        assert declared or json_response
        assert await hears_of_changes(peer, events) is declared


@pytest.mark.parametrize("era", [MODERN, INITIALIZE])
@requirement("sep.caps.absent")
async def test_a_server_without_the_extension_does_not_know_the_methods(era: str) -> None:
    plain = MCPServer("plain", log_level="CRITICAL")
    async with HttpTarget("plain", era).serve(Events(), server=plain) as peer:
        assert "events" not in await advertised(peer)
        for method in ("events/list", "events/poll", "events/stream"):
            assert (await peer.refused(method, name=TICKET)).code == -32601


@every_target
@requirement("sep.caps.core")
async def test_tools_answer_a_client_that_knows_nothing_of_events(target: Target) -> None:
    async with target.connect(declared=False) as peer:
        assert "streams" in {tool["name"] for tool in (await peer.call("tools/list"))["tools"]}
        assert await peer.tool("streams") == "0"


# -- the list --------------------------------------------------------------------------------------------------------


@every_target
@requirement("sep.list.fields", "sep.result-type")
async def test_each_type_has_its_fields_and_meta_only_if_it_has_any(target: Target) -> None:
    async with target.connect() as peer:
        listing = await peer.call("events/list")
        assert listing["resultType"] == "complete"
        types = {each["name"]: each for each in listing["events"]}
        assert types[TICKET] == {
            "name": TICKET,
            "description": "A ticket changed.",
            "delivery": ["poll", "push"],
            "inputSchema": ARGUMENTS,
            "payloadSchema": PAYLOAD,
        }
        assert types[REPORT]["_meta"] == {"example/owner": "reports"}
        assert [name for name, each in types.items() if "_meta" in each] == [REPORT]
        assert types[ALARM]["payloadSchema"]["properties"]["level"]["type"] == "integer"


@requirement("sep.list.delivery", "sep.sdk.modes")
async def test_delivery_names_what_works_and_poll_unless_opted_out() -> None:
    events = Events()
    events.event("plain")
    events.event("push.only", delivery=["push"])
    events.event("poll.only", delivery=["poll"])
    events.event("no.replay", replay=False)
    events.event("checked")(lambda _ctx, _arguments, _cursor: ([], "here"))
    async with http_peer(events) as peer:
        delivery = {each["name"]: each["delivery"] for each in (await peer.call("events/list"))["events"]}
        assert delivery == {
            "plain": ["poll", "push"],
            "push.only": ["push"],
            "poll.only": ["poll"],
            "no.replay": ["push"],
            "checked": ["poll", "push"],
        }
        for name, modes in delivery.items():
            assert ("poll" in modes) is await works(peer.poll(name)), name
            assert ("push" in modes) is await opens(peer, name), name


async def works(request: Awaitable[Any]) -> bool:
    try:
        return bool(await request)
    except Refused:
        return False


async def opens(peer: Peer, name: str) -> bool:
    async with peer.stream(name) as frames:
        return (await frames.next()).get("method") == "notifications/events/active"


@requirement("sep.list.pages")
async def test_pages_give_every_type_once_and_the_last_has_no_cursor() -> None:
    events = Events(page_size=2)
    names = [f"type.{number}" for number in range(5)]
    for name in names:
        events.event(name)
    async with http_peer(events) as peer:
        pages = [await peer.call("events/list")]
        while cursor := pages[-1].get("nextCursor"):
            pages.append(await peer.call("events/list", cursor=cursor))
        assert [names_of(page) for page in pages] == [names[:2], names[2:4], names[4:]]
        assert "nextCursor" not in pages[-1]


@requirement("sep.list.pages")
async def test_a_last_page_that_is_full_has_no_cursor() -> None:
    events = Events(page_size=2)
    events.event("one")
    events.event("two")
    async with http_peer(events) as peer:
        assert "nextCursor" not in await peer.call("events/list")


@pytest.mark.parametrize("cursor", ["made up", "", "dHlwZS45", 7, {"name": TICKET}], ids=str)
@requirement("sep.list.bad-cursor")
async def test_a_page_cursor_that_was_never_given_is_invalid_params(cursor: Any) -> None:
    async with http_peer(declare()) as peer:
        refusal = await peer.refused("events/list", cursor=cursor)
        assert refusal.code == -32602
        assert refusal.data["field"] == "cursor"


@every_target
@requirement("ours.dialect.same")
async def test_a_listing_is_the_same_with_and_without_the_declaration(target: Target) -> None:
    listings = []
    for declared in (True, False):
        async with target.connect(declared=declared) as peer:
            listings.append(await peer.call("events/list"))
    assert listings[0] == listings[1]


@requirement("ours.list.topics")
async def test_unknown_members_of_list_are_let_be_and_the_result_adds_only_events() -> None:
    async with http_peer(declare()) as peer:
        plain = await peer.call("events/list")
        asked = await peer.call("events/list", topics=["a/#"], pattern=7, prefix=None, limit="many")
        assert asked == plain
        assert plain.keys() - {"_meta"} == {"resultType", "events"}


# -- list_changed ----------------------------------------------------------------------------------------------------


async def acknowledged(frames: Frames) -> dict[str, Any]:
    """What the opening of a listen stream says is honoured."""
    opening = await frames.next()
    assert opening["method"] == ACKNOWLEDGED
    honoured: dict[str, Any] = opening["params"]["notifications"]
    return honoured


async def expect_list_changed(frames: Frames) -> None:
    message = await frames.next()
    assert message["method"] == LIST_CHANGED
    assert message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == frames.id


@pytest.mark.parametrize("fastmcp", [False, True], ids=["mcpserver", "fastmcp"])
@requirement("sep.changed.sent")
async def test_adding_removing_and_describing_anew_send_list_changed(fastmcp: bool) -> None:
    events = declare()
    async with HttpTarget("any", fastmcp=fastmcp).serve(events) as peer, peer.open(LISTEN, WANTS_CHANGES) as frames:
        assert (await acknowledged(frames))["eventsListChanged"] is True
        events.event("one.more", "New.")
        await expect_list_changed(frames)
        assert "one.more" in names_of(await peer.call("events/list"))
        events.change("one.more", description="Newer.")
        await expect_list_changed(frames)
        assert (await peer.call("events/list"))["events"][-1]["description"] == "Newer."
        events.remove("one.more")
        await expect_list_changed(frames)
        assert "one.more" not in names_of(await peer.call("events/list"))


@requirement("sep.changed.opt-in", "sep.changed.echo", "sep.stream.own-frames")
async def test_list_changed_comes_only_to_a_listen_stream_that_asked() -> None:
    events = declare()
    server = on_mcpserver(events)
    async with (
        HttpTarget("any").serve(events, server=server) as peer,
        peer.open(LISTEN, {"notifications": {"eventsListChanged": True, "toolsListChanged": True}}) as asked,
        peer.open(LISTEN, {"notifications": {"toolsListChanged": True}}) as other,
        peer.open(LISTEN, {"notifications": {"eventsListChanged": "yes", "toolsListChanged": True}}) as confused,
        peer.stream(TICKET) as stream,
    ):
        assert await acknowledged(asked) == {"eventsListChanged": True, "toolsListChanged": True}
        assert await acknowledged(other) == {"toolsListChanged": True}
        assert await acknowledged(confused) == {"toolsListChanged": True}
        await stream.expect("active")
        events.event("one.more")
        await expect_list_changed(asked)
        await peer.tool("tools_changed")
        for frames in (asked, other, confused):
            assert (await frames.next())["method"] == "notifications/tools/list_changed"
        await events.emit(TICKET, {"id": "after"})
        assert await stream.data(1) == [{"id": "after"}]


# -- evolution and removal -------------------------------------------------------------------------------------------

STATUS: dict[str, Any] = {"type": "string", "enum": ["open", "closed"]}
OBJECT = {"type": "object"}


@requirement("sep.evolve.additive", "sep.evolve.optional", "sep.removed.additive")
async def test_optional_fields_and_wider_enums_end_no_subscription() -> None:
    events = Events()
    old = {**OBJECT, "properties": {"status": STATUS}, "additionalProperties": False}
    wider = {**STATUS, "enum": ["open", "closed", "new"]}
    new = {**old, "properties": {"status": wider, "by": {"type": "string"}}}
    events.event("ticket", arguments=old, payload=old)
    async with http_peer(events) as peer, peer.stream("ticket", arguments={"status": "open"}) as frames:
        await frames.expect("active")
        with pytest.raises(InvalidEvent):
            await events.emit("ticket", {"by": "me"})
        events.change("ticket", arguments=new, payload=new)
        (described,) = (await peer.call("events/list"))["events"]
        assert described["inputSchema"] == described["payloadSchema"] == new
        await events.emit("ticket", {"status": "new", "by": "me"})
        assert await frames.data(1) == [{"status": "new", "by": "me"}]
        assert await peer.poll("ticket", arguments={"status": "new", "by": "me"})


def of(**properties: Any) -> dict[str, Any]:
    return {**OBJECT, "properties": properties}


TEXT = {"type": "string"}

BREAKING = {
    "removed": ("payloadSchema", of(id=TEXT, status=TEXT), of(id=TEXT)),
    "renamed": ("payloadSchema", of(status=TEXT), of(state=TEXT)),
    "retyped": ("payloadSchema", of(id=TEXT), of(id={"type": "integer"})),
    "enum": ("payloadSchema", of(status=STATUS), of(status={**STATUS, "enum": ["open"]})),
    "no longer there always": ("payloadSchema", {**of(id=TEXT), "required": ["id"]}, of(id=TEXT)),
    "within": ("payloadSchema", of(at=of(id=TEXT)), of(at=of())),
    "argument removed": ("inputSchema", of(id=TEXT), of()),
    "argument retyped": ("inputSchema", of(id=TEXT), of(id={"type": "integer"})),
    "argument enum": ("inputSchema", of(status=STATUS), of(status={**STATUS, "enum": ["open"]})),
    "required": ("inputSchema", of(id=TEXT), {**of(id=TEXT), "required": ["id"]}),
    "tighter bound": ("inputSchema", of(n={"type": "integer"}), of(n={"type": "integer", "maximum": 9})),
    "lower bound": ("inputSchema", of(n={"maximum": 99}), of(n={"maximum": 9})),
    "no others": ("inputSchema", of(id=TEXT), {**of(id=TEXT), "additionalProperties": False}),
}


@pytest.mark.parametrize("change", BREAKING)
@requirement("sep.evolve.fields", "sep.evolve.enums", "sep.evolve.tightened", "sep.evolve.additive")
async def test_a_breaking_change_is_known_as_such(change: str) -> None:
    feature, old, new = BREAKING[change]
    events = Events()
    place = {"payloadSchema": "payload", "inputSchema": "arguments"}[feature]
    events.event("ticket", **{place: old})
    async with http_peer(events) as peer, peer.stream("ticket") as frames:
        await frames.expect("active")
        events.change("ticket", description="Only described anew.", **{place: old})
        await events.emit("ticket", {"id": "1"})
        await frames.expect("event")
        events.change("ticket", **{place: new})
        assert (await frames.expect("terminated"))["error"]["data"]["feature"] == feature


@requirement("sep.evolve.beside")
async def test_a_successor_is_served_beside_its_predecessor_until_that_is_removed() -> None:
    events = Events()
    events.event("ticket.v1", payload={"id": str})
    events.event("ticket.v2", payload={"number": int})
    async with http_peer(events) as peer, peer.stream("ticket.v1") as old, peer.stream("ticket.v2") as new:
        await old.expect("active")
        await new.expect("active")
        await events.emit("ticket.v1", {"id": "1"})
        await events.emit("ticket.v2", {"number": 1})
        assert await old.data(1) == [{"id": "1"}]
        assert await new.data(1) == [{"number": 1}]
        events.remove("ticket.v1")
        await old.expect("terminated")
        await events.emit("ticket.v2", {"number": 2})
        assert await new.data(1) == [{"number": 2}]
        assert names_of(await peer.call("events/list")) == ["ticket.v2"]


@every_target
@both_dialects
@requirement("sep.removed.ends", "sep.removed.not-found", "sep.term.push", "sep.term.poll")
async def test_removing_a_type_ends_its_streams_and_polls_with_not_found(target: Target, declared: bool) -> None:
    async with target.connect(declared=declared) as peer:
        cursor = (await peer.poll(TICKET))["cursor"]
        async with peer.stream(TICKET) as frames:
            await frames.expect("active")
            await peer.tool("emit", name=TICKET, data={"id": "1"})
            await frames.expect("event")
            await peer.tool("act", what="remove", name=TICKET)
            error = (await frames.expect("terminated"))["error"]
            (last,) = await frames.rest()
            assert last["result"]["resultType"] == "complete"
        refusal = await peer.refused("events/poll", name=TICKET, cursor=cursor)
        assert (error["code"], error["data"]) == (refusal.code, refusal.data)
        assert (refusal.code, refusal.data) == (peer.codes["NotFound"], {"kind": "event"})
        assert (await peer.refused("events/stream", name=TICKET)).code == refusal.code
        assert await peer.tool("streams") == "0"


@pytest.mark.parametrize("feature", ["inputSchema", "payloadSchema"])
@both_dialects
@requirement("sep.removed.ends", "sep.removed.changed")
async def test_a_schema_changed_in_place_ends_streams_as_unsupported(feature: str, declared: bool) -> None:
    place = {"payloadSchema": "payload", "inputSchema": "arguments"}[feature]
    events = Events(clock=FakeClock())
    events.event("ticket", **{place: of(id=TEXT)})
    events.event("other")
    async with http_peer(events, declared=declared) as peer, peer.stream("other") as other:
        await other.expect("active")
        async with peer.stream("ticket") as frames:
            await frames.expect("active")
            events.change("ticket", **{place: of(id={"type": "integer"})})
            error = (await frames.expect("terminated"))["error"]
            assert error["code"] == peer.codes["Unsupported"]
            assert error["data"] == {"feature": feature, "reason": "schema_changed"}
            assert "result" in (await frames.rest())[-1]
        assert await opens(peer, "ticket")
        await events.emit("other", {"n": 1})
        assert await other.data(1) == [{"n": 1}]
