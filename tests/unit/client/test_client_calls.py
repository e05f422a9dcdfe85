"""`ApiClient` and `PushClient` against the real application, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from clarion.client import ApiClient, PushClient, ServerUnreachable, ToolRefused, UnexpectedAnswer
from clarion.client.errors import error_from
from clarion.errors import (
    ERRORS,
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidTopic,
    NotFound,
    StoreUnavailable,
    Unauthenticated,
    describe,
)
from clarion.local import local_bearer
from clarion.server import open_app
from clarion.settings import Settings

URL = "http://127.0.0.1"


@asynccontextmanager
async def server() -> AsyncIterator[tuple[httpx2.ASGITransport, str]]:
    """The application on a memory store, and an operator's bearer."""
    async with open_app(Settings(data=Path("unused")), local_secret=lambda: "secret", url="memory:") as app:
        yield httpx2.ASGITransport(app), local_bearer("secret", "default")


def answering(response: httpx2.Response) -> httpx2.MockTransport:
    return httpx2.MockTransport(lambda _request: response)


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_comes_back_as_itself(kind: type[Exception]):
    sent = kind("what", field="f", rule="r", details={"max": 3})

    found = error_from(describe(sent))

    assert type(found) is kind
    assert (found.message, found.field, found.rule, found.details) == ("what", "f", "r", {"max": 3})


async def test_the_api_answers_and_raises_what_the_server_raised():
    async with server() as (transport, operator), ApiClient(URL, operator, transport=transport) as api:
        receipt = await api.emit({"topic": "deal.won", "payload": {"amount": 1}, "event_id": "e1"})
        assert (receipt["seq"], receipt["duplicate"]) == (1, False)
        with pytest.raises(Conflict):
            await api.emit({"topic": "deal.won", "payload": {"amount": 2}, "event_id": "e1"})
        with pytest.raises(InvalidTopic) as refused:
            await api.emit({"topic": "deal won", "payload": {}})
        assert refused.value.field == "topic"
        lines = await api.emit_lines([b'{"topic":"a.b","payload":{}}', b"nonsense"])
        assert (lines["accepted"], lines["failed"]) == (1, 1)
        with pytest.raises(NotFound):
            await api.revoke_key("nobody")


async def test_subjects_with_any_character_have_their_own_ledger():
    async with server() as (transport, operator), ApiClient(URL, operator, transport=transport) as api:
        for subject in ("a/b?c#d %", "ä@example.com", ".."):
            await api.record_consent({"subject": subject, "state": "granted", "purpose": "marketing"})

            assert [line["subject"] for line in await api.consent_history(subject)] == [subject]
            assert (await api.check_consent(subject, "marketing"))["allowed"] is True


async def test_a_subscription_is_made_listed_and_ended_through_the_sdk():
    async with (
        server() as (transport, operator),
        PushClient(URL, operator, client_id="c", transport=transport) as client,
    ):
        first = await client.subscribe(["deal.*"], {"amount_gte": 5}, label="mine", purpose="analytics")
        again = await client.subscribe(["deal.*"], {"amount_gte": 5})
        assert again["subscription_id"] == first["subscription_id"]
        assert [row["filter"] for row in await client.list_subscriptions()] == [{"amount_gte": 5}]
        await client.unsubscribe(first["subscription_id"])
        assert await client.list_subscriptions() == []
        assert len(await client.list_subscriptions(include_deleted=True)) == 1
        assert {row["category"] for row in await client.list_topics("crm")} == {"crm"}


async def test_what_the_server_says_beside_a_result_is_in_its_notes():
    async with (
        server() as (transport, operator),
        PushClient(URL, operator, client_id="c", transport=transport) as client,
    ):
        assert (await client.subscribe(["deal.won"])).notes == ()
        (note,) = (await client.subscribe(["dael.won"])).notes
        assert "no known topic matches dael.won" in note


async def test_a_single_text_for_topics_is_a_mistake_that_is_told():
    async with PushClient(URL, "k", client_id="c") as client:
        with pytest.raises(TypeError, match=r"\['deal\.won'\]"):
            await client.subscribe("deal.won")


async def test_a_refused_tool_call_tells_the_servers_advice_alone():
    async with (
        server() as (transport, operator),
        PushClient(URL, operator, client_id="c", transport=transport) as client,
    ):
        with pytest.raises(ToolRefused, match=r"\Atopic pattern 'deal won' "):
            await client.subscribe(["deal won"])


async def test_a_key_that_is_unknown_or_may_not_subscribe_is_told_apart():
    async with server() as (transport, operator):
        async with ApiClient(URL, operator, transport=transport) as api:
            publisher = (await api.create_key("publisher"))["key"]
        async with PushClient(URL, publisher, client_id="c", transport=transport) as client:
            with pytest.raises(Forbidden, match="role subscriber"):
                await client.subscribe(["a.b"])
        async with PushClient(URL, "unknown", client_id="c", transport=transport) as client:
            with pytest.raises(Unauthenticated):
                await client.subscribe(["a.b"])
        async with ApiClient(URL, "unknown", transport=transport) as api:
            with pytest.raises(Unauthenticated):
                await api.topics()


async def test_a_server_that_is_not_there_is_unreachable():
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    async with ApiClient(URL, "k", transport=httpx2.MockTransport(refuse)) as api:
        with pytest.raises(ServerUnreachable):
            await api.topics()
    async with PushClient(URL, "k", client_id="c", transport=httpx2.MockTransport(refuse)) as client:
        with pytest.raises(ServerUnreachable):
            await client.subscribe(["a.b"])


async def test_tls_against_a_server_without_it_is_told():
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(16)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as plain:
        port = plain.sockets[0].getsockname()[1]
        async with ApiClient(f"https://127.0.0.1:{port}", "k") as api:
            with pytest.raises(ServerUnreachable, match="does not speak TLS; try http://"):
                await api.topics()


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/mcp/push/sse", "/"])
async def test_the_address_of_an_endpoint_means_its_server(path: str):
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.path)
        return httpx2.Response(200, json={"topics": []})

    async with ApiClient(URL + path, "k", transport=httpx2.MockTransport(answer)) as api:
        await api.topics()
    assert asked == ["/v1/topics"]


async def test_a_path_that_leads_nowhere_is_told_as_such():
    async with server() as (transport, operator), ApiClient(f"{URL}/x", operator, transport=transport) as api:
        with pytest.raises(UnexpectedAnswer, match="is its path right"):
            await api.topics()


async def test_retry_after_of_a_503_is_kept():
    answer = httpx2.Response(503, headers={"retry-after": "3"}, json={"error": describe(StoreUnavailable())})
    async with ApiClient(URL, "k", transport=answering(answer)) as api:
        with pytest.raises(StoreUnavailable) as raised:
            await api.topics()
    assert raised.value.details["retry_after"] == "3"


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(200, text="<html>"),
        httpx2.Response(200, text="[]"),
        httpx2.Response(200, json={"other": 1}),
        httpx2.Response(302, headers={"location": "http://elsewhere"}),
        httpx2.Response(500, text="oops"),
    ],
)
async def test_an_answer_of_something_else_is_told_as_such(answer: httpx2.Response):
    async with ApiClient(URL, "k", transport=answering(answer)) as api:
        with pytest.raises(UnexpectedAnswer):
            await api.topics()


async def test_a_redirect_does_not_take_the_key_along():
    asked: list[str] = []

    def redirect(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        return httpx2.Response(307, headers={"location": "http://evil.example/"})

    async with ApiClient("http://good.example", "k", transport=httpx2.MockTransport(redirect)) as api:
        with pytest.raises(UnexpectedAnswer):
            await api.emit({"topic": "a.b", "payload": {}})
    assert asked == ["http://good.example/v1/events"]


@pytest.mark.parametrize("url", ["", "localhost:8787", "ftp://x", "http://", "/v1", "http://x/?a=1", "http://x/#a"])
def test_what_is_no_server_url_is_refused(url: str):
    with pytest.raises(InvalidInput):
        ApiClient(url, "k")


@pytest.mark.parametrize("key", ["clé", "a\nb", "a\x00"])
def test_a_key_that_no_header_can_hold_is_refused(key: str):
    with pytest.raises(InvalidInput):
        ApiClient(URL, key)
