"""Servers that know who calls them, and event types whose hooks tell what they were asked."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import httpx2
from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl

from clarion.events import Events, Identity
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import until
from interaction.events_raw import MODERN, Frames, HttpPeer, StdioPeer
from interaction.events_targets import FAST, LINE_LIMIT, HttpTarget, _talking, listening
from interaction.serving import _TLS, authorization

__all__ = [
    "ALICE",
    "BOB",
    "EVE",
    "Recorded",
    "ended",
    "peer_of",
    "peers",
    "recorded_logs",
    "secured",
    "serve_peer",
    "stdio_script",
    "tenant_of",
    "tick",
]

ALICE, BOB, EVE = "acme/alice", "acme/bob", "globex/eve"
"""Tokens: tenant and subject."""


class _Tokens(TokenVerifier):
    """A token `tenant/subject` is that subject's; one without a slash names nobody but a client."""

    async def verify_token(self, token: str) -> AccessToken | None:
        tenant, _, subject = token.partition("/")
        claims = {"tenant": tenant} if subject else {}
        return AccessToken(token=token, client_id="agent", scopes=["events"], subject=subject or None, claims=claims)


def secured(events: Events) -> MCPServer[Any]:
    """`events` on a server that serves nobody without a token."""
    return MCPServer(
        "secured",
        extensions=[events.extension()],
        auth=AuthSettings(issuer_url=AnyHttpUrl("http://127.0.0.1"), resource_server_url=None),
        token_verifier=_Tokens(),
        log_level="CRITICAL",
    )


def secured_fastmcp(events: Events) -> Any:
    """The same on FastMCP."""
    from fastmcp import FastMCP
    from fastmcp.server.auth import AccessToken as Token
    from fastmcp.server.auth import TokenVerifier as Verifier

    class Tokens(Verifier):
        async def verify_token(self, token: str) -> Token | None:
            found = await _Tokens().verify_token(token)
            return None if found is None else Token(**found.model_dump())

    server = FastMCP("secured", auth=Tokens())
    events.attach(server)
    return server


def tenant_of(identity: Identity) -> str:
    """The tenant that the token says."""
    return str(identity.claims["tenant"])


@asynccontextmanager
async def peers(
    events: Events, *bearers: str, target: HttpTarget = FAST, server: Any = None, declared: bool = True
) -> AsyncIterator[list[HttpPeer]]:
    """A client for each of `bearers`, of one server that asks for a token."""
    server = server or (secured_fastmcp(events) if target.fastmcp else secured(events))
    async with target.serve(events, server=server, declared=declared, bearer=bearers[0]) as first:
        yield [_another(first, bearer) for bearer in bearers]


def _another(peer: HttpPeer, bearer: str) -> HttpPeer:
    other = HttpPeer(peer.http, peer.era, peer.declared, path=peer._path, repeats=peer._repeats)
    other.headers = authorization(bearer)
    return other


def serve_peer(http: httpx2.AsyncClient, bearer: str, *, declared: bool = True) -> HttpPeer:
    """A client of `clarion serve`, over a client of HTTP that may have no bearer of its own."""
    peer = HttpPeer(http, MODERN, declared, path="/mcp", repeats=False)
    peer.headers = authorization(bearer)
    return peer


@asynccontextmanager
async def peer_of(app: Any, path: str = "/mcp", *, declared: bool = True) -> AsyncIterator[HttpPeer]:
    """A client of an application, whose lifespan is run around it as a server does."""
    async with (
        listening(app) as url,
        httpx2.AsyncClient(base_url=url, timeout=None, verify=_TLS) as http,
        app.router.lifespan_context(app),
    ):
        yield HttpPeer(http, MODERN, declared, path=path, repeats=False)


@asynccontextmanager
async def stdio_script(path: Path, *, declared: bool = True) -> AsyncIterator[StdioPeer]:
    """A client of the server that a Python file runs on stdio."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(path), stdin=PIPE, stdout=PIPE, limit=LINE_LIMIT, cwd=path.parent
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with _talking(StdioPeer(process.stdout, process.stdin, MODERN, declared), process.stdin) as peer:
            yield peer
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Recorded:
    """Hooks that keep what they were called with, and answer as they are told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.allowed: Callable[..., Any] = lambda *_: True

    def authorize(self, principal: Any, event: Any, arguments: Any) -> Any:
        self.calls.append((principal, event, dict(arguments)))
        return self.allowed(principal, event, arguments)

    async def on_subscribe(self, _ctx: Any, _arguments: Any, subscription_id: str) -> None:
        self.begun[subscription_id] += 1

    async def on_unsubscribe(self, _ctx: Any, _arguments: Any, subscription_id: str) -> None:
        self.ended[subscription_id] += 1

    @property
    def live(self) -> Counter[str]:
        return self.begun - self.ended


async def tick(clock: FakeClock, seconds: float, holds: Callable[[], Any]) -> None:
    """Let `seconds` pass once, then wait until `holds`."""
    await clock.advance(seconds)
    await until(holds)


async def ended(frames: Frames) -> dict[str, Any]:
    """The error of `terminated`, which must be all that is left of a stream beside heartbeats and the result."""
    left = [each for each in await frames.rest() if each.get("method") != "notifications/events/heartbeat"]
    terminated, last = left
    assert terminated["method"] == "notifications/events/terminated", terminated
    assert last["result"]["resultType"] == "complete", last
    error: dict[str, Any] = terminated["params"]["error"]
    return error


def recorded_logs(records: Any) -> Iterator[str]:
    """Each log record as an application's plain formatter writes it, with its exception."""
    formatter = logging.Formatter("%(name)s %(message)s")
    return (formatter.format(record) for record in records)
