"""The command line's parts that need no process of their own: choice of the target, exit codes, the live view."""

from __future__ import annotations

from pathlib import Path

import pytest

from clarion.cli.exits import FAILED, INVALID, REFUSED, UNAVAILABLE, UsageProblem, exit_code
from clarion.cli.listening import JsonView, ReadableView, describe_payload
from clarion.cli.target import Address, find_server, pick_data, pick_target
from clarion.cli.terminal import printable
from clarion.client import ServerUnreachable, ToolRefused, UnexpectedAnswer, parse_frame
from clarion.encoding import encode
from clarion.errors import (
    ClarionError,
    Conflict,
    DataDirectoryOwned,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    SchemaTooNew,
    StoreUnavailable,
    Unauthenticated,
)


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
    view = ReadableView()
    view.show(pushed(aggregate_type="deal", aggregate_id="d_1", actor_id="ada", payload={"amount": 1, "x": "y" * 300}))
    view.show(pushed("a.b"))

    first, second = capsys.readouterr().out.splitlines()

    assert first[8:] == "  deal.won          deal/d_1 by ada  amount=1 x=" + "y" * 300
    assert second[8:] == "  a.b"


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
