"""Clients that mean no good, or are broken: none of them harms another."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from clarion.testing.server import RawStream, ServerProcess, open_streams, served

pytestmark = pytest.mark.fault


async def raw(server: ServerProcess, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(request)
    return reader, writer


def head(server: ServerProcess, method: str, path: str, *lines: str) -> bytes:
    start = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {server.bearer()}"]
    return "\r\n".join([*start, *lines, "", ""]).encode("latin-1")


async def status(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(20):
        return int((await reader.readline()).split(b" ")[1])


async def works(server: ServerProcess) -> None:
    """The server takes an event and delivers it."""
    async with server.http() as client, asyncio.timeout(20):
        await server.subscribe(client, "witness", "*")
        stream = await server.stream("witness")
        await stream.frames()
        seq = (await client.post("/v1/events", json={"topic": "custom.ping", "payload": {}})).json()["seq"]
        (frame,) = await stream.frames()
        assert frame.seq == seq
        stream.close()


GARBAGE = ["x", "-1", "1e9", "0" * 5_000, "zzzzzzzz-5", "5-5", "é", "null", "{}", "../..", "9" * 19]


async def test_a_cursor_that_is_none_is_refused_and_named(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server:
        for garbage in GARBAGE:
            reader, writer = await raw(
                server, head(server, "GET", "/mcp/push/sse?client_id=c", f"Last-Event-ID: {garbage}")
            )
            assert await status(reader) == 422, garbage
            async with asyncio.timeout(20):
                assert b"Last-Event-ID" in await reader.readuntil(b"}}")
            writer.close()
        await works(server)


async def test_half_requests_hold_up_nobody(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server:
        pieces = [
            b"", b"GET", b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
            head(server, "POST", "/v1/events", "Content-Length: 100") + b'{"topic"',
            head(server, "POST", "/v1/events", "Transfer-Encoding: chunked") + b"5\r\n{",
        ]  # fmt: skip
        held = [await raw(server, pieces[number % len(pieces)]) for number in range(200)]
        await works(server)
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize("request_line", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n\r\n\x00\x00\r\n\r\n",
    b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
])  # fmt: skip
async def test_what_is_no_http_is_turned_away(tmp_path: Path, request_line: bytes) -> None:
    async with served(tmp_path / "data") as server:
        reader, writer = await raw(server, request_line)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                answer = await reader.read(4_096)
                assert not answer.startswith(b"HTTP/1.1 2")
                assert not answer.startswith(b"HTTP/1.1 5")
        writer.close()
        await works(server)


async def test_streams_that_come_and_go_during_replay_leave_nothing_behind(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server, server.http() as client:
        await server.subscribe(client, "visitor", "*")
        body: list[dict[str, Any]] = [{"topic": "custom.x", "payload": {"fill": "x" * 2_000}} for _ in range(2_000)]
        assert (await client.post("/v1/events", json=body)).status_code == 200
        for _ in range(5):
            streams = await asyncio.gather(
                *(server.stream("visitor", cursor="earliest", receive_buffer=4_096) for _ in range(30))
            )
            for stream in streams:
                stream.close()
        await server.until(client, lambda metrics: open_streams(metrics) == 0)
        metrics = await server.metrics(client)
        assert (metrics["clarion_ring_events"], metrics["clarion_ring_bytes"]) == (0, 0)
        await works(server)
        assert "Traceback" not in server.log


async def test_odd_client_ids_reach_their_own_stream(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server, server.http() as client:
        for name in ("a b", "é☃", "a/b?c=d&e#f", "%2e%2e", "'; DROP TABLE x; --", "x" * 256):
            await server.subscribe(client, name, "custom.odd")
            stream = await server.stream(name)
            assert (await stream.frames())[0].params["client_id"] == name
            await client.post("/v1/events", json={"topic": "custom.odd", "payload": {"for": name}})
            assert (await stream.frames())[0].params["payload"] == {"for": name}
            stream.close()
        for name in ("", " ", "a\x00b", "a\nb", "x" * 257):
            stream = await server.stream(name)
            assert stream.status in (400, 422), name
            stream.close()


async def test_a_revoked_keys_stream_ends_although_its_reader_stalls(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server, server.http() as client:
        made = (await client.post("/v1/keys", json={"role": "subscriber", "subject": "operator"})).json()
        await server.subscribe(client, "sloth", "*")
        stream = await RawStream.open(server.url, made["key"], "sloth", receive_buffer=4_096)
        while (await server.metrics(client))['clarion_streams{phase="lagging"}'] == 0:
            await client.post("/v1/events", json={"topic": "custom.fill", "payload": {"fill": "x" * 200_000}})
        assert (await client.delete(f"/v1/keys/{made['key_id']}")).status_code == 200
        await server.until(client, lambda metrics: open_streams(metrics) == 0)
        stream.close()
        refused = await RawStream.open(server.url, made["key"], "sloth")
        assert refused.status == 401
        refused.close()
