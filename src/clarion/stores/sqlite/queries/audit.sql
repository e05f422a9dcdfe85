-- name: batch
SELECT coalesce((SELECT value FROM meta WHERE name = 'batch'), 0)

-- name: put_batch
INSERT INTO meta (name, value) VALUES ('batch', ?1) ON CONFLICT (name) DO UPDATE SET value = excluded.value

-- name: folded
SELECT value FROM meta WHERE name = 'folded'

-- name: put_folded
UPDATE meta SET value = ?1 WHERE name = 'folded'

-- name: unfolded
SELECT tenant, seq, event_id, topic, wire, outcome, at, subscription_ids
FROM delivery_rows
WHERE id > coalesce(
    (SELECT id FROM packed_deliveries WHERE batch IS NULL OR batch <= ?1 ORDER BY id DESC LIMIT 1), 0
)

-- name: insert_set
INSERT INTO subscription_sets (ids) VALUES (?1)

-- name: trim_sets
DELETE FROM subscription_sets WHERE id < coalesce((SELECT min(set_id) FROM packed_deliveries WHERE set_id IS NOT NULL), 1 << 62)

-- name: insert_packed
INSERT INTO packed_deliveries (tenant, seq, event_id, topic, wire, outcome, at, subscription_ids, count, batch, set_id)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL

-- name: add_counters
INSERT INTO subscription_counters (tenant, subscription_id, delivered, dropped, refused, last_delivered_at)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (tenant, subscription_id) DO UPDATE SET
    delivered = delivered + excluded.delivered,
    dropped = dropped + excluded.dropped,
    refused = refused + excluded.refused,
    last_delivered_at = CASE
        WHEN last_delivered_at IS NULL THEN excluded.last_delivered_at
        WHEN excluded.last_delivered_at IS NULL THEN last_delivered_at
        ELSE max(last_delivered_at, excluded.last_delivered_at)
    END

-- name: counters
SELECT counters.subscription_id, counters.delivered, counters.dropped, counters.refused, counters.last_delivered_at
FROM json_each(?2) AS wanted CROSS JOIN subscription_counters AS counters
    ON counters.tenant = ?1 AND counters.subscription_id = wanted.value

-- name: totals
SELECT coalesce(sum(delivered), 0), coalesce(sum(dropped), 0), coalesce(sum(refused), 0), max(last_delivered_at)
FROM subscription_counters WHERE tenant = ?1

-- name: rows
SELECT packed.seq, packed.event_id, packed.topic, packed.wire, packed.outcome, packed.at, each.value
FROM (
    SELECT * FROM delivery_rows AS found
    WHERE found.tenant = ?1
        AND (?2 IS NULL OR EXISTS (SELECT 1 FROM json_each(found.subscription_ids) AS one WHERE one.value = ?2))
    ORDER BY found.at DESC, found.id DESC
    LIMIT ?3
) AS packed CROSS JOIN json_each(packed.subscription_ids) AS each
WHERE ?2 IS NULL OR each.value = ?2
ORDER BY packed.at DESC, packed.id DESC, each.key
LIMIT ?3

-- name: trim
DELETE FROM packed_deliveries WHERE id IN (
    SELECT id FROM packed_deliveries WHERE at < ?1 ORDER BY at LIMIT ?2
)
