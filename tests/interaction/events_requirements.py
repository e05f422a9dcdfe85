"""The manifest's part for the Events extension: what SEP-3415 asks for, and what Clarion asks of itself beside it.

Rows stand in the order of the SEP's sections, then webhook mode, then ours. Tests name them by `@requirement("id")`
of this module, which knows the rest of the manifest too. A level says how the SEP puts it: STATED is a rule that it
gives without a keyword, taken as a MUST; OURS is not in the SEP. A MAY has a row only where Clarion makes use of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from interaction.requirements import REQUIREMENTS, Requirement

__all__ = ["EVENTS_REQUIREMENTS", "MANIFEST", "EventsRequirement", "Level", "Side", "requirement"]

F = TypeVar("F", bound=Callable[..., Any])


class Level(StrEnum):
    """How strongly a behaviour is asked for."""

    MUST = "MUST"
    MUST_NOT = "MUST NOT"
    SHOULD = "SHOULD"
    SHOULD_NOT = "SHOULD NOT"
    MAY = "MAY"
    STATED = "STATED"
    OURS = "OURS"


class Side(StrEnum):
    """Who has to keep it."""

    SERVER = "server"
    CLIENT = "client"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsRequirement(Requirement):
    """One behaviour of the Events wire; `source` names the SEP's section, or the list of ours that it is from."""

    level: Level
    side: Side


MUST, MUST_NOT, SHOULD, SHOULD_NOT, MAY, STATED, OURS = Level
SERVER, CLIENT, BOTH = Side
WEBHOOK = "deferred to the webhook wire"


def _section(
    name: str, *rows: tuple[str, Level, Side, str] | tuple[str, Level, Side, str, str]
) -> tuple[EventsRequirement, ...]:
    """Rows of one section: id, level, side, behaviour and, where there is no test, why not."""
    return tuple(
        EventsRequirement(id, name, behaviour, deferred=why[0] if why else None, level=level, side=side)
        for id, level, side, behaviour, *why in rows
    )


NEGOTIATION = _section(
    "SEP-3415, Capability Negotiation",
    ("sep.caps.discover", STATED, SERVER, "server/discover has the extension's settings under its identifier."),
    ("sep.caps.list-changed", STATED, SERVER, "listChanged is true exactly where list changes can be heard of."),
    ("sep.caps.declares", MAY, CLIENT, "EventsClient declares the extension on its 2026-07-28 requests."),
    ("sep.caps.silent", MUST_NOT, CLIENT, "A server that advertises no Events is sent no events/* request."),
    ("sep.caps.absent", STATED, SERVER, "Without the extension every events/* method is -32601."),
    ("sep.caps.core", STATED, BOTH, "Tools and everything else work for a peer that knows nothing of Events."),
    ("sep.result-type", STATED, SERVER, "Each result of the extension says resultType complete."),
)

LISTING = _section(
    "SEP-3415, Listing Available Events",
    ("sep.list.fields", STATED, SERVER, "A type has name, description, delivery and two schemas; _meta if it has any."),
    ("sep.list.delivery", STATED, SERVER, "delivery names the modes that work for the type, at least one."),
    ("sep.list.pages", STATED, SERVER, "nextCursor leads through every type once and is absent on the last page."),
    ("sep.list.bad-cursor", STATED, SERVER, "A page cursor that was never given is InvalidParams, as for tools."),
    ("sep.list.no-mode", STATED, CLIENT, "A type with no usable mode is refused by a typed error before any request."),
    ("sep.evolve.additive", SHOULD, SERVER, "A change that only adds is recognised as such, for input and payload."),
    ("sep.evolve.optional", MAY, SERVER, "A new optional field takes effect at once for listing and emitting."),
    ("sep.evolve.fields", SHOULD_NOT, SERVER, "A field removed, renamed or retyped is recognised as breaking."),
    ("sep.evolve.enums", SHOULD_NOT, SERVER, "An enum with fewer values is recognised as breaking."),
    ("sep.evolve.tightened", SHOULD_NOT, SERVER, "An input schema that refuses what it took is known as breaking."),
    ("sep.evolve.beside", SHOULD, SERVER, "A type and its successor are served side by side until one is removed."),
)

DYNAMIC = _section(
    "SEP-3415, Dynamic event types",
    ("sep.changed.sent", STATED, SERVER, "A type added, removed or described anew sends list_changed."),
    ("sep.changed.opt-in", STATED, SERVER, "list_changed comes on a listen stream that asked for it, nowhere else."),
    ("sep.changed.echo", STATED, SERVER, "The acknowledgement echoes eventsListChanged if it is honoured, else not."),
    ("sep.changed.relist", SHOULD, CLIENT, "After list_changed the client lists again, and later calls use that."),
)

REMOVAL = _section(
    "SEP-3415, Event type removal and breaking changes",
    ("sep.removed.ends", SHOULD, SERVER, "Removing a type, or changing it incompatibly, ends its streams at once."),
    ("sep.removed.not-found", STATED, SERVER, "A removed type ends with NotFound, kind event, on streams and polls."),
    ("sep.removed.changed", STATED, SERVER, "One changed in place ends with Unsupported: the schema, schema_changed."),
    ("sep.removed.additive", MUST_NOT, SERVER, "A change that only adds ends no subscription."),
    (
        "sep.removed.client",
        STATED,
        CLIENT,
        "After either the client lists, then resubscribes if the type is there.",
        "the application decides: termination is a value, and the list is read anew for the next subscription",
    ),
)

OCCURRENCES = _section(
    "SEP-3415, Event Occurrences",
    ("sep.event.fields", STATED, SERVER, "An occurrence has eventId, name, ISO 8601 timestamp and an object as data."),
    ("sep.event.schema", STATED, SERVER, "data that breaks the payload schema is refused when it is emitted."),
    ("sep.event.meta", STATED, SERVER, "_meta is beside data and the payload schema does not concern it."),
    ("sep.event.upstream-id", SHOULD, SERVER, "An id that the author gives is the eventId on every mode."),
    ("sep.event.own-id", STATED, SERVER, "An id is made up only when none is given, and is then one for all modes."),
)

POLL = _section(
    "SEP-3415, Poll-Based Delivery",
    ("sep.poll.bootstrap", STATED, SERVER, "A null cursor gives no events and the current position."),
    ("sep.poll.next", STATED, SERVER, "From a cursor come the events after it, in order, none of them twice."),
    ("sep.poll.shape", STATED, SERVER, "events, cursor, truncated, hasMore and nextPollMs are in every result."),
    ("sep.poll.no-event-cursor", STATED, SERVER, "A polled occurrence has no cursor of its own."),
    ("sep.poll.max-events", STATED, SERVER, "maxEvents caps a batch; its cursor leads to the rest, with hasMore."),
    ("sep.poll.default-cap", STATED, SERVER, "Without maxEvents, or with a vast one, the server's own cap holds."),
    ("sep.poll.stateless", STATED, SERVER, "A cursor is served by a process that never saw its subscription."),
    ("sep.poll.errors", STATED, SERVER, "A poll that cannot be is one JSON-RPC error, never a partial result."),
    ("sep.poll.drain", SHOULD, CLIENT, "While hasMore is true the client polls on at once."),
    ("sep.poll.interval", SHOULD, CLIENT, "Else it waits for nextPollMs."),
    ("sep.poll.floor", SHOULD, CLIENT, "nextPollMs below a settable floor, 1000 ms unless set, is raised to it."),
)

STREAM = _section(
    "SEP-3415, Push-Based Delivery",
    ("sep.stream.refused", STATED, SERVER, "An invalid subscription is a plain error at once; no stream opens."),
    ("sep.stream.active-first", STATED, SERVER, "active, with cursor and truncated, comes before anything else."),
    ("sep.stream.subscription-id", STATED, SERVER, "Every frame has the request's id as it came, number or string."),
    ("sep.stream.own-frames", STATED, SERVER, "A stream carries notifications of its own subscription only."),
    ("sep.stream.error-open", STATED, SERVER, "events/error leaves the stream open, and delivery goes on."),
    ("sep.stream.gap", STATED, SERVER, "A gap under way is a new active, truncated, with a cursor; delivery goes on."),
    ("sep.stream.sse-data", STATED, SERVER, "On HTTP each message is one SSE data frame."),
    ("sep.stream.stdio-lines", STATED, SERVER, "On stdio each message is one line, also of streams side by side."),
    ("sep.stream.event-cursor", STATED, SERVER, "An event's cursor is the place after it: resuming there omits it."),
)

LIFECYCLE = _section(
    "SEP-3415, Lifecycle",
    ("sep.end.result", STATED, SERVER, "A stream that the server ends closes with a result: resultType and id only."),
    ("sep.end.client", MUST_NOT, CLIENT, "The client resumes alike whether the final result came or not."),
    ("sep.beat.sent", MUST, SERVER, "A quiet stream has heartbeats."),
    ("sep.beat.period", SHOULD, SERVER, "They are at most 30 s apart."),
    ("sep.beat.cursor", STATED, SERVER, "A heartbeat's cursor passes what did not match and nothing undelivered."),
    ("sep.beat.data-frame", STATED, SERVER, "A heartbeat is a notification, not an SSE comment."),
    ("sep.beat.no-timeout", SHOULD_NOT, CLIENT, "The client's request timeout does not end a stream."),
    ("sep.beat.dead", SHOULD, CLIENT, "Silence of over two heartbeat periods is death: it resumes by its cursor."),
    ("sep.cancel.http", MUST, SERVER, "Closing the connection stops delivery and frees what the stream held."),
    ("sep.cancel.stdio", MUST, SERVER, "notifications/cancelled stops delivery and frees what the stream held."),
    ("sep.cancel.silent", SHOULD_NOT, SERVER, "A cancelled stdio stream is not answered; the connection lives on."),
    ("sep.many.client", MAY, CLIENT, "Several subscriptions are a stream each; ending one leaves the others."),
    ("sep.many.exempt", MUST, SERVER, "No cap on concurrent requests counts streams; calls beside them answer."),
    ("sep.reconnect", STATED, CLIENT, "After a lost connection the client opens the same stream at its last cursor."),
)

CURSORS = _section(
    "SEP-3415, Cursor Lifecycle",
    ("sep.cursor.no-replay", MAY, SERVER, "A type without replay has cursor null in every result and frame."),
    ("sep.cursor.client-null", MUST_NOT, CLIENT, "null is not stored as a position; the next start is from now."),
    ("sep.cursor.always", SHOULD, SERVER, "A type that gives cursors gives one in each result and frame."),
    ("sep.cursor.never", SHOULD, SERVER, "A type that gives null never gives a cursor, whatever it was sent."),
    ("sep.cursor.now", STATED, SERVER, "null replays nothing, in either mode, however much the log holds."),
    ("sep.cursor.absent", MUST, BOTH, "A cursor that is left out means the same as null."),
    ("sep.cursor.missing-ok", MUST_NOT, CLIENT, "Results and frames without a cursor member fail nothing."),
    ("sep.cursor.quiet", STATED, BOTH, "Empty polls and heartbeats move the cursor that the client keeps."),
    ("sep.age.later", STATED, SERVER, "Replay starts at the later of the cursor and now less maxAgeMs."),
    ("sep.age.truncated", SHOULD, SERVER, "If that skips events the first answer is truncated, else it is not."),
    ("sep.age.seek", SHOULD, SERVER, "The log seeks by time and does not read what maxAgeMs leaves out."),
    ("sep.age.discard", MAY, SERVER, "What a check function returns beyond maxAgeMs is left out by its timestamp."),
    ("sep.age.null", STATED, SERVER, "maxAgeMs means nothing beside a null cursor or for a type without replay."),
    ("sep.age.ceiling", MUST, SERVER, "Retention and every replay limit of the server's own are told as truncated."),
    ("sep.gap.recovers", STATED, SERVER, "truncated has a fresh cursor with it, which works, and is never an error."),
    ("sep.gap.no-reconnect", STATED, CLIENT, "The client goes on where it is: no new stream, no subscribing anew."),
    ("sep.gap.surfaced", SHOULD, CLIENT, "The application gets a gap as a value in its place among the events."),
    ("sep.gap.persisted", SHOULD, CLIENT, "The fresh cursor replaces the stored one."),
    ("sep.gap.no-replay", SHOULD, SERVER, "A type without replay never says truncated."),
    ("sep.gap.ignored", SHOULD, CLIENT, "truncated beside a null cursor is no gap to the client."),
)

TERMINATION = _section(
    "SEP-3415, Subscription Termination",
    ("sep.term.push", STATED, SERVER, "A stream ended for cause says terminated, then has its final result."),
    ("sep.term.poll", STATED, SERVER, "The next poll of an ended subscription is an error with the same cause."),
    ("sep.term.shape", STATED, SERVER, "terminated and error carry code, message and typed data alike."),
    ("sep.term.client", SHOULD, CLIENT, "The client forgets the subscription and tells the application why."),
)

ORDER = _section(
    "SEP-3415, Ordering and Delivery Guarantees",
    ("sep.order.subscription", STATED, SERVER, "Within a subscription events come in the log's order in both modes."),
    ("sep.order.at-least-once", STATED, BOTH, "Who resumes at its last cursor misses nothing, restarts included."),
    ("sep.order.dedupe", STATED, CLIENT, "An eventId that came already is not given to the application again."),
    ("sep.order.client-owned", STATED, CLIENT, "A new process goes on from the cursors that a given store holds."),
)

ERRORS = _section(
    "SEP-3415, Error Handling",
    ("sep.error.invalid", STATED, SERVER, "Arguments that break the input schema are -32602, naming the path."),
    ("sep.error.not-found", STATED, SERVER, "An unknown event type is NotFound with kind event."),
    ("sep.error.forbidden", STATED, SERVER, "A principal that may not have event and arguments gets Forbidden."),
    ("sep.error.exhausted", STATED, SERVER, "A limit that was reached is ResourceExhausted with limit and max."),
    ("sep.error.unsupported", STATED, SERVER, "A mode not offered is Unsupported, feature deliveryMode, its value."),
    ("sep.error.client", STATED, CLIENT, "The client tells the cases apart by code and data, in both numberings."),
)

SECURITY = _section(
    "SEP-3415, Security Implications",
    ("sep.payload.untrusted", MUST, CLIENT, "The client acts on no payload; clarion listen escapes what it prints."),
    ("sep.payload.sanitize", SHOULD, CLIENT, "Payloads are made safe before a model reads them.",
     "what is put before a model is the application's; the client hands over plain values and the docs say so"),
    ("sep.payload.minimal", SHOULD, SERVER, "A transform can thin data per subscription; vast data is refused."),
    ("sep.payload.logs", SHOULD, SERVER, "No log line holds event data."),
    ("sep.auth.subscribe", MUST, SERVER, "authorize is asked with principal, event, arguments before each start."),
    ("sep.auth.arguments", MUST, SERVER, "The same principal may have one set of arguments and not another."),
    ("sep.auth.again", SHOULD, SERVER, "authorize is asked again at intervals and before delivery."),
    ("sep.auth.revoked", STATED, SERVER, "Lost access is terminated with Forbidden, and no event after it."),
    ("sep.auth.action", STATED, CLIENT, "Receiving calls no tool: the client sends events/* and nothing else."),
    ("sep.policy", SHOULD, CLIENT, "Events are values that wait until the application takes the next one."),
    ("sep.kill-switch", STATED, CLIENT, "Leaving a subscription stops its polls or closes its stream at once."),
)  # fmt: skip

GUIDANCE = _section(
    "SEP-3415, Appendix A",
    ("sep.sdk.modes", SHOULD, SERVER, "Modes follow from source and transport; poll is on unless the author opts out."),
    ("sep.sdk.buffer", SHOULD, SERVER, "Emitted events are kept within bounds of age and size, and polls read them."),
    ("sep.sdk.hooks-alike", STATED, SERVER, "match and transform decide and shape alike for poll and stream."),
    ("sep.sdk.targeted", STATED, SERVER, "A targeted emit reaches that subscription alone, by poll and by stream."),
    ("sep.sdk.limit-first", SHOULD, SERVER, "A subscription over the limit never calls on_subscribe."),
    ("sep.sdk.stream-hooks", STATED, SERVER, "on_subscribe runs before active; on_unsubscribe when the stream ends."),
    ("sep.sdk.lease", STATED, SERVER, "Polls of one key share a lease: set up once, renewed by polls, then undone."),
    ("sep.sdk.lease-window", SHOULD, SERVER, "The lease outlasts several nextPollMs unless the author sets it."),
    ("sep.sdk.upstream-cursor", SHOULD, SERVER, "A check's cursor is the upstream's own and outlives a restart."),
    ("sep.sdk.mode-choice", STATED, CLIENT, "Push comes before poll where both work; the caller may force either."),
    ("sep.sdk.http2", SHOULD, CLIENT, "Many streams share one HTTP/2 connection.",
     "the HTTP client of the official SDK decides that; over HTTP/1.1 the pool has no bound"),
)  # fmt: skip


def _webhook(section: str, *rows: tuple[str, Level, Side, str]) -> tuple[EventsRequirement, ...]:
    return _section(f"SEP-3415, {section}", *((*row, WEBHOOK) for row in rows))


WEBHOOKS = (
    *_webhook(
        "Webhook-Based Delivery",
        ("sep.hook.secret", MUST, SERVER, "A secret that is not whsec_ and 24 to 64 bytes in base64 is refused."),
        ("sep.hook.client-secret", SHOULD, CLIENT, "The client makes a random secret and invites no chosen one."),
        ("sep.hook.refresh", MUST, CLIENT, "The client subscribes again before what was granted runs out."),
        ("sep.hook.upsert", STATED, SERVER, "The same key refreshes one subscription, whose id stays the same."),
        ("sep.hook.retain", MUST, SERVER, "What was granted for long, or without end, survives restarts."),
        ("sep.hook.ttl", SHOULD, SERVER, "The grant is no longer than what was suggested, except up to a floor."),
        ("sep.hook.no-expiry", MUST_NOT, SERVER, "An endless grant is given only to who asked for one."),
        ("sep.hook.no-expiry-drop", SHOULD, SERVER, "An endless subscription that is dropped is told so."),
        ("sep.hook.no-expiry-client", SHOULD, CLIENT, "Even with an endless grant the client asks now and then."),
        ("sep.hook.no-unsubscribe", MUST_NOT, SERVER, "Cleaning up does not count on being unsubscribed from."),
        ("sep.hook.gap", STATED, SERVER, "A gap between refreshes is a signed gap envelope with a fresh cursor."),
        ("sep.hook.terminated", SHOULD, SERVER, "A type or access that goes away is a signed terminated envelope."),
    ),
    *_webhook(
        "Subscription identity",
        ("sep.hook.principal", MUST, SERVER, "Callers without a principal of their own are Forbidden."),
        ("sep.hook.dual-sign", SHOULD, SERVER, "After a secret changes both sign for a while."),
    ),
    *_webhook(
        "Webhook event delivery",
        ("sep.hook.verify", MUST, CLIENT, "A receiver checks the signature before it reads the body."),
        ("sep.hook.fresh", SHOULD, CLIENT, "A receiver refuses what is over 5 minutes old and drops repeats."),
        ("sep.hook.ack", SHOULD_NOT, CLIENT, "A receiver says 2xx only when the event is kept or handed on."),
        ("sep.hook.early", SHOULD, CLIENT, "A delivery that cannot be placed yet is answered for a retry."),
        ("sep.hook.pass-on", MUST, CLIENT, "Cursors, ids and control envelopes reach the consuming client."),
        ("sep.hook.retries", SHOULD, SERVER, "Retries have a bound in number and in time."),
        ("sep.hook.retry-fresh", MUST, SERVER, "Each attempt has a timestamp and signature of its own."),
        ("sep.hook.final", MUST, SERVER, "410 and 413 end that delivery and not the subscription."),
        ("sep.hook.last-error", MUST_NOT, SERVER, "lastError is a category and holds nothing of an answer."),
    ),
    *_webhook(
        "Webhook security",
        ("sep.hook.ssrf", MUST, SERVER, "The address is checked at every attempt, and that very one is used."),
        ("sep.hook.routable", SHOULD, SERVER, "Addresses that are not globally routable are refused by default."),
        ("sep.hook.redirects", MUST_NOT, SERVER, "No redirect is followed."),
        ("sep.hook.unverified", MUST_NOT, SERVER, "No event goes to an endpoint that has not agreed to it."),
        ("sep.hook.verified-kept", MUST, SERVER, "What was verified is kept as long as an endless grant."),
        ("sep.hook.verify-path", MUST, SERVER, "Verifying is as guarded as delivering."),
        ("sep.hook.verify-rate", SHOULD, SERVER, "Verifying is limited per destination."),
        ("sep.hook.https", MUST, SERVER, "A callback that is not https is InvalidParams."),
        ("sep.hook.headers", MUST, SERVER, "A delivery has the three webhook headers and the subscription's id."),
        ("sep.hook.raw-body", MUST, CLIENT, "The signature is computed over the bytes that came."),
        ("sep.hook.size", SHOULD, SERVER, "A delivery's body is at most 256 KiB."),
        ("sep.hook.key-origin", MUST, CLIENT, "A server's public key comes from its origin, never from a delivery."),
        ("sep.hook.egress", SHOULD, SERVER, "The docs say which addresses deliveries come from."),
        ("sep.hook.callback-error", STATED, SERVER, "A failed verification is CallbackEndpointError by category."),
    ),
)

WIRE = _section(
    "Events, the wire",
    ("ours.dialect.caps", OURS, SERVER, "discover and initialize advertise Events at the top and as an extension."),
    ("ours.dialect.declared", OURS, SERVER, "A client that declares the extension gets errors from -32023 on."),
    ("ours.dialect.undeclared", OURS, SERVER, "One that does not gets the same errors from -32011 on, same data."),
    ("ours.dialect.frames", OURS, SERVER, "Codes within error and terminated follow the same declaration."),
    ("ours.dialect.same", OURS, SERVER, "Nothing but error numbers depends on the declaration."),
    ("ours.eras", OURS, SERVER, "List, poll and stream work for 2026-07-28 and for initialize clients."),
    ("ours.transports", OURS, SERVER, "They work on stdio, on HTTP and within a user's Starlette or FastAPI app."),
    ("ours.headers.method", OURS, SERVER, "An Mcp-Method that disagrees with the body is 400 and -32020."),
    ("ours.headers.name", OURS, SERVER, "Mcp-Name is not asked for on events/*."),
    ("ours.poll.timeout", OURS, SERVER, "timeoutMs holds an empty poll until an event comes, bounded by the server."),
    ("ours.poll.adapts", OURS, SERVER, "nextPollMs grows while nothing comes and shrinks when something does."),
    ("ours.poll.no-read", OURS, SERVER, "An empty poll reads no database when nothing was appended."),
    ("ours.poll.skips", OURS, SERVER, "What does not match is passed by the cursor and bounded per poll."),
    ("ours.stream.catch-up", OURS, SERVER, "A slow reader misses nothing within retention: the log fills it in."),
    ("ours.stream.overtaken", OURS, SERVER, "Retention that overtakes a slow reader is told as a gap in its place."),
    ("ours.stream.paced", OURS, SERVER, "A long replay delays no live stream beyond a bound."),
    ("ours.stream.isolated", OURS, SERVER, "A stream that stalls or fails delays and harms no other."),
    ("ours.stream.json-response", OURS, SERVER, "A transport that cannot stream offers no push, and says so."),
    ("ours.stream.stop", OURS, SERVER, "Stopping the server ends each stream with its final result."),
    ("ours.list.topics", OURS, SERVER, "What Events adds to a list result and what it reads leave topics free."),
)

BAD_INPUT = _section(
    "Events, bad input",
    ("ours.bad.params", OURS, SERVER, "A missing name or a member of a wrong type or range is -32602 by name."),
    ("ours.bad.cursor", OURS, SERVER, "A cursor of another type, tenant or epoch, or made up, is truncated."),
    ("ours.bad.cursor-tenant", OURS, SERVER, "No cursor gives another tenant's events or tells of them."),
    ("ours.bad.revoked", OURS, SERVER, "After revocation the stream is terminated and every new start Forbidden."),
    ("ours.bad.store", OURS, SERVER, "A log that cannot be read is an error to retry after, without inside facts."),
    ("ours.hooks.closed", OURS, SERVER, "An event whose match or transform raises is not sent to that subscription."),
    ("ours.hooks.told", OURS, SERVER, "That is an events/error on the stream, a counter and a log line."),
    ("ours.hooks.authorize", OURS, SERVER, "An authorize that raises permits nothing."),
    ("ours.hooks.hang", OURS, SERVER, "A hook that hangs is cut off, counts as failed and delays no other stream."),
    ("ours.hooks.data", OURS, SERVER, "What transform gives is held to the schema and harms no other subscription."),
)

LIBRARY = _section(
    "Events, the library",
    ("ours.lib.mcpserver", OURS, SERVER, "The README's example serves Events on MCPServer."),
    ("ours.lib.fastmcp", OURS, SERVER, "The same lines serve Events on FastMCP."),
    ("ours.lib.lifespan", OURS, SERVER, "The hub starts at first use and ends with the server, leaving no task."),
    ("ours.lib.defaults", OURS, SERVER, "Without more there is one tenant, and the principal on stdio is local."),
    ("ours.lib.tenants", OURS, SERVER, "With a tenant function neither events nor names cross tenants."),
    ("ours.lib.durable", OURS, SERVER, "Emitted events in a file are replayed after a restart."),
    ("ours.lib.schemas", OURS, SERVER, "Type hints and JSON Schema both declare arguments and payload."),
    ("ours.check.poll", OURS, SERVER, "A check function answers polls directly with its upstream's cursor."),
    ("ours.check.shared", OURS, SERVER, "Identical subscriptions share one upstream call, by poll loop and stream."),
    ("ours.check.fails", OURS, SERVER, "A check that raises is an error on poll, events/error on stream, and retried."),
    ("ours.check.stops", OURS, SERVER, "The loop of a check ends with its last subscription."),
    ("ours.serve.catalog", OURS, SERVER, "clarion serve lists its topics, a family as one with the topic in _meta."),
    ("ours.serve.arguments", OURS, SERVER, "There arguments are the filter grammar, as the input schema says."),
    ("ours.serve.rules", OURS, SERVER, "Tenant, consent, audience, audit and limits hold as on the side channel."),
    ("ours.fixture", OURS, SERVER, "The fixture serves its catalog and controls, and clarion serve none of them."),
)

CLIENT_SIDE = _section(
    "Events, the client",
    ("ours.client.dialects", OURS, CLIENT, "EventsClient finds Events advertised in either dialect and either era."),
    ("ours.client.store", OURS, CLIENT, "A cursor is stored only when the application has taken the event."),
    ("ours.client.streams", OURS, CLIENT, "Over 100 streams of one client leave its tool calls answered."),
    ("ours.client.listen", OURS, CLIENT, "clarion listen --mcp prints events, gaps and the end of a subscription."),
)

PROOF = _section(
    "Events, done when",
    ("ours.proof.typescript", OURS, SERVER, "The official TypeScript client streams and polls a running server."),
    ("ours.proof.conformance", OURS, SERVER, "The official suite's server scenarios of the base protocol pass."),
    ("ours.proof.kills", OURS, BOTH, "50 kills under streams and polls leave neither gap nor repeat."),
    ("ours.proof.how-to", OURS, SERVER, "The how-to for each kind of source runs as it is printed."),
)

EVENTS_REQUIREMENTS: tuple[EventsRequirement, ...] = (
    *NEGOTIATION, *LISTING, *DYNAMIC, *REMOVAL, *OCCURRENCES, *POLL, *STREAM, *LIFECYCLE, *CURSORS, *TERMINATION,
    *ORDER, *ERRORS, *SECURITY, *GUIDANCE, *WEBHOOKS, *WIRE, *BAD_INPUT, *LIBRARY, *CLIENT_SIDE, *PROOF,
)  # fmt: skip
"""Every entry of the Events wire; ids are unique."""

MANIFEST: tuple[Requirement, ...] = (*REQUIREMENTS, *EVENTS_REQUIREMENTS)
"""The whole manifest, which `test_requirements` holds against the tests."""

_IDS = frozenset(entry.id for entry in MANIFEST)


def requirement(*ids: str) -> Callable[[F], F]:
    """Mark a test as proof of these entries, of this part or of any other."""
    if unknown := sorted(set(ids) - _IDS):
        raise LookupError(f"no requirement {unknown}")
    return lambda test: test
