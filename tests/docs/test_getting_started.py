"""The agents of docs/getting-started.md, run as they are written, receive what is emitted."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import httpx2
import pytest

from clarion.testing.server import ServerProcess, served
from docs.pages import DOCS, pasted, section

PAGE = DOCS / "getting-started.md"
WITH_CLIENT, WITH_SDK = re.findall(r"^```python\n(.+?)^```", PAGE.read_text(), re.M | re.S)


@asynccontextmanager
async def agent(snippet: str, server: ServerProcess, directory: Path) -> AsyncIterator[asyncio.StreamReader]:
    """The snippet as a process with a key of its own; its stdout."""
    async with server.http("default") as operator:
        made = await operator.post("/v1/keys", json={"role": "subscriber", "subject": "my-agent"})
    script = directory / "agent.py"
    script.write_text(snippet.replace("http://127.0.0.1:8787", server.url))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", str(script), cwd=directory, env={**os.environ, "CLARION_KEY": made.json()["key"]},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        process.kill()
        await process.wait()
        await process.communicate()


async def emit(operator: httpx2.AsyncClient, amount: int) -> None:
    event = {"topic": "deal.won", "payload": {"account_id": "acc_1", "amount": amount}}
    assert (await operator.post("/v1/events", json=event)).status_code == 201


async def amount_in(output: asyncio.StreamReader) -> int:
    """The amount in the frame that an agent prints next."""
    return int(json.loads(await output.readline())["params"]["payload"]["amount"])


@pytest.mark.e2e
async def test_the_agent_with_the_client_receives_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server, server.http("default") as operator:
        async with agent(WITH_CLIENT, server, tmp_path) as output:
            await server.until(operator, lambda metrics: metrics['clarion_streams{phase="live"}'] == 1)
            for amount in (50_000, 150_000, 200_000):
                await emit(operator, amount)
            assert [await amount_in(output), await amount_in(output)] == [150_000, 200_000]
        # The cursor of the first was saved before the second was printed; the second's may have been.
        await emit(operator, 250_000)
        async with agent(WITH_CLIENT, server, tmp_path) as output:
            found = await amount_in(output)
            assert (await amount_in(output) if found == 200_000 else found) == 250_000


@pytest.mark.e2e
async def test_the_agent_with_the_sdk_receives_the_deal_that_matches(tmp_path: Path) -> None:
    async with (
        served(tmp_path / "data") as server,
        server.http("default") as operator,
        agent(WITH_SDK, server, tmp_path) as output,
    ):
        assert json.loads(await output.readline())["method"] == "notifications/pact/subscription.open"
        await emit(operator, 50_000)
        await emit(operator, 150_000)
        assert await amount_in(output) == 150_000


def test_the_versions_that_the_page_names_are_installed() -> None:
    for name, named in re.findall(r"`(\w+)` (\d+\.\d+\.\d+)", PAGE.read_text()):
        assert version(name) == named


@pytest.mark.e2e
async def test_the_commands_that_emit_and_make_keys_run_as_they_are_written(tmp_path: Path) -> None:
    pages = (DOCS.parent / "README.md").read_text() + PAGE.read_text()
    commands = re.findall(r"^    .*\bclarion (?:emit|keys) .+$", pages, re.M)
    assert len(commands) == 6
    async with served(tmp_path / "data") as server:
        printed = await pasted("\n".join([*commands, "    echo $CLARION_KEY $KEY"]), server)
    assert len(re.findall(r"^\w+-[123]$", printed, re.M)) == 3
    assert len(re.findall(r"\bclarion_\w+", printed)) == 3


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_second_time_that_an_order_is_sent_is_a_duplicate(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server:
        text = section("getting-started.md", "5. Your own application")
        assert json.loads(await pasted(text, server))["duplicate"] is False
        assert json.loads(await pasted(text, server))["duplicate"] is True
