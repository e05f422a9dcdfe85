"""`POST /v1/inbound/{source}`: webhooks of other services, verified before they are parsed, become events.

The caller has no key: its signature is its credential, and the tenant stands in the source's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from clarion.api.http import error_response, json_response, read_body
from clarion.clock import Clock
from clarion.errors import ClarionError
from clarion.model import Principal
from clarion.sources.emit import Emission, Emitter
from clarion.sources.inbound import InboundSource, bad_signature

__all__ = ["MAX_INBOUND_BYTES", "InboundEndpoint"]

MAX_INBOUND_BYTES = 1024 * 1024
"""Bytes of an inbound webhook's body, read before anything about its sender is known."""


class InboundEndpoint:
    def __init__(self, sources: Mapping[str, InboundSource], emitter: Emitter, clock: Clock) -> None:
        self._sources = sources
        self._emitter = emitter
        self._clock = clock

    async def receive(self, request: Request) -> Response:
        """202 recorded, 200 recorded before; an unknown source answers as a bad signature does."""
        try:
            source = self._sources.get(request.path_params["source"])
            if source is None:
                raise bad_signature()
            body = await read_body(request, MAX_INBOUND_BYTES)
            event = source.receive(dict(request.headers), body, self._clock.now())
            emission = Emission(
                topic=event.topic,
                payload=event.payload,
                event_id=event.event_id,
                source=event.source,
                aggregate_type=event.aggregate_type,
                aggregate_id=event.aggregate_id,
                actor_id=event.actor_id,
                correlation_id=event.correlation_id,
                subjects=event.subjects,
                occurred_at=event.occurred_at,
                attributes=dict(event.attributes),
            )
            receipt = await self._emitter.emit(Principal(event.tenant, f"inbound:{event.source}"), emission)
        except ClarionError as error:
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=499)
        return json_response(
            {"event_id": receipt.event_id, "topic": receipt.topic, "duplicate": receipt.duplicate},
            200 if receipt.duplicate else 202,
        )
