CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;

-- `start`, `floor` as in model.Bounds; `head` is brought up to date whenever events are trimmed, so that the greater of
-- it and the newest event's seq is the head.
CREATE TABLE tenants (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    start INTEGER NOT NULL DEFAULT 0,
    floor INTEGER NOT NULL DEFAULT 0,
    head INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The payload stands last: the other columns are read without following its overflow pages.
CREATE TABLE events (
    offset INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL REFERENCES tenants (id),
    seq INTEGER NOT NULL,
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    category TEXT NOT NULL,
    recorded_at INTEGER NOT NULL,
    occurred_at INTEGER NOT NULL,
    digest BLOB NOT NULL,
    origin TEXT,
    aggregate_type TEXT,
    aggregate_id TEXT,
    actor_id TEXT,
    correlation_id TEXT,
    causation_id TEXT,
    audience TEXT,
    priority TEXT NOT NULL,
    key TEXT,
    attributes TEXT,
    subjects TEXT,
    expires_at INTEGER,
    payload BLOB NOT NULL,
    UNIQUE (tenant, seq),
    UNIQUE (tenant, source, event_id)
) STRICT;

CREATE TABLE subscriptions (
    id TEXT PRIMARY KEY,
    identity BLOB NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    client_id TEXT NOT NULL,
    topics TEXT NOT NULL,
    filter TEXT NOT NULL,
    label TEXT,
    purpose TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;

CREATE INDEX subscriptions_by_client ON subscriptions (tenant, subject, client_id, created_at);
CREATE INDEX subscriptions_by_tenant ON subscriptions (tenant, id);
CREATE INDEX subscriptions_active ON subscriptions (tenant, id) WHERE deleted_at IS NULL;

CREATE TABLE keys (
    key_id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    role TEXT NOT NULL,
    modules TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE INDEX keys_by_tenant ON keys (tenant, created_at);

CREATE TABLE consent_ledger (
    tenant TEXT NOT NULL,
    seq INTEGER NOT NULL,
    subject TEXT NOT NULL,
    state TEXT NOT NULL,
    purpose TEXT,
    reason TEXT,
    actor TEXT,
    proof TEXT,
    expires_at INTEGER,
    recorded_at INTEGER NOT NULL,
    UNIQUE (tenant, seq)
) STRICT;

CREATE INDEX consent_ledger_by_subject ON consent_ledger (tenant, subject, seq);

CREATE TRIGGER consent_ledger_keeps_its_lines BEFORE UPDATE ON consent_ledger
BEGIN
    SELECT RAISE(ABORT, 'the consent ledger is append-only');
END;

CREATE TRIGGER consent_ledger_loses_no_line BEFORE DELETE ON consent_ledger
BEGIN
    SELECT RAISE(ABORT, 'the consent ledger is append-only');
END;

-- What the ledger says now: the newest line of each purpose, and the suppression beside them.
CREATE TABLE consent_states (
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    purpose TEXT,
    state TEXT NOT NULL,
    seq INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;

-- NULLs are distinct to an index; the prefix keeps the purpose '' apart from no purpose.
CREATE UNIQUE INDEX consent_states_of_subject
    ON consent_states (tenant, subject, coalesce('=' || purpose, ''));

CREATE TABLE consent_suppressions (
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    suppressed_by TEXT NOT NULL,
    PRIMARY KEY (tenant, subject)
) STRICT, WITHOUT ROWID;

CREATE TABLE topics (
    tenant TEXT NOT NULL,
    pattern TEXT NOT NULL,
    category TEXT NOT NULL,
    description TEXT NOT NULL,
    schema TEXT NOT NULL,
    filter_examples TEXT NOT NULL,
    PRIMARY KEY (tenant, pattern)
) STRICT, WITHOUT ROWID;
