"""Log lines: short for people, complete for machines."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from clarion.logs import configure, get_logger


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("clarion")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def test_a_text_line_is_time_level_event_and_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    get_logger("clarion.x").info("stream_ended", events=2, reason="it broke", client="c")
    logging.getLogger("other").warning("bad %s", "\x1b[31m\n")

    first, second = capsys.readouterr().err.splitlines()

    assert re.fullmatch(r'\d\d:\d\d:\d\d info stream_ended events=2 reason="it broke" client=c', first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning bad \\x1b\[31m\\n", second)


def test_an_exception_follows_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    try:
        raise ValueError("no")
    except ValueError:
        get_logger("clarion.x").exception("failed")

    lines = capsys.readouterr().err.splitlines()

    assert lines[0].endswith(" error failed")
    assert lines[1].startswith("Traceback")
    assert lines[-1] == "ValueError: no"


def test_a_json_line_keeps_logger_and_full_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    get_logger("clarion.x").info("stopped", n=1)

    found = json.loads(capsys.readouterr().err)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", found.pop("timestamp"))
    assert found == {"event": "stopped", "level": "info", "logger": "clarion.x", "n": 1}
