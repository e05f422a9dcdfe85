"""`POST /v1/events` past the web framework: what a framework would have seen to holds all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from clarion.api import events, http
from clarion.sources.emit import Emission, Receipt
from interaction.serving import calling, operator, serving

EVENT = {"topic": "custom.a", "payload": {}}
ORIGIN = "https://app.example.com"


def request(body: bytes, *lines: str) -> bytes:
    head = ("POST /v1/events HTTP/1.1", "Host: localhost", f"Authorization: Bearer {operator()}", *lines)
    return "\r\n".join((*head, f"Content-Length: {len(body)}", "", "")).encode() + body


async def connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], Any]:
    """The status line, the headers and the decoded body of the next response."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return first, headers, json.loads(await reader.readexactly(int(headers["content-length"])))


@pytest.mark.parametrize("whole", [True, False], ids=["in one piece", "as ASGI says"])
async def test_requests_that_come_together_are_answered_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:  # a response that is not quite uvicorn's as it is known
        monkeypatch.setattr(http, "_OF_CYCLE", frozenset({"no such attribute"}))
    body = json.dumps(EVENT).encode()
    async with serving(tmp_path) as running:
        reader, writer = await connected(running.url)
        writer.write(request(body) * 2 + request(b"{") + request(body, "Connection: close"))
        answers = [await answer(reader) for _ in range(4)]
        assert await reader.read() == b""  # the last one asked for that
        await closed(writer)
    assert [first for first, _, _ in answers] == [
        "HTTP/1.1 201 Created", "HTTP/1.1 201 Created", "HTTP/1.1 400 Bad Request", "HTTP/1.1 201 Created",
    ]  # fmt: skip
    assert [body.get("seq") for _, _, body in answers] == [1, 2, None, 3]
    for _, headers, _ in answers[:3]:
        assert list(headers) == ["date", "cache-control", "content-length", "content-type"]
        assert (headers["cache-control"], headers["content-type"]) == ("no-store", "application/json")
    assert answers[3][1]["connection"] == "close"


async def test_an_answer_in_one_piece_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    cycle = uvicorn.protocols.http.httptools_impl.RequestResponseCycle
    send = cycle.send

    async def counted(self: Any, message: Any) -> None:
        sent.append(message["type"])
        await send(self, message)

    monkeypatch.setattr(cycle, "send", counted)
    async with serving(tmp_path) as running:
        await running.emit("custom.a", {})
    assert sent == ["http.response.body"]


async def test_a_body_that_comes_after_its_head_and_in_pieces_is_taken(tmp_path: Path) -> None:
    body = json.dumps(EVENT).encode()
    whole = request(body)
    head = whole[: len(whole) - len(body)]
    async with serving(tmp_path) as running:
        reader, writer = await connected(running.url)
        for piece in (head, body[:5], body[5:9], body[9:]):
            writer.write(piece)
            await writer.drain()
            await running.summary()  # the server has had its turn
        first, _, receipt = await answer(reader)
        await closed(writer)
    assert (first, receipt["seq"]) == ("HTTP/1.1 201 Created", 1)


async def test_who_goes_away_within_a_body_leaves_nothing_behind(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        _, writer = await connected(running.url)
        writer.write(request(json.dumps(EVENT).encode())[:-4])
        await writer.drain()
        await running.summary()
        await closed(writer)
        assert await running.emit("custom.a", {}) == 1


async def test_only_post_is_for_events_and_the_path_is_exact(tmp_path: Path) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        for method in ("GET", "PUT", "DELETE", "OPTIONS"):
            refused = await client.request(method, "/v1/events")
            assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
            assert refused.json()["error"]["code"] == "method_not_allowed"
        assert (await client.post("/v1/eventsx", json=EVENT)).status_code == 404


async def test_browsers_of_a_configured_origin_can_emit_and_read_the_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, allowed_origins=(ORIGIN,)) as running, running.http(operator()) as client:
        for body, status in ((json.dumps(EVENT), 201), ("{", 400)):
            answered = await client.post("/v1/events", content=body, headers={"Origin": ORIGIN})
            assert (answered.status_code, answered.headers["access-control-allow-origin"]) == (status, ORIGIN)
        refused = await client.post("/v1/events", json=EVENT, headers={"Origin": "https://other.example.com"})
        assert refused.status_code == 403


async def test_a_failure_that_nobody_expected_says_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("a secret")

    async with serving(tmp_path) as running, running.http(operator()) as client:
        monkeypatch.setattr(running.app.hub, "append", fails)
        answered = await client.post("/v1/events", json=EVENT)
    assert (answered.status_code, answered.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answered.text


async def test_everything_else_has_its_turn_between_two_groups_however_many_requests_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "GROUP", 5)
    passes = 0
    groups: list[int] = []

    async def others() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    lines = "\n".join([json.dumps(EVENT)] * 25)
    headers = {"content-type": "application/x-ndjson"}
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        emitter = callee.app._ingest._emitter
        emit_many = emitter.emit_many

        async def noted(principal: Any, emissions: Sequence[Emission]) -> list[Receipt | Any]:
            groups.append(passes)
            return await emit_many(principal, emissions)

        monkeypatch.setattr(emitter, "emit_many", noted)
        beside = asyncio.create_task(others())
        answers = await asyncio.gather(*(client.post("/v1/events", content=lines, headers=headers) for _ in range(4)))
        beside.cancel()
    assert [one.json()["accepted"] for one in answers] == [25] * 4
    assert len(groups) == 20
    assert len(set(groups)) == 20


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", json.dumps(EVENT)),
        ("application/json", json.dumps([EVENT])),
        ("application/x-ndjson", json.dumps(EVENT)),
    ],
    ids=["one", "an array", "lines"],
)
async def test_a_key_that_is_revoked_while_the_body_comes_stores_nothing(tmp_path: Path, kind: str, body: str) -> None:
    async with serving(tmp_path) as running:
        key = await running.key("publisher")
        whole = request(body.encode(), f"Content-Type: {kind}").replace(operator().encode(), key.encode())
        reader, writer = await connected(running.url)
        writer.write(whole[:-5])
        await writer.drain()
        await running.summary()  # the server has had its turn
        async with running.http(operator()) as client:
            assert (await client.delete(f"/v1/keys/{key.split('_')[1]}")).status_code == 200
        writer.write(whole[-5:])
        first, _, refused = await answer(reader)
        await closed(writer)
        assert (first, refused["error"]["code"]) == ("HTTP/1.1 403 Forbidden", "forbidden")
        assert "key" not in refused["error"]["message"]
        assert await running.emit("custom.a", {}) == 1


async def test_a_key_that_is_revoked_between_two_groups_keeps_the_receipts_of_what_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "GROUP", 2)
    async with serving(tmp_path) as running:
        key = await running.key("publisher")
        hub = running.app.hub
        append = hub.append

        async def revoked_meanwhile(drafts: Any) -> Any:
            appended = await append(drafts)
            async with running.http(operator()) as client:
                await client.delete(f"/v1/keys/{key.split('_')[1]}")
            return appended

        monkeypatch.setattr(hub, "append", revoked_meanwhile)
        async with running.http(key) as client:
            answered = (await client.post("/v1/events", json=[EVENT] * 5)).json()
        monkeypatch.setattr(hub, "append", append)
        assert [result["status"] for result in answered["results"]] == [201, 201, 403, 403, 403]
        assert (answered["accepted"], answered["failed"]) == (2, 3)
        assert await running.emit("custom.a", {}) == 3
