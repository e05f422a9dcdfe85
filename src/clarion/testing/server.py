"""A real `clarion serve` in a process of its own, to be killed, starved and started again; and raw streams from it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2

from clarion.local import LocalEndpoint, local_bearer
from clarion.testing.hubs import Frame, frames_in

__all__ = ["RawStream", "ServerProcess", "open_streams", "served"]

PATIENCE = 30.0
"""Seconds until a server that does not start or stop fails the test."""

GLANCE = 0.005
"""Seconds between two looks at whether the server is there."""


def open_streams(metrics: Mapping[str, float]) -> float:
    """How many streams there are, of whatever phase."""
    return sum(number for name, number in metrics.items() if name.startswith("clarion_streams"))


class RawStream:
    """One side channel on a socket of its own, read only when the test reads. Not through any HTTP library, so that
    nothing reads ahead."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._raw = bytearray()
        self._body = bytearray()
        self.status = 0
        self.ended = False
        """The server finished the response; a stream that broke off leaves it False."""

    @classmethod
    async def open(
        cls,
        url: str,
        bearer: str,
        client_id: str,
        *,
        cursor: str | None = None,
        last_event_id: str | None = None,
        receive_buffer: int | None = None,
    ) -> RawStream:
        """Request the stream and read its head. Raises OSError when the server is not there."""
        place = urlsplit(url)
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        stream = cls(connection)
        query = {"client_id": client_id} | ({"cursor": cursor} if cursor is not None else {})
        lines = [
            f"GET /mcp/push/sse?{urlencode(query)} HTTP/1.1",
            f"Host: {place.hostname}",
            f"Authorization: Bearer {bearer}",
        ]
        if last_event_id is not None:
            lines.append(f"Last-Event-ID: {last_event_id}")
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(connection, (place.hostname, place.port))
            await loop.sock_sendall(connection, "\r\n".join([*lines, "", ""]).encode())
            await stream._head()
        except BaseException:
            connection.close()
            raise
        return stream

    async def frames(self) -> list[Frame]:
        """The frames that came next, at least one; none when the stream is over. Raises OSError when it broke."""
        while True:
            end = self._body.rfind(b"\n\n")
            if end >= 0:
                whole = bytes(self._body[: end + 2])
                del self._body[: end + 2]
                return frames_in(whole)
            if self.ended or not await self._more():
                return []
            self._unchunk()

    def close(self) -> None:
        self._socket.close()

    async def _more(self) -> bool:
        data = await asyncio.get_running_loop().sock_recv(self._socket, 256 * 1024)
        self._raw += data
        return bool(data)

    async def _head(self) -> None:
        while b"\r\n\r\n" not in self._raw:
            if not await self._more():
                raise ConnectionResetError("the server closed the connection before it answered")
        head, _, rest = bytes(self._raw).partition(b"\r\n\r\n")
        self.status = int(head.split(b" ", 2)[1])
        self._raw[:] = rest
        self._unchunk()

    def _unchunk(self) -> None:
        """Move every whole chunk from the raw bytes to the body."""
        at = 0
        while (line := self._raw.find(b"\r\n", at)) >= 0:
            size = int(self._raw[at:line], 16)
            if len(self._raw) < line + 2 + size + 2:
                break
            self._body += self._raw[line + 2 : line + 2 + size]
            at = line + 2 + size + 2
            self.ended = self.ended or size == 0
        del self._raw[:at]


class ServerProcess:
    """`clarion serve` on a directory and a free port. Use `served`, which ends it."""

    def __init__(self, directory: Path, environment: Mapping[str, str], command: Sequence[str]) -> None:
        self.directory = directory
        self._environment = {**os.environ, "CLARION_LOG_LEVEL": "warning", **environment}
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._endpoint = LocalEndpoint("", "")

    @property
    def url(self) -> str:
        return self._endpoint.url

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def log(self) -> str:
        """What the server has said on stderr and stdout, over all its lives."""
        return self._log_file.read_text()

    def bearer(self, tenant: str = "acme") -> str:
        """The operator's bearer for a tenant, of this life of the server."""
        return local_bearer(self._endpoint.secret, tenant)

    def http(self, tenant: str = "acme") -> httpx2.AsyncClient:
        """A client that calls as the tenant's operator; without limits of its own."""
        headers = {"Authorization": f"Bearer {self.bearer(tenant)}"}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx2.AsyncClient(base_url=self.url, headers=headers, limits=limits, timeout=PATIENCE, verify=False)

    async def stream(self, client_id: str, *, tenant: str = "acme", **options: Any) -> RawStream:
        return await RawStream.open(self.url, self.bearer(tenant), client_id, **options)

    async def subscribe(self, client: httpx2.AsyncClient, client_id: str, *topics: str, **arguments: Any) -> str:
        """Call the tool subscribe; answers the subscription's id."""
        call = {"name": "subscribe", "arguments": {"topic": list(topics), "client_id": client_id, **arguments}}
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
        answer = await client.post("/mcp", json=request, headers=headers)
        (data,) = (line[6:] for line in answer.text.splitlines() if line.startswith("data: {"))
        result = json.loads(data)["result"]
        if result.get("isError"):
            raise RuntimeError(result["content"][0]["text"])
        return str(result["structuredContent"]["subscription_id"])

    async def metrics(self, client: httpx2.AsyncClient) -> dict[str, float]:
        """Every sample of /metrics by its name and labels, as Prometheus writes them."""
        text = (await client.get("/metrics")).text
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    async def until(self, client: httpx2.AsyncClient, condition: Callable[[dict[str, float]], object]) -> None:
        """Wait until the metrics are as `condition` says; raises TimeoutError when they never are."""
        async with asyncio.timeout(PATIENCE):
            while not condition(await self.metrics(client)):
                pass  # each look is a request: the server has its turn

    async def start(self) -> None:
        """Start, and return once requests are answered. Raises RuntimeError with the server's log when it ends."""
        endpoint = self.directory / "endpoint.json"
        endpoint.unlink(missing_ok=True)
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, "--port", "0", "--data", str(self.directory), env=self._environment, stdout=log,
                stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not endpoint.exists():
            await self._glance(deadline)
        found = json.loads(endpoint.read_bytes())
        self._endpoint = LocalEndpoint(found["url"], found["secret"])
        async with self.http() as client:
            while True:
                try:
                    if (await client.get("/healthz")).status_code == 200:
                        return
                except httpx2.TransportError:
                    await self._glance(deadline)

    async def kill(self) -> None:
        """kill -9; returns once the process is gone."""
        self._running.kill()
        await self._running.wait()

    async def terminate(self) -> int:
        """SIGTERM; answers the exit status once the process is gone."""
        self._running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            return await self._running.wait()

    async def aclose(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process

    @property
    def _log_file(self) -> Path:
        return self.directory.parent / f"{self.directory.name}.log"

    async def _glance(self, deadline: float) -> None:
        if self._running.returncode is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start:\n{self.log}")
        await asyncio.sleep(GLANCE)


@asynccontextmanager
async def served(directory: Path, **environment: str) -> AsyncIterator[ServerProcess]:
    """A started server on `directory`, with `CLARION_*` variables; killed at the end if it still runs."""
    server = ServerProcess(directory, environment, (sys.executable, "-m", "clarion", "serve"))
    try:
        await server.start()
        yield server
    finally:
        await server.aclose()
