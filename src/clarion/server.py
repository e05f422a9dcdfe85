"""The server: every part put together behind one ASGI application, and run by uvicorn.

Streams are raw ASGI, in front of Starlette; `/mcp` is the official SDK's own application; the rest is Starlette. All
three stand behind the same check of Host and Origin and the same keys.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
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
from clarion.api.http import bearer, endpoint, error_response, json_response
from clarion.api.inbound import InboundEndpoint
from clarion.api.keys import KeyEndpoints
from clarion.api.operations import OperationsEndpoints
from clarion.api.topics import TopicEndpoints
from clarion.auth.keys import Authenticator, KeyService, require
from clarion.clock import Clock, SystemClock
from clarion.composition import open_backend
from clarion.errors import ClarionError, Forbidden, StoreUnavailable, Unauthenticated
from clarion.hub.hub import Hub, HubLimits
from clarion.ids import Randomness
from clarion.local import DataDirectory, local_tenant
from clarion.logs import configure, get_logger
from clarion.model import ApiKey, Principal, Role
from clarion.settings import Settings
from clarion.sources.emit import Emitter
from clarion.sources.inbound import read_sources
from clarion.stores.protocols import Backend
from clarion.wires.pact import PUSH_PATH, push_endpoint, push_tools
from clarion.wires.sse import Receive, Scope, Send

__all__ = ["App", "open_app", "run"]

MCP_PATH = "/mcp"

INSTRUCTIONS = (
    "Clarion pushes events to you the moment they happen. Call list_topics to see what there is, then subscribe with "
    "topic patterns and, if you like, a filter; never poll."
)

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

GC_YOUNG_OBJECTS = 50_000
"""Objects, not yet freed, that are made between two runs of the garbage collector. Bounds what cycles can hold."""

STOP_SECONDS = 10
"""How long a stop waits for requests that are under way."""

logger = get_logger("clarion.server")


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
        self, hub: Hub, authenticator: Authenticator, emitter: Emitter, backend: Backend, settings: Settings,
        randomness: Randomness,
    ) -> None:  # fmt: skip
        self.hub = hub
        self._guard = Guard(settings)
        self._authenticator = authenticator
        self._push = push_endpoint(hub)
        self.mcp = _mcp_server(hub, authenticator, settings)
        self._mcp_app = self.mcp.streamable_http_app(
            streamable_http_path=MCP_PATH,
            stateless_http=True,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        keys = KeyService(backend.keys, authenticator, hub.clock, randomness)
        self._api = _api(hub, authenticator, keys, emitter, settings)
        self._entry: Callable[[Scope, Receive, Send], Any] = self._route
        if settings.allowed_origins:
            self._entry = CORSMiddleware(
                self._route,
                allow_origins=settings.allowed_origins,
                allow_methods=["GET", "POST", "PUT", "DELETE"],
                allow_headers=["*"],
                expose_headers=["mcp-session-id"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"this application serves http, not {scope['type']}")
        refusal = self._guard.refusal(scope["headers"])
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self._entry(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == PUSH_PATH:
            await self._serve_push(scope, receive, send)
        elif path == MCP_PATH:
            await self._serve_mcp(scope, receive, send)
        else:
            await self._api(scope, receive, send)

    async def _serve_mcp(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._authenticator.authenticate(bearer(scope["headers"]))
        except StoreUnavailable as error:
            await error_response(error)(scope, receive, send)  # the SDK's own check would answer 500
            return
        except Unauthenticated:
            pass  # the SDK's to refuse
        await self._mcp_app(scope, receive, send)

    async def _serve_push(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            await _method_not_allowed("GET")(scope, receive, send)
            return
        try:
            key = await self._authenticator.authenticate(bearer(scope["headers"]))
            require(key, Role.SUBSCRIBER)
            await self._push(scope, receive, send, key.principal, key.key_id)
        except ClarionError as error:
            await error_response(error)(scope, receive, send)


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
    token = get_access_token()
    if token is None or token.subject is None or token.claims is None:
        raise Unauthenticated()
    return Principal(token.claims["tenant"], token.subject)


def _mcp_server(hub: Hub, authenticator: Authenticator, settings: Settings) -> MCPServer[Any]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    auth = AuthSettings(
        # Keys are made here, by `clarion keys`; there is no OAuth server, and no metadata names one.
        issuer_url=AnyHttpUrl(f"http://{host}:{settings.port}"),
        resource_server_url=None,
        required_scopes=[Role.SUBSCRIBER.value],
    )
    return MCPServer(
        "clarion",
        title="Clarion",
        instructions=INSTRUCTIONS,
        version=__version__,
        auth=auth,
        token_verifier=_Verifier(authenticator),
        tools=push_tools(hub, _caller),
        log_level="WARNING",
    )


def _api(hub: Hub, authenticator: Authenticator, keys: KeyService, emitter: Emitter, settings: Settings) -> Starlette:
    consent, topics = ConsentEndpoints(hub.consent), TopicEndpoints(hub.topics)
    admin, operations = AdminEndpoints(hub), OperationsEndpoints(hub)
    key_endpoints = KeyEndpoints(keys, hub.end)
    configured = [{"name": name, **source} for name, source in settings.inbound.items()]
    inbound = InboundEndpoint(read_sources(configured, os.environ), emitter, hub.clock)

    def route(path: str, method: str, serve: Callable[[Request, ApiKey], Any], *roles: Role) -> Route:
        return Route(path, endpoint(authenticator, roles, serve), methods=[method])

    outbound = "/v1/admin/mcp/outbound"
    return Starlette(
        routes=[
            route("/v1/events", "POST", EventsEndpoint(emitter), Role.PUBLISHER),
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
    """An unexpected failure: the log holds it, the answer does not."""
    return json_response({"error": {"code": "internal", "message": "Something went wrong on the server."}}, 500)


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    local_secret: Callable[[], str | None] = lambda: None,
    clock: Clock | None = None,
    randomness: Randomness = secrets.token_bytes,
    url: str | None = None,
    restored: bool = False,
) -> AsyncIterator[App]:
    """The application over the settings' data directory (or the store behind `url`), running until the block ends.

    `local_secret`: the secret that makes operators' bearers, once there is one. The caller owns the directory.
    """
    clock = clock or SystemClock()

    def operator_of(token: str) -> str | None:
        secret = local_secret()
        return local_tenant(secret, token) if secret else None

    limits = HubLimits(
        subscriptions=settings.max_subscriptions,
        connections=settings.max_connections,
        declared_topics=settings.max_declared_topics,
        ring_budget=settings.ring_budget_mb * 1024 * 1024,
        retention_seconds=settings.retention_days * 86_400,
        retention_bytes=None if settings.retention_mb is None else settings.retention_mb * 1024 * 1024,
        audit_retention_seconds=settings.audit_retention_days * 86_400,
    )
    async with open_backend(
        url or f"sqlite:{settings.data}",
        synchronous=settings.synchronous,
        busy_timeout=settings.busy_timeout,
        randomness=randomness,
    ) as backend:
        if restored:
            logger.info("new_epoch", epoch=await backend.log.renew_epoch())
        hub = Hub(backend, limits=limits, clock=clock, randomness=randomness)
        authenticator = Authenticator(backend.keys, operator_of)
        emitter = Emitter(hub, clock=clock, randomness=randomness, max_payload_bytes=settings.max_payload_bytes)
        app = App(hub, authenticator, emitter, backend, settings, randomness)
        async with hub.running(), app.mcp.session_manager.run():
            yield app


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own signal handling, which would raise the signal again before the stores are closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(settings: Settings, directory: DataDirectory, started: Callable[[str], None], restored: bool) -> None:
    secret: list[str] = []
    listener = _listen(settings.host, settings.port)  # first, so that a taken port is said before anything is opened
    async with open_app(settings, local_secret=lambda: secret[0] if secret else None, restored=restored) as app:
        server = _Uvicorn(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )

        def stop() -> None:
            server.force_exit = server.should_exit  # a second signal does not wait for requests
            server.should_exit = True
            app.hub.close()  # uvicorn would wait for open streams

        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the last: its terminal was closed
            asyncio.get_running_loop().add_signal_handler(signal_number, stop)
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        secret.append(directory.announce(url).secret)
        started(url)
        _settle_collector()
        await server.serve(sockets=[listener])
    logger.info("stopped")


def _settle_collector() -> None:
    """Spare the cyclic garbage collector what lives as long as the process, and run it less often.

    Nearly all that a request or an event makes goes by its reference count. At the default threshold of 700 objects a
    burst to a thousand streams is walked again and again: it cost a third of the throughput, and pauses of 80 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_OBJECTS, 20, 20)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY by this
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ClarionError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from None
    listener.listen(4096)
    listener.setblocking(False)
    return listener


def run(settings: Settings, started: Callable[[str], None] = lambda _url: None, *, restored: bool = False) -> None:
    """Serve until SIGINT or SIGTERM; `started` is called with the URL once connections are taken.

    `restored`: the databases were put back from a backup, so a new epoch begins.

    Raises DataDirectoryOwned, SchemaTooNew, InvalidInput, ClarionError (the address is taken).
    """
    configure(settings.log_level, settings.log_format)
    directory = DataDirectory(settings.data)
    with directory.owned(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, directory, started, restored))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not built for this platform: asyncio's own loop serves as well
        return None
    return uvloop.new_event_loop
