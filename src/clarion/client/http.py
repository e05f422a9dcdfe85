"""HTTP as every client here speaks it: one bearer, no proxy for this machine itself, no limit on open streams."""

from __future__ import annotations

import ssl

import httpx2

from clarion import __version__
from clarion.client.errors import ServerUnreachable
from clarion.errors import InvalidInput

__all__ = ["describe_break", "open_http", "server_url", "unreachable"]

CONNECT_SECONDS = 10.0
"""How long a connection may take to be made."""

ANSWER_SECONDS = 60.0
"""How long the server may be silent within an answer. A large import waits for the disk."""

_ENDPOINTS = ("/mcp", "/mcp/push/sse")
"""Paths that a server has for MCP clients: who gives one of them means the server."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def server_url(text: str) -> httpx2.URL:
    """The server's base URL, checked, without a path of its own endpoints. Raises InvalidInput."""
    try:
        url = httpx2.URL(text.strip().rstrip("/"))
    except httpx2.InvalidURL as error:
        raise InvalidInput(f"{text!r} is no URL: {error}", field="url", rule="url") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInput(
            f"{text!r} is no server URL; write it like https://clarion.example.com", field="url", rule="url"
        )
    if url.query or url.fragment:
        raise InvalidInput(f"{text!r} holds more than the server's address; give it without ? and #", field="url",
                           rule="url")  # fmt: skip
    for endpoint in _ENDPOINTS:
        if url.path.endswith(endpoint):
            return url.copy_with(path=url.path.removesuffix(endpoint) or "/")
    return url


def describe_break(error: httpx2.TransportError) -> str:
    """What is wrong with the connection, for people."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the server's certificate is not valid: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "the server does not speak TLS; try http://"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx2.ConnectError):
        return "the server is not there"
    return "the server does not answer" if isinstance(error, httpx2.TimeoutException) else "the connection broke"


def unreachable(url: httpx2.URL, error: httpx2.TransportError) -> ServerUnreachable:
    """The error to raise for a request that did not get through."""
    reason = describe_break(error)
    if reason == "the server is not there":
        return ServerUnreachable(f"no server answers at {url}; is it running?")
    return ServerUnreachable(f"cannot reach {url}: {reason}")


def open_http(url: httpx2.URL, key: str, transport: httpx2.AsyncBaseTransport | None = None) -> httpx2.AsyncClient:
    """A client for one server and one key, to be closed by the caller.

    Redirects are not followed: the key would go wherever an answer points. A proxy from the environment is used for
    other machines only.
    """
    if not key.isascii() or not key.isprintable():
        raise InvalidInput("the key holds characters that no key has", field="key", rule="ascii")
    return httpx2.AsyncClient(
        base_url=url,
        headers={"authorization": f"Bearer {key}", "user-agent": f"clarion/{__version__}"},
        timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, pool=None),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        transport=transport,
        trust_env=url.host not in _LOOPBACK,
        follow_redirects=False,
    )
