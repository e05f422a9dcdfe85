"""What a request that cannot be served says (SEP-3415, "Error Handling"), and what it never says."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from clarion.events import Events
from clarion.hub.hub import HubLimits
from interaction.events_raw import HttpPeer, Message
from interaction.events_requirements import requirement
from interaction.events_subject import ALARM, REPORT, TICKET, declare
from interaction.events_targets import HttpTarget, Target, both_dialects, both_paths, every_target, http_peer, store_url

METHODS = {"poll": "events/poll", "stream": "events/stream"}

both_methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@every_target
@both_dialects
@requirement("ours.dialect.declared", "ours.dialect.undeclared", "sep.error.not-found", "sep.error.unsupported")
async def test_errors_are_numbered_by_the_clients_declaration_with_the_same_data(
    target: Target, declared: bool
) -> None:
    async with target.connect(declared=declared) as peer:
        for method in METHODS.values():
            refusal = await peer.refused(method, name="no.such")
            assert (refusal.code, refusal.data) == (peer.codes["NotFound"], {"kind": "event"})
            assert refusal.text.startswith("NotFound: ")
        for method, name, mode in (("events/poll", ALARM, "poll"), ("events/stream", REPORT, "push")):
            refusal = await peer.refused(method, name=name)
            assert refusal.code == peer.codes["Unsupported"]
            assert refusal.data == {"feature": "deliveryMode", "value": mode}


NESTED: Message = {
    "type": "object",
    "properties": {
        "labels": {"type": "array", "items": {"type": "object", "properties": {"key": {"type": "string"}}}},
        "a/b": {"type": "integer"},
    },
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"labels": [{"key": "fine"}, {"key": 7}]}, ["labels", "1", "key"]),
        ({"labels": "none"}, ["labels"]),
        ({"a/b": "one"}, ["a/b"]),
        ({"other": 1}, ["other"]),
    ],
    ids=["within", "member", "slash", "unknown"],
)
@both_methods
@requirement("sep.error.invalid", "sep.poll.errors")
async def test_arguments_that_break_the_schema_are_invalid_params_naming_the_path(
    method: str, arguments: Message, path: list[str]
) -> None:
    events = Events()
    events.event("nested", arguments=NESTED)
    async with http_peer(events) as peer:
        reply = await peer.ask(method, {"name": "nested", "arguments": arguments})
        assert reply.message.keys() == {"jsonrpc", "id", "error"}
        refusal = reply.refusal
        assert refusal.code == -32602
        assert refusal.data["field"].startswith("arguments")
        place = refusal.data["field"] + refusal.text
        assert all(part in place.replace("~1", "/") for part in path)
        assert "fine" not in place


WRONG: dict[str, list[Any]] = {
    "name": [None, "", 7, ["x"], "x" * 300],
    "arguments": [[], "x", 7, True],
    "cursor": [7, True, {}, []],
    "maxAgeMs": [-1, 1.5, "1", True, 2**60],
    "maxEvents": [0, -1, 1.5, "1", True],
    "timeoutMs": [-1, 1.5, "1", False],
}


@pytest.mark.parametrize("member", WRONG)
@requirement("ours.bad.params")
async def test_a_missing_or_mistyped_member_is_invalid_params_by_name(member: str) -> None:
    async with http_peer(declare()) as peer:
        streams = member not in ("maxEvents", "timeoutMs")
        for method in METHODS.values() if streams else ["events/poll"]:
            for value in WRONG[member]:
                refusal = await peer.refused(method, **{"name": TICKET, member: value})
                assert (refusal.code, refusal.data["field"]) == (-32602, member), value
                assert member in refusal.text
        if member == "name":
            assert (await peer.refused("events/poll")).data["field"] == "name"


@pytest.mark.parametrize(("method", "name", "mode"), [("poll", ALARM, "poll"), ("stream", REPORT, "push")])
@requirement("sep.error.unsupported")
async def test_a_mode_not_offered_is_unsupported_with_its_value(method: str, name: str, mode: str) -> None:
    async with http_peer(declare()) as peer:
        refusal = await peer.refused(METHODS[method], name=name, arguments={"level": "no matter"})
        assert refusal.code == peer.codes["Unsupported"]
        assert refusal.data == {"feature": "deliveryMode", "value": mode}


def quota(kind: str, subscribed: list[Any]) -> Events:
    """A type that may have two streams at a time."""

    async def on_subscribe(_ctx: Any, arguments: Message, _subscription_id: str) -> None:
        subscribed.append(arguments)

    if kind == "type":
        events = Events()
        events.event("capped", max_streams=2, on_subscribe=on_subscribe)
    else:
        events = Events(limits=HubLimits(**{kind: 2}))
        events.event("capped", on_subscribe=on_subscribe)
    return events


@pytest.mark.parametrize("kind", ["type", "connections", "connections_per_principal"])
@both_dialects
@requirement("sep.error.exhausted", "sep.sdk.limit-first")
async def test_a_full_quota_is_resource_exhausted_and_frees_with_a_stream(kind: str, declared: bool) -> None:
    subscribed: list[Any] = []
    events = quota(kind, subscribed)
    async with http_peer(events, declared=declared) as peer, peer.stream("capped", arguments={"n": 1}) as first:
        await first.expect("active")
        async with peer.stream("capped", arguments={"n": 2}) as second:
            await second.expect("active")
            refusal = await peer.refused("events/stream", name="capped", arguments={"n": 3})
            assert refusal.code == peer.codes["ResourceExhausted"]
            assert refusal.data.keys() == {"limit", "max"}
            assert refusal.data["max"] == 2
            assert subscribed == [{"n": 1}, {"n": 2}]
            assert (await peer.poll("capped"))["events"] == []
        async with asyncio.timeout(5):
            while not await opens(peer, {"n": 4}):
                pass
        await events.emit("capped", {"n": 0})
        assert await first.data(1) == [{"n": 0}]


async def opens(peer: HttpPeer, arguments: Message) -> bool:
    async with peer.stream("capped", arguments=arguments) as frames:
        return "error" not in await frames.next()


@both_paths
@requirement("ours.headers.method", "ours.headers.name")
async def test_mcp_method_must_agree_and_mcp_name_is_not_asked_for(target: HttpTarget) -> None:
    async with target.serve(declare()) as peer:
        for method in ("events/list", *METHODS.values()):
            peer.headers = {"mcp-method": "tools/list"}
            reply = await peer.ask(method, {"name": TICKET})
            assert (reply.status, reply.refusal.code) == (400, -32020)
        peer.headers = {}
        assert "mcp-name" not in peer.request(peer.message("events/poll", {"name": TICKET}, 1)).headers
        assert (await peer.ask("events/poll", {"name": TICKET})).status == 200
        async with peer.stream(TICKET) as frames:
            await frames.expect("active")


class Disk:
    """SQLite's own interruption, at every statement of a reader while it is broken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = False
        connect = sqlite3.connect

        def connected(database: str, **options: Any) -> sqlite3.Connection:
            connection = connect(database, **options)
            if "mode=ro" in database:
                connection.set_progress_handler(lambda: int(self.broken), 1)
            return connection

        monkeypatch.setattr(sqlite3, "connect", connected)


@both_paths
@requirement("ours.bad.store")
async def test_a_log_that_cannot_be_read_is_an_error_that_tells_nothing_inside(
    target: HttpTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    events = declare(store_url("sqlite", tmp_path))
    async with target.serve(events) as peer:
        cursor = (await peer.poll(TICKET))["cursor"]
        await events.emit(TICKET, {"id": "1"})
        await events.aclose()  # so that nothing is in memory
        await peer.poll(TICKET)
        disk.broken = True
        refusal = await peer.refused("events/poll", name=TICKET, cursor=cursor)
        async with peer.stream(TICKET, cursor=cursor) as frames:
            said = await frames.rest()
        assert refusal.code == -32603
        assert all("eventId" not in message.get("params", {}) for message in said)
        assert "error" in said[-1] or said[-2]["method"] == "notifications/events/error"
        text = f"{refusal} {json.dumps(said)}"
        assert not [word for word in ("sqlite", "SELECT", "interrupt", str(tmp_path), "events.db") if word in text]
        disk.broken = False
        assert [event["data"] for event in (await peer.poll(TICKET, cursor))["events"]] == [{"id": "1"}]
        async with peer.stream(TICKET, cursor=cursor) as frames:
            assert (await frames.expect("active"))["truncated"] is False
            assert await frames.data(1) == [{"id": "1"}]
