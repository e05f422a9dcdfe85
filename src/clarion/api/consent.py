"""`POST /v1/consent`, `POST /v1/consent/check` and `GET /v1/consent/{subject}` (SEEDS section 0, "Consent")."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from clarion.api.http import json_response, read_object, take, time_field
from clarion.hub.services import ConsentRequest, ConsentService
from clarion.model import ApiKey, ConsentEntry, isoformat

__all__ = ["ConsentEndpoints"]

HISTORY = 100
"""Ledger lines shown of one subject, newest first."""

_TEXT_FIELDS: dict[str, type | tuple[type, ...]] = dict.fromkeys(
    ("subject", "state", "purpose", "reason", "actor", "proof", "expires_at"), str
)


def _described(entry: ConsentEntry) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "subject": entry.subject,
        "state": entry.state.value,
        "purpose": entry.purpose,
        "reason": entry.reason,
        "actor": entry.actor,
        "proof": entry.proof,
        "recorded_at": isoformat(entry.recorded_at),
        "expires_at": None if entry.expires_at is None else isoformat(entry.expires_at),
    }


class ConsentEndpoints:
    def __init__(self, consent: ConsentService) -> None:
        self._consent = consent

    async def record(self, request: Request, key: ApiKey) -> Response:
        """201 once the line is durable and nothing that waits here can be sent against it."""
        body = take(await read_object(request), _TEXT_FIELDS, "subject", "state")
        time_field(body, "expires_at")
        entry = await self._consent.record(key.tenant, ConsentRequest(**body))
        return json_response(_described(entry), 201)

    async def check(self, request: Request, key: ApiKey) -> Response:
        """`{allowed, reason, state, suppressed_by}` for a subject and, when given, a purpose."""
        body = take(await read_object(request), {"subject": str, "purpose": str}, "subject")
        decision = await self._consent.check(key.tenant, body["subject"], body.get("purpose"))
        return json_response(
            {
                "allowed": decision.allowed,
                "reason": decision.reason,
                "state": decision.state,
                "suppressed_by": decision.suppressed_by,
            }
        )

    async def history(self, request: Request, key: ApiKey) -> Response:
        """The subject's ledger, newest first."""
        entries = await self._consent.history(key.tenant, request.path_params["subject"], limit=HISTORY)
        return json_response({"entries": [_described(entry) for entry in entries]})
