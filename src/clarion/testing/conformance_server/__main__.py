"""The command: prints the endpoint's URL once it listens, and serves until a signal."""

from __future__ import annotations

import argparse
import socket
import warnings

import uvicorn
from mcp.shared.exceptions import MCPDeprecationWarning

from clarion.http1 import BoundedProtocol
from clarion.testing.conformance_server import app, build

__all__ = ["main"]

STOP_SECONDS = 2
"""How long a stop waits for streams that their clients hold open."""


def main() -> None:
    """Serve as the arguments say."""
    parser = argparse.ArgumentParser(
        prog="python -m clarion.testing.conformance_server",
        description="An MCP server with what the official conformance suite calls for.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the IPv4 address or name to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # the older era is asked for what the newer one gave up
    with socket.create_server((arguments.host, arguments.port)) as listener:
        config = uvicorn.Config(
            app(build(), host=arguments.host),
            http=BoundedProtocol,  # as `clarion serve`, whose reading of HTTP is under test as well
            ws="none",
            log_level="warning",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        print(f"http://{arguments.host}:{listener.getsockname()[1]}/mcp", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
