"""Who may call what: keys, roles, origins, host names, and what is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clarion.auth.keys import mint
from clarion.model import Role
from interaction.serving import calling, operator

READS = ("/v1/topics", "/v1/keys", "/v1/consent/eve", "/v1/admin/mcp/outbound/summary")


def _forged() -> str:
    key, _ = mint("acme", "x", Role.ADMIN, (), at=0, randomness=lambda n: bytes(range(n)))
    return key


@pytest.mark.parametrize("path", READS)
async def test_malformed_unknown_and_revoked_keys_are_answered_alike(tmp_path: Path, path: str, store: str) -> None:
    async with calling(tmp_path, store) as callee, callee.http(operator()) as admin:
        revoked = await callee.key("admin", modules=("admin",))
        wrong_secret = revoked[:-7] + ("a" if revoked[-7] != "a" else "b") + revoked[-6:]
        assert (await admin.delete(f"/v1/keys/{revoked.split('_')[1]}")).status_code == 200
        bearers = [
            revoked,
            wrong_secret,
            _forged(),
            "nonsense",
            "clarion_",
            operator()[:-1],
            "clarion-local.acme.",
            "é",
        ]
        credentials = [b"Basic eDp5", b"Bearer", b"Bearer \xe9", *(f"Bearer {bearer}".encode() for bearer in bearers)]
        headers = [[], *([(b"authorization", credential)] for credential in credentials)]
        answers = [await callee.http().get(path, headers=given) for given in headers]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert len({answer.content for answer in answers}) == 1
    body = answers[0].json()["error"]
    assert set(body) == {"code", "message"}
    assert body["code"] == "unauthenticated"


# method, path, body, and the roles that may
ALLOWED = [
    ("POST", "/v1/events", {"topic": "a", "payload": {}}, {"publisher", "admin"}),
    ("GET", "/v1/topics", None, {"publisher", "subscriber", "admin"}),
    ("PUT", "/v1/topics/a.b", {"description": "x"}, {"admin"}),
    ("POST", "/v1/consent", {"subject": "eve", "state": "granted"}, {"admin"}),
    ("POST", "/v1/consent/check", {"subject": "eve"}, {"publisher", "admin"}),
    ("GET", "/v1/consent/eve", None, {"admin"}),
    ("GET", "/v1/keys", None, {"admin"}),
    ("POST", "/v1/keys", {"role": "subscriber"}, {"admin"}),
    ("DELETE", "/v1/keys/none", None, {"admin"}),
]


@pytest.mark.parametrize(("method", "path", "body", "allowed"), ALLOWED)
async def test_a_role_may_do_its_own_and_is_told_what_it_lacks(
    tmp_path: Path, method: str, path: str, body: object, allowed: set[str]
) -> None:
    async with calling(tmp_path) as callee:
        for role in ("publisher", "subscriber", "admin"):
            async with callee.http(await callee.key(role)) as client:
                answer = await client.request(method, path, json=body)
            if role in allowed:
                assert answer.status_code in (200, 201, 404)
            else:
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
                assert role in answer.json()["error"]["message"]


async def test_a_publisher_cannot_open_a_stream(tmp_path: Path) -> None:
    async with calling(tmp_path) as callee, callee.http(await callee.key("publisher")) as client:
        answer = await client.get("/mcp/push/sse?client_id=c")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_a_browser_may_come_from_configured_origins_only(tmp_path: Path) -> None:
    good, bad = "https://app.example", "https://evil.example"
    async with calling(tmp_path, allowed_origins=(good,)) as callee, callee.http(operator()) as client:
        for path in ("/v1/topics", "/healthz", "/mcp", "/mcp/push/sse?client_id=c"):
            for origin in (bad, "null", good + ".evil.example", "http://app.example"):
                answer = await client.get(path, headers={"origin": origin})
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
                assert "access-control-allow-origin" not in answer.headers
        answer = await client.get("/v1/topics", headers={"origin": good})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == good
        preflight = {"origin": good, "access-control-request-method": "POST"}
        answer = await client.options("/v1/events", headers=preflight)
        assert answer.status_code == 200


async def test_no_origin_is_allowed_unless_configured(tmp_path: Path) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.get("/v1/topics", headers={"origin": "http://127.0.0.1:8787"})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8787", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8787", 200),
        ("events.example:443", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("[", 421),
    ],
)
async def test_the_server_answers_to_its_own_names_only(tmp_path: Path, host: str, status: int) -> None:
    async with calling(tmp_path, allowed_hosts=("events.example",)) as callee, callee.http() as client:
        answer = await client.get("/healthz", headers={"host": host})
    assert answer.status_code == status
    if status == 421:
        assert answer.json()["error"]["code"] == "misdirected"


async def test_a_server_on_an_open_address_answers_to_any_name_until_told_otherwise(tmp_path: Path) -> None:
    async with calling(tmp_path, host="0.0.0.0") as callee, callee.http() as client:
        assert (await client.get("/healthz", headers={"host": "events.example"})).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v2/events", 404, "not_found"),
        ("GET", "/v1/events", 405, "method_not_allowed"),
        ("POST", "/mcp/push/sse", 405, "method_not_allowed"),
        ("PUT", "/healthz", 405, "method_not_allowed"),
        ("DELETE", "/v1/topics/a", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there_is_said_in_json(
    tmp_path: Path, method: str, path: str, status: int, code: str
) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_an_answer_is_never_stored_by_a_cache(tmp_path: Path) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        for path in (*READS, "/healthz"):
            assert (await client.get(path)).headers["cache-control"] == "no-store"


async def test_a_created_key_works_is_shown_once_and_ends_when_revoked(tmp_path: Path, store: str) -> None:
    async with calling(tmp_path, store) as callee, callee.http(operator()) as admin:
        wanted = {"role": "admin", "subject": "ada", "modules": ["admin"]}
        created = await admin.post("/v1/keys", json=wanted)
        assert created.status_code == 201
        body = created.json()
        key, key_id = body["key"], body["key_id"]
        assert key.startswith(f"clarion_{key_id}_")
        assert (body["role"], body["subject"], body["modules"]) == ("admin", "ada", ["admin"])
        async with callee.http(key) as client:
            assert (await client.get("/v1/keys")).status_code == 200
            listing = await admin.get("/v1/keys")
            assert key not in listing.text
            assert key.split("_")[2] not in listing.text
            assert [row["key_id"] for row in listing.json()["keys"]] == [key_id]
            elsewhere = await callee.http(operator("globex")).delete(f"/v1/keys/{key_id}")
            assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (404, "not_found")
            assert (await client.get("/v1/keys")).status_code == 200
            first = await admin.delete(f"/v1/keys/{key_id}")
            again = await admin.delete(f"/v1/keys/{key_id}")
            assert first.status_code == again.status_code == 200
            assert first.json()["revoked_at"] == again.json()["revoked_at"] is not None
            assert (await client.get("/v1/keys")).status_code == 401
    assert not any(_holds(file, key.split("_")[2]) for file in os.scandir(tmp_path))


def _holds(file: os.DirEntry[str], text: str) -> bool:
    with open(file, "rb") as opened:
        return text.encode() in opened.read()


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({}, "role", "required"),
        ({"role": "root"}, "role", "enum"),
        ({"role": "subscriber", "tenant": "globex"}, "tenant", "unknown"),
        ({"role": "subscriber", "subject": ""}, "subject", "printable"),
        ({"role": "subscriber", "subject": "a\nb"}, "subject", "printable"),
        ({"role": "subscriber", "modules": ["admin"]}, "modules", "role"),
        ({"role": "admin", "modules": ["billing"]}, "modules", "enum"),
        ({"role": "admin", "modules": [[]]}, "modules", "enum"),
        ({"role": "admin", "modules": "admin"}, "modules", "type"),
        ([], "body", "object"),
    ],
)
async def test_a_key_that_cannot_be_made_says_why(tmp_path: Path, body: object, field: str, rule: str) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.post("/v1/keys", json=body)
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert (error["code"], error["field"], error["rule"]) == ("invalid_input", field, rule)
        assert (await client.get("/v1/keys")).json() == {"keys": []}


async def test_a_body_that_is_too_large_does_not_tell_which_inbound_sources_there_are(tmp_path: Path) -> None:
    source = {"kind": "github", "tenant": "acme", "secret": "hush"}
    async with calling(tmp_path, inbound={"hub": source}) as callee, callee.http() as client:
        answers = [await client.post(f"/v1/inbound/{name}", content=b"x" * (2**20 + 1)) for name in ("hub", "none")]
        small = [await client.post(f"/v1/inbound/{name}", content=b"x") for name in ("hub", "none")]
    assert [answer.status_code for answer in answers] == [413, 413]
    assert answers[0].content == answers[1].content
    assert [answer.status_code for answer in small] == [401, 401]


@pytest.mark.parametrize("limit", ["²", "٣", "9" * 5000, "0", "201", "-1", "1 ", ""])
async def test_a_limit_that_is_no_number_of_rows_is_422(tmp_path: Path, limit: str) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        answer = await client.get("/v1/admin/mcp/outbound/deliveries", params={"limit": limit})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "limit")


async def test_a_declared_size_that_is_no_number_is_not_believed(tmp_path: Path) -> None:
    async with calling(tmp_path) as callee, callee.http(operator()) as client:
        for size in (b"\xb2", b"9" * 5000):
            answer = await client.post("/v1/consent", content=b"[]", headers=[(b"content-length", size)])
            assert answer.status_code == 422
