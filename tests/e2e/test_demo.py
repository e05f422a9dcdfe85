"""`python -m clarion.demo`: the lines that the README shows, in any place it is run from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from clarion.client import Frame, PushClient, parse_frame
from clarion.demo import Agent, DemoFailed

pytestmark = pytest.mark.e2e

HERE = r"  emit   git\.commit  the newest commit here, [0-9a-f]{10}"
NOWHERE = r"  git       no repository with a commit around here: its newest commit is left out"
PUSHES = [
    r"  emit   git\.commit  a commit made up for this demo",
    r"  push   git\.commit  #\d+ after \d+ ms",
    r"  emit   file\.added  a file appears in a watched folder",
    r"  push   file\.added  #\d+ after \d+ ms",
    r"  emit   deal\.won    Corner shop, 50,000",
    r"  emit   deal\.won    Acme renewal, 150,000",
    r"  push   deal\.won    #\d+ after \d+ ms",
    r"  held   deal\.won    Corner shop was not pushed: 50,000 is below 100,000",
]


def demo(place: Path) -> list[str]:
    """What the demo prints there, without the payloads."""
    environment = {**os.environ, "CLARION_URL": "http://127.0.0.1:1", "GIT_CEILING_DIRECTORIES": str(place.parent)}
    done = subprocess.run(
        (sys.executable, "-m", "clarion.demo"), cwd=place, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line for line in done.stdout.splitlines() if line and not line.startswith("     ")]


def assert_lines(found: list[str], *patterns: str) -> None:
    assert len(found) >= len(patterns), found
    for line, pattern in zip(found, patterns, strict=False):
        assert re.fullmatch(pattern, line), (line, pattern)


def test_the_demo_pushes_what_was_subscribed_and_nothing_else(tmp_path: Path):
    git = ("git", "-C", str(tmp_path), "-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    subprocess.run((*git, "init", "--quiet"), check=True)
    subprocess.run((*git, "commit", "--quiet", "--allow-empty", "--message", "Begin"), check=True)

    lines = demo(tmp_path)

    assert_lines(
        lines[3:],
        HERE,
        r"  push   git\.commit  #1 after \d+ ms",
        *PUSHES,
        r"4 notifications expected, 4 received\.",
        r"Go on by hand, in three terminals:",
        r"  \S*clarion serve",
        r"  \S*clarion listen 'deal\.\*' --filter '\{\"amount_gte\": 100000\}'",
    )


def test_outside_of_a_repository_the_demo_says_so_and_works(tmp_path: Path):
    assert_lines(demo(tmp_path)[3:], NOWHERE, *PUSHES, r"3 notifications expected, 3 received\.")


@pytest.mark.parametrize("pushed", [{"topic": "deal.won", "payload": {"amount": 50000}}, {"topic": "deal.lost"}])
async def test_a_notification_that_should_not_come_fails_the_demo(pushed: dict[str, object]):
    params = {"subscription_id": "s", "event_id": 1, "occurred_at": "2026-01-01T00:00:00Z", "payload": {}, **pushed}
    body = json.dumps({"jsonrpc": "2.0", "method": "notifications/pact/event", "params": params})

    class Client:
        async def stream(self) -> AsyncIterator[Frame]:
            yield parse_frame(body, "e-1")

    agent = Agent(cast(PushClient, Client()))
    await agent.listen()

    with pytest.raises(DemoFailed, match="was expected, but pushed was"):
        await agent.told("deal.won", {"amount": 150000})
