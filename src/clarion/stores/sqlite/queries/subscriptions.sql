-- name: by_identity
SELECT id, tenant, subject, client_id, topics, filter, label, purpose, created_at, updated_at, deleted_at
FROM subscriptions WHERE identity = ?1

-- name: insert
INSERT INTO subscriptions
    (id, tenant, subject, client_id, topics, filter, label, purpose, created_at, updated_at, deleted_at, identity)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)

-- name: update
UPDATE subscriptions SET label = ?2, purpose = ?3, updated_at = ?4, deleted_at = ?5 WHERE id = ?1

-- name: active_upto
SELECT
    (SELECT count(*) FROM (SELECT 1 FROM subscriptions WHERE tenant = ?1 AND deleted_at IS NULL LIMIT ?4)),
    (SELECT count(*) FROM (
        SELECT 1 FROM subscriptions WHERE tenant = ?1 AND subject = ?2 AND client_id = ?3 AND deleted_at IS NULL LIMIT ?5
    ))

-- name: purge_client
DELETE FROM subscriptions WHERE rowid IN (
    SELECT rowid FROM subscriptions WHERE tenant = ?1 AND subject = ?2 AND client_id = ?3 AND deleted_at IS NOT NULL
    ORDER BY deleted_at DESC, rowid DESC LIMIT -1 OFFSET ?4
)

-- name: purge_tenant
DELETE FROM subscriptions WHERE rowid IN (
    SELECT rowid FROM subscriptions WHERE tenant = ?1 AND deleted_at IS NOT NULL
    ORDER BY deleted_at DESC, rowid DESC LIMIT -1 OFFSET ?2
)

-- name: get
SELECT id, tenant, subject, client_id, topics, filter, label, purpose, created_at, updated_at, deleted_at
FROM subscriptions WHERE id = ?3 AND tenant = ?1 AND subject = ?2

-- name: of_client
SELECT id, tenant, subject, client_id, topics, filter, label, purpose, created_at, updated_at, deleted_at
FROM subscriptions
WHERE tenant = ?1 AND subject = ?2 AND client_id = ?3 AND (?4 OR deleted_at IS NULL)
ORDER BY created_at, rowid

-- name: of_tenant_active
SELECT id, tenant, subject, client_id, topics, filter, label, purpose, created_at, updated_at, deleted_at
FROM subscriptions WHERE tenant = ?1 AND id > ?2 AND deleted_at IS NULL ORDER BY id LIMIT ?3

-- name: of_tenant
SELECT id, tenant, subject, client_id, topics, filter, label, purpose, created_at, updated_at, deleted_at
FROM subscriptions WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT ?3

-- name: count
SELECT
    (SELECT count(*) FROM subscriptions WHERE tenant = ?1 AND deleted_at IS NULL),
    (SELECT count(*) FROM subscriptions WHERE tenant = ?1)
