"""HTTP as every client here speaks it: one bearer, no proxy for this machine itself, no limit on open streams."""

from __future__ import annotations

import httpx2

from clarion import __version__
from clarion.errors import InvalidInput

__all__ = ["open_http", "server_url"]

CONNECT_SECONDS = 10.0
"""How long a connection may take to be made."""

ANSWER_SECONDS = 60.0
"""How long the server may be silent within an answer. A large import waits for the disk."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def server_url(text: str) -> httpx2.URL:
    """The server's base URL, checked. Raises InvalidInput."""
    try:
        url = httpx2.URL(text.strip().rstrip("/"))
    except httpx2.InvalidURL as error:
        raise InvalidInput(f"{text!r} is no URL: {error}", field="url", rule="url") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInput(
            f"{text!r} is no server URL; write it like https://clarion.example.com", field="url", rule="url"
        )
    return url


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
