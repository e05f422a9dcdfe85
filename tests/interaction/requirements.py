"""The requirements manifest: what Clarion must do, where that is asked for, and what proves it.

A test names the entries that it proves by `@requirement("id", ...)`; a test elsewhere is named by its entry, as
`path::name`. `test_requirements` holds both directions: each entry has a proof or a reason for being deferred, and each
name leads somewhere. Sources: "row" is SEEDS.md's acceptance table, "SEEDS" its section 0, "issue 2" that issue's
numbered list, "MCP" the base protocol's revision 2026-07-28.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["REQUIREMENTS", "Requirement", "requirement"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Requirement:
    """One behaviour. `deferred` says why it is not there yet, and to which work it belongs."""

    id: str
    source: str
    behaviour: str
    proved_by: tuple[str, ...] = ()
    deferred: str | None = None


def requirement(*ids: str) -> Callable[[F], F]:
    """Mark a test as proof of these entries."""
    unknown = set(ids) - {entry.id for entry in REQUIREMENTS}
    if unknown:
        raise LookupError(f"no requirement {sorted(unknown)}")
    return lambda test: test


def _later(id: str, source: str, behaviour: str, why: str) -> Requirement:
    return Requirement(id, source, behaviour, deferred=why)


CONTRACT = "src/clarion/testing/contracts"
CONNECTION = "tests/unit/hub/test_connection.py"
DISPATCHER = "tests/unit/hub/test_dispatcher.py"
STORE_FAULTS = "tests/fault/test_store_faults.py"
SCHEMA = "tests/migration/test_sqlite_schema.py"
EVENTS = "tests/unit/api/test_api_events.py"
ACCESS = "tests/unit/api/test_api_access.py"
RESOURCES = "tests/unit/api/test_api_resources.py"
MATCHING = "tests/property/test_matching.py"

ROWS = [
    Requirement("row-1", "row 1", "Subscribing twice gives the same id and one row, with exactly seven keys."),
    Requirement("row-2", "row 2", "Unsubscribing ends pushes; subscribing again gives the id and counters back."),
    Requirement("row-3", "row 3", "Each of ten categories lists its own topics; an unknown one lists the ten."),
    Requirement("row-4", "row 4", "Every filter operator and alias has a match and a non-match."),
    Requirement("row-5", "row 5", "The opening is first; events have ten params; heartbeats come every 15 s."),
    Requirement("row-6", "row 6", "Of 117 for a stalled reader 100 stay, and one lag frame tells of 17.",
                (f"{CONNECTION}::test_117_events_for_a_paused_reader_are_100_survivors_and_one_lag_frame_of_17",)),
    Requirement("row-7", "row 7", "A stalled client does not delay another."),
    Requirement("row-8", "row 8", "A foreign subscription id is not found on every tool and pushes nothing."),
    Requirement("row-9", "row 9", "Withdrawn and suppressed subjects are never pushed: live, waiting or on replay."),
    Requirement("row-10", "row 10", "An event is hidden from a purpose that was not granted and sent when it was."),
    Requirement("row-11", "row 11", "N pushes are N audit rows, a counter of N and N times 0.01 cent."),
    Requirement("row-12", "row 12", "Admin endpoints need role and module, and refuse writes."),
    _later("row-13", "row 13", "One push_event run reaches every kind of consumer once.",
           "workflows, tenant webhooks and WebSockets come with later issues"),
    _later("row-14", "row 14", "The stdio proxy with its four variables.", "the proxy comes with a later issue"),
    Requirement("row-15", "row 15", "Of 150k, 50k and another account's 150k, only the first is pushed."),
    _later("row-16", "row 16", "The log resource and its coalesced notices.", "the resources wire is a later issue"),
    _later("row-17", "row 17", "The five patterns of the event-driven guide.", "the guide's tools are a later issue"),
    _later("row-18", "row 18", "The limits of ctx.emit.", "the channel wire is a later issue"),
    _later("row-19", "row 19", "The channel frame and its client's cursor.", "the channel wire is a later issue"),
    _later("row-20", "row 20", "Topic pub/sub with retained values.", "the pub/sub wire is a later issue"),
    _later("row-21", "row 21", "Mixed subscribe and {session_id} topics.", "the pub/sub wire is a later issue"),
    _later("row-22", "row 22", "The topic client's own filter.", "the pub/sub wire is a later issue"),
    _later("row-23", "row 23", "One server for topic and SEP-3415 clients.", "both wires are later issues"),
    _later("row-24", "row 24", "One emit reaches every wire once by its own rule.",
           "it speaks of wires that are still to come: pub/sub, resources, webhooks; the side channel and Events are "
           "compared in test_events_serve.py"),
]  # fmt: skip

CORE = [
    Requirement("core-matcher", "issue 2, 1", "One matcher decides topic patterns of both languages.",
                (f"{MATCHING}::test_globs_match_as_fnmatch_does_and_only_hopeless_ones_are_refused",
                 f"{MATCHING}::test_slash_patterns_match_as_the_recursive_reading_does")),
    Requirement("core-filters", "issue 2, 1", "Filters are compiled and decide as a naive interpreter does.",
                (f"{MATCHING}::test_filters_decide_as_the_naive_interpreter_does",
                 "tests/unit/test_filters.py::test_a_suffix_without_its_operand_or_base_is_part_of_the_field")),
    Requirement("core-index", "issue 2, Speed", "Matching does not scan: topics and equality clauses are indexed.",
                ("tests/unit/hub/test_index.py::test_only_equality_clauses_that_hold_are_asked",)),
    Requirement("core-ports", "issue 2, 1", "Memory and SQLite keep the same contract suites.",
                ("tests/contract/test_memory.py::TestMemory", "tests/contract/test_sqlite.py::TestSqlite")),
    Requirement("core-event", "issue 2, 1", "An event keeps every field of its envelope.",
                (f"{CONTRACT}/log.py::test_every_field_comes_back_as_it_was_given",)),
    Requirement("core-payload-limit", "issue 2, 1", "A payload has at most 240 KiB as stored.",
                (f"{EVENTS}::test_a_payload_of_exactly_the_limit_is_accepted",)),
    Requirement("core-audience", "issue 2, 1", "An audience limits an event to its principals.",
                ("tests/unit/test_gate.py::test_an_audience_admits_its_members_only_whatever_consent_says",)),
    Requirement("event-expiry", "issue 2, 1", "An expired event is not sent, on replay neither.",
                (f"{CONNECTION}::test_an_event_that_expires_while_it_waits_is_not_sent",)),
    Requirement("core-handover", "HOUSE 5", "Replay hands over to live without gap or duplicate.",
                (f"{CONNECTION}::test_events_that_come_while_a_page_is_read_come_once",)),
    Requirement("core-hints", "HOUSE 3", "A lost wake-up costs latency and no event.",
                (f"{DISPATCHER}::test_a_lost_wake_up_costs_no_more_than_the_poll_interval",)),
]  # fmt: skip

LOG = [
    Requirement("log-durable", "issue 2, 2", "What was acknowledged survives a kill, once and in its place.",
                (f"{STORE_FAULTS}::test_every_acknowledged_event_survives_a_kill_once_and_in_its_place",
                 "tests/fault/test_kill.py::test_what_was_acknowledged_survives_kills_and_streams_resume_without_a_gap")),
    Requirement("log-order", "HOUSE 2", "seq is dense per tenant and nothing appears behind a position that was read.",
                (f"{CONTRACT}/log.py::test_seq_is_dense_per_tenant_and_answers_stand_in_order",
                 f"{CONTRACT}/log.py::test_nothing_appears_behind_a_position_that_was_read")),
    Requirement("log-group-commit", "issue 2, 2", "Concurrent emits share a commit and get a place each.",
                (f"{CONTRACT}/log.py::test_concurrent_appends_get_each_a_place_of_their_own",
                 "tests/unit/stores/test_sqlite_parts.py::"
                 "test_results_are_published_in_commit_order_before_callers_are_answered")),
    Requirement("log-idempotent", "issue 2, 2", "The same event id is one event; other content under it is a conflict.",
                (f"{EVENTS}::test_a_receipt_names_the_position_and_a_repeated_event_is_one_event",
                 "tests/property/test_idempotent_append.py::test_appends_to_sqlite_are_idempotent_and_dense",
                 f"{CONTRACT}/log.py::test_other_content_under_a_taken_id_is_a_conflict_and_stores_nothing")),
    Requirement("log-retention-age", "issue 2, 2", "Retention by age lets go of the oldest.",
                (f"{CONTRACT}/log.py::test_trim_by_age_moves_the_floor_and_never_the_head",)),
    Requirement("log-retention-size", "issue 2, 2", "Retention by size lets go of the oldest and shrinks the file.",
                (f"{STORE_FAULTS}::test_retention_by_size_shrinks_the_file",)),
    Requirement("log-truncated", "issue 2, 2", "A reader behind retention is told that it was truncated.",
                (f"{CONNECTION}::test_retention_that_overtakes_a_replay_is_told_before_what_is_left",)),
    Requirement("log-synchronous", "issue 2, 2", "SQLite writes with WAL and synchronous=FULL unless set otherwise."),
    Requirement("log-migrations", "issue 2, 2", "Opening an older database upgrades it.",
                (f"{SCHEMA}::test_opening_an_older_file_upgrades_it",
                 f"{SCHEMA}::test_an_opened_store_has_the_schema_of_all_migrations_applied")),
    Requirement("log-newer-refused", "issue 2, 2", "A newer database is refused and left alone.",
                (f"{SCHEMA}::test_a_newer_database_is_refused_and_left_alone",)),
    Requirement("restart", "issue 2, 2", "Subscriptions, counters and the log survive a restart."),
]  # fmt: skip

TOOLS = [
    Requirement("tools-on-mcp", "issue 2, 3", "The four tools answer on /mcp through the official SDK."),
    Requirement("tools-both-eras", "issue 2, 3", "2026-07-28 and initialize clients use the same endpoint."),
    Requirement("tools-described", "issue 2, 3", "Tools have titles, descriptions and all four annotations."),
    Requirement("tools-schemas", "issue 2, 3", "Structured results fit the output schemas."),
    Requirement("tools-concurrent", "SEEDS", "The same subscribe at once from many callers makes one row."),
    Requirement("subscribe-identity", "SEEDS", "Label and purpose are outside of a subscription's identity."),
    Requirement("catalog-built-in", "issue 2, 9", "Built-in topics have descriptions, schemas and filter examples.",
                ("tests/unit/test_catalog.py::test_filter_examples_are_valid_and_ask_for_declared_properties",)),
]  # fmt: skip

SIDE_CHANNEL = [
    Requirement("frame-shape", "SEEDS", "A frame is a JSON-RPC notification, event: its method with dots, id: its id."),
    Requirement("frame-open", "SEEDS", "subscription.open tells client, subscriptions, cursor and truncated."),
    Requirement("frame-event", "SEEDS", "event has the ten params in order, event_id an integer."),
    Requirement("frame-lag", "SEEDS", "subscription.lag tells count, capacity and where to resume, before survivors.",
                (f"{CONNECTION}::test_each_affected_subscription_gets_one_lag_frame_with_its_own_count",
                 f"{CONNECTION}::test_every_flurry_has_its_own_lag_frame_and_its_own_way_back")),
    Requirement("frame-heartbeat", "SEEDS", "heartbeat's cursor never passes an undelivered match.",
                (f"{CONNECTION}::test_no_heartbeat_passes_what_waits_in_the_ring",)),
    Requirement("frame-per-subscription", "SEEDS", "One frame per matching subscription; only the last has the id.",
                (f"{CONNECTION}::test_frames_of_one_event_leave_in_one_write_and_only_the_last_has_an_id",)),
    Requirement("resume", "issue 2, 4", "Last-Event-ID and ?cursor= replay what is later; neither starts at the head."),
    Requirement("side-errors", "SEEDS", "401 for a bad token, 400 without client_id, 422 for what is no cursor."),
    Requirement("two-connections", "SEEDS", "Two connections of one client have a buffer each."),
    Requirement("live-subscribe", "SEEDS", "Subscribing takes effect on a stream that is open.",
                (f"{CONNECTION}::test_subscribing_during_replay_takes_effect_from_now",)),
    Requirement("ring-shared", "issue 2, 4", "Rings share an event's bytes and have one budget per process.",
                ("tests/unit/hub/test_ring.py::test_an_event_counts_once_however_many_rings_hold_it",)),
    Requirement("plain-client", "SEEDS", "An ordinary HTTP client can read the stream."),
    Requirement("wire-resume", "HOUSE 5", "On every wire what was missed comes once, in order, before what is live."),
]  # fmt: skip

ACCESS_RULES = [
    Requirement("tenant-isolation", "issue 2, 5", "Tenant and principal come from the key alone; nothing crosses.",
                (f"{CONTRACT}/log.py::test_read_and_bounds_see_one_tenant_only",)),
    Requirement("principal-isolation", "issue 2, 5", "Another principal sees none of one's subscriptions."),
    Requirement("keys-stored-hashed", "issue 2, 5", "A key is shown once and stored as a hash only.",
                (f"{ACCESS}::test_a_created_key_works_is_shown_once_and_ends_when_revoked",)),
    Requirement("keys-rotation", "issue 2, 5", "Subscriptions survive the rotation of their principal's key."),
    Requirement("keys-revoked-streams", "issue 2, 5", "Revoking a key ends its streams and no others."),
    Requirement("roles", "issue 2, 5", "Publishers emit, subscribers subscribe, admins do both.",
                (f"{ACCESS}::test_a_role_may_do_its_own_and_is_told_what_it_lacks",
                 f"{ACCESS}::test_a_publisher_cannot_open_a_stream")),
    Requirement("limit-subscriptions", "issue 2, 5", "Subscriptions per tenant are limited with a clear error.",
                (f"{CONTRACT}/subscriptions.py::test_the_limit_holds_for_concurrent_calls",)),
    Requirement("limit-connections", "issue 2, 5", "Streams per tenant are limited with a clear error."),
    Requirement("browser-origins", "issue 2, 5", "Browsers are refused but from configured origins.",
                (f"{ACCESS}::test_a_browser_may_come_from_configured_origins_only",
                 f"{ACCESS}::test_the_server_answers_to_its_own_names_only")),
    Requirement("local-endpoint", "issue 2, user", "A data directory has one owner, which leaves a 0600 endpoint.",
                ("tests/e2e/test_cli.py::test_a_second_server_is_refused_and_told_where_the_first_is",)),
]  # fmt: skip

CONSENT = [
    Requirement("consent-gate", "issue 2, 6", "The gate is asked in the hub and when a frame is about to be sent."),
    Requirement("consent-regates-waiting", "issue 2, 6", "Nothing that waits is sent once a withdrawal was answered.",
                (f"{CONNECTION}::test_nothing_that_waits_is_sent_once_a_withdrawal_was_recorded",
                 f"{CONNECTION}::test_a_withdrawal_during_replay_holds_back_what_was_read_already")),
    Requirement("consent-purpose", "SEEDS", "A purpose passes only what was granted for it."),
    Requirement("consent-ledger", "issue 2, 6", "Lines are appended to a ledger and the newest decides.",
                (f"{RESOURCES}::test_consent_is_a_ledger_and_its_newest_line_decides",
                 f"{SCHEMA}::test_the_consent_ledger_can_only_grow")),
    Requirement("consent-subjects", "SEEDS", "All of several data subjects must pass; an event with none passes.",
                ("tests/unit/test_gate.py::test_all_of_several_subjects_must_pass",
                 "tests/unit/test_gate.py::test_an_event_without_subjects_passes_and_needs_no_learning")),
    Requirement("consent-fails-closed", "SEEDS", "A ledger that cannot be read lets nothing through.",
                ("tests/unit/test_gate.py::test_a_ledger_that_cannot_be_read_leaves_the_gate_closed",)),
]  # fmt: skip

AUDIT = [
    Requirement("audit-rows", "issue 2, 7", "mcp_push_deliveries has a row per delivery, over packed rows.",
                (f"{SCHEMA}::test_the_views_unpack_a_row_for_each_delivery_and_each_loss",)),
    Requirement("audit-losses", "HOUSE 8", "Drops and refusals leave rows and counters too.",
                (f"{CONNECTION}::test_what_was_dropped_and_delivered_is_in_the_audit",
                 f"{CONTRACT}/audit.py::test_drops_and_refusals_have_rows_and_counters_of_their_own")),
    Requirement("audit-retention", "issue 2, 7", "Rows have a retention; counters stay.",
                (f"{CONTRACT}/audit.py::test_trim_takes_old_rows_and_leaves_counters",)),
    Requirement("audit-clean-stop", "issue 2, 7", "Nothing is lost on a clean stop.",
                (f"{CONTRACT}/durable.py::test_a_clean_close_writes_all_of_the_audit",)),
    Requirement("admin-read-only", "issue 2, 7", "Summary, subscriptions and deliveries are read-only."),
    Requirement("admin-subscriptions", "issue 2, 7", "Subscriptions are listed in pages, deleted ones on request."),
    Requirement("admin-limit", "issue 2, 7", "A page size out of range is refused."),
]  # fmt: skip

WAYS_IN = [
    Requirement("events-single", "issue 2, 8", "POST /v1/events takes one event and answers its position.",
                (f"{EVENTS}::test_a_receipt_names_the_position_and_a_repeated_event_is_one_event",)),
    Requirement("events-batch", "issue 2, 8", "An array or NDJSON has a result per item; the good ones are stored.",
                (f"{EVENTS}::test_a_batch_answers_each_item_in_order_and_stores_the_good_ones",
                 f"{EVENTS}::test_ndjson_errors_name_their_line")),
    Requirement("inbound-github", "issue 2, 8", "GitHub's signed deliveries become events under github.*.",
                ("tests/unit/sources/test_inbound_github.py::test_the_topic_is_event_and_action",)),
    Requirement("inbound-standard-webhooks", "issue 2, 8", "Standard Webhooks are verified and become events.",
                ("tests/unit/sources/test_inbound_standard_webhooks.py::"
                 "test_a_signed_delivery_becomes_an_event_under_the_sources_name",)),
    Requirement("inbound-hmac", "issue 2, 8", "Any HMAC header can be configured.",
                ("tests/unit/sources/test_inbound_hmac.py::test_digest_encoding_and_prefix_are_as_configured",)),
    Requirement("inbound-verified-first", "issue 2, 8", "The raw body is verified before it is parsed.",
                ("tests/unit/sources/test_inbound_github.py::test_nothing_is_parsed_before_the_signature_is_verified",)),
    Requirement("inbound-template", "issue 2, 8", "A template maps payload fields to aggregate, actor and subjects.",
                ("tests/unit/sources/test_inbound_template.py::test_placeholders_are_replaced",)),
    Requirement("inbound-tenant", "issue 2, 5", "Inbound takes its tenant from the source's configuration."),
    Requirement("inbound-resume", "issue 2, done", "A verified webhook is delivered once to who resumes."),
    Requirement("real-input", "issue 2, Real input", "Each of 329 payloads is one event for whom it matches."),
    Requirement("topics-declared", "issue 2, 9", "Tenants declare topics, whose schema is enforced on emit.",
                (f"{RESOURCES}::test_a_declared_topic_is_listed_to_its_tenant_only",
                 f"{EVENTS}::test_a_declared_schema_is_enforced_on_emit")),
    Requirement("topics-custom", "issue 2, 9", "What nothing declares is custom.",
                ("tests/unit/test_catalog.py::test_what_nothing_declares_is_custom",)),
]  # fmt: skip

OPERATIONS = [
    Requirement("health", "issue 2, 10", "/healthz, /readyz and /metrics answer without a key.",
                (f"{RESOURCES}::test_operations_need_no_key_and_tell_no_secrets",)),
    Requirement("structured-logs", "issue 2, 10", "One line per delivery batch, no payloads, no keys."),
    Requirement("demo", "issue 2, user", "The demo prints each pushed notification of real input.",
                ("tests/e2e/test_demo.py::test_the_demo_pushes_what_was_subscribed_and_nothing_else",)),
    Requirement("cli", "issue 2, user", "The commands emit, listen, make keys and say mistakes in one line.",
                ("tests/e2e/test_cli.py::test_an_event_that_is_emitted_is_listened_to_in_order",
                 "tests/e2e/test_cli.py::test_a_mistake_is_one_line_that_says_what_to_do")),
    Requirement("graceful-stop", "issue 2, 10", "A stop ends streams as complete answers and flushes."),
]  # fmt: skip

BAD_INPUT = [
    Requirement("bad-key", "issue 2, Bad input", "A malformed, unknown or revoked key is 401 without hints.",
                (f"{ACCESS}::test_malformed_unknown_and_revoked_keys_are_answered_alike",)),
    Requirement("bad-role", "issue 2, Bad input", "A missing role is 403.",
                (f"{ACCESS}::test_a_role_may_do_its_own_and_is_told_what_it_lacks",)),
    Requirement("bad-json", "issue 2, Bad input", "Malformed JSON is 400 with the position.",
                (f"{EVENTS}::test_malformed_json_is_400_with_the_position",)),
    Requirement("bad-size", "issue 2, Bad input", "A payload or body that is too large is 413.",
                (f"{EVENTS}::test_too_many_events_or_bytes_in_one_request_are_413",
                 f"{EVENTS}::test_a_body_that_does_not_say_its_size_is_bounded_as_well")),
    Requirement("bad-field", "issue 2, Bad input", "An invalid topic, event or schema is 422, naming field and rule.",
                (f"{EVENTS}::test_an_invalid_event_is_refused_by_name_and_nothing_is_stored",
                 f"{RESOURCES}::test_a_declaration_that_breaks_a_rule_is_422_by_name")),
    Requirement("bad-comparison", "issue 2, Bad input", "A comparison without a number is an error unless declared.",
                ("tests/unit/test_filters.py::test_a_comparison_without_a_number_is_refused_with_the_clause_and_what_to_give",
                 "tests/unit/test_filters.py::test_a_declared_field_that_ends_like_a_comparison_is_equality")),
    Requirement("bad-tool-argument", "issue 2, Bad input", "A bad tool argument is an error a model can correct from."),
    Requirement("bad-signature", "issue 2, Bad input", "A bad signature is 401 and stores nothing.",
                (f"{RESOURCES}::test_only_a_webhook_with_a_valid_signature_is_stored",)),
    Requirement("store-unavailable", "issue 2, Bad input", "A locked database is 503 with Retry-After, then recovers.",
                (f"{STORE_FAULTS}::test_a_locked_database_refuses_within_the_timeout_and_recovers",)),
    Requirement("disk-full", "issue 2, Bad input", "A full disk stores nothing by halves and is recovered from.",
                (f"{STORE_FAULTS}::test_a_full_disk_refuses_stores_nothing_by_halves_and_recovers",)),
    Requirement("clock-jumps", "issue 2, Bad input", "A wall clock that jumps harms no stream.",
                (f"{DISPATCHER}::test_the_wall_clock_may_jump",)),
    Requirement("client-vanishes", "issue 2, Bad input", "A client that goes away leaves nothing behind.",
                (f"{CONNECTION}::test_a_client_that_goes_away_during_replay_leaves_nothing_behind",)),
]  # fmt: skip

PROTOCOL = [
    Requirement("mcp-headers-agree", "MCP", "Mcp-* headers that disagree with the body are 400 and -32020."),
    Requirement("mcp-unknown-method", "MCP", "An unknown method is 404 and -32601."),
    Requirement("mcp-result-type", "MCP", "Results carry resultType complete; there is no session."),
    Requirement("mcp-discover", "MCP", "server/discover advertises versions and capabilities."),
    Requirement("mcp-legacy", "MCP 2025-11-25", "initialize clients are served on the same endpoint."),
]  # fmt: skip

REQUIREMENTS: tuple[Requirement, ...] = (
    *ROWS,
    *CORE,
    *LOG,
    *TOOLS,
    *SIDE_CHANNEL,
    *ACCESS_RULES,
    *CONSENT,
    *AUDIT,
    *WAYS_IN,
    *OPERATIONS,
    *BAD_INPUT,
    *PROTOCOL,
)
"""Every entry; ids are unique."""
