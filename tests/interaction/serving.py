"""A server in this process on a real loopback socket, and the ways that tests call it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from clarion.app import MCP_PATH, App
from clarion.clock import Clock
from clarion.local import local_bearer
from clarion.server import http_config, open_app
from clarion.settings import load_settings

SECRET = "the operator's secret of this run"
TENANT = "acme"

STORES = ("memory", "sqlite")

MODES = {"auto": "2026-07-28", "legacy": "2025-11-25"}
"""How the SDK's client connects, and the protocol version that it must end up with."""

_TLS = ssl.create_default_context()  # each client would make its own, which takes longer than most tests

SMALL_BUFFER = 4096
"""Bytes of kernel buffer that make a stalled reader stall soon."""


def operator(tenant: str = TENANT) -> str:
    """The bearer of an admin with every module."""
    return local_bearer(SECRET, tenant)


def authorization(bearer: str | None) -> dict[str, str]:
    return {} if bearer is None else {"Authorization": f"Bearer {bearer}"}


class _Uvicorn(uvicorn.Server):
    """uvicorn that leaves signals alone, and stops when it is told to instead of at its next tick."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._stopping.wait()

    def stop(self) -> None:
        self.should_exit = True
        self.force_exit = True  # idle connections that clients keep need no farewell
        self._stopping.set()


@dataclass(frozen=True)
class Running:
    """A server that takes connections at `url`."""

    url: str
    app: App

    @property
    def address(self) -> tuple[str, int]:
        parts = httpx2.URL(self.url)
        return parts.host, parts.port or 80

    def http(self, bearer: str | None = None, **options: Any) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=None)
        return httpx2.AsyncClient(
            base_url=self.url, headers=authorization(bearer), limits=limits, verify=_TLS, **options
        )

    async def key(
        self, role: str, *, tenant: str = TENANT, subject: str | None = None, modules: tuple[str, ...] = ()
    ) -> str:
        """A new key, made as an operator makes one."""
        return await new_key(self.http(operator(tenant)), role, subject=subject, modules=modules)

    async def emit(self, topic: str, payload: Mapping[str, Any], *, bearer: str | None = None, **fields: Any) -> int:
        """Emit one event; answers its position in the tenant's log."""
        async with self.http(bearer or operator()) as client:
            answer = await client.post("/v1/events", json={"topic": topic, "payload": payload, **fields})
        assert answer.status_code == 201, answer.text
        seq: int = answer.json()["seq"]
        return seq

    async def summary(self, tenant: str = TENANT) -> dict[str, Any]:
        """What an administrator sees of the tenant."""
        async with self.http(operator(tenant)) as client:
            summary: dict[str, Any] = (await client.get("/v1/admin/mcp/outbound/summary")).json()
        return summary


async def summary_where(running: Running, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The tenant's summary once `holds` says yes."""
    async with asyncio.timeout(10):
        while not holds(summary := await running.summary()):
            pass
    return summary


async def stall(running: Running, topic: str = "deal.won", **fields: Any) -> int:
    """Emit large events until writing to a stream that nobody reads is paused; answers the first seq that waits."""
    event = {"topic": topic, "payload": {"filler": "x" * 16_000}, **fields}
    async with running.http(operator()) as client:
        while True:
            answer = await client.post("/v1/events", json=event)
            if (await running.summary())["waiting_events"]:
                seq: int = answer.json()["seq"]
                return seq


async def new_key(
    client: httpx2.AsyncClient, role: str, *, subject: str | None = None, modules: tuple[str, ...] = ()
) -> str:
    async with client:
        wanted = {"role": role, "subject": subject, "modules": list(modules)}
        answer = await client.post("/v1/keys", json=wanted)
    assert answer.status_code == 201, answer.text
    key: str = answer.json()["key"]
    return key


def _listener(send_buffer: int | None) -> socket.socket:
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle on
    if send_buffer is not None:  # what is accepted inherits it
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def serving(
    data: Path,
    store: str = "memory",
    *,
    clock: Clock | None = None,
    send_buffer: int | None = None,
    **settings: Any,
) -> AsyncIterator[Running]:
    """A server until the block ends, stopped as `clarion serve` stops: streams first."""
    url = "memory:" if store == "memory" else None
    configured = load_settings(data, port=0, **settings)
    async with open_app(configured, local_secret=lambda: SECRET, clock=clock, url=url) as app:
        server = _Uvicorn(http_config(app))
        listener = _listener(send_buffer)
        port = listener.getsockname()[1]
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield Running(f"http://127.0.0.1:{port}", app)
        finally:
            app.hub.close()
            server.stop()
            await task


@asynccontextmanager
async def calling(
    data: Path, store: str = "memory", *, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[Callee]:
    """The same application called without a socket, for tests of single requests."""
    url = "memory:" if store == "memory" else None
    configured = load_settings(data, **settings)
    async with open_app(configured, local_secret=lambda: SECRET, clock=clock, url=url) as app:
        yield Callee(app)


@dataclass(frozen=True)
class Callee:
    """An application that is called in this process."""

    app: App

    def http(self, bearer: str | None = None, base_url: str = "http://127.0.0.1") -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=self.app)
        return httpx2.AsyncClient(transport=transport, base_url=base_url, headers=authorization(bearer))

    async def key(
        self, role: str, *, tenant: str = TENANT, subject: str | None = None, modules: tuple[str, ...] = ()
    ) -> str:
        return await new_key(self.http(operator(tenant)), role, subject=subject, modules=modules)


@asynccontextmanager
async def connect(running: Running, bearer: str, mode: str = "auto") -> AsyncIterator[Client]:
    """The official SDK's client over Streamable HTTP, in one of `MODES`."""
    async with (
        running.http(bearer) as client,
        Client(streamable_http_client(running.url + MCP_PATH, http_client=client), mode=mode) as session,  # type: ignore[arg-type]
    ):
        assert session.protocol_version == MODES[mode]
        yield session


async def call(session: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The structured result of a tool call that works."""
    result = await session.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def refused(session: Client, tool: str, **arguments: Any) -> str:
    """What a tool call that is refused says."""
    result = await session.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    (content,) = result.content
    text: str = content.text  # type: ignore[union-attr]
    return text
