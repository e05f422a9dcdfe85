"""`clarion listen --mcp` in a process of its own, against a scripted server in another."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from interaction.events_requirements import requirement
from interaction.events_scripts import WAIT, active, error, event, peer

pytestmark = pytest.mark.e2e

LISTEN = (sys.executable, "-m", "clarion", "listen", "--mcp")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("CLARION_")}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with peer(0, "--place", "top") as (port, _):
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.fixture
def run(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@contextmanager
def listening(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        (*LISTEN, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1, env=ENVIRONMENT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def told(process: subprocess.Popen[str], text: str) -> str:
    """The next line on stderr with `text` in it."""
    assert process.stderr is not None
    for found in process.stderr:
        if text in found:
            return found
    raise AssertionError(f"nothing said {text!r}")


def scripted(run: str, *turns: Any) -> tuple[str, str]:
    return ("--arguments", json.dumps({"run": run, "turns": turns}))


def ended(code: int, *arguments: str, variables: dict[str, str] | None = None) -> str:
    """What the command says when it fails at once, which is one sentence and a hint at most."""
    done = subprocess.run(
        (*LISTEN, *arguments), capture_output=True, text=True, timeout=60, env={**ENVIRONMENT, **(variables or {})}
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    return next(said for said in done.stderr.splitlines() if said.startswith("error: "))


@requirement("sep.payload.untrusted")
def test_events_are_shown_a_line_each_and_ctrl_c_is_a_good_end(url: str, run: str) -> None:
    gap, failure = active("c5", True), error("error", -32603, {})
    late = [{"error": [-32603, "later", None]}]
    turns = (late, [active("c0"), event(1), gap, failure, event(2), WAIT])
    with listening(url, "both", *scripted(run, *turns)) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("! the server answered with an error: later; trying again in 0.")
        assert process.stderr.readline().startswith("listening to both with ")
        assert line(process).split()[-2:] == ["both", "n=1"]
        assert "missing" in told(process, "!")
        assert told(process, "!") == "! so it is\n"
        assert line(process).split()[-2:] == ["both", "n=2"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("mode", ["push", "poll"])
def test_events_are_shown_as_json(url: str, run: str, mode: str) -> None:
    turn: Any = [active("c0"), event(1), WAIT]
    if mode == "poll":
        turn = {"events": [event(1, cursor=False)["params"]], "cursor": "c1", "nextPollMs": 60_000}
    with listening(url, "both", "--json", "--mode", mode, "--from", "c0", *scripted(run, turn)) as process:
        assert json.loads(line(process)) == {
            "eventId": "e1",
            "name": "both",
            "timestamp": "2026-01-01T00:00:00Z",
            "data": {"n": 1},
            "cursor": "c1",
        }
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_server_that_comes_back_is_listened_to_again(run: str) -> None:
    turns = [active("c0"), event(1), {"sleep": 1}, event(2), WAIT]
    with (
        peer(0, "--place", "top") as (port, first),
        listening(f"http://127.0.0.1:{port}/mcp", "both", *scripted(run, turns)) as process,
    ):
        assert "n=1" in line(process)
        first.kill()
        first.wait()
        assert re.fullmatch(r"! the connection broke; trying again in 0\.\d s\n", told(process, "!"))
        told(process, "the server is not there; trying again in")
        with peer(port, "--place", "top"):
            assert "n=2" in line(process)


def test_what_the_server_refuses_is_said_in_one_sentence(url: str, run: str) -> None:
    assert ended(4, url, "both") == "error: InvalidParams: /run is required"
    assert "the server has no event type 'deal.won'; it has both" in ended(4, url, "deal.won")
    assert "hook.only is not delivered by push or poll" in ended(4, url, "hook.only")
    forbidden = error("terminated", -32012, {})
    assert ended(3, url, "both", *scripted(run, [active("c0"), forbidden])) == "error: so it is"


def test_a_server_that_is_none_is_said(url: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert "no MCP server answers at" in ended(5, f"http://127.0.0.1:{unused.getsockname()[1]}/mcp", "both")
    assert "does not answer like an MCP server" in ended(1, url + "/nowhere", "both")
    assert "no URL of an MCP server" in ended(4, "tickets", "both")


def test_options_that_mean_nothing_there_are_refused(url: str) -> None:
    assert "--filter, --purpose cannot go with --mcp; --arg" in ended(2, url, "b", "--filter", "{}", "--purpose", "p")
    places = ("--data", "d", "--url", "http://localhost", "--tenant", "t")
    assert "--data, --url, --tenant cannot go with --mcp, whose URL" in ended(2, url, "both", *places)
    assert "give one NAME" in ended(2, url, "both", "other")
    assert "--mcp needs the NAME of one of that server's event types" in ended(2, url)
    assert "--arguments" in ended(4, url, "both", "--arguments", "[1]")
    assert "bearer" in ended(4, url, "both", variables={"CLARION_KEY": "schlüssel"})


def clarion(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as it is written on an 80 column terminal, without `--mcp`."""
    command = (*LISTEN[:-2], *arguments)
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**ENVIRONMENT, "COLUMNS": "80"}
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mcp", "http://localhost/mcp"), "NAME"),
        (("--mcp", "http://localhost/mcp", "both", "--data", "d"), "--data cannot go"),
        ((), "needs a TOPIC"),
        (("a.b", "--mode", "poll"), "go with --mcp"),
        (("a.b", "--data", "d", "--url", "http://localhost"), "--url"),
    ],
)
def test_options_that_do_not_go_together_point_to_the_help_of_listen(arguments: tuple[str, ...], said: str) -> None:
    done = clarion("listen", *arguments)
    assert done.returncode == 2
    problem, hint = done.stderr.splitlines()
    assert said in problem
    assert "clarion listen --help`" in hint


def test_the_help_fits_eighty_columns_and_tells_of_both_kinds_of_cursors() -> None:
    text = clarion("listen", "--help").stdout
    assert [row for row in text.splitlines() if len(row) > 80] == []
    assert "as emit or --json shows it" in text


@contextmanager
def answering(status: int, body: bytes = b"no", content_type: str = "text/plain") -> Iterator[str]:
    """A server that answers every request so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/mcp"
        finally:
            server.shutdown()
            thread.join()


def test_a_refused_bearer_is_told_from_none_and_from_one_that_may_not_listen() -> None:
    key = {"CLARION_KEY": "clarion_k_secret"}
    hint = "(for a Clarion server: `clarion keys create`, on its machine)"
    with answering(401) as url:
        assert ended(3, url, "a.b") == f"error: this server wants a bearer; put it into CLARION_KEY {hint}"
        assert ended(3, url, "a.b", variables=key) == f"error: the server refused the bearer in CLARION_KEY {hint}"
    scope = b'{"error": "insufficient_scope", "error_description": "Required scope: subscriber"}'
    with answering(403, scope, "application/json") as url:
        assert ended(3, url, "a.b", variables=key).startswith("error: this key's role may not listen")


@pytest.mark.parametrize(("status", "code"), [(500, 1), (503, 5)])
def test_a_server_that_fails_is_not_taken_for_a_wrong_url(status: int, code: int) -> None:
    with answering(status) as url:
        assert ended(code, url, "a.b") == f"error: the server failed (HTTP {status}); see its log"
