-- name: next_seq
SELECT coalesce(max(seq), 0) + 1 FROM consent_ledger WHERE tenant = ?1

-- name: append
INSERT INTO consent_ledger
    (tenant, seq, subject, state, purpose, reason, actor, proof, expires_at, recorded_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)

-- name: suppress
INSERT INTO consent_suppressions (tenant, subject, suppressed_by) VALUES (?1, ?2, ?3)
ON CONFLICT (tenant, subject) DO UPDATE SET suppressed_by = excluded.suppressed_by

-- name: release
DELETE FROM consent_suppressions WHERE tenant = ?1 AND subject = ?2

-- name: put_state
INSERT INTO consent_states (tenant, subject, purpose, state, seq, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (tenant, subject, coalesce('=' || purpose, ''))
DO UPDATE SET state = excluded.state, seq = excluded.seq, expires_at = excluded.expires_at

-- name: withdraw_all
UPDATE consent_states SET state = 'withdrawn', seq = ?3, expires_at = NULL WHERE tenant = ?1 AND subject = ?2

-- name: states
SELECT states.subject, states.purpose, states.state, states.seq, states.expires_at
FROM json_each(?2) AS wanted CROSS JOIN consent_states AS states
    ON states.tenant = ?1 AND states.subject = wanted.value

-- name: suppressions
SELECT found.subject, found.suppressed_by
FROM json_each(?2) AS wanted CROSS JOIN consent_suppressions AS found
    ON found.tenant = ?1 AND found.subject = wanted.value

-- name: history
SELECT tenant, subject, state, recorded_at, purpose, reason, actor, proof, expires_at, seq
FROM consent_ledger WHERE tenant = ?1 AND subject = ?2 ORDER BY seq DESC LIMIT ?3
