"""GitHub's own recorded webhooks through `clarion serve`, from a signed delivery to the streams of many clients."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from interaction.process import Served, served
from interaction.push import EVENT, OPEN, Frame, parse_frame
from interaction.requirements import requirement
from interaction.serving import call, new_key

pytestmark = [pytest.mark.e2e, pytest.mark.node]

HERE = Path(__file__).parent
EXAMPLES = HERE / "node_modules" / "@octokit" / "webhooks-examples" / "api.github.com" / "index.json"
SECRET = "what GitHub and this server know"
END = "custom.end"
COUNT = 329

CONFIGURATION = f"""
[inbound.github]
kind = "github"
tenant = "acme"
secret = "{SECRET}"
"""


class Delivery(NamedTuple):
    """One webhook as GitHub would send it."""

    event: str
    guid: str
    body: bytes

    @property
    def payload(self) -> dict[str, Any]:
        payload: dict[str, Any] = json.loads(self.body)
        return payload

    @property
    def topic(self) -> str:
        action = self.payload.get("action")
        return f"github.{self.event}.{action}" if action else f"github.{self.event}"

    def headers(self, body: bytes | None = None) -> dict[str, str]:
        signature = hmac.new(SECRET.encode(), self.body if body is None else body, hashlib.sha256).hexdigest()
        return {
            "content-type": "application/json",
            "x-github-event": self.event,
            "x-github-delivery": self.guid,
            "x-hub-signature-256": f"sha256={signature}",
        }


@pytest.fixture(scope="module")
def deliveries() -> list[Delivery]:
    """Every payload of the package, which is installed when it is missing."""
    if not EXAMPLES.is_file():
        npm = shutil.which("npm")
        if npm is None and not os.environ.get("CI"):
            pytest.skip("npm is not on this machine; with Node.js this test runs GitHub's recorded payloads")
        assert npm is not None, "CI must have npm"
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(command, cwd=HERE, check=True, capture_output=True, timeout=100)
    found = [
        Delivery(kind["name"], str(uuid.uuid5(uuid.NAMESPACE_URL, f"{kind['name']}/{number}")), _bytes(example))
        for kind in json.loads(EXAMPLES.read_text())
        for number, example in enumerate(kind["examples"])
    ]
    assert len(found) == COUNT
    return found


def _bytes(payload: Any) -> bytes:
    return json.dumps(payload, indent=1).encode()  # not the form that is stored, so that a copy would show


# -- a matcher written from the documentation, without a line of clarion's ---


def naive_value(payload: dict[str, Any], path: str) -> tuple[bool, Any]:
    value: Any = payload
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value


def naive_equal(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def naive_clause(payload: dict[str, Any], key: str, operand: Any) -> bool:
    found = re.fullmatch(r"(.+)_(gte|lte|gt|lt|not|in|nin|prefix|contains|exists)", key)
    path, operator = (found[1], found[2]) if found else (key, "in" if isinstance(operand, list) else "eq")
    there, value = naive_value(payload, path)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = isinstance(value, str)
    answers = {
        "eq": lambda: there and naive_equal(value, operand),
        "in": lambda: there and any(naive_equal(value, one) for one in operand),
        "not": lambda: not there or not naive_equal(value, operand),
        "nin": lambda: not there or not any(naive_equal(value, one) for one in operand),
        "gte": lambda: number and value >= operand,
        "lte": lambda: number and value <= operand,
        "gt": lambda: number and value > operand,
        "lt": lambda: number and value < operand,
        "prefix": lambda: text and value.startswith(operand),
        "contains": lambda: text and operand in value,
        "exists": lambda: there is operand,
    }
    return bool(answers[operator]())


def naive_match(topics: list[str], filter: dict[str, Any], delivery: Delivery) -> bool:
    payload = delivery.payload
    return any(fnmatch.fnmatchcase(delivery.topic, topic) for topic in topics) and all(
        naive_clause(payload, key, operand) for key, operand in filter.items()
    )


# -- the clients ---

Interests = list[tuple[list[str], dict[str, Any]]]

CLIENTS: dict[str, Interests] = {
    "everything": [(["github.*"], {})],
    "reviewer": [
        (["github.pull_request.*"], {}),
        (["github.pull_request_review*"], {"action_not": "submitted"}),
        (["github.pull_request.*"], {"pull_request.draft": False, "pull_request.base.ref": "master"}),
    ],
    "triage": [
        (["github.*.opened", "github.issues.*"], {"repository.full_name": "Codertocat/Hello-World"}),
        (["github.*"], {"action_in": ["opened", "reopened", "labeled"]}),
        (["github.*"], {"action": ["created", "deleted"], "repository.private": False}),
        (["github.issue*", "github.issues.*"], {"issue.number_lte": 1, "issue.title_contains": "error"}),
    ],
    "security": [
        (["github.*alert*"], {"alert_exists": True}),
        (["github.push", "github.create", "github.delete"], {"ref_prefix": "refs/"}),
        (["github.*"], {"action_exists": False}),
        (["github.*"], {"organization_exists": True, "sender.type_nin": ["Bot"]}),
        (["github.*"], {"installation.id_gte": 2}),
        (["github.*"], {"sender.site_admin": True}),
    ],
    "literal": [(["github.push"], {}), (["github.ping"], {}), (["github.star.created"], {"starred_at_exists": True})],
    "nothing": [(["github"], {}), (["github.*"], {"repository.full_name": "nobody/nothing"})],
}


class Stream:
    """A client's side channel, read in the background of a test by an ordinary HTTP client."""

    def __init__(self, response: httpx2.Response) -> None:
        self._blocks = self._split(response)

    @staticmethod
    async def _split(response: httpx2.Response) -> AsyncIterator[bytes]:
        unread = b""
        async for data in response.aiter_raw():
            *blocks, unread = (unread + data).split(b"\n\n")
            for block in blocks:
                yield block

    async def frame(self) -> Frame:
        return parse_frame(await anext(self._blocks))

    async def until(self, topic: str) -> list[Frame]:
        """All event frames before the first one on `topic`."""
        frames: list[Frame] = []
        while True:
            frame = await self.frame()
            if frame.event == EVENT:
                if frame.params["topic"] == topic:
                    return frames
                frames.append(frame)


@asynccontextmanager
async def stream_of(server: Served, bearer: str, client_id: str, **headers: str) -> AsyncIterator[Stream]:
    path = f"/mcp/push/sse?client_id={client_id}"
    async with server.http(bearer) as client, client.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        stream = Stream(response)
        assert (await stream.frame()).event == OPEN
        yield stream


async def subscribe(server: Served, bearer: str, client_id: str, interests: Interests) -> list[str]:
    async with (
        server.http(bearer) as client,
        Client(streamable_http_client(f"{server.url}/mcp", http_client=client)) as session,
    ):
        wanted = ({"topic": topics, "client_id": client_id, "filter": filter} for topics, filter in interests)
        return [(await call(session, "subscribe", **one))["subscription_id"] for one in wanted]


async def end(server: Served) -> int:
    """Mark the end for every stream; answers the marker's position."""
    async with server.http(server.operator()) as client:
        answer = await client.post("/v1/events", json={"topic": END, "payload": {}})
    seq: int = answer.json()["seq"]
    return seq


def configured(directory: Path) -> Path:
    data = directory / "data"
    data.mkdir()
    (data / "clarion.toml").write_text(CONFIGURATION)
    return data


@requirement("inbound-github", "real-input", "inbound-tenant")
async def test_every_recorded_payload_reaches_exactly_the_matching_subscriptions_once(
    tmp_path: Path, deliveries: list[Delivery]
) -> None:
    with served(configured(tmp_path)) as server:
        async with AsyncExitStack() as stack:
            streams: dict[str, Stream] = {}
            interests: dict[str, tuple[list[str], dict[str, Any]]] = {}
            for client_id, wanted in CLIENTS.items():
                key = await new_key(server.http(server.operator()), "subscriber", subject=client_id)
                ids = await subscribe(server, key, client_id, [*wanted, ([END], {})])
                interests |= dict(zip(ids, wanted, strict=False))
                streams[client_id] = await stack.enter_async_context(stream_of(server, key, client_id))
            foreign = await new_key(server.http(server.operator("globex")), "subscriber", subject="everything")
            await subscribe(server, foreign, "everything", [(["*"], {})])
            streams["foreign"] = await stack.enter_async_context(stream_of(server, foreign, "everything"))
            reading = {name: asyncio.create_task(stream.until(END)) for name, stream in streams.items()}
            await _post_twice(server, deliveries)
            assert await end(server) == COUNT + 1
            async with server.http(server.operator("globex")) as client:
                await client.post("/v1/events", json={"topic": END, "payload": {}})
            frames = {name: await task for name, task in reading.items()}

    assert frames["foreign"] == []
    pushed = [
        (frame.params["subscription_id"], frame.params["topic"], frame.params["payload"])
        for one in frames.values()
        for frame in one
    ]
    expected = [
        (subscription_id, delivery.topic, delivery.payload)
        for subscription_id, (topics, filter) in interests.items()
        for delivery in deliveries
        if naive_match(topics, filter, delivery)
    ]
    assert sorted(map(json.dumps, pushed)) == sorted(map(json.dumps, expected))
    assert [frame.params["event_id"] for frame in frames["everything"]] == list(range(1, COUNT + 1))
    envelopes = [(frame.params, delivery.payload) for frame, delivery in zip(frames["everything"], deliveries)]  # noqa: B905
    for params, payload in envelopes:
        assert params["actor_id"] == payload.get("sender", {}).get("login")
        assert params["aggregate_id"] == (payload.get("repository") or {}).get("full_name")
    reached = {subscription_id for subscription_id, _, _ in pushed}
    for subscription_id, interest in interests.items():  # else a filter that never fires would prove nothing
        assert (subscription_id in reached) is (interest not in CLIENTS["nothing"]), interest


async def _post_twice(server: Served, deliveries: list[Delivery]) -> None:
    async with server.http() as client:
        for delivery in deliveries:
            first = await client.post("/v1/inbound/github", content=delivery.body, headers=delivery.headers())
            again = await client.post("/v1/inbound/github", content=delivery.body, headers=delivery.headers())
            receipt = {"event_id": delivery.guid, "topic": delivery.topic}
            assert (first.status_code, first.json()) == (202, {**receipt, "duplicate": False})
            assert (again.status_code, again.json()) == (200, {**receipt, "duplicate": True})


@requirement("inbound-resume")
async def test_a_verified_webhook_is_delivered_once_to_a_stream_that_resumes(
    tmp_path: Path, deliveries: list[Delivery]
) -> None:
    before, missed, after = deliveries[:3]
    with served(configured(tmp_path)) as server:
        bearer = await new_key(server.http(server.operator()), "subscriber")
        await subscribe(server, bearer, "agent", [(["github.*"], {}), ([END], {})])

        async def post(delivery: Delivery) -> None:
            async with server.http() as client:
                answer = await client.post("/v1/inbound/github", content=delivery.body, headers=delivery.headers())
            assert answer.status_code in (200, 202)

        async with stream_of(server, bearer, "agent") as stream:
            await post(before)
            last = await stream.frame()
        assert last.id is not None
        await post(missed)
        await post(missed)
        async with stream_of(server, bearer, "agent", **{"Last-Event-ID": last.id}) as stream:
            await post(after)
            await end(server)
            frames = await stream.until(END)
    assert [frame.params["payload"] for frame in frames] == [missed.payload, after.payload]


@requirement("bad-signature")
async def test_a_tampered_webhook_is_401_and_not_stored(tmp_path: Path, deliveries: list[Delivery]) -> None:
    first, second = deliveries[:2]
    with served(configured(tmp_path)) as server:
        bearer = await new_key(server.http(server.operator()), "subscriber")
        await subscribe(server, bearer, "agent", [(["*"], {})])
        async with stream_of(server, bearer, "agent") as stream, server.http() as client:
            tampered = first.body.replace(b'"sender"', b'"Sender"')
            assert tampered != first.body
            answers = [
                await client.post("/v1/inbound/github", content=tampered, headers=first.headers()),
                await client.post("/v1/inbound/github", content=first.body, headers=second.headers()),
                await client.post("/v1/inbound/github", content=first.body, headers=first.headers(b"")),
            ]
            assert await end(server) == 1
            assert await stream.until(END) == []
            good = await client.post("/v1/inbound/github", content=first.body, headers=first.headers())
        assert good.status_code == 202
        assert server.stop() == 0
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(401, "unauthenticated")}
