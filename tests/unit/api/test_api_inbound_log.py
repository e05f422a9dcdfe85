"""Refused webhooks are counted each, and told once in a while: no caller without a signature can flood the log."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.interaction.serving import calling

from clarion.api.inbound import MAX_INBOUND_BYTES


async def test_oversized_bodies_without_a_signature_are_counted_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "clarion.inbound")
    async with calling(tmp_path) as callee, callee.http() as client:
        for _ in range(3):
            answer = await client.post("/v1/inbound/nobody", content=b"x" * (MAX_INBOUND_BYTES + 1))
            assert answer.status_code == 413
        assert (await client.post("/v1/inbound/nobody", content=b"{}")).status_code == 401
        metrics = (await client.get("/metrics")).text
    assert 'clarion_inbound_refused_total{reason="unknown_source",source="unknown"} 4.0' in metrics
    assert len([record for record in caplog.records if record.name == "clarion.inbound"]) == 1
