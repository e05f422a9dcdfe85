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


async def passing(scope: Any, receive: Any, send: Any) -> None:
    """An application of which nothing is known."""


def endpoint(manager: type[StreamableHTTPSessionManager] = StreamableHTTPSessionManager) -> StreamableHTTPASGIApp:
    return StreamableHTTPASGIApp(manager(Server("any")))


def application(**options: Any) -> Starlette:
    return Starlette(routes=[Route("/mcp", endpoint())], **options)


def found(app: Any) -> int:
    doors = EventsLayer(app)._open()
    assert all(isinstance(door, Door) for door in doors)
    return len(doors)


def nested(depth: int) -> Any:
    app: Any = application()
    for _ in range(depth):
        app = Router(routes=[Mount("/in", app=app)])
    return app


@pytest.mark.parametrize(
    ("app", "number"),
    [
        (endpoint(), 1),
        (Server("any").streamable_http_app(), 1),
        (application(), 1),
        (application(middleware=[Middleware(AuthenticationMiddleware, backend=None)]), 1),
        (Starlette(routes=[Mount("/a", app=application()), Mount("/b", app=application()), Route("/c", passing)]), 2),
        (nested(3), 1),
        (nested(20), 0),
        (application(middleware=[Middleware(GZipMiddleware)]), 0),
        (Starlette(routes=[Mount("/a", app=application())], middleware=[Middleware(GZipMiddleware)]), 0),
        (Starlette(routes=[Route("/mcp", endpoint(), middleware=[Middleware(GZipMiddleware)])]), 0),
        (Starlette(routes=[Mount("/", app=application(), middleware=[Middleware(GZipMiddleware)])]), 0),
        (Router(routes=[Route("/mcp", endpoint())], middleware=[Middleware(GZipMiddleware)]), 0),
        (GZipMiddleware(application()), 0),
        (OwnApplication(routes=[Route("/mcp", endpoint())]), 0),
        (Starlette(routes=[OwnRoute("/mcp", endpoint())]), 0),
        (endpoint(OwnManager), 0),
        (EventsLayer(application()), 0),
        (passing, 0),
    ],
)
def test_a_session_manager_is_found_where_nobody_would_miss_a_response(app: Any, number: int) -> None:
    assert found(app) == number


def test_a_manager_has_one_door_whatever_stands_in_front() -> None:
    app = application()
    assert EventsLayer(app)._open() == EventsLayer(app)._open()
    assert found(app) == 1


def test_an_application_within_itself_ends_the_search() -> None:
    app = Starlette()
    app.mount("/", app)
    assert found(app) == 0


async def test_fastmcps_manager_is_found_once_it_is_there_and_again_when_it_is_another() -> None:
    app = FastMCP("any").http_app()
    layer = EventsLayer(app)
    assert layer._open() == ()
    async with app.router.lifespan_context(app):
        first = layer._open()
    async with app.router.lifespan_context(app):
        second = layer._open()
    assert (len(first), len(second)) == (1, 1)
    assert first != second
