CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;

-- One event, one wire, one write batch, one outcome; `subscription_ids` is a JSON array of `count` strings.
CREATE TABLE packed_deliveries (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    seq INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    wire TEXT NOT NULL,
    outcome TEXT NOT NULL,
    at INTEGER NOT NULL,
    subscription_ids TEXT NOT NULL,
    count INTEGER NOT NULL
) STRICT;

CREATE INDEX packed_deliveries_by_tenant ON packed_deliveries (tenant, at);
CREATE INDEX packed_deliveries_by_age ON packed_deliveries (at);

CREATE TABLE subscription_counters (
    tenant TEXT NOT NULL,
    subscription_id TEXT NOT NULL,
    delivered INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    last_delivered_at INTEGER,
    PRIMARY KEY (tenant, subscription_id)
) STRICT, WITHOUT ROWID;

CREATE VIEW mcp_push_deliveries AS
SELECT packed.tenant, packed.seq, packed.event_id, packed.topic, packed.wire, packed.at,
       each.value AS subscription_id
FROM packed_deliveries AS packed CROSS JOIN json_each(packed.subscription_ids) AS each
WHERE packed.outcome = 'delivered';

CREATE VIEW mcp_push_losses AS
SELECT packed.tenant, packed.seq, packed.event_id, packed.topic, packed.wire, packed.at,
       each.value AS subscription_id, packed.outcome
FROM packed_deliveries AS packed CROSS JOIN json_each(packed.subscription_ids) AS each
WHERE packed.outcome <> 'delivered';
