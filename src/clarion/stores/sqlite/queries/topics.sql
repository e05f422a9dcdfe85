-- name: others
SELECT count(*) FROM topics WHERE tenant = ?1 AND pattern <> ?2

-- name: exists
SELECT 1 FROM topics WHERE tenant = ?1 AND pattern = ?2

-- name: put
INSERT INTO topics (tenant, pattern, category, description, schema, filter_examples) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (tenant, pattern) DO UPDATE SET
    category = excluded.category, description = excluded.description, schema = excluded.schema,
    filter_examples = excluded.filter_examples

-- name: of_tenant
SELECT pattern, category, description, schema, filter_examples FROM topics WHERE tenant = ?1 ORDER BY pattern
