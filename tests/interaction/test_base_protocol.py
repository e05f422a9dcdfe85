"""What MCP itself asks of the endpoint, in both eras, seen without a client library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from interaction.requirements import requirement
from interaction.serving import Callee, Running, call, calling, connect, operator, serving

ACCEPT = {"accept": "application/json, text/event-stream"}
MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
SUBSCRIBE = {"name": "subscribe", "arguments": {"topic": ["deal.*"], "client_id": "c"}}


async def post(
    running: Running | Callee,
    method: str,
    params: dict[str, Any],
    headers: dict[str, str],
    bearer: str | None,
    meta: dict[str, Any] = META,
) -> httpx2.Response:
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, "_meta": meta}}
    async with running.http(bearer) as client:
        return await client.post("/mcp", json=body, headers={**ACCEPT, "mcp-protocol-version": MODERN, **headers})


@requirement("mcp-result-type")
async def test_a_modern_call_needs_no_session_and_its_result_is_complete(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        headers = {"mcp-method": "tools/call", "mcp-name": "subscribe"}
        answer = await post(running, "tools/call", SUBSCRIBE, headers, operator())
    assert answer.status_code == 200
    assert "mcp-session-id" not in answer.headers
    message = answer.json()
    assert message["id"] == 7
    assert message["result"]["resultType"] == "complete"
    assert message["result"]["structuredContent"]["client_id"] == "c"


@requirement("mcp-headers-agree")
@pytest.mark.parametrize(
    ("method", "name", "version"),
    [
        ("tools/list", "subscribe", MODERN),
        ("tools/call", "unsubscribe", MODERN),
        ("tools/call", "subscribe", "2025-11-25"),
    ],
)
async def test_headers_that_disagree_with_the_body_are_refused(
    tmp_path: Path, method: str, name: str, version: str
) -> None:
    headers = {"mcp-method": method, "mcp-name": name}
    meta = {**META, "io.modelcontextprotocol/protocolVersion": version}
    async with serving(tmp_path) as running:
        answer = await post(running, "tools/call", SUBSCRIBE, headers, operator(), meta)
        async with connect(running, operator()) as session:
            listed = await call(session, "list_subscriptions", client_id="c", include_deleted=True)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32020
    assert listed["subscriptions"] == []


@requirement("mcp-unknown-method")
async def test_an_unknown_method_is_404(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        answer = await post(running, "events/nothing", {}, {"mcp-method": "events/nothing"}, operator())
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == -32601


@requirement("mcp-discover")
async def test_discovery_names_the_server_its_versions_and_its_tools_capability(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        answer = await post(running, "server/discover", {}, {"mcp-method": "server/discover"}, operator())
    assert answer.status_code == 200
    result = answer.json()["result"]
    assert MODERN in result["supportedVersions"]
    assert "tools" in result["capabilities"]
    assert result["instructions"]
    assert result["resultType"] == "complete"


@requirement("mcp-legacy", "tools-both-eras")
async def test_an_initialize_client_is_served_on_the_same_endpoint(tmp_path: Path) -> None:
    async with serving(tmp_path) as running, running.http(operator()) as client:
        hello = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "test", "version": "1"},
            },
        }
        answer = await client.post("/mcp", json=hello, headers=ACCEPT)
        assert answer.status_code == 200
        assert '"protocolVersion":"2025-11-25"' in answer.text
        version = {"mcp-protocol-version": "2025-11-25"}
        listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
        answer = await client.post("/mcp", json=listing, headers={**ACCEPT, **version})
        assert answer.status_code == 200
        assert '"list_topics"' in answer.text
        assert "resultType" not in answer.text


@requirement("bad-key", "roles")
async def test_tools_need_a_subscribers_key(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        publisher = await running.key("publisher")
        subscriber = await running.key("subscriber")
        expected = [(None, 401), ("nonsense", 401), (publisher, 403), (subscriber, 200), (operator(), 200)]
        for bearer, status in expected:
            answer = await post(running, "tools/list", {}, {"mcp-method": "tools/list"}, bearer)
            assert answer.status_code == status, (bearer, answer.text)


@requirement("browser-origins")
async def test_a_browser_of_another_site_or_through_a_rebound_name_gets_nothing(tmp_path: Path) -> None:
    async with calling(tmp_path) as callee:
        headers = {"mcp-method": "tools/list"}
        foreign = await post(callee, "tools/list", {}, {**headers, "origin": "https://evil.example"}, operator())
        rebound = await post(callee, "tools/list", {}, {**headers, "host": "evil.example:8787"}, operator())
    assert foreign.status_code == 403
    assert rebound.status_code == 421
