"""The axes that interactions run over."""

from __future__ import annotations

import pytest

from interaction.serving import MODES, STORES
from interaction.wires import WIRES, WireUnderTest


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=tuple(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WIRES, ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> WireUnderTest:
    found: WireUnderTest = request.param
    return found
