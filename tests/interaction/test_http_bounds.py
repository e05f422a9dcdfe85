"""What somebody without a key can do to the HTTP server: no more than the bounds allow."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.interaction.serving import operator, serving

from clarion import http1


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """All until the server closes, also when it does so with bytes of ours unread."""
    received = b""
    try:
        while data := await reader.read(65536):
            received += data
    except ConnectionError:
        pass
    return received


@pytest.mark.parametrize("piece", [b"X-Pad: " + b"a" * 1000 + b"\r\n", b"a" * 1000], ids=["headers", "url"])
async def test_a_head_without_end_is_refused(tmp_path: Path, piece: bytes) -> None:
    async with serving(tmp_path, "memory") as running:
        reader, writer = await _connect(running.url)
        start = b"GET /" if piece.startswith(b"a") else b"GET / HTTP/1.1\r\nHost: localhost\r\n"
        writer.write(start)
        sent = 0
        try:
            while sent < 64 * http1.MAX_HEAD_BYTES and not reader.at_eof():
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
        except ConnectionError:
            pass
        assert sent < 64 * http1.MAX_HEAD_BYTES
        writer.close()


async def test_a_head_of_the_allowed_size_is_served(tmp_path: Path) -> None:
    async with serving(tmp_path, "memory") as running:
        reader, writer = await _connect(running.url)
        pad = b"X-Pad: " + b"a" * (http1.MAX_HEAD_BYTES // 2) + b"\r\n"
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + pad + b"\r\n")
        assert (await _rest(reader)).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc"], ids=["nothing", "half a head"])
async def test_a_connection_that_does_not_finish_its_head_is_closed(
    tmp_path: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.05)
    async with serving(tmp_path, "memory") as running:
        reader, writer = await _connect(running.url)
        writer.write(said)
        async with asyncio.timeout(10):
            assert await _rest(reader) == b""
        writer.close()


async def test_a_request_that_takes_long_is_not_closed_for_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.05)
    async with serving(tmp_path, "memory") as running:
        reader, writer = await _connect(running.url)
        writer.write(
            b"GET /mcp/push/sse?client_id=c HTTP/1.1\r\nHost: localhost\r\n"
            b"Authorization: " + f"Bearer {operator()}".encode() + b"\r\n\r\n"
        )
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"\n\n")
        later, other = await _connect(running.url)
        assert await _rest(later) == b""  # connected after the stream, and its time is over by now
        assert len(list(running.app.hub.connections())) == 1
        other.close()
        writer.close()


async def test_browsers_of_a_configured_origin_can_read_the_stream_and_its_refusals(tmp_path: Path) -> None:
    origin = "https://app.example.com"
    async with serving(tmp_path, "memory", allowed_origins=(origin,)) as running:
        for bearer, status in ((operator(), b" 200 "), ("nobody", b" 401 ")):
            reader, writer = await _connect(running.url)
            writer.write(
                b"GET /mcp/push/sse?client_id=c HTTP/1.1\r\nHost: localhost\r\nOrigin: " + origin.encode() + b"\r\n"
                b"Authorization: Bearer " + bearer.encode() + b"\r\n\r\n"
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert status in head
            assert b"access-control-allow-origin: https://app.example.com" in head
            writer.close()
