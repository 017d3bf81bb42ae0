# ruff: noqa: S608 - the statements are built from constants of this file
"""The tables and statements of the projection in an SQLite file. Text only.

The columns are the same as in Postgres, except that times are microseconds since 1970 UTC.
"""

from __future__ import annotations

from arqonbus.storage.sqlite.schema import Layout

_EVENT = (
    "tenant_id, agent_id, event_id, event_us, episode_id, event_type, source_us, schema_version, "
    "content_ref, tags, metadata, summary, embedding_ref"
)
_EPISODE = (
    "tenant_id, agent_id, episode_id, event_id, event_type, source_us, content_ref, tags, metadata, summary, "
    "embedding_ref, deleted"
)
_LETTER = (
    "id, tenant_id, room, epoch, sequence, time_us, code, reason, payload, agent_id, event_id, context, "
    "at_us, state, resolved_us, resolved_by, resolution"
)
_AUDIT = "tenant_id, number, at_us, actor, action, arguments, outcome, previous, hash"

# The triggers prevent changes to the audit.
_STEPS = (
    """
CREATE TABLE events (
    tenant_id       TEXT NOT NULL,
    agent_id        TEXT NOT NULL,
    event_id        TEXT NOT NULL,
    event_us        INTEGER NOT NULL,
    episode_id      TEXT NOT NULL,
    event_type      TEXT NOT NULL,
    source_us       INTEGER NOT NULL,
    schema_version  INTEGER NOT NULL,
    content_ref     TEXT NOT NULL,
    tags            TEXT NOT NULL,
    metadata        TEXT NOT NULL,
    summary         TEXT,
    embedding_ref   TEXT,
    room            TEXT NOT NULL,
    epoch           TEXT NOT NULL,
    sequence        INTEGER NOT NULL,
    received_us     INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, agent_id, event_id)
) STRICT;
CREATE INDEX events_by_episode ON events (tenant_id, agent_id, episode_id, source_us, event_id);
CREATE TABLE episodes (
    tenant_id       TEXT NOT NULL,
    agent_id        TEXT NOT NULL,
    episode_id      TEXT NOT NULL,
    event_id        TEXT NOT NULL,
    event_type      TEXT NOT NULL,
    source_us       INTEGER NOT NULL,
    content_ref     TEXT NOT NULL,
    tags            TEXT NOT NULL,
    metadata        TEXT NOT NULL,
    summary         TEXT,
    embedding_ref   TEXT,
    deleted         INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, agent_id, episode_id)
) STRICT;
CREATE TABLE dead_letters (
    tenant_id       TEXT NOT NULL,
    id              TEXT NOT NULL,
    room            TEXT NOT NULL,
    epoch           TEXT NOT NULL,
    sequence        INTEGER NOT NULL,
    time_us         INTEGER NOT NULL,
    code            TEXT NOT NULL,
    reason          TEXT NOT NULL,
    payload         BLOB NOT NULL,
    agent_id        TEXT NOT NULL,
    event_id        TEXT NOT NULL,
    context         TEXT NOT NULL,
    at_us           INTEGER NOT NULL,
    state           TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replayed', 'discarded')),
    resolved_us     INTEGER,
    resolved_by     TEXT NOT NULL DEFAULT '',
    resolution      TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE INDEX dead_letters_open ON dead_letters (tenant_id, id) WHERE state = 'open';
CREATE TABLE books (
    tenant_id       TEXT PRIMARY KEY,
    arrived         INTEGER NOT NULL,
    projected       INTEGER NOT NULL,
    duplicate       INTEGER NOT NULL,
    stale           INTEGER NOT NULL,
    dead_lettered   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE audit (
    tenant_id       TEXT NOT NULL,
    number          INTEGER NOT NULL,
    at_us           INTEGER NOT NULL,
    actor           TEXT NOT NULL,
    action          TEXT NOT NULL,
    arguments       TEXT NOT NULL,
    outcome         TEXT NOT NULL,
    previous        TEXT NOT NULL,
    hash            TEXT NOT NULL,
    PRIMARY KEY (tenant_id, number)
) STRICT;
CREATE TABLE audit_heads (
    tenant_id       TEXT PRIMARY KEY,
    number          INTEGER NOT NULL,
    hash            TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER append_only BEFORE UPDATE ON audit
    BEGIN SELECT raise(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER never_removed BEFORE DELETE ON audit
    BEGIN SELECT raise(ABORT, 'the audit is append-only'); END;
CREATE TABLE probes (
    name            TEXT PRIMARY KEY,
    value           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
""",
    """
CREATE TABLE witness (
    tenant_id       TEXT NOT NULL,
    room            TEXT NOT NULL,
    epoch           TEXT NOT NULL,
    last            INTEGER NOT NULL,
    run             TEXT NOT NULL,
    PRIMARY KEY (tenant_id, room)
) STRICT, WITHOUT ROWID;
""",
)
LAYOUT = Layout("SQLite projection", _STEPS)

_SUBJECT = "tenant_id = ? AND agent_id = ? AND episode_id = ?"

INSERT_EVENT = f"""
INSERT INTO events ({_EVENT}, room, epoch, sequence, received_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""

STANDING = f"SELECT source_us, event_id FROM episodes WHERE {_SUBJECT}"

_PUT_EPISODE = f"""
INSERT INTO episodes ({_EPISODE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant_id, agent_id, episode_id) DO UPDATE SET
    event_id = excluded.event_id, event_type = excluded.event_type, source_us = excluded.source_us,
    content_ref = excluded.content_ref, tags = excluded.tags, metadata = excluded.metadata,
    summary = excluded.summary, embedding_ref = excluded.embedding_ref, deleted = excluded.deleted
"""
MOVE_EPISODE = (
    _PUT_EPISODE + "WHERE (excluded.source_us, excluded.event_id) > (episodes.source_us, episodes.event_id)"
)
REPLACE_EPISODE = _PUT_EPISODE

BURY = f"""
INSERT INTO dead_letters ({_LETTER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', NULL, '', '')
ON CONFLICT DO NOTHING
"""
RESOLVE = """
UPDATE dead_letters SET state = ?, resolved_by = ?, resolution = ?, resolved_us = ?
WHERE tenant_id = ? AND id = ? AND state = 'open'
"""

ENTER = """
INSERT INTO books VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tenant_id) DO UPDATE SET
    arrived = arrived + excluded.arrived, projected = projected + excluded.projected,
    duplicate = duplicate + excluded.duplicate, stale = stale + excluded.stale,
    dead_lettered = dead_lettered + excluded.dead_lettered
"""
_OF_TENANT = "(?1 IS NULL OR tenant_id = ?1)"
BOOKS = f"""
SELECT coalesce(sum(arrived), 0), coalesce(sum(projected), 0), coalesce(sum(duplicate), 0),
    coalesce(sum(stale), 0), coalesce(sum(dead_lettered), 0) FROM books WHERE {_OF_TENANT}
"""
COUNTS = f"""
SELECT (SELECT count(*) FROM events WHERE {_OF_TENANT}),
    (SELECT count(*) FROM episodes WHERE NOT deleted AND {_OF_TENANT}),
    (SELECT count(*) FROM episodes WHERE deleted AND {_OF_TENANT}),
    (SELECT count(*) FROM dead_letters WHERE state = 'open' AND {_OF_TENANT})
"""

EPISODE = f"SELECT {_EPISODE} FROM episodes WHERE {_SUBJECT}"
PAGE_OF_EPISODES = f"""
SELECT {_EPISODE} FROM episodes
WHERE tenant_id = ?1 AND (?2 IS NULL OR agent_id = ?2) AND (agent_id, episode_id) > (?3, ?4)
    AND (NOT deleted OR ?5)
ORDER BY agent_id, episode_id LIMIT ?6
"""
PAGE_OF_LETTERS = f"""
SELECT {_LETTER} FROM dead_letters
WHERE tenant_id = ?1 AND (?2 IS NULL OR state = ?2) AND id > ?3 ORDER BY id LIMIT ?4
"""
LETTER = f"SELECT {_LETTER} FROM dead_letters WHERE tenant_id = ? AND id = ?"

_CHOSEN = (
    "(?1 IS NULL OR tenant_id = ?1) AND (?2 IS NULL OR agent_id = ?2) AND source_us >= ?3 AND source_us < ?4"
)
PAGE_OF_EVENTS = f"""
SELECT {_EVENT} FROM events WHERE {_CHOSEN} AND (tenant_id, agent_id, event_id) > (?5, ?6, ?7)
ORDER BY tenant_id, agent_id, event_id LIMIT ?8
"""
SELECTED = f"""
SELECT coalesce(sum(events), 0), count(*) FROM (
    SELECT count(*) AS events FROM events WHERE {_CHOSEN} GROUP BY tenant_id, agent_id, episode_id)
"""
_NEXT = "(tenant_id, agent_id, episode_id) > (?5, ?6, ?7)"
_IN_ORDER = "ORDER BY tenant_id, agent_id, episode_id LIMIT ?8"
SUBJECTS = f"""
SELECT DISTINCT tenant_id, agent_id, episode_id FROM events WHERE {_CHOSEN} AND {_NEXT} {_IN_ORDER}
"""
# A rebuild also visits episodes without events, to report them.
SUBJECTS_TO_REBUILD = f"""
SELECT tenant_id, agent_id, episode_id FROM (
    SELECT * FROM ({SUBJECTS}) UNION
    SELECT * FROM (
        SELECT tenant_id, agent_id, episode_id FROM episodes WHERE {_CHOSEN} AND {_NEXT} {_IN_ORDER})
) {_IN_ORDER}
"""
_HISTORY = f"{_SUBJECT} AND source_us >= ? AND source_us < ?"
HISTORY_LENGTH = f"SELECT count(*) FROM events WHERE {_HISTORY}"
GREATEST = f"SELECT {_EVENT} FROM events WHERE {_HISTORY} ORDER BY source_us DESC, event_id DESC LIMIT 1"

MONTHS_BEFORE = """
SELECT DISTINCT strftime('%Y_%m', event_us / 1000000, 'unixepoch') AS month FROM events
WHERE event_us < ? ORDER BY month
"""
RETIRE = "DELETE FROM events WHERE strftime('%Y_%m', event_us / 1000000, 'unixepoch') = ?"

HEAD = "SELECT number, hash FROM audit_heads WHERE tenant_id = ?"
MOVE_HEAD = "INSERT OR REPLACE INTO audit_heads VALUES (?, ?, ?)"
INSERT_AUDIT = f"INSERT INTO audit ({_AUDIT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
PAGE_OF_AUDIT = f"SELECT {_AUDIT} FROM audit WHERE tenant_id = ? AND number > ? ORDER BY number LIMIT ?"
AUDITED = "SELECT tenant_id FROM audit_heads ORDER BY tenant_id"

PROBE = "INSERT INTO probes VALUES ('writes', 1) ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value"
PROBED = "SELECT value FROM probes WHERE name = 'writes'"

MARK = "SELECT epoch, last, run FROM witness WHERE tenant_id = ? AND room = ?"
WITNESS = """
INSERT INTO witness VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
SET epoch = excluded.epoch, last = excluded.last, run = excluded.run
WHERE (excluded.epoch, excluded.last) > (witness.epoch, witness.last)
"""
