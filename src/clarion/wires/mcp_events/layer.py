"""The layer in front of the SDK's application: what makes streams fast, and all that a user has to add for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from mcp.server.transport_security import RequestBodyLimitMiddleware
from starlette.routing import Mount, Route, Router

from clarion.wires.mcp_events.direct import Door
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


class EventsLayer:
    """An ASGI application in front of the one that serves MCP: streams are written straight to the server's transport.

    It changes nothing of any request or answer, and may stand outside of everything else; whatever wraps `send`
    further out is written to as well, only slower. Behind it, a stream is served without the SDK wherever nobody can
    tell the difference (see `direct`); with a middleware in between that it does not know, the SDK begins the response,
    and the rest is written past it.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app
        self.served = 0
        """Streams that were served without the SDK, refused ones included."""
        self._endpoints: list[Any] | None = None
        self._managers: list[object] = []
        self._doors: tuple[Door, ...] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        handover = Handover(send, self._open())
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

    def _open(self) -> tuple[Door, ...]:
        """The doors of the session managers behind this layer, put there when they are first met: some applications
        make theirs only when they start."""
        if self._endpoints is None:
            self._endpoints = list(_endpoints(self.app, MAX_MOUNTS))
        doors = self._doors
        managers = [endpoint.session_manager for endpoint in self._endpoints]
        if len(managers) != len(doors) or any(
            door.manager is not one for door, one in zip(doors, managers, strict=True)
        ):
            found = [_door(manager) for manager in managers]
            doors = self._doors = tuple(door for door in found if door is not None)
        return doors


def _endpoints(app: Any, depth: int) -> Iterator[Any]:
    """What holds a session manager within `app`, as far as nothing stands in between that has to see a response."""
    kind = _name(type(app))
    if kind in _GUARDS:
        yield from _endpoints(app.app, depth)
    elif kind in _ENDPOINTS:
        yield app
    elif kind in _APPLICATIONS:
        if all(_name(each.cls) in _TRANSPARENT for each in app.user_middleware):
            yield from _endpoints(app.router, depth)
    elif isinstance(app, Router) and depth and app.middleware_stack == app.app:
        for route in app.routes:
            if isinstance(route, Mount | Route) and type(route) in (Mount, Route):
                yield from _endpoints(route.app, depth - 1)


def _name(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"


def _door(manager: Any) -> Door | None:
    """The door of a session manager, below its limit of a request's size."""
    limit = manager.asgi_app if _name(type(manager)) in _MANAGERS else None
    if type(limit) is not RequestBodyLimitMiddleware:
        return None
    if not isinstance(limit.app, Door):
        limit.app = Door(limit.app, manager)
    return limit.app
