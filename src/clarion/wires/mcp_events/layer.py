"""The layer in front of the SDK's application: what makes streams fast, and all that a user has to add for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mcp.server.transport_security import RequestBodyLimitMiddleware
from starlette.routing import BaseRoute, Match, Mount, Route

from clarion.wires.mcp_events.direct import Door, is_asked_for
from clarion.wires.mcp_events.handover import SCOPE_KEY, Handover
from clarion.wires.sse import Receive, Scope, Send

__all__ = ["EventsLayer"]

MAX_MOUNTS = 8
"""How deep applications within applications are looked for. Stops one that is mounted within itself."""

_TRANSPARENT = frozenset(
    {
        "starlette.middleware.authentication.AuthenticationMiddleware",
        "mcp.server.auth.middleware.auth_context.AuthContextMiddleware",
        "fastmcp.server.http.RequestContextMiddleware",
        "fastmcp.server.http.HostOriginGuardMiddleware",
    }
)
"""Middleware that refuses a request or lets it through, leaves word of it in the scope or in context variables, and
has no interest in the response: a stream can be served without it."""

_STACK = _TRANSPARENT | {
    "starlette.middleware.errors.ServerErrorMiddleware",
    "starlette.middleware.exceptions.ExceptionMiddleware",
    "starlette.middleware.body_limit.RequestBodyLimitMiddleware",
    "fastapi.middleware.asyncexitstack.AsyncExitStackMiddleware",
}
"""What a stack that was built is made of: an application's own has them around and within that middleware."""

_GUARDS = frozenset(
    {
        "mcp.server.auth.middleware.bearer_auth.RequireAuthMiddleware",
        "fastmcp.server.auth.middleware.RequireAuthMiddleware",
    }
)
"""The same, around an endpoint."""

_APPLICATIONS = frozenset(
    {
        "starlette.applications.Starlette",
        "fastmcp.server.http.StarletteWithLifespan",
        "fastapi.applications.FastAPI",
    }
)
_ROUTERS = frozenset({"starlette.routing.Router", "fastapi.routing.APIRouter"})
_ENDPOINTS = frozenset(
    {
        "mcp.server.streamable_http_manager.StreamableHTTPASGIApp",
        "fastmcp.server.http.StreamableHTTPASGIApp",
    }
)
_MANAGERS = frozenset(
    {
        "mcp.server.streamable_http_manager.StreamableHTTPSessionManager",
        "fastmcp.server.http.FastMCPStreamableHTTPSessionManager",
    }
)
"""What does with a request what is known of it; a subclass of somebody's own may do more."""

_WRAPPED = frozenset({"build_middleware_stack", "handle", "handle_request", "_handle_request"})
"""Methods that instrumentations replace on a single object, to see what goes through it."""


class EventsLayer:
    """An ASGI application in front of the one that serves MCP: streams are written straight to the server's transport.

    It changes nothing of any request or answer, and may stand outside of everything else; whatever wraps `send`
    further out is written to as well, only slower. Behind it, a stream is served without the SDK wherever nobody can
    tell the difference (see `direct`); with a middleware on its way that the layer does not know, the SDK begins the
    response, and the rest is written past it.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app
        self.served = 0
        """Streams that were served without the SDK, refused ones included."""

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """`headers` are added to whatever answers a POST: a middleware that did it would hide the server's `send`."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        handover = Handover(send, self._door(scope) if is_asked_for(scope) else None, headers)
        scope[SCOPE_KEY] = handover
        try:
            await self.app(scope, receive, handover.send)
        finally:
            handover.end()
            scope.pop(SCOPE_KEY, None)  # a layer within has had it
        serve = handover.taken
        if serve is not None:
            del handover
            self.served += 1
            await serve(receive, send)

    def _door(self, scope: Scope) -> Door | None:
        """The door of the session manager that a request is going to reach, put there when it is first met: some
        applications make theirs only when they start."""
        try:
            endpoint = _endpoint(self.app, scope, MAX_MOUNTS)
        except Exception:  # of somebody's route: the application is going to fail with it, and to answer that
            return None
        return None if endpoint is None else _door_of(endpoint.session_manager)


def _endpoint(app: Any, scope: Scope, depth: int) -> Any:
    """What holds the session manager that a request within `app` is going to reach; None where anything on its way may
    have to see the response. One manager may be reached by several ways, so the way itself is followed."""
    kind = _name(type(app))
    if kind in _ENDPOINTS:
        return app
    if kind in _GUARDS:
        return _endpoint(app.app, scope, depth)
    if kind in _APPLICATIONS:
        return _endpoint(app.router, scope, depth) if _is_transparent(app) else None
    if kind not in _ROUTERS or not depth or app.middleware_stack != app.app:
        return None
    for route in app.routes:
        if not isinstance(route, BaseRoute):
            return None
        match, found = route.matches(scope)
        if match is Match.FULL:
            known = type(route) in (Mount, Route) and not _is_wrapped(route)
            return _endpoint(getattr(route, "app", None), {**scope, **found}, depth - 1) if known else None
    return None


def _is_transparent(app: Any) -> bool:
    """Whether an application's middleware, as declared or as built, has no interest in responses."""
    if _is_wrapped(app):
        return False
    within = app.middleware_stack
    if within is None:
        return all(_name(each.cls) in _TRANSPARENT for each in app.user_middleware)
    while within is not app.router:
        if _name(type(within)) not in _STACK:
            return False
        within = within.app
    return True


def _is_wrapped(thing: Any) -> bool:
    return not _WRAPPED.isdisjoint(vars(thing))


def _name(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"


def _door_of(manager: Any) -> Door | None:
    """The door of a session manager, below its limit of a request's size."""
    if _name(type(manager)) not in _MANAGERS or _is_wrapped(manager):
        return None
    limit = manager.asgi_app
    if type(limit) is not RequestBodyLimitMiddleware:
        return None
    if not isinstance(limit.app, Door):
        if limit.app != manager._handle_request:
            return None  # somebody else stands there
        limit.app = Door(limit.app, manager)
    return limit.app
