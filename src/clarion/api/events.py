"""`POST /v1/events`: one event, a JSON array of events, or NDJSON.

A single event answers with its own status (201 recorded, 200 already recorded, or the error's). Several answer 200 when
all went well, else 207, with one result per item in order; valid items are stored whatever became of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from clarion.api.http import (
    MAX_BODY_BYTES,
    bearer,
    crash_response,
    error_response,
    header,
    receive_body,
    respond,
    take,
    time_field,
)
from clarion.auth.keys import Authenticator, require
from clarion.encoding import decode, encode
from clarion.errors import (
    ClarionError,
    Forbidden,
    InvalidInput,
    MalformedJSON,
    Overloaded,
    PayloadTooLarge,
    StoreUnavailable,
    codes,
    describe,
)
from clarion.model import ApiKey, Principal, Role
from clarion.sources.emit import Emission, Emitter, Receipt

__all__ = ["MAX_BATCH", "EventsEndpoint", "emission_of"]

MAX_BATCH = 10_000
"""Events of one request. Bounds how long one request's transaction and answer can get."""

MAX_BATCH_BYTES = 32 * MAX_BODY_BYTES
"""Bytes of a request that carries an event a line. An event is at most `MAX_BODY_BYTES` of it as sent, which leaves
room for escapes and white space around a payload of the largest size as stored."""

MAX_ARRAY_BYTES = 4 * MAX_BODY_BYTES
"""Bytes of a JSON array of events, which has to be decoded in one go."""

MAX_CONTAINERS = 60_000
"""Opening brackets and braces that are decoded in one go: an empty array takes 25 times its text as memory,
and 0.7 us with the collections of garbage that it brings about."""

MAX_BYTES_IN_FLIGHT = 256 * MAX_BODY_BYTES
"""Bytes of all bodies of events that are held at a time. Stops some large requests at once from filling the memory."""

GROUP = 500
"""Events appended in one transaction; the next group is checked while others commit."""

GROUP_BYTES = 256 * 1024
"""Bytes of lines in one group: what is decoded without giving others a turn, but for a single larger line."""

_SPACE = ord(" ")

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")

_FIELDS: Mapping[str, type] = {
    "topic": str,
    "payload": dict,
    "event_id": str,
    "aggregate_type": str,
    "aggregate_id": str,
    "actor_id": str,
    "correlation_id": str,
    "causation_id": str,
    "subjects": list,
    "audience": list,
    "priority": str,
    "key": str,
    "attributes": dict,
    "occurred_at": str,
    "expires_at": str,
}


def emission_of(item: Any) -> Emission:
    """The emission that a JSON value asks for. Raises InvalidInput naming the field."""
    if not isinstance(item, dict):
        raise InvalidInput("an event must be a JSON object", field="body", rule="object")
    for name, value in item.items():
        if _FIELDS.get(name) is not type(value):
            item = take(item, _FIELDS)  # it raises, unless it is that one of them is null
            break
    if "topic" not in item or "payload" not in item:
        take(item, _FIELDS, "topic", "payload")
    if "occurred_at" in item or "expires_at" in item:
        item = dict(item)
        time_field(item, "occurred_at")
        time_field(item, "expires_at")
    return Emission(**item, finite=True)


class EventsEndpoint:
    """Emits on behalf of the caller's key. Raw ASGI: what a web framework does for a request would take longer than
    the event does."""

    def __init__(self, authenticator: Authenticator, emitter: Emitter) -> None:
        self._authenticator = authenticator
        self._emitter = emitter
        self._in_flight = 0
        self._turn = asyncio.Lock()
        """Taken for one pass of the event loop before each group: however many requests there are, everything else
        has its turn between two groups."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            key = await self._authenticator.authenticate(bearer(scope["headers"]))
            require(key, Role.PUBLISHER)
            status, answer = await self._serve(scope["headers"], receive, key)
        except ClarionError as error:
            await error_response(error)(scope, receive, send)
        except ClientDisconnect:
            await Response(status_code=499)(scope, receive, send)
        except Exception:
            await crash_response()(scope, receive, send)
            raise  # the server logs it
        else:
            await respond(send, status, encode(answer, field="response", finite=True))

    async def _serve(
        self, headers: Iterable[tuple[bytes, bytes]], receive: Receive, key: ApiKey
    ) -> tuple[int, dict[str, Any]]:
        """The status and the body of the answer."""
        share = 0

        def arrived(count: int) -> None:
            nonlocal share
            if self._in_flight + count > MAX_BYTES_IN_FLIGHT:
                raise Overloaded()
            share += count
            self._in_flight += count

        try:
            body = await receive_body(headers, receive, MAX_BATCH_BYTES, arrived=arrived)
            kind = header(headers, b"content-type").partition(";")[0].strip().lower()
            if kind in NDJSON:
                lines = _lines(body)
                return await self._several(key, len(lines), _line_groups(body, lines))
            parsed = _parsed(body)
            if isinstance(parsed, list):
                _check_count(len(parsed))
                return await self._several(key, len(parsed), _groups(parsed))
            self._emitter.check_credential(key.key_id)  # the body may have come long after it
            receipt = await self._emitter.emit(key.principal, emission_of(parsed))
            return 200 if receipt.duplicate else 201, _result(receipt)
        finally:
            self._in_flight -= share

    async def _several(self, key: ApiKey, count: int, groups: Iterator[list[Any]]) -> tuple[int, dict[str, Any]]:
        """Emit `count` items, which come in `groups` for one transaction each, as long as the key holds."""
        results: list[dict[str, Any]] = []
        while True:
            async with self._turn:
                await asyncio.sleep(0)
            group = next(groups, None)
            if group is None:
                break
            try:
                self._emitter.check_credential(key.key_id)
                outcomes = await self._group(key.principal, group)
            except (StoreUnavailable, Forbidden) as error:
                if not results:
                    raise
                results += [_result(error)] * (count - len(results))  # what was stored before keeps its receipts
                break
            results += map(_result, outcomes)
        failed = sum("error" in result for result in results)
        duplicates = sum(result.get("duplicate", False) for result in results)
        counts = {"accepted": len(results) - failed - duplicates, "duplicates": duplicates, "failed": failed}
        return 207 if failed else 200, {**counts, "results": results}

    async def _group(self, principal: Principal, items: list[Any]) -> list[Receipt | ClarionError]:
        outcomes: list[Receipt | ClarionError | None] = []
        emissions: list[Emission] = []
        for item in items:
            try:
                if isinstance(item, ClarionError):
                    raise item
                emissions.append(emission_of(item))
                outcomes.append(None)
            except ClarionError as error:
                outcomes.append(error)
        emitted = iter(await self._emitter.emit_many(principal, emissions))
        return [outcome or next(emitted) for outcome in outcomes]


def _parsed(body: bytes) -> Any:
    """The value of a JSON body. Raises MalformedJSON, PayloadTooLarge (before it is decoded)."""
    several = body[:1024].lstrip()[:1] == b"["
    limit = MAX_ARRAY_BYTES if several else MAX_BODY_BYTES
    if len(body) > limit:
        raise PayloadTooLarge(
            f"the request body has {len(body)} bytes; at most {limit} are allowed for "
            + (f"an array. Send one event a line as {NDJSON[0]}, or send less" if several else "one event"),
            details={"limit": "body_bytes", "max": limit},
        )
    try:
        return _decoded(body)
    except MalformedJSON as error:
        first, _, rest = body.strip().partition(b"\n")
        if rest and first.rstrip().startswith(b"{") and first.rstrip().endswith(b"}"):
            hint = f"{error.message}. For one event a line, send content-type {NDJSON[0]}"
            raise MalformedJSON(hint, details=error.details) from None
        raise


def _decoded(data: bytes) -> Any:
    if len(data) > MAX_CONTAINERS and data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        raise PayloadTooLarge(
            f"more than {MAX_CONTAINERS} arrays and objects in one piece of JSON",
            details={"limit": "containers", "max": MAX_CONTAINERS},
        )
    return decode(data)


def _groups(items: list[Any]) -> Iterator[list[Any]]:
    return (items[start : start + GROUP] for start in range(0, len(items), GROUP))


def _lines(body: bytes) -> list[tuple[int, int, int]]:
    """The number, start and end of each line that is not blank. Raises PayloadTooLarge."""
    found: list[tuple[int, int, int]] = []
    start, number = 0, 0
    while start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        number += 1
        if number > 2 * MAX_BATCH:  # blank ones count too: millions of them would hold up everything
            raise PayloadTooLarge(
                f"the request has more than {2 * MAX_BATCH} lines; send them in parts",
                details={"limit": "lines", "max": 2 * MAX_BATCH},
            )
        if start < end and (body[start] > _SPACE or not body[start:end].isspace()):
            found.append((number, start, end))
            _check_count(len(found))
        start = end + 1
    return found


def _line_groups(body: bytes, lines: Sequence[tuple[int, int, int]]) -> Iterator[list[Any]]:
    """Each line's JSON value, or the error that stands for it, decoded group by group."""
    group: list[Any] = []
    size = 0
    for number, start, end in lines:
        if group and (len(group) == GROUP or size + end - start > GROUP_BYTES):
            yield group
            group, size = [], 0
        size += end - start
        group.append(_line(body, number, start, end))
    if group:
        yield group


def _line(body: bytes, number: int, start: int, end: int) -> Any:
    if end - start > MAX_BODY_BYTES:
        return PayloadTooLarge(
            f"line {number} has {end - start} bytes; at most {MAX_BODY_BYTES} are allowed for one event",
            details={"limit": "body_bytes", "max": MAX_BODY_BYTES},
        )
    try:
        return decode(body[start:end]) if end - start <= MAX_CONTAINERS else _decoded(body[start:end])
    except MalformedJSON as error:
        position = {**error.details["position"], "line": number}
        return MalformedJSON(
            f"line {number} is not valid JSON at column {position['column']}", details={"position": position}
        )
    except PayloadTooLarge as error:
        return error


def _check_count(count: int) -> None:
    if count > MAX_BATCH:
        raise PayloadTooLarge(
            f"more than {MAX_BATCH} events in one request. Send them in parts",
            details={"limit": "batch", "max": MAX_BATCH},
        )


def _result(outcome: Receipt | ClarionError) -> dict[str, Any]:
    if isinstance(outcome, ClarionError):
        return {"status": codes(outcome).http, "error": describe(outcome)}
    position = outcome.position
    return {
        "status": 200 if outcome.duplicate else 201,
        "event_id": outcome.event_id,
        "topic": outcome.topic,
        "seq": position.seq,
        "position": f"{position.epoch}-{position.seq}",
        "duplicate": outcome.duplicate,
    }
