"""Both stores, for what depends on one."""

from __future__ import annotations

import pytest

from interaction.serving import STORES


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)
