"""The server: settings become an application over a data directory, which uvicorn runs until a signal."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from clarion.app import App
from clarion.auth.keys import Authenticator, KeyService
from clarion.clock import Clock, SystemClock
from clarion.composition import open_backend
from clarion.errors import ClarionError
from clarion.http1 import BoundedProtocol
from clarion.hub.hub import Hub, HubLimits
from clarion.ids import Randomness
from clarion.local import DataDirectory, local_tenant
from clarion.logs import configure, get_logger
from clarion.settings import Settings
from clarion.sources.emit import Emitter
from clarion.sources.inbound import read_sources

__all__ = ["App", "http_config", "open_app", "run"]

GC_YOUNG_OBJECTS = 50_000
"""Objects, not yet freed, that are made between two runs of the garbage collector. Bounds what cycles can hold."""

STOP_SECONDS = 10
"""How long a stop waits for requests that are under way."""

logger = get_logger("clarion.server")


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    local_secret: Callable[[], str | None] = lambda: None,
    clock: Clock | None = None,
    randomness: Randomness = secrets.token_bytes,
    url: str | None = None,
    restored: bool = False,
    inbound: bool = True,
) -> AsyncIterator[App]:
    """The application over the settings' data directory (or the store behind `url`), running until the block ends.

    `local_secret`: the secret that makes operators' bearers, once there is one. `inbound`: take inbound webhooks, for
    which their secrets must be there. The caller owns the directory.
    """
    clock = clock or SystemClock()

    def operator_of(token: str) -> str | None:
        secret = local_secret()
        return local_tenant(secret, token) if secret else None

    limits = HubLimits(
        subscriptions=settings.max_subscriptions,
        subscriptions_per_client=settings.max_subscriptions_per_client,
        connections=settings.max_connections,
        connections_per_principal=settings.max_connections_per_principal,
        declared_topics=settings.max_declared_topics,
        ring_budget=settings.ring_budget_mb * 1024 * 1024,
        retention_seconds=settings.retention_days * 86_400,
        retention_bytes=None if settings.retention_mb is None else settings.retention_mb * 1024 * 1024,
        audit_retention_seconds=settings.audit_retention_days * 86_400,
    )
    configured = [{"name": name, **source} for name, source in settings.inbound.items()] if inbound else []
    sources = read_sources(configured, os.environ)  # before anything is opened, or an epoch begun
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
        keys = KeyService(backend.keys, authenticator, clock, randomness, hub.end)
        app = App(hub, emitter, authenticator, keys, sources, settings)
        async with hub.running(), app.mcp.session_manager.run():
            yield app


def http_config(app: App) -> uvicorn.Config:
    """How uvicorn serves the application: its own protocol within bounds, and no logging but ours."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own signal handling, which would raise the signal again before the stores are closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(settings: Settings, directory: DataDirectory, started: Callable[[str], None], restored: bool) -> None:
    secret: list[str] = []
    listener = _listen(settings.host, settings.port)  # first, so that a taken port is said before anything is opened
    async with open_app(settings, local_secret=lambda: secret[0] if secret else None, restored=restored) as app:
        server = _Uvicorn(http_config(app))

        def stop() -> None:
            server.force_exit = server.should_exit  # a second signal does not wait for requests
            server.should_exit = True
            app.close()  # uvicorn would wait for open streams

        _on_signals(stop)
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


def _on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` on the event loop at Ctrl-C, at a request to end, and when the terminal is closed."""
    loop = asyncio.get_running_loop()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # nor handlers on its loop
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))


def _allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each stream is one."""
    try:
        import resource
    except ImportError:  # not POSIX
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY by this
    # On Windows the first would let another process take the port as well.
    option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
    listener.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        listener.bind((host, port))
    except socket.gaierror as error:
        listener.close()
        raise ClarionError(f"cannot listen on {host!r}: {error.strerror}; choose another with --host") from None
    except OSError as error:
        listener.close()
        advice = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise ClarionError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with {advice}") from None
    listener.listen(4096)
    listener.setblocking(False)
    return listener


def run(settings: Settings, started: Callable[[str], None] = lambda _url: None, *, restored: bool = False) -> None:
    """Serve until SIGINT or SIGTERM; `started` is called with the URL once connections are taken.

    `restored`: the databases were put back from a backup, so a new epoch begins.

    Raises DataDirectoryOwned, SchemaTooNew, InvalidInput, ClarionError (the address is taken).
    """
    configure(settings.log_level, settings.log_format)
    _allow_many_files()
    directory = DataDirectory(settings.data)
    with directory.owned(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, directory, started, restored))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not built for this platform: asyncio's own loop serves as well
        return None
    return uvloop.new_event_loop
