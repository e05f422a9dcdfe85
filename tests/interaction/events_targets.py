"""Every way that a client reaches the Events wire, behind one shape: `connect` of a target gives a raw client of it."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from clarion.events import Events, EventsLayer
from interaction.events_raw import INITIALIZE, MODERN, HttpPeer, StdioPeer
from interaction.events_subject import declare, on_fastmcp, on_mcpserver
from interaction.serving import _TLS, _listener, _Uvicorn, authorization

__all__ = [
    "FAST_AND_PLAIN",
    "HTTP_TARGETS",
    "TARGETS",
    "HttpTarget",
    "StdioTarget",
    "Target",
    "both_dialects",
    "both_modes",
    "both_paths",
    "both_stores",
    "every_target",
    "http_peer",
    "http_process",
    "stdio_process",
    "store_url",
]

LINE_LIMIT = 4 * 1024 * 1024
"""Bytes of the longest line that a stdio client reads."""

PATHS = Path(__file__).parents[1]


class _Server(_Uvicorn):
    """Stops at once: by then every client is gone."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0)


@asynccontextmanager
async def listening(app: Any, *, send_buffer: int | None = None) -> AsyncIterator[str]:
    """`app` on a real socket; answers its URL. Its lifespan is the caller's."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    server, listener = _Server(config), _listener(send_buffer)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.stop()
        await task


@dataclass(frozen=True)
class HttpTarget:
    """A server in this process on a loopback socket. `layer`: with the `EventsLayer` in front, the fast path."""

    name: str
    era: str = MODERN
    stateless: bool = False
    layer: bool = False
    mounted: bool = False
    fastmcp: bool = False

    @asynccontextmanager
    async def connect(self, *, declared: bool = True, url: str | None = None) -> AsyncIterator[HttpPeer]:
        async with self.serve(declare(url), declared=declared) as peer:
            yield peer

    @asynccontextmanager
    async def serve(
        self,
        events: Events,
        *,
        declared: bool = True,
        server: Any = None,
        json_response: bool = False,
        send_buffer: int | None = None,
        bearer: str | None = None,
    ) -> AsyncIterator[HttpPeer]:
        """`events` on a new server, or on one that has them already."""
        make = on_fastmcp if self.fastmcp else on_mcpserver
        server = server or make(events)
        options = {"stateless_http": self.stateless, "json_response": json_response}
        app = server.http_app(**options) if self.fastmcp else server.streamable_http_app(**options)
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(listening(self._outside(app), send_buffer=send_buffer))
            http = httpx2.AsyncClient(
                base_url=url, limits=httpx2.Limits(max_connections=None), timeout=None, verify=_TLS,
                headers=authorization(bearer),
            )  # fmt: skip
            await stack.enter_async_context(http)
            # Innermost, so that it ends first: streams end with their last frames while there is a server to send them.
            await stack.enter_async_context(app.router.lifespan_context(app))
            path = "/within/mcp" if self.mounted else "/mcp"
            peer = HttpPeer(http, self.era, declared, path=path, repeats=self.stateless)
            await peer.introduce()
            yield peer

    def _outside(self, app: Any) -> Any:
        if self.layer:
            app = EventsLayer(app)
        return Starlette(routes=[Mount("/within", app=app)]) if self.mounted else app

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class StdioTarget:
    """A server in a process of its own."""

    name: str
    era: str

    @asynccontextmanager
    async def connect(self, *, declared: bool = True, url: str | None = None) -> AsyncIterator[StdioPeer]:
        reader, writer = await asyncio.open_unix_connection(_nursery(), limit=LINE_LIMIT)
        writer.write(json.dumps(url).encode() + b"\n")
        async with _talking(StdioPeer(reader, writer, self.era, declared), writer) as peer:
            yield peer

    def __str__(self) -> str:
        return self.name


Target: TypeAlias = HttpTarget | StdioTarget


@asynccontextmanager
async def _talking(peer: StdioPeer, writer: asyncio.StreamWriter) -> AsyncIterator[StdioPeer]:
    """Until the block ends, and the server's process after its input has."""
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(peer.run())
        try:
            await peer.introduce()
            yield peer
        except BaseException:
            reading.cancel()
            raise
        finally:
            if writer.can_write_eof():
                writer.write_eof()
            else:
                writer.close()
    writer.close()


@asynccontextmanager
async def stdio_process(
    era: str = MODERN, *, declared: bool = True, url: str | None = None
) -> AsyncIterator[StdioPeer]:
    """The server as a client starts it: a command with pipes."""
    command = [sys.executable, "-m", "interaction.events_subject"]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=LINE_LIMIT, env=_environment()
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with _talking(StdioPeer(process.stdout, process.stdin, era, declared), process.stdin) as peer:
            yield peer
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def http_process(era: str, *, layer: bool) -> AsyncIterator[tuple[HttpPeer, asyncio.subprocess.Process]]:
    """The server as its operator runs it, and a client of it."""
    listener = _listener(None)
    command = [sys.executable, "-m", "interaction.events_subject", "--http", str(listener.fileno())]
    process = await asyncio.create_subprocess_exec(
        *command, *(["--layer"] if layer else []), pass_fds=[listener.fileno()], env=_environment()
    )
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()  # the server's copy takes the connections, at once or as soon as it is there
    limits = httpx2.Limits(max_connections=None)
    try:
        async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=None, verify=_TLS) as http:
            peer = HttpPeer(http, era, True, path="/mcp", repeats=False)
            await peer.introduce()
            yield peer, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PATHS)}


@cache
def _nursery() -> str:
    """The socket behind which there is a new server process for each connection."""
    directory = tempfile.TemporaryDirectory(prefix="clarion-")
    path = f"{directory.name}/nursery"
    command = [sys.executable, "-m", "interaction.events_subject", "--nursery", path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment())

    def end() -> None:
        process.kill()
        process.wait()
        directory.cleanup()

    atexit.register(end)
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == b"ready\n"
    return path


HTTP = HttpTarget("http-2026")
FAST = HttpTarget("http-2026-layer", layer=True)

FAST_AND_PLAIN = (HTTP, FAST)
"""The two paths that the frames of a stream take over HTTP."""

HTTP_TARGETS: tuple[HttpTarget, ...] = (
    *FAST_AND_PLAIN,
    HttpTarget("http-initialize", INITIALIZE),
    HttpTarget("http-initialize-layer", INITIALIZE, layer=True),
    HttpTarget("http-initialize-stateless", INITIALIZE, stateless=True),
    HttpTarget("mounted-layer", layer=True, mounted=True),
    HttpTarget("fastmcp", fastmcp=True),
)

TARGETS: tuple[Target, ...] = (
    StdioTarget("stdio-2026", MODERN),
    StdioTarget("stdio-initialize", INITIALIZE),
    *HTTP_TARGETS,
)

Mark: TypeAlias = Callable[..., Any]

every_target: Mark = pytest.mark.parametrize("target", TARGETS, ids=str)
both_paths: Mark = pytest.mark.parametrize("target", FAST_AND_PLAIN, ids=("plain", "layer"))
both_dialects: Mark = pytest.mark.parametrize("declared", [True, False], ids=("declared", "undeclared"))
both_modes: Mark = pytest.mark.parametrize("mode", ["poll", "stream"])
both_stores: Mark = pytest.mark.parametrize("store", ["memory", "sqlite"])


def http_peer(events: Events, **options: Any) -> Any:
    """A client of `events` where the way to them does not matter; see `HttpTarget.serve`."""
    return FAST.serve(events, **options)


def store_url(store: str, directory: Path) -> str | None:
    return None if store == "memory" else str(directory / "events.db")
