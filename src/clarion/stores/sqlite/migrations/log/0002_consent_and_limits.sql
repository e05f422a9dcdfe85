-- A withdrawal without a purpose takes back what was granted before it for any: it stands under each of them. Lines of
-- before this rule were kept apart, so a later line without a purpose could hide the withdrawal.
UPDATE consent_states SET
    state = 'withdrawn',
    seq = (
        SELECT max(ledger.seq) FROM consent_ledger AS ledger
        WHERE ledger.tenant = consent_states.tenant AND ledger.subject = consent_states.subject
            AND ledger.purpose IS NULL AND ledger.state = 'withdrawn'
    ),
    expires_at = NULL
WHERE purpose IS NOT NULL AND EXISTS (
    SELECT 1 FROM consent_ledger AS ledger
    WHERE ledger.tenant = consent_states.tenant AND ledger.subject = consent_states.subject
        AND ledger.seq > consent_states.seq AND ledger.purpose IS NULL AND ledger.state = 'withdrawn'
);

CREATE INDEX subscriptions_active_of_client ON subscriptions (tenant, subject, client_id) WHERE deleted_at IS NULL;
CREATE INDEX subscriptions_deleted_of_client ON subscriptions (tenant, subject, client_id, deleted_at)
    WHERE deleted_at IS NOT NULL;
CREATE INDEX subscriptions_deleted ON subscriptions (tenant, deleted_at) WHERE deleted_at IS NOT NULL;
