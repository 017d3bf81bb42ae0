-- A small Continuum: episodes in SQLite, and an outbox that is filled in the transaction of each write. The
-- application writes episodes and knows nothing of the bus; the triggers tell what happened.

PRAGMA journal_mode = WAL;

CREATE TABLE episodes (
    episode_id  TEXT PRIMARY KEY,      -- a ULID
    agent_id    TEXT NOT NULL,
    body        TEXT NOT NULL,         -- stays here; the bus gets a reference
    summary     TEXT,
    tags        TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(tags)),
    metadata    TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata))
) STRICT;

-- One row: whose memory this is, and the time of the last event in microseconds. Times of events only ever
-- grow, so that a deletion in the same instant as a change, or after the clock was set back, is the later one.
CREATE TABLE memory (
    tenant_id   TEXT NOT NULL,
    last_us     INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE continuum_outbox (
    position    INTEGER PRIMARY KEY AUTOINCREMENT,
    event       TEXT NOT NULL
) STRICT;

-- What happened to an episode. Inserting into it writes the event; event_id is a UUIDv7 (RFC 9562).
CREATE VIEW happened AS
    SELECT '' AS event_type, agent_id, episode_id, summary, tags, metadata FROM episodes;

CREATE TRIGGER tell INSTEAD OF INSERT ON happened BEGIN
    UPDATE memory
    SET last_us = max(last_us + 1, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER));
    INSERT INTO continuum_outbox (event)
    SELECT json_object(
        'event_id', substr(ms, 1, 8) || '-' || substr(ms, 9) || '-7' || substr(dice, 1, 3) || '-'
            || substr('89ab', 1 + abs(random() % 4), 1) || substr(dice, 4, 3) || '-' || substr(dice, 7),
        'event_type', new.event_type,
        'tenant_id', tenant_id,
        'agent_id', new.agent_id,
        'episode_id', new.episode_id,
        'source_ts', strftime('%Y-%m-%dT%H:%M:%S', last_us / 1000000, 'unixepoch')
            || printf('.%06dZ', last_us % 1000000),
        'schema_version', 1,
        'payload', json_object(
            'content_ref', 'sqlite://episodes/' || new.episode_id,
            'tags', json(new.tags), 'metadata', json(new.metadata), 'summary', new.summary))
    FROM (SELECT *, printf('%012x', last_us / 1000) AS ms, lower(hex(randomblob(9))) AS dice FROM memory);
END;

CREATE TRIGGER created AFTER INSERT ON episodes BEGIN
    INSERT INTO happened VALUES
        ('episode.created', new.agent_id, new.episode_id, new.summary, new.tags, new.metadata);
END;

CREATE TRIGGER updated AFTER UPDATE ON episodes BEGIN
    INSERT INTO happened VALUES
        (CASE WHEN old.summary IS new.summary THEN 'episode.updated' ELSE 'episode.summarized' END,
         new.agent_id, new.episode_id, new.summary, new.tags, new.metadata);
END;

CREATE TRIGGER deleted AFTER DELETE ON episodes BEGIN
    INSERT INTO happened VALUES
        ('episode.deleted', old.agent_id, old.episode_id, NULL, old.tags, old.metadata);
END;
