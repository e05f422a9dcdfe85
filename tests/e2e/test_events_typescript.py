"""The official TypeScript client reads the events of a running server, on both transports and in both eras.

By hand: `npm ci --ignore-scripts` in `tests/e2e/typescript`, start `python -m clarion.testing.fixture`, then
`node client.mjs 2026-07-28 URL` there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixture_peer import EXTENSION, LEGACY, MODERN, SUBSCRIPTION_ID, fixture_server

from interaction.events_requirements import requirement

pytestmark = [pytest.mark.e2e, pytest.mark.node]

HERE = Path(__file__).parent / "typescript"
CLIENT = HERE / "node_modules" / "@modelcontextprotocol" / "client" / "package.json"
ON_STDIO = [sys.executable, "-c", "from clarion.testing.fixture import build; build().run('stdio')"]
PATIENCE = 60.0
"""Seconds for one run of the client, which takes five, or ten where it starts the server."""


@pytest.fixture(scope="module")
def node() -> str:
    """Node.js, with the client installed when it is missing or another version."""
    pinned = json.loads((HERE / "package.json").read_text())["dependencies"]["@modelcontextprotocol/client"]
    npm, node = shutil.which("npm"), shutil.which("node")
    if (npm is None or node is None) and not os.environ.get("CI"):
        pytest.skip("npm is not on this machine; with Node.js this test runs the official TypeScript client")
    assert npm is not None, "CI must have npm"
    assert node is not None, "CI must have Node.js"
    if not CLIENT.is_file() or json.loads(CLIENT.read_text())["version"] != pinned:
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(command, cwd=HERE, check=True, capture_output=True, timeout=100)
    return node


def saw(node: str, era: str, *server: str) -> dict[str, Any]:
    """What the client prints of a server."""
    command = [node, "client.mjs", era, *server]
    run = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 0, run.stderr
    seen: dict[str, Any] = json.loads(run.stdout)
    return seen


@requirement("ours.proof.typescript")
@pytest.mark.parametrize("transport", ["http", "stdio"])
@pytest.mark.parametrize("era", [MODERN, LEGACY])
def test_the_client_streams_resumes_and_polls(node: str, era: str, transport: str, tmp_path: Path) -> None:
    if transport == "stdio":
        seen = saw(node, era, *ON_STDIO)
    else:
        with fixture_server(tmp_path / "server.log") as fixture:
            seen = saw(node, era, fixture.url)

    assert EXTENSION in seen["capabilities"]["extensions"]
    assert seen["names"][0] == "chat.message"
    assert len(seen["names"]) > 4  # more than a page
    assert (seen["first"]["events"], seen["first"]["truncated"]) == ([], False)

    streams = [seen["opened"], seen["resumed"]]
    for stream in streams:
        active, *events = stream["frames"]
        assert (active["kind"], active["truncated"]) == ("active", False)
        assert [frame["kind"] for frame in events] == ["event", "event"]
        assert len({frame["_meta"][SUBSCRIPTION_ID] for frame in stream["frames"]}) == 1
        assert stream["end"] != "a result"  # the client has ended it
    before, after = (stream["frames"] for stream in streams)
    assert after[0]["cursor"] == before[-1]["cursor"]
    assert before[0]["_meta"] != after[0]["_meta"]
    streamed = [frame["eventId"] for frame in [*before[1:], *after[1:]]]
    polled = [event["eventId"] for event in seen["polled"]["events"]]
    assert polled[: len(streamed)] == streamed  # no gap and no duplicate
    numbers = [event["data"]["number"] for event in seen["polled"]["events"]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert seen["missed"]["events"][0]["eventId"] == streamed[2]

    ended = seen["ended"]
    assert [frame["kind"] for frame in ended["frames"] if frame["kind"] != "event"] == ["active", "terminated"]
    assert ended["frames"][-1]["error"]["code"] == -32023
    assert ended["result"]["_meta"][SUBSCRIPTION_ID] == ended["frames"][0]["_meta"][SUBSCRIPTION_ID]

    assert seen["unknown"] == {"code": -32023, "data": {"kind": "event"}}
    assert seen["unoffered"]["code"] == -32026
    assert seen["unfit"] == {"code": -32602, "data": {"field": "arguments.channel", "rule": "schema"}}
