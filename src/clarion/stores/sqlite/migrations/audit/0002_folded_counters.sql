-- Counters are added up late: those of batches after `folded` are in the rows only, until they are folded in.
ALTER TABLE packed_deliveries ADD COLUMN batch INTEGER;

INSERT INTO meta (name, value)
SELECT 'folded', coalesce((SELECT value FROM meta WHERE name = 'batch'), 0);
