"""Where the layer finds a session manager, and where it leaves one to the SDK."""

from __future__ import annotations

from typing import Any

import pytest
from fastmcp import FastMCP
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount, Route, Router

from clarion.events import EventsLayer
from clarion.wires.mcp_events.direct import Door


class OwnManager(StreamableHTTPSessionManager):
    pass


class OwnApplication(Starlette):
    pass


class OwnRoute(Route):
    pass


class OwnRouter(Router):
    pass


class BrokenRoute(Route):
    def matches(self, scope: Any) -> Any:
        raise LookupError("no route today")


async def passing(scope: Any, receive: Any, send: Any) -> None:
    """An application of which nothing is known."""


def endpoint(manager: type[StreamableHTTPSessionManager] = StreamableHTTPSessionManager) -> StreamableHTTPASGIApp:
    return StreamableHTTPASGIApp(manager(Server("any")))


def application(**options: Any) -> Starlette:
    return Starlette(routes=[Route("/mcp", endpoint())], **options)


def door(app: Any, path: str = "/mcp", verb: str = "POST") -> Door | None:
    return EventsLayer(app)._door({"type": "http", "method": verb, "path": path, "headers": []})


def nested(depth: int) -> Any:
    app: Any = application()
    for _ in range(depth):
        app = Router(routes=[Mount("/in", app=app)])
    return app


class Wrapper:
    """What an instrumentation puts around something."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def built(*, wrapped: bool = False) -> Starlette:
    app = application(middleware=[Middleware(AuthenticationMiddleware, backend=None)])
    app.middleware_stack = app.build_middleware_stack()
    if wrapped:
        app.middleware_stack = Wrapper(app.middleware_stack)
    return app


def instrumented() -> Starlette:
    app = application()
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: Wrapper(build())  # type: ignore[method-assign]
    return app


def with_wrapped(method: str) -> StreamableHTTPASGIApp:
    app = endpoint()
    setattr(app.session_manager, method, Wrapper(getattr(app.session_manager, method)))
    return app


def with_wrapped_handler() -> StreamableHTTPASGIApp:
    app = endpoint()
    limit = app.session_manager.asgi_app
    limit.app = Wrapper(limit.app)
    return app


def with_wrapped_route() -> Starlette:
    app = application()
    app.routes[0].handle = Wrapper(app.routes[0].handle)  # type: ignore[method-assign]
    return app


IN_TWO = Starlette(routes=[Mount("/a", app=application()), Mount("/b", app=application()), Route("/c", passing)])
BEHIND = Starlette(routes=[Route("/mcp", Wrapper(passing)), Route("/mcp", endpoint())])
SHARED = application()
BY_TWO_WAYS = Starlette(routes=[Mount("/plain", app=SHARED), Mount("/wrapped", app=Wrapper(SHARED))])


@pytest.mark.parametrize(
    ("app", "path"),
    [
        (endpoint(), "/mcp"),
        (endpoint(), "/anything"),
        (Server("any").streamable_http_app(), "/mcp"),
        (application(), "/mcp"),
        (application(middleware=[Middleware(AuthenticationMiddleware, backend=None)]), "/mcp"),
        (built(), "/mcp"),
        (IN_TWO, "/a/mcp"),
        (IN_TWO, "/b/mcp"),
        (BY_TWO_WAYS, "/plain/mcp"),
        (nested(3), "/in/in/in/mcp"),
    ],
)
def test_a_session_manager_is_found_where_nobody_would_miss_a_response(app: Any, path: str) -> None:
    assert isinstance(door(app, path), Door)


@pytest.mark.parametrize(
    ("app", "path"),
    [
        (application(), "/other"),
        (application(), "/mcp/"),
        (IN_TWO, "/c"),
        (BEHIND, "/mcp"),
        (BY_TWO_WAYS, "/wrapped/mcp"),
        (nested(20), "/in" * 20 + "/mcp"),
        (application(middleware=[Middleware(GZipMiddleware)]), "/mcp"),
        (Starlette(routes=[Mount("/a", app=application())], middleware=[Middleware(GZipMiddleware)]), "/a/mcp"),
        (Starlette(routes=[Route("/mcp", endpoint(), middleware=[Middleware(GZipMiddleware)])]), "/mcp"),
        (Starlette(routes=[Mount("/", app=application(), middleware=[Middleware(GZipMiddleware)])]), "/mcp"),
        (Router(routes=[Route("/mcp", endpoint())], middleware=[Middleware(GZipMiddleware)]), "/mcp"),
        (GZipMiddleware(application()), "/mcp"),
        (OwnApplication(routes=[Route("/mcp", endpoint())]), "/mcp"),
        (Starlette(routes=[OwnRoute("/mcp", endpoint())]), "/mcp"),
        (OwnRouter(routes=[Route("/mcp", endpoint())]), "/mcp"),
        (Starlette(routes=[BrokenRoute("/", passing), Route("/mcp", endpoint())]), "/mcp"),
        (endpoint(OwnManager), "/mcp"),
        (built(wrapped=True), "/mcp"),
        (instrumented(), "/mcp"),
        (with_wrapped("handle_request"), "/mcp"),
        (with_wrapped("_handle_request"), "/mcp"),
        (with_wrapped("asgi_app"), "/mcp"),
        (with_wrapped_handler(), "/mcp"),
        (with_wrapped_route(), "/mcp"),
        (EventsLayer(application()), "/mcp"),
        (passing, "/mcp"),
    ],
)
def test_it_is_left_to_the_sdk_where_somebody_might(app: Any, path: str) -> None:
    assert door(app, path) is None


def test_a_route_that_does_not_take_the_method_leads_nowhere() -> None:
    app = Starlette(routes=[Route("/mcp", endpoint(), methods=["GET"])])
    assert (door(app, verb="GET") is None, door(app)) == (False, None)


def test_a_manager_has_one_door_whatever_stands_in_front() -> None:
    app = application()
    assert door(app) is door(app) is not None


def test_an_application_within_itself_ends_the_search() -> None:
    app = Starlette()
    app.mount("/", app)
    assert door(app) is None


async def test_fastmcps_manager_is_found_once_it_is_there_and_again_when_it_is_another() -> None:
    app = FastMCP("any").http_app()
    assert door(app) is None
    async with app.router.lifespan_context(app):
        first = door(app)
    async with app.router.lifespan_context(app):
        second = door(app)
    assert isinstance(first, Door)
    assert isinstance(second, Door)
    assert first is not second
