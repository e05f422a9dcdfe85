-- Counters are added up late: those of batches after `folded` are in the rows only, until they are folded in.
ALTER TABLE packed_deliveries ADD COLUMN batch INTEGER;

INSERT INTO meta (name, value)
SELECT 'folded', coalesce((SELECT value FROM meta WHERE name = 'batch'), 0);

-- Subscriptions that many rows name together, as a JSON array; such a row has an empty array of its own.
CREATE TABLE subscription_sets (
    id INTEGER PRIMARY KEY,
    ids TEXT NOT NULL
) STRICT;

ALTER TABLE packed_deliveries ADD COLUMN set_id INTEGER;

CREATE INDEX packed_deliveries_by_set ON packed_deliveries (set_id) WHERE set_id IS NOT NULL;

DROP VIEW mcp_push_deliveries;
DROP VIEW mcp_push_losses;

CREATE VIEW delivery_rows AS
SELECT packed.id, packed.tenant, packed.seq, packed.event_id, packed.topic, packed.wire, packed.outcome, packed.at,
       packed.batch, coalesce(sets.ids, packed.subscription_ids) AS subscription_ids
FROM packed_deliveries AS packed LEFT JOIN subscription_sets AS sets ON sets.id = packed.set_id;

CREATE VIEW mcp_push_deliveries AS
SELECT packed.tenant, packed.seq, packed.event_id, packed.topic, packed.wire, packed.at,
       each.value AS subscription_id
FROM delivery_rows AS packed CROSS JOIN json_each(packed.subscription_ids) AS each
WHERE packed.outcome = 'delivered';

CREATE VIEW mcp_push_losses AS
SELECT packed.tenant, packed.seq, packed.event_id, packed.topic, packed.wire, packed.at,
       each.value AS subscription_id, packed.outcome
FROM delivery_rows AS packed CROSS JOIN json_each(packed.subscription_ids) AS each
WHERE packed.outcome <> 'delivered';
