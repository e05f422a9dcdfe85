"""The agent of docs/getting-started.md, run as it is written, receives what is emitted."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from clarion.testing.server import served

PAGE = Path(__file__).parents[2] / "docs/getting-started.md"


@pytest.mark.e2e
async def test_the_agent_of_the_page_receives_the_deal_that_matches(tmp_path: Path) -> None:
    (snippet,) = re.findall(r"^```python\n(.+?)^```", PAGE.read_text(), re.M | re.S)
    async with served(tmp_path / "data") as server, server.http() as operator:
        made = await operator.post("/v1/keys", json={"role": "subscriber", "subject": "my-agent"})
        script = tmp_path / "agent.py"
        script.write_text(snippet.replace("http://127.0.0.1:8787", server.url).replace("clarion_…", made.json()["key"]))
        agent = await asyncio.create_subprocess_exec(sys.executable, "-u", str(script), stdout=asyncio.subprocess.PIPE)
        try:
            assert agent.stdout is not None
            opened = json.loads(await agent.stdout.readline())
            assert opened["method"] == "notifications/pact/subscription.open"
            for amount in (50_000, 150_000):
                event = {"topic": "deal.won", "payload": {"account_id": "acc_1", "amount": amount}}
                assert (await operator.post("/v1/events", json=event)).status_code == 201
            pushed = json.loads(await agent.stdout.readline())
            assert pushed["params"]["payload"]["amount"] == 150_000
        finally:
            agent.kill()
            await agent.wait()
            await agent.communicate()
