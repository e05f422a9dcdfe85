-- name: put_meta
INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value

-- name: put_meta_once
INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING

-- name: epoch
SELECT value FROM meta WHERE name = 'epoch'

-- name: end
SELECT max(
    coalesce((SELECT max(offset) FROM events), 0),
    coalesce((SELECT value FROM meta WHERE name = 'trimmed_offset'), 0)
)

-- name: tenant
SELECT id, start, floor, max(head, coalesce((SELECT max(seq) FROM events WHERE tenant = tenants.id), 0))
FROM tenants WHERE name = ?1

-- name: add_tenant
INSERT INTO tenants (name) VALUES (?1)

-- name: insert_events
INSERT INTO events (
    offset, tenant, seq, source, event_id, topic, category, recorded_at, occurred_at, digest, origin, aggregate_type,
    aggregate_id, actor_id, correlation_id, causation_id, audience, priority, key, attributes, subjects, expires_at,
    payload
)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL

-- name: known_events
WITH wanted (tenant, source, event_id) AS (VALUES {rows})
SELECT events.tenant, events.source, events.event_id, events.seq, events.digest
FROM wanted CROSS JOIN events
    ON events.tenant = wanted.tenant AND events.source = wanted.source AND events.event_id = wanted.event_id

-- name: tail
-- One row holds them all: a step of a statement gives up the interpreter's lock, and getting it back from a busy event
-- loop takes milliseconds, so rows fetched one by one would be slow exactly under load.
SELECT json_group_array(json_array(
    name, seq, event_id, source, topic, category, CAST(payload AS TEXT), recorded_at, occurred_at, origin,
    aggregate_type, aggregate_id, actor_id, correlation_id, causation_id, json(audience), priority, key,
    json(attributes), json(subjects), expires_at, offset
))
FROM (
    SELECT
        name, seq, event_id, source, topic, category, payload, recorded_at, occurred_at, origin, aggregate_type,
        aggregate_id, actor_id, correlation_id, causation_id, audience, priority, key, attributes, subjects, expires_at,
        offset
    FROM events CROSS JOIN tenants ON tenants.id = events.tenant
    WHERE offset > ?1 ORDER BY offset LIMIT ?2
)

-- name: read
SELECT json_group_array(json_array(
    name, seq, event_id, source, topic, category, CAST(payload AS TEXT), recorded_at, occurred_at, origin,
    aggregate_type, aggregate_id, actor_id, correlation_id, causation_id, json(audience), priority, key,
    json(attributes), json(subjects), expires_at, offset
))
FROM (
    SELECT
        name, seq, event_id, source, topic, category, payload, recorded_at, occurred_at, origin, aggregate_type,
        aggregate_id, actor_id, correlation_id, causation_id, audience, priority, key, attributes, subjects, expires_at,
        offset
    FROM tenants CROSS JOIN events ON events.tenant = tenants.id
    WHERE tenants.name = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4
)

-- name: read_sizes
-- The length of a blob is known without reading its pages.
SELECT json_group_array(bytes)
FROM (
    SELECT length(payload) AS bytes
    FROM tenants CROSS JOIN events ON events.tenant = tenants.id
    WHERE tenants.name = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4
)

-- name: tail_sizes
SELECT json_group_array(bytes)
FROM (SELECT length(payload) AS bytes FROM events WHERE offset > ?1 ORDER BY offset LIMIT ?2)

-- name: oldest
SELECT offset, tenants.name, seq, recorded_at, size
FROM events CROSS JOIN tenants ON tenants.id = events.tenant
ORDER BY offset LIMIT ?1

-- name: delete_upto
DELETE FROM events WHERE offset <= ?1

-- name: move_floor
UPDATE tenants SET floor = ?2, head = ?3 WHERE id = ?1

-- name: renew_starts
UPDATE tenants SET
    head = max(head, coalesce((SELECT max(seq) FROM events WHERE tenant = tenants.id), 0)),
    start = max(head, coalesce((SELECT max(seq) FROM events WHERE tenant = tenants.id), 0))

-- name: next_recorded_by
SELECT offset, recorded_at FROM events WHERE offset >= ?1 AND recorded_at <= ?2 ORDER BY offset LIMIT 1

-- name: event_bytes
SELECT value FROM meta WHERE name = 'event_bytes'

-- name: free_pages
SELECT freelist_count FROM pragma_freelist_count
