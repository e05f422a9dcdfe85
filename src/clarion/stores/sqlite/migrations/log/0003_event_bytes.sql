-- What events take, so that retention by size trims events for events and for nothing else in the file: payload,
-- envelope, and a constant for a row and its index entries.
ALTER TABLE events ADD COLUMN size INTEGER NOT NULL GENERATED ALWAYS AS (
    300 + length(payload) + length(CAST(
        source || event_id || topic || category || priority || coalesce(origin, '') || coalesce(aggregate_type, '')
        || coalesce(aggregate_id, '') || coalesce(actor_id, '') || coalesce(correlation_id, '')
        || coalesce(causation_id, '') || coalesce(audience, '') || coalesce(key, '') || coalesce(attributes, '')
        || coalesce(subjects, '') AS BLOB
    ))
) VIRTUAL;

INSERT INTO meta (name, value) SELECT 'event_bytes', coalesce(sum(size), 0) FROM events;

-- Within the statement that changes events: whatever is rolled back, the sum goes back with it.
CREATE TRIGGER events_add_their_size AFTER INSERT ON events
BEGIN
    UPDATE meta SET value = value + NEW.size WHERE name = 'event_bytes';
END;

CREATE TRIGGER events_take_their_size AFTER DELETE ON events
BEGIN
    UPDATE meta SET value = value - OLD.size WHERE name = 'event_bytes';
END;
