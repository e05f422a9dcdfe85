"""Read-only administration: `/v1/admin/mcp/outbound/*` (role admin and the module admin; SEEDS section 0)."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from clarion.api.http import check_query, json_response
from clarion.errors import Forbidden, InvalidInput
from clarion.hub.hub import Hub
from clarion.hub.services import COST_PER_DELIVERY_CENTS, cost_cents
from clarion.model import ApiKey, Counters, Subscription, isoformat

__all__ = ["AdminEndpoints"]

PAGE = 200
"""Rows of a page, unless `limit` asks for fewer."""


def require_module(key: ApiKey) -> None:
    """Raises Forbidden for an admin key that was created without the admin module."""
    if "admin" not in key.modules:
        raise Forbidden("this needs an admin key with the module admin (keys create --role admin --module admin)")


def _subscription(row: Subscription, counters: Counters, connected: int) -> dict[str, Any]:
    last = counters.last_delivered_at
    return {
        "subscription_id": row.id,
        "subject": row.subject,
        "client_id": row.client_id,
        "client_label": row.label,
        "topic_patterns": list(row.topics),
        "filter": dict(row.filter),
        "consent_purpose": row.purpose,
        "status": "active" if row.active else "deleted",
        "created_at": isoformat(row.created_at),
        "deleted_at": None if row.deleted_at is None else isoformat(row.deleted_at),
        "connected_streams": connected,
        "events_delivered": counters.delivered,
        "events_dropped": counters.dropped,
        "events_refused": counters.refused,
        "last_delivered_at": None if last is None else isoformat(last),
        "estimated_cost_cents": cost_cents(counters.delivered),
    }


class AdminEndpoints:
    """What an operator of one tenant sees of its subscribers; there is nothing here that writes."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def summary(self, request: Request, key: ApiKey) -> Response:
        require_module(key)
        check_query(request)
        active, deleted = await self._hub.subscriptions.count(key.tenant)
        totals = await self._hub.deliveries.totals(key.tenant)
        streams = list(self._hub.connections(key.tenant))
        return json_response(
            {
                "subscriptions_active": active,
                "subscriptions_deleted": deleted,
                "connected_streams": len(streams),
                "waiting_events": sum(stream.waiting for stream in streams),
                "events_delivered": totals.delivered,
                "events_dropped": totals.dropped,
                "events_refused": totals.refused,
                "estimated_cost_cents": cost_cents(totals.delivered),
                "cost_per_delivery_cents": COST_PER_DELIVERY_CENTS,
            }
        )

    async def subscriptions(self, request: Request, key: ApiKey) -> Response:
        require_module(key)
        check_query(request, "limit", "after", "include_deleted")
        query = request.query_params
        limit = _limit(query.get("limit"))
        rows = await self._hub.subscriptions.of_tenant(
            key.tenant,
            include_deleted=query.get("include_deleted", "true") != "false",
            limit=limit,
            after_id=query.get("after"),
        )
        counters = await self._hub.deliveries.counters(key.tenant, [row.id for row in rows])
        connected: dict[str, int] = {}
        for stream in self._hub.connections(key.tenant):
            for subscription in stream.subscriptions:
                connected[subscription.id] = connected.get(subscription.id, 0) + 1
        listed = [_subscription(row, counters[row.id], connected.get(row.id, 0)) for row in rows]
        return json_response({"subscriptions": listed, "next": rows[-1].id if len(rows) == limit else None})

    async def deliveries(self, request: Request, key: ApiKey) -> Response:
        """The newest audit rows, of one subscription when `subscription_id` is given."""
        require_module(key)
        check_query(request, "limit", "subscription_id")
        query = request.query_params
        rows = await self._hub.deliveries.rows(
            key.tenant, subscription_id=query.get("subscription_id"), limit=_limit(query.get("limit"))
        )
        return json_response(
            {
                "deliveries": [
                    {
                        "event_id": row.seq,
                        "source_event_id": row.event_id,
                        "topic": row.topic,
                        "wire": row.wire,
                        "outcome": row.outcome,
                        "at": isoformat(row.at),
                        "subscription_id": row.subscription_id,
                    }
                    for row in rows
                ]
            }
        )


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= PAGE:
        raise InvalidInput(f"limit must be an integer from 1 to {PAGE}", field="limit", rule="range")
    return int(text)
