"""`GET /v1/topics[?category=]` and `PUT /v1/topics/{topic}`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from clarion.api.http import check_query, json_response, read_object, take
from clarion.errors import InvalidFilter
from clarion.hub.services import TopicService
from clarion.model import ApiKey, TopicDeclaration

__all__ = ["TopicEndpoints"]


def _described(declaration: TopicDeclaration) -> dict[str, Any]:
    return {
        "topic": declaration.pattern,
        "category": declaration.category,
        "description": declaration.description,
        "payload_schema": dict(declaration.schema),
        "filter_examples": [dict(example) for example in declaration.filter_examples],
    }


class TopicEndpoints:
    def __init__(self, topics: TopicService) -> None:
        self._topics = topics

    async def listing(self, request: Request, key: ApiKey) -> Response:
        check_query(request, "category")
        found = await self._topics.listing(key.tenant, request.query_params.get("category"))
        return json_response({"topics": [_described(declaration) for declaration in found]})

    async def declare(self, request: Request, key: ApiKey) -> Response:
        """Declare a topic or a family; its payload schema is enforced on emit from now on."""
        body = take(
            await read_object(request),
            {"category": str, "description": str, "payload_schema": dict, "filter_examples": list},
            "description",
        )
        examples = body.get("filter_examples", [])
        if not all(isinstance(example, dict) for example in examples):
            raise InvalidFilter(
                "filter_examples must be a list of JSON objects", field="filter_examples", rule="object"
            )
        declaration = await self._topics.declare(
            key.tenant,
            request.path_params["topic"],
            category=body.get("category"),
            description=body["description"],
            schema=body.get("payload_schema", {}),
            filter_examples=examples,
        )
        return json_response(_described(declaration))
