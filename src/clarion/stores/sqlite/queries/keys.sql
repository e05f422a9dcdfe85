-- name: add
INSERT INTO keys (key_id, tenant, subject, role, modules, sha256, created_at, revoked_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT (key_id) DO NOTHING

-- name: find
SELECT key_id, tenant, subject, role, modules, sha256, created_at, revoked_at FROM keys WHERE key_id = ?1

-- name: of_tenant
SELECT key_id, tenant, subject, role, modules, sha256, created_at, revoked_at
FROM keys WHERE tenant = ?1 ORDER BY created_at, rowid

-- name: revoke
UPDATE keys SET revoked_at = coalesce(revoked_at, ?3) WHERE tenant = ?1 AND key_id = ?2
