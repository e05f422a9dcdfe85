"""The HTTP API under `/v1`: answers are the server's JSON, errors the typed errors that the server raised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from clarion.client.errors import UnexpectedAnswer, error_of_answer
from clarion.client.http import open_http, server_url, unreachable
from clarion.encoding import decode, encode
from clarion.errors import MalformedJSON, StoreUnavailable

__all__ = ["ApiClient"]

_NO_ROUTE = "Not Found"
"""What a server says of a path that it does not have at all."""


class ApiClient:
    """One server, one key. Every method raises the server's typed error, or ServerUnreachable.

    A StoreUnavailable carries `details["retry_after"]`, the header as it came, when the server sent one.
    """

    def __init__(self, url: str, key: str, *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """`transport`: another way to the server than the network, such as httpx2.ASGITransport."""
        self._url = server_url(url)
        self._http = open_http(self._url, key, transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def emit(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Emit one event; answers `{event_id, topic, seq, position, duplicate}` once it is durable."""
        return await self._call("POST", "/v1/events", event)

    async def emit_lines(self, lines: Sequence[bytes]) -> dict[str, Any]:
        """Emit one event per line of NDJSON; answers the counts and, in order, a result per line."""
        content = b"\n".join(lines)
        return await self._send("POST", "/v1/events", content, "application/x-ndjson")

    async def topics(self, category: str | None = None) -> list[dict[str, Any]]:
        found = await self._call("GET", "/v1/topics", params={} if category is None else {"category": category})
        return _list(found, "topics")

    async def declare_topic(self, topic: str, declaration: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call("PUT", f"/v1/topics/{_segment(topic)}", declaration)

    async def record_consent(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Append a line to the ledger; answers when nothing can be sent against it any more."""
        return await self._call("POST", "/v1/consent", entry)

    async def check_consent(self, subject: str, purpose: str | None = None) -> dict[str, Any]:
        """`{allowed, reason, state, suppressed_by}`."""
        return await self._call("POST", "/v1/consent/check", {"subject": subject, "purpose": purpose})

    async def consent_history(self, subject: str) -> list[dict[str, Any]]:
        """The subject's ledger, newest first."""
        return _list(await self._call("GET", f"/v1/consent/{_segment(subject)}"), "entries")

    async def create_key(self, role: str, *, subject: str | None = None, modules: Sequence[str] = ()) -> dict[str, Any]:
        """A new key of this key's tenant, in `key`, which is told this once only."""
        return await self._call("POST", "/v1/keys", {"role": role, "subject": subject, "modules": list(modules)})

    async def keys(self) -> list[dict[str, Any]]:
        return _list(await self._call("GET", "/v1/keys"), "keys")

    async def revoke_key(self, key_id: str) -> dict[str, Any]:
        return await self._call("DELETE", f"/v1/keys/{_segment(key_id)}")

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        content = None if body is None else encode(body, field="body")
        return await self._send(method, path, content, "application/json", params)

    async def _send(
        self, method: str, path: str, content: bytes | None, kind: str, params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        headers = {} if content is None else {"content-type": kind}
        try:
            answer = await self._http.request(method, path, content=content, headers=headers, params=params)
        except httpx2.TransportError as error:
            raise unreachable(self._url, error) from error
        if (
            answer.status_code == 404
            and self._url.path != "/"
            and error_of_answer(404, answer.content).message == _NO_ROUTE
        ):
            raise UnexpectedAnswer(f"nothing answers at {self._url}; is its path right? most servers have none")
        if answer.status_code >= 300:
            raise _refusal(answer)
        try:
            found = decode(answer.content)
        except MalformedJSON:
            found = None
        if not isinstance(found, dict):
            raise UnexpectedAnswer(f"{self._url} does not answer like a Clarion server; check the URL")
        return found


def _refusal(answer: httpx2.Response) -> Exception:
    if answer.status_code < 400:
        location = answer.headers.get("location", "elsewhere")
        return UnexpectedAnswer(f"the server redirects to {location}; use that URL if you trust it")
    error = error_of_answer(answer.status_code, answer.content)
    if isinstance(error, StoreUnavailable) and "retry-after" in answer.headers:
        error.details["retry_after"] = answer.headers["retry-after"]
    return error


def _segment(text: str) -> str:
    """`text` as one segment of a path; `.` and `..` alone would be steps in it."""
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


def _list(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = answer.get(name)
    if not isinstance(found, list):
        raise UnexpectedAnswer(f"the server's answer holds no {name}")
    return found
