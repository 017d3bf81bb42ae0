# ruff: noqa: S608 - the statements are built from constants of this file
"""The statements of the projection in Postgres. Text only.

Rows are always written in the order of their keys, so that two projectors do not deadlock. LATERAL with LIMIT
or OFFSET makes the planner use one index lookup per row: without statistics it assumes a small table and
reads all of it.
"""

from __future__ import annotations

SUBJECT = "tenant_id = $1 AND agent_id = $2 AND episode_id = $3"

# One statement for a batch: new events are inserted; of these, the greatest event of each episode updates the
# episode, unless the episode is already newer. `before` is its previous event, for the books.
PROJECT = """
WITH fresh AS (
    INSERT INTO arqonbus.events (tenant_id, agent_id, event_id, event_time, episode_id, event_type,
        source_ts, schema_version, content_ref, tags, metadata, summary, embedding_ref, room, epoch, sequence,
        received_at)
    SELECT tenant_id, agent_id, event_id, event_time, episode_id, event_type, source_ts, schema_version,
        content_ref, tags::json, metadata::json, summary, embedding_ref, room, epoch, sequence, received_at
    FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[],
        $7::timestamptz[], $8::int2[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],
        $14::text[], $15::text[], $16::int8[], $17::timestamptz[])
        AS incoming (tenant_id, agent_id, event_id, event_time, episode_id, event_type, source_ts,
            schema_version, content_ref, tags, metadata, summary, embedding_ref, room, epoch, sequence,
            received_at)
    ORDER BY tenant_id COLLATE "C", agent_id COLLATE "C", event_id COLLATE "C"
    ON CONFLICT DO NOTHING
    RETURNING *
), newest AS (
    SELECT DISTINCT ON (tenant_id, agent_id, episode_id) *
    FROM fresh ORDER BY tenant_id, agent_id, episode_id, source_ts DESC, event_id DESC
), before AS (
    SELECT held.* FROM newest CROSS JOIN LATERAL (
        SELECT tenant_id, agent_id, episode_id, source_ts, event_id FROM arqonbus.episodes e
        WHERE e.tenant_id = newest.tenant_id AND e.agent_id = newest.agent_id
            AND e.episode_id = newest.episode_id
        LIMIT 1
    ) AS held
), applied AS (
    INSERT INTO arqonbus.episodes (tenant_id, agent_id, episode_id, event_id, event_type, source_ts,
        content_ref, tags, metadata, summary, embedding_ref, deleted)
    SELECT tenant_id, agent_id, episode_id, event_id, event_type, source_ts, content_ref, tags, metadata,
        summary, embedding_ref, event_type = 'episode.deleted'
    FROM newest ORDER BY tenant_id, agent_id, episode_id
    ON CONFLICT (tenant_id, agent_id, episode_id) DO UPDATE SET
        event_id = excluded.event_id, event_type = excluded.event_type, source_ts = excluded.source_ts,
        content_ref = excluded.content_ref, tags = excluded.tags, metadata = excluded.metadata,
        summary = excluded.summary, embedding_ref = excluded.embedding_ref, deleted = excluded.deleted
    WHERE (episodes.source_ts, episodes.event_id) < (excluded.source_ts, excluded.event_id)
    RETURNING tenant_id, agent_id, episode_id
)
SELECT fresh.tenant_id, fresh.agent_id, fresh.event_id, applied.episode_id IS NOT NULL AS applied,
    before.source_ts AS prior_ts, before.event_id AS prior_id
FROM fresh
LEFT JOIN applied USING (tenant_id, agent_id, episode_id)
LEFT JOIN before USING (tenant_id, agent_id, episode_id)
"""

BURY = """
INSERT INTO arqonbus.dead_letters (tenant_id, id, room, epoch, sequence, time_us, code, reason, payload,
    agent_id, event_id, context)
SELECT tenant_id, id, room, epoch, sequence, time_us, code, reason, payload, agent_id, event_id,
    context::json
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int8[], $6::int8[], $7::text[], $8::text[],
    $9::bytea[], $10::text[], $11::text[], $12::text[])
    AS dead (tenant_id, id, room, epoch, sequence, time_us, code, reason, payload, agent_id, event_id,
        context)
ORDER BY tenant_id COLLATE "C", id COLLATE "C"
ON CONFLICT DO NOTHING
RETURNING id
"""

ENTER = """
INSERT INTO arqonbus.books AS held (tenant_id, bucket, arrived, projected, duplicate, stale, dead_lettered)
SELECT * FROM unnest($1::text[], $2::int2[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[])
ON CONFLICT (tenant_id, bucket) DO UPDATE SET
    arrived = held.arrived + excluded.arrived, projected = held.projected + excluded.projected,
    duplicate = held.duplicate + excluded.duplicate, stale = held.stale + excluded.stale,
    dead_lettered = held.dead_lettered + excluded.dead_lettered
"""

BOOKS = """
SELECT coalesce(sum(arrived), 0)::int8, coalesce(sum(projected), 0)::int8, coalesce(sum(duplicate), 0)::int8,
    coalesce(sum(stale), 0)::int8, coalesce(sum(dead_lettered), 0)::int8
FROM arqonbus.books WHERE $1::text IS NULL OR tenant_id = $1
"""

COUNTS = """
SELECT (SELECT count(*) FROM arqonbus.events WHERE $1::text IS NULL OR tenant_id = $1) AS events,
    (SELECT count(*) FROM arqonbus.episodes WHERE NOT deleted AND ($1::text IS NULL OR tenant_id = $1))
        AS episodes,
    (SELECT count(*) FROM arqonbus.episodes WHERE deleted AND ($1::text IS NULL OR tenant_id = $1))
        AS tombstones,
    (SELECT count(*) FROM arqonbus.dead_letters WHERE state = 'open' AND ($1::text IS NULL OR tenant_id = $1))
        AS dead_letters
"""

EPISODES = "SELECT * FROM arqonbus.episodes"

PAGE_OF_EPISODES = f"""
{EPISODES}
WHERE tenant_id = $1 AND ($2::text IS NULL OR agent_id = $2) AND (agent_id, episode_id) > ($3, $4)
    AND (NOT deleted OR $5)
ORDER BY agent_id, episode_id LIMIT $6
"""

LETTERS = "SELECT * FROM arqonbus.dead_letters"

PAGE_OF_LETTERS = f"""
{LETTERS}
WHERE tenant_id = $1 AND ($2::text IS NULL OR state = $2) AND id > $3 ORDER BY id LIMIT $4
"""

RESOLVE = """
UPDATE arqonbus.dead_letters
SET state = $3, resolved_by = $4, resolution = $5, resolved_at = clock_timestamp()
WHERE tenant_id = $1 AND id = $2 AND state = 'open' RETURNING id
"""

_CHOSEN = """($1::text IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR agent_id = $2)"""
_IN_WINDOW = "source_ts >= $3 AND source_ts < $4"

PAGE_OF_EVENTS = f"""
SELECT * FROM arqonbus.events
WHERE {_CHOSEN} AND {_IN_WINDOW} AND (tenant_id, agent_id, event_id) > ($5, $6, $7)
ORDER BY tenant_id, agent_id, event_id LIMIT $8
"""

SELECTED = f"""
SELECT count(*) AS events, count(DISTINCT (tenant_id, agent_id, episode_id)) AS episodes
FROM arqonbus.events WHERE {_CHOSEN} AND {_IN_WINDOW}
"""

# The next episodes of a selection, each once.
SUBJECTS = f"""
SELECT DISTINCT tenant_id, agent_id, episode_id, true AS has_events FROM arqonbus.events
WHERE {_CHOSEN} AND {_IN_WINDOW} AND (tenant_id, agent_id, episode_id) > ($5, $6, $7)
ORDER BY tenant_id, agent_id, episode_id LIMIT $8
"""

# A rebuild also visits episodes without events, to report them.
SUBJECTS_TO_REBUILD = f"""
SELECT tenant_id, agent_id, episode_id, bool_or(has_events) AS has_events FROM (
    (SELECT DISTINCT tenant_id, agent_id, episode_id, true AS has_events FROM arqonbus.events
     WHERE {_CHOSEN} AND {_IN_WINDOW} AND (tenant_id, agent_id, episode_id) > ($5, $6, $7)
     ORDER BY tenant_id, agent_id, episode_id LIMIT $8)
    UNION ALL
    (SELECT tenant_id, agent_id, episode_id, EXISTS (
         SELECT FROM arqonbus.events e WHERE e.tenant_id = p.tenant_id AND e.agent_id = p.agent_id
            AND e.episode_id = p.episode_id)
     FROM arqonbus.episodes p
     WHERE {_CHOSEN} AND {_IN_WINDOW} AND (tenant_id, agent_id, episode_id) > ($5, $6, $7)
     ORDER BY tenant_id, agent_id, episode_id LIMIT $8)
) AS both_kinds
GROUP BY tenant_id, agent_id, episode_id
ORDER BY tenant_id, agent_id, episode_id LIMIT $8
"""

# $1..$3 are subjects, $4 and $5 the window of their events.
_WANTED = """
WITH chosen AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS chosen (tenant_id, agent_id, episode_id)
), history AS (
    SELECT held.* FROM chosen CROSS JOIN LATERAL (
        SELECT * FROM arqonbus.events e
        WHERE e.tenant_id = chosen.tenant_id AND e.agent_id = chosen.agent_id
            AND e.episode_id = chosen.episode_id AND source_ts >= $4 AND source_ts < $5
        OFFSET 0
    ) AS held
), wanted AS (
    SELECT DISTINCT ON (tenant_id, agent_id, episode_id) tenant_id, agent_id, episode_id, event_id,
        event_type, source_ts, content_ref, tags, metadata, summary, embedding_ref,
        event_type = 'episode.deleted' AS deleted
    FROM history ORDER BY tenant_id, agent_id, episode_id, source_ts DESC, event_id DESC
)"""

_REPLACE = """
    INSERT INTO arqonbus.episodes AS held (tenant_id, agent_id, episode_id, event_id, event_type, source_ts,
        content_ref, tags, metadata, summary, embedding_ref, deleted)
    SELECT * FROM wanted ORDER BY tenant_id, agent_id, episode_id
    ON CONFLICT (tenant_id, agent_id, episode_id) DO UPDATE SET
        event_id = excluded.event_id, event_type = excluded.event_type, source_ts = excluded.source_ts,
        content_ref = excluded.content_ref, tags = excluded.tags, metadata = excluded.metadata,
        summary = excluded.summary, embedding_ref = excluded.embedding_ref, deleted = excluded.deleted"""

_COUNTED = """
SELECT (SELECT count(*) FROM history) AS events, (SELECT count(*) FROM written) AS changed"""

BACKFILL = f"""{_WANTED}, written AS ({_REPLACE}
    WHERE (held.source_ts, held.event_id) < (excluded.source_ts, excluded.event_id)
    RETURNING 1
){_COUNTED}"""

# json has no equality operator; text works, because the same event always gives the same text.
_DIFFERS = """
    (held.event_id, held.event_type, held.source_ts, held.content_ref, held.tags::text, held.metadata::text,
        held.deleted) IS DISTINCT FROM
    ({0}.event_id, {0}.event_type, {0}.source_ts, {0}.content_ref, {0}.tags::text, {0}.metadata::text,
        {0}.deleted)
    OR (held.summary, held.embedding_ref) IS DISTINCT FROM ({0}.summary, {0}.embedding_ref)"""

# Replaces any row that differs from its events, even a damaged or newer one.
REBUILD = f"""{_WANTED}, written AS ({_REPLACE}
    WHERE {_DIFFERS.format("excluded")}
    RETURNING 1
){_COUNTED}"""

# Dry runs of the two above.
TRY_BACKFILL = f"""{_WANTED}, written AS (
    SELECT 1 FROM wanted LEFT JOIN arqonbus.episodes held USING (tenant_id, agent_id, episode_id)
    WHERE held.event_id IS NULL
        OR (held.source_ts, held.event_id) < (wanted.source_ts, wanted.event_id)
){_COUNTED}"""

TRY_REBUILD = f"""{_WANTED}, written AS (
    SELECT 1 FROM wanted LEFT JOIN arqonbus.episodes held USING (tenant_id, agent_id, episode_id)
    WHERE held.event_id IS NULL OR {_DIFFERS.format("wanted")}
){_COUNTED}"""

# Pages are read in the order of an index. Without this, and without statistics, the planner would sort the
# rest of the table for each page.
READ_IN_ORDER = """
SET LOCAL enable_sort = off; SET LOCAL enable_incremental_sort = off; SET LOCAL enable_bitmapscan = off
"""

HOLD_EPISODES = "LOCK TABLE arqonbus.episodes IN SHARE ROW EXCLUSIVE MODE"

PROBE = "INSERT INTO arqonbus.probes VALUES ($1, $2) RETURNING value"
PROBED = "DELETE FROM arqonbus.probes WHERE name = $1 RETURNING value"

FIRST_HEAD = "INSERT INTO arqonbus.audit_heads VALUES ($1, 0, '') ON CONFLICT DO NOTHING"
LOCKED_HEAD = "SELECT number, hash FROM arqonbus.audit_heads WHERE tenant_id = $1 FOR UPDATE"
MOVE_HEAD = "UPDATE arqonbus.audit_heads SET number = $2, hash = $3 WHERE tenant_id = $1"
INSERT_AUDIT = "INSERT INTO arqonbus.audit VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
PAGE_OF_AUDIT = "SELECT * FROM arqonbus.audit WHERE tenant_id = $1 AND number > $2 ORDER BY number LIMIT $3"
AUDITED = "SELECT tenant_id FROM arqonbus.audit_heads ORDER BY tenant_id"

MARKS = """
SELECT w.tenant_id, w.room, w.epoch, w.last, w.run FROM arqonbus.witness w
JOIN unnest($1::text[], $2::text[]) AS asked (tenant_id, room) USING (tenant_id, room)
"""
# Always in the same order, so that nodes do not deadlock.
WITNESS = """
INSERT INTO arqonbus.witness AS w (tenant_id, room, epoch, last, run)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) ORDER BY 1, 2
ON CONFLICT (tenant_id, room) DO UPDATE
SET epoch = excluded.epoch, last = excluded.last, run = excluded.run, at = clock_timestamp()
WHERE (excluded.epoch, excluded.last) > (w.epoch, w.last)
"""
