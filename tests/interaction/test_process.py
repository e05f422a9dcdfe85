"""What only a process of its own shows: its logs, its files, how it stops."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from interaction.process import served
from interaction.requirements import requirement
from interaction.serving import calling, new_key, operator


@pytest.mark.e2e
@requirement("structured-logs", "graceful-stop", "local-endpoint")
async def test_the_log_has_a_line_per_delivery_batch_and_no_payload_or_key(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with served(data) as server:
        assert stat.S_IMODE((data / "endpoint.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        key = await new_key(server.http(server.operator()), "admin", modules=("admin",))
        async with server.http(key) as client:
            subscribe = {"name": "subscribe", "arguments": {"topic": ["deal.*"], "client_id": "c"}}
            meta = {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            }
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**subscribe, "_meta": meta}}
            headers = {
                "accept": "application/json, text/event-stream",
                "mcp-protocol-version": "2026-07-28",
                "mcp-method": "tools/call",
                "mcp-name": "subscribe",
            }
            assert (await client.post("/mcp", json=call, headers=headers)).status_code == 200
            async with client.stream("GET", "/mcp/push/sse?client_id=c") as stream:
                body = stream.aiter_raw()
                assert b"subscription.open" in await anext(body)
                event = {"topic": "deal.won", "payload": {"secret": "do not log me"}}
                assert (await client.post("/v1/events", json=event)).status_code == 201
                assert b"do not log me" in await anext(body)
                assert server.stop() == 0
                assert b"".join([data async for data in body]) == b""  # ended as a whole answer, not cut off
    log = (tmp_path / "data.log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    (batch,) = [line for line in lines if line["event"] == "delivery_batch"]
    assert {"events", "connections", "deliveries", "lag_ms", "took_ms", "level", "timestamp"} <= set(batch)
    assert (batch["events"], batch["connections"], batch["deliveries"]) == (1, 1, 1)
    assert "do not log me" not in log
    assert key not in log
    assert key.split("_")[2] not in log
    assert server.secret not in log
    assert not (data / "endpoint.json").exists()


@requirement("store-unavailable")
async def test_a_locked_database_is_503_with_retry_after_and_the_server_recovers(tmp_path: Path) -> None:
    event = {"topic": "deal.won", "payload": {}}
    async with calling(tmp_path, "sqlite", busy_timeout=0.05) as callee, callee.http(operator()) as client:
        assert (await client.post("/v1/events", json=event)).status_code == 201
        other = sqlite3.connect(tmp_path / "clarion.db", isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            one = await client.post("/v1/events", json=event)
            several = await client.post("/v1/events", json=[event, event])
            consent = await client.post("/v1/consent", json={"subject": "eve", "state": "withdrawn"})
            other.execute("ROLLBACK")
        finally:
            other.close()
        for answer in (one, several, consent):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        again = await client.post("/v1/events", json=event)
        assert (again.status_code, again.json()["seq"]) == (201, 2)
        assert (await client.get("/readyz")).status_code == 200


@requirement("log-synchronous")
@pytest.mark.parametrize(("settings", "level"), [({}, "FULL"), ({"synchronous": "NORMAL"}, "NORMAL")])
async def test_the_log_is_written_ahead_and_synced_as_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], level: str
) -> None:
    statements: list[str] = []
    connect = sqlite3.connect

    def traced(database: str, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(database, *arguments, **options)
        if "/clarion.db" in database:
            connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    async with calling(tmp_path, "sqlite", **settings) as callee, callee.http(operator()) as client:
        assert (await client.post("/v1/events", json={"topic": "a", "payload": {}})).status_code == 201
    pragmas = {statement.upper() for statement in statements if statement.upper().startswith("PRAGMA SYNCHRONOUS")}
    assert pragmas == {f"PRAGMA SYNCHRONOUS = {level}"}
    assert "PRAGMA JOURNAL_MODE = WAL" in {statement.upper() for statement in statements}
