"""`/v1/keys`: an admin's keys of its own tenant. The key itself is answered once, at creation."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from clarion.api.http import json_response, read_object, take
from clarion.auth.keys import KeyService
from clarion.model import ApiKey, isoformat

__all__ = ["KeyEndpoints"]


def _described(key: ApiKey) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "subject": key.subject,
        "role": key.role.value,
        "modules": list(key.modules),
        "created_at": isoformat(key.created_at),
        "revoked_at": None if key.revoked_at is None else isoformat(key.revoked_at),
    }


class KeyEndpoints:
    def __init__(self, keys: KeyService) -> None:
        self._keys = keys

    async def create(self, request: Request, key: ApiKey) -> Response:
        body = take(await read_object(request), {"role": str, "subject": str, "modules": list}, "role")
        secret, record = await self._keys.create(
            key.tenant,
            body["role"],
            subject=body.get("subject"),
            modules=body.get("modules", ()),
            grantable=key.modules,
        )
        return json_response({"key": secret, **_described(record)}, 201)

    async def listing(self, _request: Request, key: ApiKey) -> Response:
        return json_response({"keys": [_described(found) for found in await self._keys.of_tenant(key.tenant)]})

    async def revoke(self, request: Request, key: ApiKey) -> Response:
        """The key is refused and its streams have ended when this answers."""
        revoked = await self._keys.revoke(key.tenant, request.path_params["key_id"])
        return json_response(_described(revoked))
