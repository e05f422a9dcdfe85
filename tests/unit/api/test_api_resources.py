"""Consent, topics, inbound webhooks and operations over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from clarion.testing.clock import FakeClock
from interaction.serving import calling, operator, serving

DECLARATION: dict[str, Any] = {
    "category": "custom",
    "description": "An order.",
    "payload_schema": {"type": "object", "properties": {"total": {"type": "number"}}},
    "filter_examples": [{"total_gte": 100}],
}


async def test_a_declared_topic_is_listed_to_its_tenant_only(tmp_path: Path, store: str) -> None:
    async with calling(tmp_path, store) as callee, callee.http(operator()) as client:
        answer = await client.put("/v1/topics/orders.made", json=DECLARATION)
        assert answer.status_code == 200
        assert answer.json() == {"topic": "orders.made", **DECLARATION}
        changed = {**DECLARATION, "description": "An order was made."}
        assert (await client.put("/v1/topics/orders.made", json=changed)).status_code == 200
        ours = (await client.get("/v1/topics", params={"category": "custom"})).json()["topics"]
        theirs = (await callee.http(operator("globex")).get("/v1/topics")).json()["topics"]
    assert [row for row in ours if row["topic"] == "orders.made"] == [{"topic": "orders.made", **changed}]
    assert "orders.made" not in [row["topic"] for row in theirs]


@pytest.mark.parametrize(
    ("topic", "change", "code", "field"),
    [
        ("orders..made", {}, "invalid_topic", "topic"),
        ("or*ers", {}, "invalid_topic", "topic"),
        ("deal.won", {}, "invalid_topic", "topic"),
        ("orders.made", {"category": "sales"}, "invalid_input", "category"),
        ("orders.made", {"description": ""}, "invalid_input", "description"),
        ("orders.made", {"description": None}, "invalid_input", "description"),
        ("orders.made", {"payload_schema": {"type": "objet"}}, "invalid_schema", "schema.type"),
        ("orders.made", {"payload_schema": {"$ref": "https://evil.example/s"}}, "invalid_schema", "schema.$ref"),
        ("orders.made", {"payload_schema": {"$ref": "#"}}, "invalid_schema", "schema.$ref"),
        ("orders.made", {"filter_examples": [{"total_gte": "much"}]}, "invalid_filter", "filter_examples.0.total_gte"),
        ("orders.made", {"filter_examples": [1]}, "invalid_filter", "filter_examples"),
        ("orders.made", {"schema": {}}, "invalid_input", "schema"),
    ],
)
async def test_a_declaration_that_breaks_a_rule_is_422_by_name(
    tmp_path: Path, topic: str, change: dict[str, Any], code: str, field: str
) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.put(f"/v1/topics/{topic}", json={**DECLARATION, **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, code, field)
    assert error["rule"]


async def test_a_tenant_cannot_declare_more_topics_than_its_limit(tmp_path: Path, store: str) -> None:
    async with calling(tmp_path, store, max_declared_topics=1) as callee, callee.http(operator()) as client:
        assert (await client.put("/v1/topics/orders.made", json=DECLARATION)).status_code == 200
        assert (await client.put("/v1/topics/orders.made", json=DECLARATION)).status_code == 200
        answer = await client.put("/v1/topics/orders.paid", json=DECLARATION)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "limit_exceeded")


async def test_an_unknown_category_lists_the_ten(tmp_path: Path) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.get("/v1/topics", params={"category": "sales"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "category")
    assert "crm, marketing, service, ai, workflow, integration, mcp, consent, platform, custom" in answer.text


async def test_consent_is_a_ledger_and_its_newest_line_decides(tmp_path: Path, store: str) -> None:
    clock = FakeClock()
    async with calling(tmp_path, store, clock=clock) as callee, callee.http(operator()) as client:

        async def check(purpose: str | None = None) -> tuple[bool, str, str | None]:
            body = {"subject": "eve@example.org", **({"purpose": purpose} if purpose else {})}
            answer = await client.post("/v1/consent/check", json=body)
            assert answer.status_code == 200
            found = answer.json()
            assert set(found) == {"allowed", "reason", "state", "suppressed_by"}
            assert found["reason"]
            return found["allowed"], found["state"], found["suppressed_by"]

        async def record(state: str, **fields: Any) -> dict[str, Any]:
            line = {"subject": "eve@example.org", "state": state, **fields}
            answer = await client.post("/v1/consent", json=line)
            assert answer.status_code == 201, answer.text
            recorded: dict[str, Any] = answer.json()
            return recorded

        assert await check() == (True, "unknown", None)
        assert await check("marketing") == (False, "unknown", None)
        line = await record("granted", purpose="marketing", actor="ada", proof="form 7", reason="asked")
        assert {name: line[name] for name in ("purpose", "actor", "proof", "reason")} == {
            "purpose": "marketing",
            "actor": "ada",
            "proof": "form 7",
            "reason": "asked",
        }
        assert await check("marketing") == (True, "granted", None)
        assert await check("analytics") == (False, "unknown", None)
        await record("suppressed", reason="bounce")
        assert await check("marketing") == (False, "granted", "bounce")
        assert await check() == (False, "unknown", "bounce")
        await record("released")
        assert await check("marketing") == (True, "granted", None)
        await record("withdrawn")
        assert await check("marketing") == (False, "withdrawn", None)
        assert await check() == (False, "withdrawn", None)
        history = (await client.get("/v1/consent/eve@example.org")).json()["entries"]
        elsewhere = (await callee.http(operator("globex")).get("/v1/consent/eve@example.org")).json()["entries"]
    assert [entry["state"] for entry in history] == ["withdrawn", "released", "suppressed", "granted"]
    assert [entry["seq"] for entry in history] == [4, 3, 2, 1]
    assert elsewhere == []


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"state": "granted"}, "invalid_input", "subject"),
        ({"subject": "eve"}, "invalid_input", "state"),
        ({"subject": "", "state": "granted"}, "invalid_input", "subject"),
        ({"subject": "eve", "state": "maybe"}, "invalid_consent", "state"),
        ({"subject": "eve", "state": "expired"}, "invalid_consent", "state"),
        ({"subject": "eve", "state": "suppressed", "reason": "mood"}, "invalid_consent", "reason"),
        ({"subject": "eve", "state": "suppressed", "purpose": "marketing"}, "invalid_consent", "purpose"),
        ({"subject": "eve", "state": "withdrawn", "expires_at": "2099-01-01"}, "invalid_consent", "expires_at"),
        ({"subject": "eve", "state": "granted", "expires_at": "2001-01-01"}, "invalid_consent", "expires_at"),
        ({"subject": "eve", "state": "granted", "expires_at": "soon"}, "invalid_input", "expires_at"),
        ({"subject": "eve", "state": "granted", "tenant": "x"}, "invalid_input", "tenant"),
    ],
)
async def test_a_consent_line_that_breaks_a_rule_is_not_recorded(
    tmp_path: Path, body: dict[str, Any], code: str, field: str
) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/consent", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["field"]) == (422, code, field)
        assert (await client.get("/v1/consent/eve")).json() == {"entries": []}


SECRET = "it is a secret"


def _signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"x-hub-signature-256": f"sha256={digest}", "x-github-event": "issues", "x-github-delivery": "d-1"}


async def test_only_a_webhook_with_a_valid_signature_is_stored(tmp_path: Path, store: str) -> None:
    inbound = {"github": {"kind": "github", "tenant": "acme", "secret": SECRET}}
    body = json.dumps({"action": "opened", "repository": {"full_name": "a/b"}}).encode()
    async with calling(tmp_path, store, inbound=inbound) as callee, callee.http() as client:
        refused = [
            await client.post("/v1/inbound/github", content=body, headers=_signed(body, "another")),
            await client.post("/v1/inbound/github", content=body + b" ", headers=_signed(body)),
            await client.post("/v1/inbound/github", content=body),
            await client.post("/v1/inbound/github", content=b"no json", headers=_signed(body)),
            await client.post("/v1/inbound/unknown", content=body, headers=_signed(body)),
        ]
        assert {answer.status_code for answer in refused} == {401}
        assert len({answer.content for answer in refused}) == 1
        first = await client.post("/v1/inbound/github", content=body, headers=_signed(body))
        again = await client.post("/v1/inbound/github", content=body, headers=_signed(body))
        malformed = await client.post("/v1/inbound/github", content=b"{", headers=_signed(b"{"))
        seq = (await callee.http(operator()).post("/v1/events", json={"topic": "a", "payload": {}})).json()["seq"]
    assert first.status_code == 202
    assert first.json() == {"event_id": "d-1", "topic": "github.issues.opened", "duplicate": False}
    assert again.status_code == 200
    assert again.json()["duplicate"] is True
    assert (malformed.status_code, malformed.json()["error"]["code"]) == (400, "malformed_json")
    assert seq == 2


async def test_a_webhook_that_is_too_large_is_413_before_it_is_verified(tmp_path: Path) -> None:
    inbound = {"github": {"kind": "github", "tenant": "acme", "secret": SECRET}}
    async with calling(tmp_path, inbound=inbound) as callee, callee.http() as client:
        answer = await client.post("/v1/inbound/github", content=b"x" * (2**20 + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")


async def test_operations_need_no_key_and_tell_no_secrets(tmp_path: Path, store: str) -> None:
    async with calling(tmp_path, store) as callee, callee.http() as client:
        for number in range(3):
            await callee.http(operator()).post("/v1/events", json={"topic": "custom.a", "payload": {"n": number}})
        health = await client.get("/healthz")
        ready = await client.get("/readyz")
        metrics = await client.get("/metrics")
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert metrics.status_code == 200
    assert metrics.headers["content-type"].startswith("text/plain")
    lines = metrics.text.splitlines()
    for name, kind in [
        ("clarion_events_dispatched_total", "counter"),
        ("clarion_deliveries_total", "counter"),
        ("clarion_deliveries_dropped_total", "counter"),
        ("clarion_deliveries_refused_total", "counter"),
        ("clarion_streams", "gauge"),
        ("clarion_ring_events", "gauge"),
        ("clarion_ring_bytes", "gauge"),
        ("clarion_dispatch_failing", "gauge"),
    ]:
        assert f"# TYPE {name} {kind}" in lines
    assert "clarion_dispatch_failing 0.0" in lines
    assert 'clarion_streams{phase="live"} 0.0' in lines
    assert "acme" not in metrics.text


async def test_a_dispatcher_that_has_ended_is_told_by_readyz_and_the_metrics(tmp_path: Path) -> None:
    async with serving(tmp_path) as running, running.http() as client:
        (dispatcher,) = (task for task in asyncio.all_tasks() if task.get_name() == "clarion-dispatcher")
        dispatcher.cancel()
        await asyncio.wait([dispatcher])
        ready = await client.get("/readyz")
        lines = (await client.get("/metrics")).text.splitlines()
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert "CancelledError" in ready.json()["reason"]
    assert 'clarion_background_failed{work="dispatch"} 1.0' in lines
    assert "clarion_dispatch_failing 1.0" in lines
