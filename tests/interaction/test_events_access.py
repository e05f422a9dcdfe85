"""Who may have which events: tenants, principals, audiences, and `authorize` at every moment it is asked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from clarion.errors import Forbidden, InvalidEvent, InvalidInput
from clarion.events import Events, Identity
from clarion.events.hooks import REAUTHORIZE_SECONDS, Hook
from clarion.model import Principal
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import until
from interaction.events_more import (
    ALICE,
    BOB,
    EVE,
    Recorded,
    ended,
    peers,
    recorded_logs,
    secured,
    serve_peer,
    stdio_script,
    tenant_of,
    tick,
)
from interaction.events_raw import MODERN, Peer, Reply
from interaction.events_requirements import requirement
from interaction.events_targets import FAST, HttpTarget, both_dialects, both_modes, both_paths, http_peer
from interaction.serving import operator, serving

NAME = "ticket.updated"
RED = {"team": "red"}
TEAM = {"team": str}

FASTMCP = HttpTarget("fastmcp", fastmcp=True)


def guarded(hooks: Recorded, *, clock: FakeClock | None = None, **options: Any) -> Events:
    events = Events(clock=clock)
    events.event(NAME, arguments={"team": str | None}, authorize=hooks.authorize, **options)
    return events


async def start(peer: Peer, mode: str, name: str = NAME, **params: Any) -> Reply:
    """The answer to a poll, or to a stream that is to be refused."""
    return await peer.ask(f"events/{mode}", {"name": name, **params})


@both_modes
@both_dialects
@requirement("sep.auth.subscribe", "sep.auth.arguments", "sep.error.forbidden")
async def test_authorize_is_asked_with_principal_event_and_arguments_before_each_start(
    mode: str, declared: bool
) -> None:
    hooks = Recorded()
    hooks.allowed = lambda principal, event, arguments: arguments.get("team") == "red"
    events = guarded(hooks, on_subscribe=hooks.on_subscribe)
    async with peers(events, ALICE, declared=declared) as (alice,):
        reply = await start(alice, mode, arguments={"team": "blue"})
        assert reply.content_type.startswith("application/json")
        assert reply.refusal.code == alice.codes["Forbidden"]
        assert not hooks.begun
        if mode == "poll":
            assert (await alice.poll(NAME, arguments=RED))["cursor"]
        else:
            async with alice.stream(NAME, arguments=RED) as frames:
                await frames.expect("active")
        principal = Principal("default", "alice")
        assert [(who, arguments) for who, _, arguments in hooks.calls] == [
            (principal, {"team": "blue"}),
            (principal, RED),
        ]


@requirement("sep.auth.subscribe", "sep.auth.again")
async def test_authorize_is_told_the_name_of_the_event_type_whenever_it_is_asked() -> None:
    hooks, clock = Recorded(), FakeClock()
    events = guarded(hooks, clock=clock)
    async with http_peer(events) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        async with peer.stream(NAME) as frames:
            await frames.expect("active")
            await events.emit(NAME, {"n": 1})
            await frames.expect("event")
            await peer.poll(NAME, cursor)
            await tick(clock, REAUTHORIZE_SECONDS, lambda: len(hooks.calls) == 6)
        assert {event for _, event, _ in hooks.calls} == {NAME}


@requirement("sep.auth.subscribe")
async def test_the_librarys_authorize_speaks_for_types_that_have_none() -> None:
    own, general = Recorded(), Recorded()
    general.allowed = lambda *_: False
    events = Events(authorize=general.authorize)
    events.event("with.own", authorize=own.authorize)
    events.event("without")
    async with http_peer(events) as peer:
        assert await peer.poll("with.own")
        assert (await peer.refused("events/poll", name="without")).code == peer.codes["Forbidden"]
        assert (len(own.calls), len(general.calls)) == (1, 1)


@both_paths
@both_dialects
@requirement("sep.auth.again", "sep.auth.revoked", "ours.bad.revoked", "ours.dialect.frames")
async def test_lost_access_terminates_at_the_next_interval(target: HttpTarget, declared: bool) -> None:
    hooks, clock = Recorded(), FakeClock()
    events = guarded(hooks, clock=clock)
    async with peers(events, ALICE, target=target, declared=declared) as (alice,):
        async with alice.stream(NAME) as frames:
            await frames.expect("active")
            await clock.advance(REAUTHORIZE_SECONDS)
            await until(lambda: len(hooks.calls) == 2)  # asked again, and allowed
            hooks.allowed = lambda *_: False
            await clock.advance(REAUTHORIZE_SECONDS - 1)
            assert len(hooks.calls) == 2
            await clock.advance(1)
            error = await ended(frames)
        assert error["code"] == alice.codes["Forbidden"]
        assert error["data"]["reason"] == "Access revoked"
        assert (await alice.refused("events/stream", name=NAME)).code == alice.codes["Forbidden"]


@both_dialects
@requirement("sep.auth.again", "sep.auth.revoked")
async def test_lost_access_terminates_at_the_next_event(declared: bool) -> None:
    hooks = Recorded()
    events = guarded(hooks, clock=FakeClock())
    async with peers(events, ALICE, declared=declared) as (alice,), alice.stream(NAME) as frames:
        await frames.expect("active")
        await events.emit(NAME, {"n": 1})
        assert await frames.data(1) == [{"n": 1}]
        hooks.allowed = lambda *_: False
        await events.emit(NAME, {"n": 2})
        error = await ended(frames)
        assert error["code"] == alice.codes["Forbidden"]
        assert error["data"]["reason"] == "Access revoked"


@requirement("sep.auth.revoked", "ours.bad.revoked")
async def test_lost_access_terminates_its_own_subscription_only() -> None:
    hooks = Recorded()
    events = guarded(hooks)
    async with (
        peers(events, ALICE, BOB) as (alice, bob),
        alice.stream(NAME, arguments=RED) as red,
        alice.stream(NAME, arguments={"team": "blue"}) as blue,
        bob.stream(NAME, arguments=RED) as other,
    ):
        for frames in (red, blue, other):
            await frames.expect("active")
        hooks.allowed = lambda principal, event, arguments: principal.subject == "bob" or arguments != RED
        await events.emit(NAME, {"n": 1})
        await ended(red)
        assert await blue.data(1) == await other.data(1) == [{"n": 1}]


@both_modes
@requirement("sep.auth.revoked", "ours.bad.revoked", "sep.term.poll")
async def test_nothing_is_delivered_after_access_was_lost_and_a_new_start_is_forbidden(mode: str) -> None:
    hooks = Recorded()
    events = guarded(hooks)
    async with peers(events, ALICE) as (alice,):
        cursor = (await alice.poll(NAME))["cursor"]
        async with alice.stream(NAME) as frames:
            await frames.expect("active")
            hooks.allowed = lambda *_: False
            for number in range(5):
                await events.emit(NAME, {"n": number})
            await ended(frames)
        refusal = (await start(alice, mode, cursor=cursor)).refusal
        assert refusal.code == alice.codes["Forbidden"]
        hooks.allowed = lambda *_: True
        found = await alice.poll(NAME, cursor)
        assert [event["data"] for event in found["events"]] == [{"n": number} for number in range(5)]
        hooks.allowed = lambda *_: len(hooks.calls) == 1  # at the start, and at no event
        hooks.calls.clear()
        late = await start(alice, "poll", cursor=cursor)
        assert late.refusal.code == alice.codes["Forbidden"]


@requirement("sep.auth.again", "sep.auth.revoked")
async def test_lost_access_ends_the_streams_of_a_check_too() -> None:
    hooks, clock = Recorded(), FakeClock()
    events = Events(clock=clock)
    history: list[dict[str, int]] = []

    async def check(_ctx: Any, _arguments: Any, cursor: int | None) -> Any:
        return history[cursor:] if cursor is not None else [], len(history)

    events.event(NAME, interval=5, authorize=hooks.authorize)(check)
    async with peers(events, ALICE) as (alice,):
        for seconds, told in ((REAUTHORIZE_SECONDS, []), (5, [{"n": 1}])):
            async with alice.stream(NAME) as frames:
                await frames.expect("active")
                hooks.allowed = lambda *_: False
                history += told
                await clock.advance(seconds)
                assert (await ended(frames))["code"] == alice.codes["Forbidden"]
            hooks.allowed = lambda *_: True


@pytest.mark.parametrize("answer", ["raises", "text", "a coroutine that raises"])
@requirement("ours.hooks.authorize", "ours.hooks.told")
async def test_an_authorize_that_raises_permits_nothing(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    hooks = Recorded()

    def wrong(*_: Any) -> Any:
        if answer == "text":
            return "of course"
        raise RuntimeError("swordfish")

    async def later(*_: Any) -> Any:
        raise RuntimeError("swordfish")

    failing = later if answer.startswith("a ") else wrong
    events = guarded(hooks)
    async with peers(events, ALICE) as (alice,), alice.stream(NAME) as frames:
        await frames.expect("active")
        hooks.allowed = failing
        await events.emit(NAME, {"n": 1})
        told = await frames.expect("error")
        assert told["error"]["data"] == {"reason": "authorize"}
        for mode in ("poll", "stream"):
            refusal = (await start(alice, mode)).refusal
            assert (refusal.code, refusal.data) == (-32603, {"reason": "authorize"})
            assert "swordfish" not in refusal.text
        hooks.allowed = lambda *_: True
        await events.emit(NAME, {"n": 2})
        assert await frames.data(1) == [{"n": 2}]
    assert events.hook_failures[NAME, Hook.AUTHORIZE] == 3
    lines = list(recorded_logs(caplog.records))
    assert any("hook_failed" in line and "authorize" in line for line in lines)
    assert not any("swordfish" in line for line in lines)


# -- tenants, principals, audiences ----------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("target", [FAST, FASTMCP], ids=str)
@requirement("ours.lib.tenants", "ours.bad.cursor-tenant")
async def test_with_a_tenant_function_neither_events_nor_cursors_cross(mode: str, target: HttpTarget) -> None:
    events = Events(tenant=tenant_of)
    events.event(NAME)
    async with peers(events, ALICE, EVE, "globex/alice", target=target) as clients:
        _, eve, namesake = clients
        cursors = [(await each.poll(NAME))["cursor"] for each in clients]
        await events.emit(NAME, {"whose": "acme"}, tenant="acme", event_id="one")
        await events.emit(NAME, {"whose": "globex"}, tenant="globex", event_id="one")
        for peer, cursor, whose in zip(clients, cursors, ("acme", "globex", "globex"), strict=True):
            if mode == "poll":
                found = [event["data"] for event in (await peer.poll(NAME, cursor))["events"]]
            else:
                async with peer.stream(NAME, cursor=cursor) as frames:
                    assert (await frames.expect("active"))["truncated"] is False
                    found = await frames.data(1)
            assert found == [{"whose": whose}]
        stolen = await eve.poll(NAME, cursors[0])
        assert (stolen["events"], stolen["truncated"]) == ([], True)
        again = await namesake.poll(NAME, stolen["cursor"])
        assert (again["events"], again["truncated"]) == ([], False)


@requirement("ours.lib.tenants")
async def test_an_event_of_one_tenant_reaches_no_stream_of_another() -> None:
    events = Events(tenant=tenant_of)
    events.event(NAME)
    async with peers(events, ALICE, EVE) as (alice, eve), alice.stream(NAME) as acme, eve.stream(NAME) as globex:
        await acme.expect("active")
        await globex.expect("active")
        for number in range(3):
            await events.emit(NAME, {"n": number}, tenant="acme")
        await events.emit(NAME, {"n": "last"}, tenant="globex")
        assert await acme.data(3) == [{"n": number} for number in range(3)]
        assert await globex.data(1) == [{"n": "last"}]
        with pytest.raises(InvalidInput, match="tenant"):
            await events.emit(NAME, {"n": "whose?"})


@pytest.mark.parametrize("answer", ["none", "empty", "raises", "forbidden"])
@requirement("ours.lib.tenants")
async def test_who_has_no_tenant_is_forbidden_and_not_told_why(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    def tenant(identity: Identity) -> Any:
        if identity.subject == "alice":
            return "acme"
        if answer == "raises":
            return identity.claims["swordfish"]
        if answer == "forbidden":
            raise Forbidden("you are in no tenant", details={"reason": "tenant"})
        return None if answer == "none" else ""

    events = Events(tenant=tenant)
    events.event(NAME)
    async with peers(events, ALICE, EVE) as (alice, eve):
        assert await alice.poll(NAME)
        for method in ("events/list", "events/poll", "events/stream"):
            refusal = await eve.refused(method, name=NAME)
            assert refusal.code == eve.codes["Forbidden"]
            assert "swordfish" not in refusal.text
    assert not any("'swordfish'" in line for line in recorded_logs(caplog.records))


STDIO_SERVER = """
from mcp.server.mcpserver import MCPServer
from clarion.events import Events

events = Events()


def who(ctx, event, arguments):
    return event.replace(data={"tenant": ctx.principal.tenant, "subject": ctx.principal.subject})


events.event("ping", transform=who)
mcp = MCPServer("who", extensions=[events.extension()])


@mcp.tool()
async def ping() -> str:
    await events.emit("ping", {})
    return "sent"


mcp.run()
"""


@requirement("ours.lib.defaults")
async def test_without_more_there_is_one_tenant_and_local_on_stdio(tmp_path: Path) -> None:
    script = tmp_path / "who.py"
    script.write_text(STDIO_SERVER)
    async with stdio_script(script) as peer, peer.stream("ping") as frames:
        await frames.expect("active")
        cursor = (await peer.poll("ping"))["cursor"]
        await peer.tool("ping")
        local = {"tenant": "default", "subject": "local"}
        assert await frames.data(1) == [local]
        assert [event["data"] for event in (await peer.poll("ping", cursor))["events"]] == [local]


@pytest.mark.parametrize("target", [FAST, FASTMCP], ids=str)
@requirement("ours.lib.defaults")
async def test_a_principal_is_the_tokens_subject_or_else_its_client_and_without_one_anonymous(
    target: HttpTarget,
) -> None:
    hooks = Recorded()
    async with peers(guarded(hooks), ALICE, "nobody", target=target) as clients:
        for peer in clients:
            await peer.poll(NAME)
    async with target.serve(guarded(hooks)) as peer:
        await peer.poll(NAME)
    subjects = [principal.subject for principal, _, _ in hooks.calls]
    assert subjects == ["alice", "agent", "anonymous"]
    assert {principal.tenant for principal, _, _ in hooks.calls} == {"default"}


@requirement("ours.lib.tenants")
async def test_an_audience_bounds_an_event_to_its_principals_in_both_modes() -> None:
    events = Events()
    events.event(NAME)
    async with (
        peers(events, ALICE, BOB) as (alice, bob),
        alice.stream(NAME) as hers,
        bob.stream(NAME) as his,
    ):
        await hers.expect("active")
        await his.expect("active")
        cursors = [(await each.poll(NAME))["cursor"] for each in (alice, bob)]
        await events.emit(NAME, {"for": "alice"}, audience=["alice"])
        await events.emit(NAME, {"for": "nobody"}, audience=[])
        await events.emit(NAME, {"for": "all"})
        assert await hers.data(2) == [{"for": "alice"}, {"for": "all"}]
        assert await his.data(1) == [{"for": "all"}]
        polled = [
            [event["data"]["for"] for event in (await each.poll(NAME, cursor))["events"]]
            for each, cursor in zip((alice, bob), cursors, strict=True)
        ]
        assert polled == [["alice", "all"], ["all"]]


@requirement("ours.lib.tenants")
async def test_a_limit_of_streams_counts_a_principal_of_one_tenant_apart_from_its_namesake() -> None:
    events = Events(tenant=tenant_of)
    events.event(NAME, max_streams=1)
    async with peers(events, ALICE, "globex/alice") as (alice, namesake), alice.stream(NAME) as frames:
        await frames.expect("active")
        assert (await alice.refused("events/stream", name=NAME)).code == alice.codes["ResourceExhausted"]
        async with namesake.stream(NAME) as other:
            await other.expect("active")


@requirement("sep.auth.subscribe")
async def test_without_a_token_a_server_that_asks_for_one_serves_nothing() -> None:
    events = Events()
    events.event(NAME)
    async with FAST.serve(events, server=secured(events)) as peer:
        for method in ("events/list", "events/poll", "events/stream"):
            response = await peer.http.send(peer.request(peer.message(method, {"name": NAME}, 1)))
            assert response.status_code == 401


@requirement("sep.payload.logs")
async def test_no_log_line_holds_event_data(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, logger="clarion")
    secret = "swordfish"

    def fail(_ctx: Any, event: Any, _arguments: Any) -> Any:
        raise RuntimeError(f"cannot read {event.data}")

    def refuse(ctx: Any, arguments: Any, cursor: Any) -> Any:
        raise RuntimeError(secret)

    events = Events()
    events.event("match", match=fail)
    events.event("transform", transform=fail)
    events.event("strict", payload={"n": int})
    events.event("check")(refuse)
    async with http_peer(events) as peer:
        for name in ("match", "transform"):
            async with peer.stream(name, arguments={"a": secret}) as frames:
                await frames.expect("active")
                cursor = (await peer.poll(name))["cursor"]
                await events.emit(name, {"n": secret}, meta={"m": secret})
                assert secret not in str(await frames.expect("error"))
                assert (await peer.poll(name, cursor))["events"] == []
        assert secret not in str(await peer.refused("events/poll", name="check", arguments={"a": secret}))
        with pytest.raises(InvalidEvent) as caught:
            await events.emit("strict", {"n": secret})
        assert secret not in str(caught.value)
    lines = list(recorded_logs(caplog.records))
    assert sum("hook_failed" in line for line in lines) >= 3
    assert not [line for line in lines if secret in line]


# -- clarion serve ---------------------------------------------------------------------------------------------------


@both_dialects
@requirement("sep.auth.revoked", "ours.bad.revoked", "sep.term.push")
async def test_a_revoked_key_ends_its_streams_as_terminated_and_is_refused_from_then_on(
    tmp_path: Path, declared: bool
) -> None:
    async with serving(tmp_path) as running, running.http() as http, running.http(operator()) as admin:
        made = (await admin.post("/v1/keys", json={"role": "subscriber", "subject": "agent"})).json()
        kept = await running.key("subscriber", subject="agent")
        peer, other = (serve_peer(http, bearer, declared=declared) for bearer in (made["key"], kept))
        async with peer.stream("deal.won") as ending, other.stream("deal.won") as going_on:
            await ending.expect("active")
            await going_on.expect("active")
            assert (await admin.delete(f"/v1/keys/{made['key_id']}")).is_success
            error = await ended(ending)
            assert error["code"] == peer.codes["Forbidden"]
            assert error["data"]["reason"] == "Access revoked"
            await running.emit("deal.won", {"n": 1})
            assert await going_on.data(1) == [{"n": 1}]
        refused = await http.send(peer.request(peer.message("events/poll", {"name": "deal.won"}, 1)))
        assert refused.status_code == 401
        assert peer.era == MODERN
