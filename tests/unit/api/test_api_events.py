"""`POST /v1/events`: what is accepted, and what each refusal says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from clarion.api.events import MAX_BATCH
from clarion.sources.emit import MAX_PAYLOAD_BYTES
from interaction.serving import calling, operator

GOOD = {"topic": "custom.a", "payload": {}}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("change", "status", "code", "field", "rule"),
    [
        ({"topic": ""}, 422, "invalid_topic", "topic", "empty"),
        ({"topic": "a..b"}, 422, "invalid_topic", "topic", "segments"),
        ({"topic": "a.*"}, 422, "invalid_topic", "topic", "characters"),
        ({"topic": ".".join("a" * 17)}, 422, "invalid_topic", "topic", "segments"),
        ({"topic": "a" * 65}, 422, "invalid_topic", "topic", "segment_length"),
        ({"topic": 1}, 422, "invalid_input", "topic", "type"),
        ({"topic": None}, 422, "invalid_input", "topic", "required"),
        ({"payload": None}, 422, "invalid_input", "payload", "required"),
        ({"payload": []}, 422, "invalid_input", "payload", "type"),
        ({"payload": "text"}, 422, "invalid_input", "payload", "type"),
        ({"tenant": "globex"}, 422, "invalid_input", "tenant", "unknown"),
        ({"event_id": ""}, 422, "invalid_event", "event_id", "non-empty"),
        ({"event_id": "x" * 257}, 422, "invalid_event", "event_id", "length"),
        ({"event_id": 7}, 422, "invalid_input", "event_id", "type"),
        ({"aggregate_id": "a\nb"}, 422, "invalid_event", "aggregate_id", "printable"),
        ({"subjects": "eve"}, 422, "invalid_input", "subjects", "type"),
        ({"subjects": [1]}, 422, "invalid_event", "subjects", "non-empty"),
        ({"subjects": ["s"] * 65}, 422, "invalid_event", "subjects", "count"),
        ({"audience": ["s"] * 1001}, 422, "invalid_event", "audience", "count"),
        ({"priority": "asap"}, 422, "invalid_event", "priority", "enum"),
        ({"attributes": {"a": "x" * 5000}}, 422, "invalid_event", "attributes", "length"),
        ({"occurred_at": "yesterday"}, 422, "invalid_input", "occurred_at", "iso8601"),
        ({"occurred_at": 1_750_000_000}, 422, "invalid_input", "occurred_at", "type"),
        ({"occurred_at": "9999-01-01T00:00:00Z"}, 422, "invalid_event", "occurred_at", "future"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, 422, "invalid_event", "expires_at", "future"),
        ({"payload": {"a": "x" * MAX_PAYLOAD_BYTES}}, 413, "payload_too_large", "payload", None),
        ({"payload": nested(300)}, 422, "invalid_event", "payload", "json"),
    ],
)
async def test_an_invalid_event_is_refused_by_name_and_nothing_is_stored(
    tmp_path: Path, change: dict[str, Any], status: int, code: str, field: str, rule: str | None
) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/events", json={**GOOD, **change})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["field"], error.get("rule")) == (status, code, field, rule)
        assert error["message"]
        assert len(answer.content) < 2000  # what was refused is not sent back
        assert (await client.post("/v1/events", json=GOOD)).json()["seq"] == 1


async def test_a_payload_of_exactly_the_limit_is_accepted(tmp_path: Path) -> None:
    filler = "x" * (MAX_PAYLOAD_BYTES - len('{"a":""}'))
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/events", json={"topic": "a", "payload": {"a": filler}})
        assert answer.status_code == 201
        answer = await client.post("/v1/events", json={"topic": "a", "payload": {"a": filler + "x"}})
        assert answer.status_code == 413
        assert answer.json()["error"]["max"] == MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        (b'{"topic": "a" "payload": {}}', 1, 15),
        (b'{"topic": "a",\n "payload": {]}', 2, 14),
        (b'{"topic": "a", "payload": {"n": NaN}}', 1, 33),
        (b"", 1, 1),
        (b'{"topic": "a", "payload": {}} {}', 1, 31),
        (b'\xff{"topic"', 1, 1),
    ],
)
async def test_malformed_json_is_400_with_the_position(tmp_path: Path, body: bytes, line: int, column: int) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/events", content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "malformed_json")
    assert (error["position"]["line"], error["position"]["column"]) == (line, column)


async def test_a_receipt_names_the_position_and_a_repeated_event_is_one_event(tmp_path: Path, store: str) -> None:
    event = {"topic": "custom.a", "payload": {"a": 1, "b": 2}, "event_id": "e1"}
    async with calling(tmp_path, store) as callee, callee.http(operator()) as client:
        first = await client.post("/v1/events", json=event)
        await client.post("/v1/events", json=GOOD)
        again = await client.post("/v1/events", json={**event, "payload": {"b": 2, "a": 1}})
        conflict = await client.post("/v1/events", json={**event, "payload": {"a": 2}})
        elsewhere = await callee.http(operator("globex")).post("/v1/events", json={**event, "payload": {"a": 3}})
        generated = await client.post("/v1/events", json=GOOD)
    assert first.status_code == 201
    receipt = first.json()
    assert (receipt["event_id"], receipt["topic"], receipt["seq"]) == ("e1", "custom.a", 1)
    assert receipt["position"].endswith("-1")
    assert receipt["duplicate"] is False
    assert again.status_code == 200
    assert again.json() == {**receipt, "status": 200, "duplicate": True}
    assert conflict.status_code == 409
    assert conflict.json()["error"]["code"] == "conflict"
    assert conflict.json()["error"]["field"] == "event_id"
    assert conflict.json()["error"]["seq"] == 1
    assert (elsewhere.status_code, elsewhere.json()["seq"]) == (201, 1)
    assert len(generated.json()["event_id"]) == 26  # a ULID


async def test_a_batch_answers_each_item_in_order_and_stores_the_good_ones(tmp_path: Path, store: str) -> None:
    items: list[Any] = [
        {"topic": "custom.a", "payload": {"n": 1}, "event_id": "e1"},
        {"topic": "custom..a", "payload": {}},
        {"topic": "custom.a", "payload": {"n": 1}, "event_id": "e1"},
        {"topic": "custom.a", "payload": {"n": 2}, "event_id": "e1"},
        "text",
        {"topic": "custom.a", "payload": {"a": "x" * MAX_PAYLOAD_BYTES}},
        {"topic": "custom.b", "payload": {}},
    ]
    async with calling(tmp_path, store) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/events", json=items)
        after = await client.post("/v1/events", json=[GOOD, GOOD])
    assert answer.status_code == 207
    body = answer.json()
    assert [result["status"] for result in body["results"]] == [201, 422, 200, 409, 422, 413, 201]
    assert (body["accepted"], body["duplicates"], body["failed"]) == (2, 1, 4)
    assert [result.get("seq") for result in body["results"]] == [1, None, 1, None, None, None, 2]
    assert body["results"][3]["error"]["code"] == "conflict"
    assert body["results"][3]["error"]["seq"] == 1
    assert after.status_code == 200
    assert [result["seq"] for result in after.json()["results"]] == [3, 4]


@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/jsonl; charset=utf-8"])
async def test_ndjson_errors_name_their_line(tmp_path: Path, kind: str) -> None:
    good = json.dumps(GOOD).encode()
    body = b"\n".join([good, b"", b'{"topic": "a" oops}', good, b"[1]", good, b""])
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/events", content=body, headers={"content-type": kind})
    results = answer.json()["results"]
    assert answer.status_code == 207
    assert [result["status"] for result in results] == [201, 400, 201, 422, 201]
    assert results[1]["error"]["position"]["line"] == 3
    assert results[1]["error"]["position"]["column"] == 15
    assert "line 3" in results[1]["error"]["message"]


@pytest.mark.parametrize("content", [b"[]", b""])
async def test_an_empty_batch_is_no_error(tmp_path: Path, content: bytes) -> None:
    kind = "application/json" if content else "application/x-ndjson"
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/events", content=content, headers={"content-type": kind})
    assert answer.status_code == 200
    assert answer.json() == {"accepted": 0, "duplicates": 0, "failed": 0, "results": []}


async def test_too_many_events_or_bytes_in_one_request_are_413(tmp_path: Path) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        many = await client.post("/v1/events", json=[1] * (MAX_BATCH + 1))
        large = await client.post("/v1/events", content=b" ", headers={"content-length": str(10**9)})
    assert (many.status_code, many.json()["error"]["limit"]) == (413, "batch")
    assert (large.status_code, large.json()["error"]["limit"]) == (413, "body_bytes")


async def test_a_body_that_does_not_say_its_size_is_bounded_as_well(tmp_path: Path) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 100:
            sent += 1
            yield b" " * 2**20

    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/consent", content=endless())
    assert answer.status_code == 413
    assert answer.json()["error"]["max"] == 2**20


async def test_a_declared_schema_is_enforced_on_emit(tmp_path: Path, store: str) -> None:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
    async with calling(tmp_path, store) as callee, callee.http(operator()) as client:
        body = {"description": "An order.", "payload_schema": schema, "filter_examples": [{"total_gte": 5}]}
        assert (await client.put("/v1/topics/orders.*", json=body)).status_code == 200
        bad = await client.post("/v1/events", json={"topic": "orders.made", "payload": {"total": "much"}})
        good = await client.post("/v1/events", json={"topic": "orders.made", "payload": {"total": 5}})
        other = await callee.http(operator("globex")).post(
            "/v1/events", json={"topic": "orders.made", "payload": {"total": "much"}}
        )
    error = bad.json()["error"]
    assert (bad.status_code, error["code"], error["field"], error["rule"]) == (
        422,
        "invalid_event",
        "payload.total",
        "schema",
    )
    assert "much" not in error["message"]
    assert good.status_code == 201
    assert other.status_code == 201  # a declaration binds its own tenant


LARGE = 2**20


@pytest.mark.parametrize(
    ("kind", "body", "limit"),
    [
        ("application/x-ndjson", b"\n" * (32 * LARGE - 1), "lines"),
        ("application/x-ndjson", b"0\n" * (8 * LARGE), "batch"),
        ("application/json", b'{"topic":"a","payload":{"a":[' + b"[]," * (4 * LARGE) + b"0]}}", "body_bytes"),
        ("application/json", b" [" + b"0," * (2 * LARGE) + b"0]", "body_bytes"),
        ("application/json", b'{"topic":"a","payload":{"a":[' + b"[]," * 100_000 + b"0]}}", "containers"),
    ],
)
async def test_a_large_body_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, body: bytes, limit: str
) -> None:
    def decoded(data: bytes) -> Any:
        raise RuntimeError(f"{len(data)} bytes were decoded")

    monkeypatch.setattr("clarion.api.events.decode", decoded)
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/events", content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["limit"]) == (413, limit)


async def test_a_line_that_is_too_long_fails_alone(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode()
    body = b"\n".join([good, b'{"topic":"a","payload":{"a":"' + b"x" * LARGE + b'"}}', good])
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/events", content=body, headers={"content-type": "application/x-ndjson"})
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [201, 413, 201]
    assert "line 2" in results[1]["error"]["message"]


async def test_bodies_in_flight_share_a_budget_that_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clarion.api.events.MAX_BYTES_IN_FLIGHT", 1000)
    reading, release = asyncio.Event(), asyncio.Event()

    async def slow() -> Any:
        yield b" " * 900
        reading.set()
        await release.wait()
        yield json.dumps(GOOD).encode()

    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(client.post("/v1/events", content=slow()))
            await reading.wait()
            refused = await client.post("/v1/events", content=b" " * 200)
            release.set()
        after = await client.post("/v1/events", json={**GOOD, "payload": {"a": "x" * 900}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert (first.result().status_code, after.status_code) == (201, 201)


async def test_a_body_that_stays_away_is_408(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clarion.api.http.BODY_SECONDS", 0.01)

    async def half() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/events", content=half())
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"


async def test_a_number_written_otherwise_is_other_content(tmp_path: Path) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answers = [
            await client.post("/v1/events", content=b'{"topic":"a","event_id":"e","payload":{"n":' + number + b"}}")
            for number in (b"1.0", b"1e0", b"1")
        ]
    assert [answer.status_code for answer in answers] == [201, 200, 409]
