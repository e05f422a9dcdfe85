"""`POST /v1/inbound/{source}`: webhooks of other services, verified before they are parsed, become events.

The caller has no key: its signature is its credential, and the tenant stands in the source's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from clarion.api.http import error_response, json_response, read_body
from clarion.clock import Clock
from clarion.errors import ClarionError, codes
from clarion.logs import get_logger
from clarion.model import Principal
from clarion.sources.emit import Emission, Emitter
from clarion.sources.inbound import InboundSource, bad_signature

logger = get_logger("clarion.inbound")

__all__ = ["MAX_INBOUND_BYTES", "InboundEndpoint"]

MAX_INBOUND_BYTES = 1024 * 1024
"""Bytes of an inbound webhook's body, read before anything about its sender is known."""


QUIET_SECONDS = 10.0
"""Between two log lines about one source and reason: most reasons are within anybody's reach, without a signature.
All are counted."""


class InboundEndpoint:
    def __init__(self, sources: Mapping[str, InboundSource], emitter: Emitter, clock: Clock) -> None:
        self._sources = sources
        self._emitter = emitter
        self._clock = clock
        self._quiet_until: dict[tuple[str, str], float] = {}
        self.refused: dict[tuple[str, str], int] = {}
        """How many deliveries were refused, by configured source (or "unknown") and error code."""

    async def receive(self, request: Request) -> Response:
        """202 recorded, 200 recorded before; an unknown source answers as a bad signature does."""
        name = request.path_params["source"]
        try:
            # Read for an unknown source as well: a refusal of the body must not tell which are configured.
            body = await read_body(request, MAX_INBOUND_BYTES)
            source = self._sources.get(name)
            if source is None:
                raise bad_signature()
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
                finite=True,
            )
            receipt = await self._emitter.emit(Principal(event.tenant, f"inbound:{event.source}"), emission)
        except ClarionError as error:
            self._refused(name, error)
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=499)
        return json_response(
            {"event_id": receipt.event_id, "topic": receipt.topic, "duplicate": receipt.duplicate},
            200 if receipt.duplicate else 202,
        )

    def _refused(self, name: str, error: ClarionError) -> None:
        """Count a refusal, and tell the operator; the caller learns no more than its answer says."""
        known = name if name in self._sources else "unknown"
        reason = "unknown_source" if known == "unknown" else codes(error).code
        self.refused[known, reason] = self.refused.get((known, reason), 0) + 1
        now = self._clock.monotonic()
        if now < self._quiet_until.get((known, reason), now):
            return
        self._quiet_until[known, reason] = now + QUIET_SECONDS
        logger.warning("inbound_refused", source=known, asked=name[:64] if known == "unknown" else None, reason=reason)
