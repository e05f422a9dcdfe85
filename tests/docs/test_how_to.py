"""The how-to pages, pasted into a shell and a configuration, do what they say."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from clarion.sources.inbound import read_sources
from clarion.sources.inbound.configuration import EnvelopeTemplate
from clarion.sources.inbound.hmac_signature import HMACConfiguration
from clarion.sources.inbound.standard_webhooks import StandardWebhooksConfiguration
from clarion.testing.server import served
from docs.pages import DOCS, pasted, section, table

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")

INBOUND = "how-to/inbound-webhooks.md"
SECRETS = {
    "GITHUB_WEBHOOK_SECRET": "It's a secret",
    "BILLING_WEBHOOK_SECRET": "whsec_c2VjcmV0",
    "SHOP_WEBHOOK_SECRET": "secret",
}


def inbound_toml() -> str:
    """Every configuration that the page shows, as one clarion.toml."""
    blocks = re.findall(r"^    \[inbound\..+\n(?:    .+\n)+", (DOCS / INBOUND).read_text(), re.M)
    return re.sub(r"^    ", "", "\n".join(blocks), flags=re.M)


@pytest.mark.e2e
@needs_curl
async def test_the_consent_page_runs_as_it_is_written(tmp_path: Path) -> None:
    page = (DOCS / "how-to/consent.md").read_text()
    assert page.count("    clarion consent ") == 5
    refusable = re.sub(r"^(    clarion consent check .+)$", r"\1 || echo no: $?", page, flags=re.M)
    async with served(tmp_path / "data") as server:
        printed = await pasted(refusable, server)
    assert '"topic":"email.opened"' in printed
    assert "no: 1" in printed  # the subject is suppressed by then
    assert "complaint" in printed


@pytest.mark.e2e
@needs_curl
@needs_openssl
async def test_the_webhook_that_is_signed_by_hand_is_recorded_and_a_forged_one_counted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "clarion.toml").write_text(inbound_toml())
    text = section(INBOUND, "Without GitHub")
    async with served(data, **SECRETS) as server, server.http("default") as operator:
        answer = json.loads(await pasted(text, server, **SECRETS))
        assert (answer["topic"], answer["duplicate"]) == ("github.pull_request.opened", False)
        forged = await pasted(text, server, GITHUB_WEBHOOK_SECRET="guessed")
        assert json.loads(forged)["error"]["code"] == "unauthenticated"
        refused = 'clarion_inbound_refused_total{reason="unauthenticated",source="github"}'
        metrics = await server.metrics(operator)
        assert metrics[refused] == 1
        assert "inbound_refused" in server.log
        documented = [cell for row in table(section("deployment.md", "Metrics")) for cell in row[:1]]
        assert {name.partition("{")[0] for name in metrics} == set(re.findall(r"clarion_\w+", " ".join(documented)))


def test_the_inbound_page_shows_every_field_of_a_source() -> None:
    configured = tomllib.loads(inbound_toml())["inbound"]
    assert read_sources([{"name": name, **source} for name, source in configured.items()], SECRETS).keys() == {
        "github", "billing", "shop",
    }  # fmt: skip
    page = (DOCS / INBOUND).read_text()
    fields = {
        *HMACConfiguration.model_fields,
        *StandardWebhooksConfiguration.model_fields,
        *EnvelopeTemplate.model_fields,
    }
    for name in fields - {"name", "template"}:
        assert re.search(rf"\b{name} =", page), name
