"""nchan, the publish-subscribe module of nginx, as a peer: one worker, messages in memory, one channel.

It has no durability, no filter and no audit. It is set up for speed: no access log, no Nagle delay, a buffer of
messages that a burst fits into, and a burst reaches it as pipelined requests on one connection, which it reads at once.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.generator import PLACEHOLDER
from benchmarks.serving import START_SECONDS, PeerMissing, Server, file_limit, stopped
from clarion.encoding import encode

__all__ = ["nchan", "publish", "subscribe", "versions"]

MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/lib/nginx/modules")
MODULE = "ngx_nchan_module.so"
INSTALL = "benchmarks/install_peers.sh"

NOTE = 345
"""Length of the padding that gives a frame the size of Clarion's, about 450 bytes."""

CONFIG = """
{load_module}
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile {files};
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections {connections}; use epoll; multi_accept on; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000;
    keepalive_timeout 600s;
    client_header_buffer_size 256k;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    nchan_max_reserved_memory 128M;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /subscribe {{
            nchan_subscriber eventsource;
            nchan_channel_id bench;
            nchan_subscriber_first_message newest;
        }}
        location = /publish {{
            nchan_publisher http;
            nchan_channel_id bench;
            nchan_message_buffer_length {buffered};
            nchan_message_timeout 60s;
        }}
    }}
}}
"""
BUFFERED = 1_000
"""Messages that nchan keeps, of which a burst must not push out what a subscriber has yet to read."""


def subscribe(server: Server) -> bytes:
    return f"GET /subscribe HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAccept: text/event-stream\r\n\r\n".encode()


def publish(server: Server, count: int = 1) -> bytes:
    """`count` requests of one message each, to be sent at once on one connection."""
    body = encode({"account_id": "acc_1", "amount": 150_000, "sent_ns": PLACEHOLDER, "note": "n" * NOTE})
    head = f"POST /publish HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head.encode() + body) * count


def versions() -> dict[str, str]:
    """Of nginx, as it says itself, and of nchan, as Debian's package database says."""
    if not (nginx := _nginx()):
        return {"nginx": "none"}
    said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr
    found = {"nginx": said.strip().rpartition("/")[2]}
    if asking := shutil.which("dpkg-query"):
        command = [asking, "--show", "--showformat", "${Version}", "libnginx-mod-nchan"]
        found["nchan"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout or "unknown"
    return found


@contextmanager
def nchan() -> Iterator[Server]:
    """nginx with nchan in a directory of its own. Raises PeerMissing where it is not installed."""
    nginx = _nginx()
    module = next((path for one in MODULES if (path := Path(one) / MODULE).exists()), None)
    if nginx is None or module is None:
        raise PeerMissing(f"nchan is not installed; {INSTALL} installs it")
    with tempfile.TemporaryDirectory() as name:
        directory, port = Path(name), _free_port()
        config = directory / "nginx.conf"
        files = file_limit()
        # Without it the worker of a master that is root would be a user who may not enter the directory.
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            CONFIG.format(
                load_module=f"load_module {module};",
                user=user,
                files=files,
                connections=files - 64,
                directory=directory,
                port=port,
                buffered=BUFFERED,
            )
        )
        with (directory / "stderr").open("wb") as log:
            process = subprocess.Popen([nginx, "-p", name, "-c", str(config)], stdout=log, stderr=log)
            with stopped(process):
                yield Server(port, _worker(process, port, directory), "none", directory)


def _nginx() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _worker(process: subprocess.Popen[bytes], port: int, directory: Path) -> int:
    """The worker's process, once it answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                return int(children[0])
        time.sleep(0.02)
    raise RuntimeError(f"nginx did not start: {(directory / 'stderr').read_text()}")
