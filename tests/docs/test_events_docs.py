"""What the pages about events say is so: numbers, errors, methods, frames and options are those of the code."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields
from typing import Any, get_args

from clarion.app import EVENT_TYPES_PER_PAGE
from clarion.catalog_offer import PURPOSE
from clarion.client import mcp_events as client
from clarion.client.mcp_events.values import Item, Kind
from clarion.errors import ERRORS, CloseReason, Forbidden
from clarion.events import Context, Event, Events, checks, hooks, leases, upstream
from clarion.events.check_streams import QUEUE_EVENTS
from clarion.hub.hub import HEARTBEAT_SECONDS, HubLimits
from clarion.hub.protocols import Opening
from clarion.hub.reading import MAX_SCANNED
from clarion.hub.ring import Parcel
from clarion.model import Position
from clarion.sources.emit import MAX_ATTRIBUTE_BYTES, MAX_PAYLOAD_BYTES
from clarion.testing import fixture
from clarion.testing.fixture.__main__ import DEFAULT_PORT
from clarion.wires.mcp_events import carriers, cursors, log, sdk, service
from clarion.wires.mcp_events.errors import _MEMBERS, _NAMES, Dialect, error_object
from clarion.wires.mcp_events.framing import TOPIC_META, EventsFraming, as_line
from docs.pages import DOCS, section

REFERENCE, LIBRARY, CHECK, CLIENT = (
    "reference/events.md", "how-to/events-library.md", "how-to/events-check.md", "how-to/events-client.md",
)  # fmt: skip


def rows(page: str, title: str) -> list[list[str]]:
    """The rows of the first table of a section, without its head."""
    found = re.search(r"^\|.+\n\|[-|]+\n((?:\|.*\n)+)", section(page, title), re.M)
    assert found is not None
    return [[cell.strip() for cell in line[1:].rstrip("|\n").split("|")] for line in found[1].splitlines()]


def options(function: Any) -> set[str]:
    return {name for name, each in inspect.signature(function).parameters.items() if each.kind is each.KEYWORD_ONLY}


def test_the_numbers_are_those_of_the_code() -> None:
    limits, lease = HubLimits(), leases.LeaseLimits()
    assert checks.HEARTBEAT_SECONDS == HEARTBEAT_SECONDS
    assert limits.retention_seconds is not None
    numbers = {
        "event types on a page of `events/list`, library": service.PAGE_SIZE,
        "event types on a page, `clarion serve`": EVENT_TYPES_PER_PAGE,
        "characters of `name`": service.MAX_NAME_LENGTH,
        "bytes of `arguments` as JSON": f"{service.MAX_ARGUMENT_BYTES // 1024} KiB",
        "characters of a `cursor` that is looked at": cursors.MAX_CURSOR_LENGTH,
        "events in a poll's answer, when it does not say how many": service.DEFAULT_POLL_EVENTS,
        "events in a poll's answer, at most": service.MAX_POLL_EVENTS,
        "events that one poll looks at, at most": MAX_SCANNED,
        "longest wait of a poll (`timeoutMs`)": f"{service.MAX_WAIT_MS / 1000:g} s",
        "polls of one principal that wait at a time; more are answered at once": log.MAX_WAITING_POLLS,
        "shortest `nextPollMs`": f"{service.MIN_POLL_MS / 1000:g} s",
        "longest `nextPollMs` that Clarion chooses by itself": f"{service.MAX_POLL_MS / 1000:g} s",
        "between two heartbeats": f"{HEARTBEAT_SECONDS:g} s",
        "open streams of one principal": limits.connections_per_principal,
        "open streams of one tenant": limits.connections,
        "bytes of an event's `data`": f"{MAX_PAYLOAD_BYTES // 1024} KiB",
        "bytes of `_meta` and other attributes": f"{MAX_ATTRIBUTE_BYTES // 1024} KiB",
        "time that one call of a hook may take": f"{hooks.HOOK_SECONDS:g} s",
        "threads that one hook of one type may hold": hooks.HOOK_THREADS,
        "between two questions to `authorize` about an open stream": f"{hooks.REAUTHORIZE_SECONDS:g} s",
        "a polled subscription without a poll lives for": f"{leases.LEASE_SECONDS:g} s",
        "subscriptions with `on_subscribe`, of one principal": lease.per_principal,
        "subscriptions with `on_subscribe`, of all": lease.total,
        "between two checks of an upstream, unless it says otherwise": f"{upstream.DEFAULT_INTERVAL:g} s",
        "events of an upstream that wait for one stream": QUEUE_EVENTS,
        "streams of one type that ask its upstream by themselves at a time": checks.CATCH_UPS,
        "events are kept for": f"{limits.retention_seconds / 86_400:g} days",
    }
    assert dict(rows(REFERENCE, "Numbers")) == {what: str(number) for what, number in numbers.items()}


def test_the_how_to_pages_name_the_same_numbers() -> None:
    library, check = (re.sub(r"\s+", " ", (DOCS / page).read_text()) for page in (LIBRARY, CHECK))
    assert f"`PayloadTooLarge` ({MAX_PAYLOAD_BYTES // 1024} KiB)" in library
    assert f"`Events(hook_seconds={hooks.HOOK_SECONDS:g})`" in library
    assert f"no poll came for {leases.LEASE_SECONDS / 60:g} minutes" in library
    assert hooks.REAUTHORIZE_SECONDS == 60  # "once a minute"
    assert HubLimits().retention_seconds == 7 * 86_400  # "a week"
    assert f"{upstream.DEFAULT_INTERVAL:g} by default" in check
    assert f"longer than {hooks.HOOK_SECONDS:g} seconds" in check
    assert 2_000 <= cursors.MAX_UPSTREAM_CURSOR_LENGTH - upstream.OFFSET_LENGTH < 2_100


def test_the_error_table_has_every_code_of_both_dialects_and_no_other() -> None:
    documented = {name: (int(sep), int(sketch)) for name, sep, sketch, *_ in rows(REFERENCE, "Errors")}
    served = {_NAMES[row.sep]: (row.sep, row.sketch) for row in ERRORS.values() if row.sep in _NAMES}
    assert documented == {**served, "CallbackEndpointError": (-32027, -32015)}
    assert documented.keys() == set(_NAMES.values())


def test_the_error_table_names_what_data_may_hold() -> None:
    documented = {word for row in rows(REFERENCE, "Errors") for word in re.findall(r"`(\w+)`", row[3])}
    assert documented - {"event"} == {"field", "rule", *_MEMBERS}


def test_the_kinds_of_errors_that_the_client_tells_apart_are_in_the_table() -> None:
    documented = {row[0] for row in rows(REFERENCE, "Errors")}
    assert set(get_args(Kind)) - documented == {"InvalidRequest", "MethodNotFound"}


def test_the_reasons_of_terminated_and_json_response_are_those_of_the_code() -> None:
    page = (DOCS / REFERENCE).read_text()
    closed = EventsFraming(1, "a", Dialect.SEP, as_line).closed(CloseReason.REVOKED, None)
    assert json.loads(closed)["params"]["error"]["data"]["reason"] == "Access revoked"
    for source, reason in ((carriers, "json_response"), (inspect.getmodule(Events), "schema_changed")):
        assert source is not None
        assert f'"{reason}"' in inspect.getsource(source)
        assert f"`{reason}`" in page
    assert "`Access revoked`" in page


def test_the_methods_are_those_that_are_bound() -> None:
    documented = [re.findall(r"`(.+?)`", row[0])[0] for row in rows(REFERENCE, "Methods")]
    assert documented == [method.method for method in Events().binding().methods()]


def test_the_results_of_list_and_poll_have_the_documented_members() -> None:
    listed, polled, _ = (row[2] for row in rows(REFERENCE, "Methods"))
    source = inspect.getsource(service)
    for member in re.findall(r"\w+", " ".join(re.findall(r"`(.+?)`", listed + polled))):
        assert f'"{member}"' in source, member


def test_the_notifications_have_the_documented_params() -> None:
    framing = EventsFraming(7, "a.b", Dialect.SEP, as_line)
    position = Position("e", 1)
    frames = [
        framing.opened(Opening("c", [], position, None)),
        framing.event(Parcel(Event({"n": 1}).checked("t", "a.b", 0)), [], position),
        framing.heartbeat(position),
        framing.failed(Forbidden()),
        framing.closed(CloseReason.TERMINATED, Forbidden()),
    ]
    made = {}
    for frame in frames:
        message = json.loads(frame)
        assert message["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 7}
        made[message["method"].rpartition("/")[2]] = message["params"].keys() - {"_meta"}
    documented = {
        row[0].strip("`"): set(re.findall(r"\w+", row[1])) for row in rows(REFERENCE, "Notifications on a stream")
    }
    assert documented.pop(sdk.LIST_CHANGED.rpartition("/")[2]) == set()
    assert documented == made


def test_codes_within_frames_follow_the_dialect() -> None:
    for dialect, code in ((Dialect.SEP, -32024), (Dialect.SKETCH, -32012)):
        assert error_object(Forbidden(), dialect)["code"] == code


def test_the_library_page_has_every_option_and_every_hook() -> None:
    text = (DOCS / LIBRARY).read_text() + (DOCS / CHECK).read_text()
    documented = {row[0].strip("`") for row in rows(LIBRARY, "Emit")}
    assert documented == options(Events.emit)
    for option in options(Events.event):
        assert re.search(rf"\b{option}\b", text), option
    asked = [re.findall(r"`(\w+)\(", row[0])[0] for row in rows(LIBRARY, "Decide what a subscription sees")]
    assert set(asked) == {field.name for field in fields(hooks.Hooks)}
    for name in ("principal", "claims", "client_id", "name", "arguments", "subscription_id"):
        assert name in {field.name for field in fields(Context)}


def test_the_client_page_has_every_value_and_store() -> None:
    documented = [row[0].strip("`") for row in rows(CLIENT, "What comes out")]
    assert documented == [kind.__name__ for kind in get_args(Item)]
    page = (DOCS / CLIENT).read_text()
    for name in (
        "MemoryCursors",
        "FileCursors",
        "NoCompatibleDeliveryMode",
        "ConnectionLost",
        "connect",
        "http_client",
    ):
        assert name in client.__all__
        assert name in page
    floor = inspect.signature(client.EventsClient.__init__).parameters["floor_ms"].default
    assert f"floor_ms={floor}" in page


def test_what_is_said_of_clarion_serve_is_named_so_in_the_code() -> None:
    text = section(REFERENCE, "clarion serve")
    assert f"`{PURPOSE}`" in text
    assert f'`_meta["{TOPIC_META}"]`' in text


async def test_the_client_page_names_the_tools_and_the_address_of_the_fixture() -> None:
    documented = [re.findall(r"\w+", row[0])[0] for row in rows(CLIENT, "Something to try a client on")]
    assert documented == [tool.name for tool in await fixture.build().list_tools()]
    text = section(CLIENT, "Something to try a client on")
    assert f"http://127.0.0.1:{DEFAULT_PORT}/mcp" in text
