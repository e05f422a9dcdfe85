"""The command line's parts that need no process of their own: choice of the target, exit codes, the live view."""

from __future__ import annotations

import shutil
import sys
from datetime import datetime
from pathlib import Path

import pytest

from clarion.catalog import BUILT_IN
from clarion.cli.exits import FAILED, INVALID, REFUSED, UNAVAILABLE, UsageProblem, exit_code
from clarion.cli.invocation import invoked
from clarion.cli.listening import JsonView, ReadableView, Request, describe_payload, listen
from clarion.cli.target import Address, find_server, pick_data, pick_target
from clarion.cli.terminal import printable
from clarion.cli.topics import find_topics, show_topics
from clarion.client import ServerUnreachable, ToolRefused, UnexpectedAnswer, parse_frame
from clarion.encoding import encode
from clarion.errors import (
    ClarionError,
    Conflict,
    DataDirectoryOwned,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    SchemaTooNew,
    StoreUnavailable,
    Unauthenticated,
)
from clarion.model import parse_time
from clarion.testing.clock import FakeClock


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unauthenticated(), REFUSED),
        (Forbidden(), REFUSED),
        (Conflict(), INVALID),
        (LimitExceeded(), INVALID),
        (ToolRefused(), INVALID),
        (StoreUnavailable(), UNAVAILABLE),
        (ServerUnreachable(), UNAVAILABLE),
        (DataDirectoryOwned(), UNAVAILABLE),
        (SchemaTooNew(), FAILED),
        (UnexpectedAnswer(), FAILED),
    ],
)
def test_every_error_has_its_exit_code(error: ClarionError, code: int):
    assert exit_code(error) == code


def test_options_beat_the_environment():
    environment = {"CLARION_URL": "http://far", "CLARION_KEY": "k", "CLARION_DATA": "there"}

    assert pick_target(None, None, None, environment).address == Address("http://far", "k")
    assert pick_target(None, "http://near", None, environment).address == Address("http://near", "k")
    assert pick_target(Path("here"), None, None, environment).address is None
    assert pick_data(None, environment) == Path("there")
    assert pick_data(Path("here"), environment) == Path("here")


def test_without_anything_the_directory_is_beside_one():
    target = pick_target(None, None, None, {})

    assert (target.address, target.data, target.tenant) == (None, Path("clarion-data"), "default")


@pytest.mark.parametrize(
    ("data", "url", "tenant", "environment"),
    [
        (Path("d"), "http://far", None, {"CLARION_KEY": "k"}),
        (None, "http://far", "acme", {"CLARION_KEY": "k"}),
        (None, None, "acme", {"CLARION_URL": "http://far", "CLARION_KEY": "k"}),
        (None, "http://far", None, {}),
        (None, "http://far", None, {"CLARION_KEY": " "}),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(
    data: Path | None, url: str | None, tenant: str | None, environment: dict[str, str]
):
    with pytest.raises(UsageProblem):
        pick_target(data, url, tenant, environment)


def test_a_tenant_that_cannot_be_one_is_refused():
    with pytest.raises(InvalidInput):
        pick_target(None, None, "A B", {})


def test_listening_to_a_directory_that_nobody_serves_creates_nothing(tmp_path: Path):
    with pytest.raises(ServerUnreachable, match="clarion serve"):
        find_server(pick_target(tmp_path / "none", None, None, {}))
    assert not (tmp_path / "none").exists()


def test_a_key_that_is_not_used_is_told(capsys: pytest.CaptureFixture[str]):
    pick_target(Path("d"), None, None, {"CLARION_KEY": "k"})
    assert "CLARION_KEY is not used" in capsys.readouterr().err

    pick_target(None, "http://far", None, {"CLARION_KEY": "k"})
    assert capsys.readouterr().err == ""


def test_a_hint_names_the_command_as_it_was_typed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", {"clarion": "/bin/clarion"}.get)

    assert invoked(["/bin/clarion"]) == "clarion"
    assert invoked(["clarion"]) == "clarion"
    assert invoked([".venv/bin/clarion"]) == ".venv/bin/clarion"
    assert invoked(["/a b/clarion"]) == "'/a b/clarion'"
    assert invoked(["/lib/clarion/__main__.py"], ["python3", "-m", "clarion"]) == "python3 -m clarion"
    assert sys.argv[0] in invoked() or "-m clarion" in invoked() or invoked() == Path(sys.argv[0]).name


@pytest.mark.parametrize("start", ["abc", "", "1-2", "-1"])
def test_a_start_that_is_no_cursor_is_named_with_what_is_allowed(start: str):
    with pytest.raises(InvalidInput) as refused:
        listen(pick_target(Path("none"), None, None, {}), Request(("a.b",), None, start, None, None), as_json=False)

    assert all(word in refused.value.message for word in ("--from", repr(start), "earliest", "number"))


TOPICS = [
    {"topic": row.pattern, "category": row.category, "description": row.description,
     "payload_schema": row.schema, "filter_examples": row.filter_examples}
    for row in BUILT_IN
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "found"), [
    ("deal.won", ["deal.won"]), ("github.push", ["github.push"]), ("github.*", ["github.*", "github.pull_request.*",
    "github.push"]), ("github.pull_request.opened", ["github.pull_request.*"]), ("github.star", ["github.*"]),
])  # fmt: skip
def test_a_topic_is_found_by_name_pattern_or_family(wanted: str, found: list[str]):
    assert sorted(row["topic"] for row in find_topics(TOPICS, wanted)) == found


def test_a_topic_that_nobody_knows_is_told_with_the_nearest():
    with pytest.raises(NotFound, match=r"did you mean deal\.won\?"):
        find_topics(TOPICS, "dael.won")


def test_topics_are_a_line_each_and_one_alone_shows_its_fields(capsys: pytest.CaptureFixture[str]):
    show_topics(TOPICS, None, as_json=False)
    assert len(capsys.readouterr().out.splitlines()) == len(TOPICS)

    inner = {"type": "object", "properties": {"b": {"type": ["string", "null"]}}}
    numbers = {"type": "array", "items": {"type": "integer"}, "description": "Numbers."}
    nested = {"type": "object", "properties": {"a": inner, "c": numbers}}
    row = {"topic": "x.y", "category": "custom", "description": "Some.", "payload_schema": nested,
           "filter_examples": [{"a.b": "z"}]}  # fmt: skip
    show_topics([row], "x.y", as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "x.y  (custom)",
        "  Some.",
        "  fields",
        "    a    object",
        "    a.b  string or null",
        "    c    list of integer  Numbers.",
        "  filters to try",
        '    {"a.b":"z"}',
    ]


def pushed(topic: str = "deal.won", **given: object):
    params = {"subscription_id": "s", "event_id": 3, "topic": topic, "category": "crm", "aggregate_type": None,
              "aggregate_id": None, "actor_id": None, "correlation_id": None, "occurred_at": "2026-01-01T12:34:56Z",
              "payload": {}, **given}  # fmt: skip
    body = {"jsonrpc": "2.0", "method": "notifications/pact/event", "params": params}
    return parse_frame(encode(body).decode(), "e-3")


def test_a_payload_reads_as_pairs():
    frame = pushed(payload={"amount": 150000, "name": "Acme renewal", "id": "d_1", "tags": ["a", None], "empty": ""})

    assert describe_payload(frame) == 'amount=150000 name="Acme renewal" id=d_1 tags=["a",null] empty=""'


def test_an_event_is_one_aligned_line_outside_of_a_terminal(capsys: pytest.CaptureFixture[str]):
    view = ReadableView(FakeClock(parse_time("2026-01-01T12:40:00Z")))
    view.show(pushed(aggregate_type="deal", aggregate_id="d_1", actor_id="ada", payload={"amount": 1, "x": "y" * 300}))
    view.show(pushed("a.b"))

    first, second = capsys.readouterr().out.splitlines()

    assert first[8:] == "  deal.won          deal/d_1 by ada  amount=1 x=" + "y" * 300
    assert second[8:] == "  a.b"


def test_a_time_of_another_day_has_its_date(capsys: pytest.CaptureFixture[str]):
    ReadableView(FakeClock(parse_time("2026-03-01T00:00:00Z"))).show(pushed("a.b"))

    shown = datetime.fromisoformat("2026-01-01T12:34:56Z").astimezone()
    assert capsys.readouterr().out == f"{shown:%Y-%m-%d %H:%M:%S}  a.b\n"


def test_nothing_that_an_event_holds_reaches_the_terminal_as_a_control(capsys: pytest.CaptureFixture[str]):
    evil = "\x1b[31m\x9b2J\u202e\r\n"
    ReadableView().show(pushed(actor_id=evil, aggregate_id="[bold]x[/bold]", payload={evil: evil}))

    out = capsys.readouterr().out

    assert out.endswith("\n")
    assert out[:-1].isprintable()
    assert "[bold]x[/bold]" in out


def test_printable_text_stays_as_it_is():
    assert printable("Grüße, 世界") == "Grüße, 世界"


def test_json_shows_the_frame_as_it_came(capsys: pytest.CaptureFixture[str]):
    frame = pushed(payload={"a": "b"})

    JsonView().show(frame)

    assert capsys.readouterr().out == frame.raw + "\n"
