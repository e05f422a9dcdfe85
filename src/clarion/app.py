"""The ASGI application: streams, MCP and the HTTP API behind one check of Host and Origin and the same keys.

Streams are raw ASGI, in front of Starlette; `/mcp` is the official SDK's own application; the rest is Starlette.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clarion import __version__
from clarion.api.admin import AdminEndpoints
from clarion.api.consent import ConsentEndpoints
from clarion.api.events import EventsEndpoint
from clarion.api.http import bearer, crash_response, endpoint, error_response, json_response
from clarion.api.inbound import InboundEndpoint
from clarion.api.keys import KeyEndpoints
from clarion.api.operations import OperationsEndpoints
from clarion.api.topics import TopicEndpoints
from clarion.auth.keys import Authenticator, KeyService, require
from clarion.catalog_offer import CatalogOffer
from clarion.errors import ClarionError, Forbidden, StoreUnavailable, Unauthenticated
from clarion.hub.hub import Hub
from clarion.model import ApiKey, Principal, Role
from clarion.settings import Settings
from clarion.sources.emit import Emitter
from clarion.sources.inbound import InboundSource
from clarion.wires.mcp_events.layer import EventsLayer
from clarion.wires.mcp_events.protocol import Caller
from clarion.wires.mcp_events.sdk import Context, EventsBinding, EventsExtension
from clarion.wires.mcp_events.service import EventsService
from clarion.wires.pact import PUSH_PATH, push_endpoint, push_tools
from clarion.wires.sse import Receive, Scope, Send

__all__ = ["MCP_PATH", "App", "Guard"]

MCP_PATH = "/mcp"

EVENTS_PATH = "/v1/events"

EVENT_TYPES_PER_PAGE = 25
"""Event types on a page of `events/list`: each has two schemas."""

INSTRUCTIONS = (
    "Clarion pushes events to you the moment they happen. Call list_topics to see what there is, then subscribe with "
    "topic patterns and, if you like, a filter; never poll."
)

_SESSION_HEADER = "mcp-session-id"
_VARY = (b"vary", b"Origin")

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """Refuses browsers from origins that are not configured, and names that this server does not answer to."""

    def __init__(self, settings: Settings) -> None:
        self._origins = frozenset(settings.allowed_origins)
        hosts = settings.allowed_hosts
        open_to_any = not hosts and settings.host not in ("127.0.0.1", "::1", "localhost")
        self._hosts = None if open_to_any else frozenset((*_LOOPBACK, settings.host, *hosts))

    def refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> Response | None:
        """The answer to a request that may not come in; None for one that may."""
        for name, value in headers:
            if name == b"origin" and value.decode("latin-1") not in self._origins:
                return error_response(
                    Forbidden("this origin may not call the server; an operator can add it to allowed_origins")
                )
            if name == b"host" and self._hosts is not None:
                host = value.decode("latin-1")
                host = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
                if host.lower() not in self._hosts:
                    return json_response(
                        {
                            "error": {
                                "code": "misdirected",
                                "message": "this server does not answer to that host name; an operator can add it "
                                "to allowed_hosts",
                            }
                        },
                        421,
                    )
        return None


class App:
    """The ASGI application over one hub."""

    def __init__(
        self,
        hub: Hub,
        emitter: Emitter,
        authenticator: Authenticator,
        keys: KeyService,
        sources: Mapping[str, InboundSource],
        settings: Settings,
    ) -> None:
        self.hub = hub
        self._guard = Guard(settings)
        self._authenticator = authenticator
        self._push = push_endpoint(hub)
        self._events = EventsService(CatalogOffer(hub), page_size=EVENT_TYPES_PER_PAGE)
        self._events.ending = asyncio.Event()
        self.mcp = _mcp_server(hub, self._events, authenticator, settings)
        self._mcp_app = EventsLayer(
            self.mcp.streamable_http_app(
                streamable_http_path=MCP_PATH,
                stateless_http=True,
                transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
            )
        )
        self._ingest = EventsEndpoint(authenticator, emitter)
        self._api = _api(
            hub, authenticator, keys, emitter, sources, self._ingest, metrics_public=settings.metrics_public
        )
        self._entry: Callable[[Scope, Receive, Send], Any] = self._route
        self._is_cross_origin = bool(settings.allowed_origins)
        if self._is_cross_origin:
            self._entry = CORSMiddleware(
                self._route,
                allow_origins=settings.allowed_origins,
                allow_methods=["GET", "POST", "PUT", "DELETE"],
                allow_headers=["*"],
                expose_headers=[_SESSION_HEADER],
            )

    def close(self) -> None:
        """End everything that is open for long; called as soon as the server is told to stop."""
        if self._events.ending is not None:
            self._events.ending.set()
        self.hub.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"this application serves http, not {scope['type']}")
        refusal = self._guard.refusal(scope["headers"])
        if refusal is not None:
            await refusal(scope, receive, send)
        elif scope["path"] == PUSH_PATH and scope["method"] != "OPTIONS":
            await self._serve_push(scope, receive, send)  # not through a middleware, which would wrap `send`
        elif scope["path"] == MCP_PATH and scope["method"] == "POST":  # nor this: it may ask for a stream
            await self._serve_mcp(scope, receive, send, self._cors_headers_of_mcp(scope))
        else:
            await self._entry(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == PUSH_PATH:  # OPTIONS: what CORS had no answer to
            await _method_not_allowed("GET")(scope, receive, send)
        elif path == EVENTS_PATH and scope["method"] == "POST":
            await self._ingest(scope, receive, send)  # every event of others comes this way: past Starlette's routing
        elif path == MCP_PATH:
            await self._serve_mcp(scope, receive, send, [])
        else:
            await self._api(scope, receive, send)

    def _cors_headers_of_mcp(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """What the middleware would add to the answer to a POST."""
        if not self._is_cross_origin:
            return []
        cors = _cors_headers(scope["headers"])
        return [(b"access-control-expose-headers", _SESSION_HEADER.encode()), *cors] if cors else [_VARY]

    async def _serve_mcp(self, scope: Scope, receive: Receive, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        """`headers` are added to the answer to a POST."""
        try:
            await self._authenticator.authenticate(bearer(scope["headers"]))
        except StoreUnavailable as error:
            refused = error_response(error)  # the SDK's own check would answer 500
            refused.raw_headers.extend(headers)
            await refused(scope, receive, send)
            return
        except Unauthenticated:
            pass  # the SDK's to refuse
        await self._mcp_app(scope, receive, send, headers)

    async def _serve_push(self, scope: Scope, receive: Receive, send: Send) -> None:
        cors = _cors_headers(scope["headers"])
        try:
            if scope["method"] != "GET":
                refused = _method_not_allowed("GET")
            else:
                key = await self._authenticator.authenticate(bearer(scope["headers"]))
                require(key, Role.SUBSCRIBER)
                await self._push(scope, receive, send, key.principal, key.key_id, cors)
                return
        except ClarionError as error:
            refused = error_response(error)
        refused.raw_headers.extend(cors)
        await refused(scope, receive, send)


def _cors_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """What lets a browser read the answer; the guard has let in no origin but configured ones."""
    origin = next((value for name, value in headers if name == b"origin"), None)
    return [] if origin is None else [(b"access-control-allow-origin", origin), _VARY]


class _Verifier:
    """Our keys, as the SDK asks for them."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            key = await self._authenticator.authenticate(token)
        except Unauthenticated:
            return None
        scopes = [role.value for role in Role] if key.role is Role.ADMIN else [key.role.value]
        return AccessToken(
            token=key.key_id,
            client_id=f"{key.tenant}/{key.subject}",
            scopes=scopes,
            subject=key.subject,
            claims={"tenant": key.tenant, "key_id": key.key_id},
        )


def _caller() -> Principal:
    """Whose tool call is being served."""
    return _identify(None).principal


def _identify(_ctx: Context | None) -> Caller:
    """Who sent the request that is being served."""
    token = get_access_token()
    if token is None or token.subject is None or token.claims is None:
        raise Unauthenticated()
    principal = Principal(token.claims["tenant"], token.subject)
    return Caller(principal, "mcp", token.claims["key_id"], authenticated=True)


def _mcp_server(hub: Hub, service: EventsService, authenticator: Authenticator, settings: Settings) -> MCPServer[Any]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    auth = AuthSettings(
        # Keys are made here, by `clarion keys`; there is no OAuth server, and no metadata names one.
        issuer_url=AnyHttpUrl(f"http://{host}:{settings.port}"),
        resource_server_url=None,
        required_scopes=[Role.SUBSCRIBER.value],
    )

    async def serving() -> EventsService:
        return service

    events = EventsBinding(serving, _identify, ending=lambda: service.ending)
    return MCPServer(
        "clarion",
        title="Clarion",
        instructions=INSTRUCTIONS,
        version=__version__,
        auth=auth,
        token_verifier=_Verifier(authenticator),
        tools=push_tools(hub, _caller),
        extensions=[EventsExtension(events)],
        middleware=[events.middleware],
        log_level="WARNING",
    )


def _api(
    hub: Hub,
    authenticator: Authenticator,
    keys: KeyService,
    emitter: Emitter,
    sources: Mapping[str, InboundSource],
    ingest: EventsEndpoint,
    *,
    metrics_public: bool,
) -> Starlette:
    consent, topics = ConsentEndpoints(hub.consent), TopicEndpoints(hub.topics)
    admin = AdminEndpoints(hub)
    key_endpoints = KeyEndpoints(keys)
    inbound = InboundEndpoint(sources, emitter, hub.clock)
    operations = OperationsEndpoints(hub, inbound, metrics_public=metrics_public)

    def route(path: str, method: str, serve: Callable[[Request, ApiKey], Any], *roles: Role) -> Route:
        return Route(path, endpoint(authenticator, roles, serve), methods=[method])

    outbound = "/v1/admin/mcp/outbound"
    return Starlette(
        routes=[
            Route(EVENTS_PATH, ingest, methods=["POST"]),
            route("/v1/topics", "GET", topics.listing, Role.PUBLISHER, Role.SUBSCRIBER),
            route("/v1/topics/{topic}", "PUT", topics.declare),
            route("/v1/consent", "POST", consent.record),
            route("/v1/consent/check", "POST", consent.check, Role.PUBLISHER),
            route("/v1/consent/{subject:path}", "GET", consent.history),
            route("/v1/keys", "POST", key_endpoints.create),
            route("/v1/keys", "GET", key_endpoints.listing),
            route("/v1/keys/{key_id}", "DELETE", key_endpoints.revoke),
            route(f"{outbound}/summary", "GET", admin.summary),
            route(f"{outbound}/subscriptions", "GET", admin.subscriptions),
            route(f"{outbound}/deliveries", "GET", admin.deliveries),
            Route("/v1/inbound/{source}", inbound.receive, methods=["POST"]),
            Route("/healthz", operations.healthz),
            Route("/readyz", operations.readyz),
            Route("/metrics", operations.metrics),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _crash},
    )


def _method_not_allowed(allowed: str) -> Response:
    error = {"code": "method_not_allowed", "message": "Method Not Allowed"}
    return json_response({"error": error}, 405, {"allow": allowed})


async def _http_error(_request: Request, error: Exception) -> Response:
    """404 and 405, in the same form as every other error."""
    if not isinstance(error, HTTPException):
        raise error
    names = {404: "not_found", 405: "method_not_allowed"}
    body = {"error": {"code": names.get(error.status_code, "http_error"), "message": str(error.detail)}}
    return json_response(body, error.status_code, error.headers)


async def _crash(_request: Request, _error: Exception) -> Response:
    """An unexpected failure, which Starlette raises again for the log."""
    return crash_response()
