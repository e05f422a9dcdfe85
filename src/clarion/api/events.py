"""`POST /v1/events`: one event, a JSON array of events, or NDJSON.

A single event answers with its own status (201 recorded, 200 already recorded, or the error's). Several answer 200 when
all went well, else 207, with one result per item in order; valid items are stored whatever became of the others.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from clarion.api.http import MAX_BODY_BYTES, json_response, read_body, take, time_field
from clarion.encoding import decode
from clarion.errors import ClarionError, InvalidInput, MalformedJSON, PayloadTooLarge, StoreUnavailable, codes, describe
from clarion.model import ApiKey, Principal
from clarion.sources.emit import Emission, Emitter, Receipt

__all__ = ["MAX_BATCH", "EventsEndpoint", "emission_of"]

MAX_BATCH = 10_000
"""Events of one request. Bounds how long one request's transaction and answer can get."""

MAX_BATCH_BYTES = 32 * MAX_BODY_BYTES
"""Bytes of a request that carries several events."""

GROUP = 500
"""Events appended in one transaction; the next group is checked while others commit."""

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")

_FIELDS: dict[str, type | tuple[type, ...]] = {
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
    taken = take(item, _FIELDS, "topic", "payload")
    time_field(taken, "occurred_at")
    time_field(taken, "expires_at")
    return Emission(**taken)


class EventsEndpoint:
    """Emits on behalf of the caller's key."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter

    async def __call__(self, request: Request, key: ApiKey) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await read_body(request, MAX_BATCH_BYTES)
        if kind in NDJSON:
            return await self._several(key.principal, _lines(body))
        parsed = _parsed(body)
        if isinstance(parsed, list):
            return await self._several(key.principal, parsed)
        receipt = await self._emitter.emit(key.principal, emission_of(parsed))
        return json_response(_result(receipt), 200 if receipt.duplicate else 201)

    async def _several(self, principal: Principal, items: list[Any]) -> Response:
        if len(items) > MAX_BATCH:
            raise PayloadTooLarge(
                f"{len(items)} events in one request; at most {MAX_BATCH} are allowed. Send them in parts",
                details={"limit": "batch", "max": MAX_BATCH},
            )
        outcomes: list[Receipt | ClarionError] = []
        for start in range(0, len(items), GROUP):
            try:
                outcomes += await self._group(principal, items[start : start + GROUP])
            except StoreUnavailable as error:
                if not outcomes:
                    raise
                outcomes += [error] * (len(items) - start)  # what was stored before keeps its receipts
                break
        results = [_result(outcome) for outcome in outcomes]
        failed = sum(isinstance(outcome, ClarionError) for outcome in outcomes)
        duplicates = sum(isinstance(outcome, Receipt) and outcome.duplicate for outcome in outcomes)
        counts = {"accepted": len(outcomes) - failed - duplicates, "duplicates": duplicates, "failed": failed}
        return json_response({**counts, "results": results}, 207 if failed else 200)

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
    try:
        return decode(body)
    except MalformedJSON as error:
        first, _, rest = body.strip().partition(b"\n")
        if rest and first.rstrip().startswith(b"{") and first.rstrip().endswith(b"}"):
            hint = f"{error.message}. For one event a line, send content-type {NDJSON[0]}"
            raise MalformedJSON(hint, details=error.details) from None
        raise


def _lines(body: bytes) -> list[Any]:
    """Each line's JSON value, or the error that stands for it, with the line's number. Blank lines are skipped."""
    if body.count(b"\n") > 2 * MAX_BATCH:  # blank ones count too: splitting millions of them would hold up everything
        raise PayloadTooLarge(
            f"the request has more than {2 * MAX_BATCH} lines; send them in parts",
            details={"limit": "lines", "max": 2 * MAX_BATCH},
        )
    items: list[Any] = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            items.append(decode(line))
        except MalformedJSON as error:
            position = {**error.details["position"], "line": number}
            items.append(
                MalformedJSON(
                    f"line {number} is not valid JSON at column {position['column']}", details={"position": position}
                )
            )
    return items


def _result(outcome: Receipt | ClarionError) -> dict[str, Any]:
    if isinstance(outcome, ClarionError):
        return {"status": codes(outcome).http, "error": describe(outcome)}
    return {
        "status": 200 if outcome.duplicate else 201,
        "event_id": outcome.event_id,
        "topic": outcome.topic,
        "seq": outcome.position.seq,
        "position": str(outcome.position),
        "duplicate": outcome.duplicate,
    }
