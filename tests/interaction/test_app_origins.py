"""Pages of a configured origin are answered as by the middleware for it, which does not stand between streams and the
server's transport."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware.cors import CORSMiddleware

from clarion.app import App
from clarion.errors import StoreUnavailable
from clarion.testing.hubs import until
from clarion.wires.sse import UvicornSink, make_sink
from interaction.events_exchanges import Answer, Asked, asked_of, exchange
from interaction.events_more import serve_peer
from interaction.events_requirements import requirement
from interaction.events_targets import listening
from interaction.serving import SMALL_BUFFER, Running, operator, serving, stall

ORIGIN = "https://app.example.com"
TOPIC = "deal.won"
RIGHT, REFUSED, SPOILT = (
    next(each for each in asked_of(TOPIC, {}, {}) if each.name == name)
    for name in ("right", "an event that there is not", "no JSON")
)


def from_page(asked: Asked, origin: str | None = ORIGIN) -> Asked:
    return asked if origin is None else replace(asked, headers=[*asked.headers, ("Origin", origin)])


@asynccontextmanager
async def crossing(data: Path, **options: Any) -> AsyncIterator[Running]:
    async with serving(data, allowed_origins=(ORIGIN,), **options) as running:
        yield running


@asynccontextmanager
async def behind_the_middleware(app: App) -> AsyncIterator[str]:
    """The same application with everything behind Starlette's middleware, as any other would be."""
    plain, layer = copy.copy(app), app._mcp_app

    async def without_headers(scope: Any, receive: Any, send: Any, _headers: Any) -> None:
        await layer.app(scope, receive, send)

    plain._mcp_app = without_headers  # type: ignore[assignment]
    configured = app._entry
    assert isinstance(configured, CORSMiddleware)
    outside = copy.copy(configured)
    outside.app = plain
    plain._entry, plain._is_cross_origin = plain._route, False
    async with listening(outside) as url:
        yield url


@pytest.mark.parametrize("origin", [ORIGIN, None])
@pytest.mark.parametrize("asked", [RIGHT, REFUSED, SPOILT], ids=str)
@pytest.mark.parametrize("known", [True, False])
@requirement("browser-origins", "ours.serve.catalog")
async def test_a_page_gets_the_headers_that_the_middleware_would_add(
    tmp_path: Path, origin: str | None, asked: Asked, known: bool
) -> None:
    authorization = f"Bearer {operator()}" if known else None
    async with crossing(tmp_path) as running, behind_the_middleware(running.app) as url:
        ours = await exchange(running.url, from_page(asked, origin), authorization)
        theirs = await exchange(url, from_page(asked, origin), authorization)
        assert running.app._mcp_app.served == (known and asked is not SPOILT)
    assert (ours.status, _sorted(ours)) == (theirs.status, _sorted(theirs))
    headers = dict(ours.headers)
    assert headers["vary"] == "Origin"
    assert headers.get("access-control-allow-origin") == origin
    assert headers.get("access-control-expose-headers") == (None if origin is None else "mcp-session-id")


def _sorted(answer: Answer) -> list[tuple[str, str]]:
    return sorted(answer.headers)


@requirement("browser-origins", "ours.bad.store")
async def test_a_page_can_read_that_keys_cannot_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_token: str) -> Any:
        raise StoreUnavailable("not now")

    async with crossing(tmp_path) as running:
        monkeypatch.setattr(running.app._authenticator, "authenticate", broken)
        answer = await exchange(running.url, from_page(RIGHT), f"Bearer {operator()}")
    assert answer.status.split()[1] == "503"
    assert dict(answer.headers)["access-control-allow-origin"] == ORIGIN


@requirement("browser-origins")
async def test_everything_else_is_the_middlewares(tmp_path: Path) -> None:
    async with crossing(tmp_path) as running, running.http(operator()) as http:
        asking = {"origin": ORIGIN, "access-control-request-method": "POST"}
        preflight = await http.options("/mcp", headers=asking)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        assert "POST" in preflight.headers["access-control-allow-methods"]
        for answer in (
            await http.delete("/mcp", headers={"origin": ORIGIN}),
            await http.post("/v1/events", json={"topic": TOPIC, "payload": {}}, headers={"origin": ORIGIN}),
            await http.get("/v1/topics", headers={"origin": ORIGIN}),
        ):
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert answer.headers["access-control-expose-headers"] == "mcp-session-id"
        assert (await http.post("/mcp", headers={"origin": "https://evil.example"})).status_code == 403


@requirement("browser-origins")
async def test_without_origins_no_answer_varies(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        answer = await exchange(running.url, RIGHT, f"Bearer {operator()}")
    assert not {"vary", "access-control-allow-origin"} & dict(answer.headers).keys()


@dataclass
class Noting:
    """Notes the `send` that each request to MCP comes with."""

    app: Any
    sends: list[Any] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any, *more: Any) -> None:
        self.sends.append(send)
        await self.app(scope, receive, send, *more)


@pytest.mark.parametrize("origin", [ORIGIN, None])
@requirement("browser-origins", "ours.bad.revoked", "ours.stream.isolated")
async def test_a_stalled_reader_whose_key_is_revoked_is_cut_though_pages_may_come(
    tmp_path: Path, origin: str | None
) -> None:
    async with crossing(tmp_path, send_buffer=SMALL_BUFFER) as running, running.http() as http:
        noting = running.app._mcp_app = Noting(running.app._mcp_app)  # type: ignore[assignment]
        key = await running.key("subscriber")
        peer = serve_peer(http, key)
        peer.headers |= {} if origin is None else {"Origin": origin}
        async with peer.stream(TOPIC) as frames:
            await frames.expect("active")
            (send,) = noting.sends
            assert isinstance(make_sink(send), UvicornSink), "the fast way"
            transport = send.__self__.transport
            await stall(running, TOPIC)
            assert transport.get_write_buffer_size() > 0
            async with running.http(operator()) as operators:
                assert (await operators.delete("/v1/keys/" + key.split("_")[1])).status_code == 200
            await until(lambda: transport.is_closing() and not transport.get_write_buffer_size())
